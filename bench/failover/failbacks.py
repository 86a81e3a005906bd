"""The master ends and returns, again and again, under connections of DR and of NAT that carry data all the time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.failover import network
from bench.failover.network import DIRECTORS, DR, KEY, NAT, PYLVS, VIP, VRRP, Setup
from bench.failover.trial import KILLED, STOPPED, Directors, FailoverFailed, expect_ready, program
from bench.program import Progress, expect
from pylvs.lab.lab import Lab, build, take_down
from pylvs.model.dataclass import dataclass

PORTS = {DR: network.PORT, NAT: network.PORT + 1}
SETUP = Setup(PYLVS, VRRP, NAT, sync=True)
_NAME = "failbacks"
_FOLDER = Path(__file__).parent
_REPORT_S = 120.0


@dataclass(frozen=True, slots=True)
class Failback:
    """What connections noticed while the master went and returned, and how long its return took."""

    event: str
    reset: int
    silent: int
    pause_s: float  # the longest one of a connection, when it went
    return_pause_s: float  # and when it returned
    started_s: float  # until the service of the director that returns was there
    returned_s: float  # from then on until it was the master


def play(count: int, established: int, progress: Progress) -> Iterator[Failback]:
    """Yield what each failback shows, with so many connections of each method. Raises PylvsError."""
    take_down(_NAME)
    try:
        lab = build(_NAME, network.pair_of_methods(SETUP, PORTS))
        share_key(lab)
        with ExitStack() as until, Directors(lab, SETUP) as directors:
            for host, method in ("direct", DR), ("server", NAT):
                address = VIP if method == DR else network.SERVER_ADDRESS[NAT]
                words = str(_FOLDER / "server.py"), address, str(PORTS[method])
                expect_ready(until.enter_context(program(lab, host, *words)), f"the server of {method}")
            directors.start()
            arguments = (network.CLIENTS[0], VIP, str(established), *map(str, PORTS.values()))
            clients = until.enter_context(program(lab, "client", str(_FOLDER / "lasting.py"), *arguments))
            expect_ready(clients, "the clients")
            for number in range(count):
                event = (KILLED, STOPPED)[number % 2]
                progress(f"failback {number + 1} of {count}: the master is {event}")
                yield _failback(directors, clients, event, established * len(PORTS))
    finally:
        take_down(_NAME)


def share_key(lab: Lab) -> None:
    """Make a key on the first director, and copy it to the other one."""
    first, second = DIRECTORS
    lab.sh(first, f"pylvs peer key {KEY}")
    done = lab.run(second, ["sh", "-c", f"umask 077; cat >{KEY}"], text=lab.sh(first, f"cat {KEY}"))
    if done.returncode:
        raise FailoverFailed(f"the key of both directors: {done.stderr.strip()}")


def _failback(directors: Directors, clients: subprocess.Popen[str], event: str, established: int) -> Failback:
    second = DIRECTORS[1]
    expect(lambda: directors.listed(second) >= established, f"{second} has all connections")
    _report(clients)
    directors.make(event)
    directors.wait_for_backup()
    gone = _report(clients)
    began = time.monotonic()
    directors.restore()
    started = time.monotonic()
    directors.wait_for_master()
    returned = time.monotonic()
    back = _report(clients)
    return Failback(
        event,
        int(gone["reset"] + back["reset"]),
        int(back["silent"]),
        gone["longest_s"],
        back["longest_s"],
        started - began,
        returned - started,
    )


def _report(clients: subprocess.Popen[str]) -> dict[str, float]:
    assert clients.stdin is not None
    assert clients.stdout is not None
    clients.stdin.write("\n")
    clients.stdin.flush()
    line = clients.stdout.readline()
    if not line:
        raise FailoverFailed("the clients have ended")
    found: dict[str, float] = json.loads(line)
    return found


def lines(found: list[Failback], established: int) -> Iterator[str]:
    """Yield what is printed of all failbacks."""
    total = len(found) * established * len(PORTS)
    yield (
        f"{len(found):,} failbacks, {established:,} connections of DR and as many of NAT: "
        f"{sum(each.reset for each in found):,} reset, {sum(each.silent for each in found):,} silent, of {total:,}"
    )
    for name, text in (
        ("pause_s", "longest pause of a connection when the master went"),
        ("return_pause_s", "longest pause when it returned"),
        ("started_s", "its start, until its services were there"),
        ("returned_s", "from then on, until it was the master"),
    ):
        values = [getattr(each, name) for each in found]
        yield f"{text}: median {median(values):.2f} s, longest {max(values):.2f} s"


def main(count: int, established: int, progress: Progress) -> int:
    """Play, print; return the exit status: 1 if a connection was lost."""
    found: list[Failback] = []
    for failback in play(count, established, progress):
        found.append(failback)
        print(
            f"{len(found)}: {failback.event}: {failback.reset} reset, {failback.silent} silent; "
            f"pauses {failback.pause_s:.2f} s and {failback.return_pause_s:.2f} s; "
            f"return {failback.started_s:.1f} s + {failback.returned_s:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    print(*lines(found, established), sep="\n")
    return int(any(each.reset or each.silent for each in found))
