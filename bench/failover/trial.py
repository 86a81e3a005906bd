"""Play one setup: each event of the master in turn, each under new connections beside established ones."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from bench.failover import network
from bench.failover.network import CONFIGURATION, DIRECTORS, GATEWAY, KEEPALIVED, NAT, PORT, PYLVS, SERVICES, VIP, Setup
from bench.program import Progress
from pylvs.lab.hosts import environment, port_name
from pylvs.lab.lab import Lab, build, power_off, power_on, take_down
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.system.namespaces import inside_network

KILLED, LINK, STOPPED, YIELDS = EVENTS = ("killed", "loses its link", "stopped", "yields")
_FOLDER = Path(__file__).parent
_BEFORE_S, _AFTER_S = 1.5, 1.5  # that clients go on before the event, and after it
_PATIENCE_S = 60.0
_SYNCED_S, _SYNCED = 30.0, 0.9999  # the longest wait for the backup's copies, and the share that suffices
_FINISH_S = 60.0
_TRIALS = 3


class FailoverFailed(PylvsError):
    """A director or a client did not do what the measurement needs."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    established: int = 10_000
    rate: int = 1_000  # new connections a second


QUICK = Size(200, 200)


@dataclass(frozen=True, slots=True)
class Found:
    """What clients noticed of one event: the gap of new connections, the longest one before it, lost connections."""

    setup: Setup
    event: str
    gap_s: float
    gap_before_s: float
    reset: int
    silent: int
    established: int

    @property
    def lost(self) -> int:
        """Return the lost established connections."""
        return self.reset + self.silent


def longest_gap(served: Sequence[float], since: float, until: float) -> float:
    """Return the longest time within an interval, or reaching into it, in which no connection began that was served."""
    begun = [*sorted(each for each in served if each < until), until]
    return max((after - before for before, after in pairwise(begun) if after >= since), default=until - since)


def play(setup: Setup, events: Sequence[str], size: Size, progress: Progress) -> Iterator[Found]:
    """Yield what each event shows. Raises FailoverFailed."""
    name = "failover"
    take_down(name)
    try:
        lab = build(name, network.network(setup))
        with Directors(lab, setup) as directors:
            for event in events:
                if event == YIELDS and (setup.program == KEEPALIVED or setup.detection != network.VRRP):
                    continue  # keepalived has no such command; a backup with BFD waits for the end of the session
                progress(f"{setup.program}, {setup.detection}, {setup.method}: the master is {event}")
                yield _valid(directors, event, size)
    finally:
        take_down(name)


def _valid(directors: Directors, event: str, size: Size) -> Found:
    """Repeat an event before which the backup had taken over by itself, as it may on a busy machine."""
    for _ in range(_TRIALS):
        directors.start()
        if found := _one(directors, event, size):
            return found
    raise FailoverFailed(
        f"{directors.setup.detection}: the backup takes over from a living master: is this machine busy?"
    )


def _one(directors: Directors, event: str, size: Size) -> Found | None:
    lab, source = directors.lab, next(directors.clients)
    words = [
        str(_FOLDER / "clients.py"),
        source,
        VIP,
        str(PORT),
        str(size.established),
        str(size.rate),
    ]
    with _server(lab, directors.setup), program(lab, "client", *words) as clients:
        expect_ready(clients, "the clients")
        directors.wait_for_copies(source, size.established)
        time.sleep(_BEFORE_S)
        if directors.active(DIRECTORS[0]) < size.established:
            return None
        begin = time.time()
        directors.make(event)
        directors.wait_for_backup()
        time.sleep(_AFTER_S)
        output, _ = clients.communicate("\n", timeout=_FINISH_S)
    seen = json.loads(output)
    return Found(
        directors.setup,
        event,
        longest_gap(seen["served"], begin, seen["ended"]),
        longest_gap(seen["served"], begin - _BEFORE_S, begin - 0.01),
        seen["reset"],
        seen["silent"],
        size.established,
    )


@contextlib.contextmanager
def program(lab: Lab, host: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program in a host, and kill it at the end."""
    command = [*lab.host(host).inside(), sys.executable, "-I", *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def expect_ready(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    if not select.select([process.stdout], [], [], 3 * _PATIENCE_S)[0] or not process.stdout.readline().startswith(
        "ready"
    ):
        process.kill()
        raise FailoverFailed(f"{what}: {process.stderr.read().strip().rpartition(chr(10))[2] or 'not ready in time'}")


@contextlib.contextmanager
def _server(lab: Lab, setup: Setup) -> Iterator[None]:
    """Run a server for one trial: it never learns of connections that the backup has reset, and keeps their sockets."""
    lab.sh("server", "sysctl -q -w net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=8192")
    lab.sh("client", "sysctl -q -w 'net.ipv4.ip_local_port_range=1024 65000'")
    address = network.SERVER_ADDRESS[setup.method] if setup.method == NAT else VIP
    with program(lab, "server", str(_FOLDER / "server.py"), address, str(PORT)) as process:
        expect_ready(process, "the server")
        yield


class Directors:
    """Both directors of a lab: their programs, and what becomes of the first one."""

    def __init__(self, lab: Lab, setup: Setup) -> None:
        self.lab, self.setup = lab, setup
        self._undo: Callable[[], object] | None = None
        self.clients = iter(network.CLIENTS)
        self._running: dict[str, list[subprocess.Popen[bytes]]] = {}  # of a host; the last one has the virtual router

    def __enter__(self) -> Directors:
        return self

    def __exit__(self, *error: object) -> None:
        for host in list(self._running):
            self._kill(host)

    def start(self) -> None:
        """Bring the first director back as the master, and the other as its backup. Raises FailoverFailed."""
        self.restore()
        self.wait_for_master()
        if self.setup.sync:
            for host, role in zip(DIRECTORS, ("master", "backup"), strict=True):
                listed = f"ipvsadm -L --daemon | grep -q '{role} sync daemon'"
                self._until(partial(self._does, host, listed), f"the {role} sync daemon of {host} runs")
        time.sleep(_BEFORE_S)  # the data plane and neighbour entries of others follow

    def restore(self) -> None:
        """Undo what happened to the first director, and start all programs. Raises FailoverFailed."""
        if self._undo:
            self._undo()
            self._undo = None
        for host in DIRECTORS:
            if host not in self._running:
                self._start(host)

    def wait_for_master(self) -> None:
        """Wait until the first director is the master. Raises FailoverFailed."""
        first, second = DIRECTORS
        self._until(lambda: self.holds(first) and not self.holds(second), f"{first} is the master")

    def _start(self, host: str) -> None:
        self._running[host] = []
        if self.setup.program == PYLVS:
            self._run(host, "pylvs", "run", "-f", CONFIGURATION)
        else:
            self._run(host, "pylvs", "run", "--no-vrrp", "-f", SERVICES)
            words = ("--dont-fork", "--log-console", "--no-syslog", "--log-detail", f"--use-file={CONFIGURATION}")
            pids = [f"--{name}=/run/keepalived-{name}" for name in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid")]
            self.lab.sh(host, "rm -f /run/keepalived-*")  # of one that was killed
            self._run(host, "keepalived", *words, *pids)
            if self.setup.sync:
                for state in "master", "backup":
                    self.lab.sh(host, f"ipvsadm --start-daemon {state} --mcast-interface eth0")
        listed = f"ipvsadm -Ln | grep -q {network.SERVER_ADDRESS[self.setup.method]}"
        self._until(lambda: self._does(host, listed), f"{host} has the service")

    def _does(self, host: str, command: str) -> bool:
        """Return whether a shell's command succeeds."""
        return not self.lab.run(host, ["sh", "-c", command]).returncode

    def _run(self, host: str, *words: str) -> None:
        """Start a program in the background, with a log."""
        script = f'exec "$@" </dev/null >>/var/log/{words[0]}.log 2>&1'
        command = [*self.lab.host(host).inside(), "sh", "-c", script, "sh", *words]
        self._running[host].append(subprocess.Popen(command, env=environment(), start_new_session=True))

    def _kill(self, host: str) -> None:
        for process in self._running.pop(host, []):
            process.kill()
            process.wait()

    def make(self, event: str) -> None:
        """Let the event happen to the master."""
        first = DIRECTORS[0]
        if event == KILLED:
            power_off(self.lab, first)
            self._kill(first)
            self._undo = self._boot
        elif event == LINK:
            self._set_link("down")
            self._undo = lambda: self._set_link("up")
        elif event == STOPPED:
            self._running[first][-1].terminate()
            self._undo = self._end
        else:
            self.lab.sh(first, "pylvs vrrp yield")
            self._undo = lambda: self.lab.sh(first, "pylvs vrrp resume")

    def _boot(self) -> None:
        first = DIRECTORS[0]
        power_on(self.lab, first)
        if self.setup.method == NAT:
            self.lab.sh(first, f"ip addr flush to {GATEWAY}")

    def _end(self) -> None:
        """Wait for the end of the program that was stopped, and end those beside it. Raises FailoverFailed."""
        for process in reversed(self._running[DIRECTORS[0]]):
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise FailoverFailed(f"{self.setup.program} does not end") from None
        del self._running[DIRECTORS[0]]

    def _set_link(self, state: str) -> None:
        """Set the client's side of the master's link, at the switch: the master loses its carrier."""
        with inside_network(self.lab.wire):
            port = port_name(self.lab.network.host(DIRECTORS[0]), 0)
            subprocess.run(["ip", "link", "set", port, state], check=True)

    def holds(self, host: str) -> bool:
        """Return whether a director has the VIP, or whether the router sends to it."""
        if self.setup.detection == network.BGP:
            return f"via {network.DIP[host]} " in self.lab.sh("client", f"ip route show {VIP}")
        return bool(self.lab.sh(host, f"ip -o addr show to {VIP}"))

    def active(self, host: str) -> int:
        """Return how many connections a director has in its table as active ones; 0 while it does not hold the VIP."""
        if not self.holds(host):
            return 0
        rows = [line.split() for line in self.lab.sh(host, "ipvsadm -Ln").splitlines() if line.startswith("  ->")]
        return sum(int(row[4]) for row in rows[1:])

    def listed(self, host: str) -> int:
        """Return how many established connections a director has in its table."""
        return int(self.lab.sh(host, "ipvsadm -Lnc | grep -c ESTABLISHED || true"))

    def wait_for_backup(self) -> None:
        """Wait until the backup has taken over. Raises FailoverFailed."""
        self._until(lambda: self.holds(DIRECTORS[1]), "the backup has taken over")

    def wait_for_copies(self, source: str, count: int) -> None:
        """With sync, wait until the backup has copies of almost all connections of a client, but not for ever."""
        end = time.monotonic() + _SYNCED_S
        while self.setup.sync and self._copies(source) < _SYNCED * count and time.monotonic() < end:
            time.sleep(0.5)

    def _copies(self, source: str) -> int:
        """Return how many established connections of a client the backup lists."""
        return int(self.lab.sh(DIRECTORS[1], f"ipvsadm -Lnc | grep ESTABLISHED | grep -c ' {source}:' || true"))

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > end:
                log = self.lab.sh(
                    DIRECTORS[1], "tail -qn 2 /var/log/pylvs.log /var/log/keepalived.log 2>/dev/null || true"
                )
                last = log.strip().rpartition("\n")[2]
                raise FailoverFailed(f"{self.setup.program}, {self.setup.detection}: not in time: {what} ({last})")
            time.sleep(0.05)
