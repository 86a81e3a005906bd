"""Move live connections from the real IPVS to pylvs, and back: the guest's half of `test_adoption.py`.

The argument is the number of connections of each method. It prints the commands with their output, and at the end the
counts of clients as JSON. Clients and real servers use only the standard library.

    client --- c0 / d0 --- director --- d1 / s1 --- server of NAT
                                   \\--- d2 / s2 --- server of DR, with a link of its own to the client
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

IPVSADM = "/usr/sbin/ipvsadm"  # the original one
VIP, NAT_PORT, DR_PORT, UDP_PORT = "10.9.0.1", 80, 81, 53
CLIENTS = ("10.9.1.5", "10.9.1.6", "10.9.1.7", "10.9.1.8")
SERVERS = {NAT_PORT: ("s1", "10.9.2.2"), DR_PORT: ("s2", "10.9.3.2")}
PATIENCE_S = 60.0  # without an answer a connection counts as lost; the machine may be busy
ROUND_S = 0.25
IDLE_S = 7200  # timeout of established connections
BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: a search for a port that is free for all destinations is slow
AT_ONCE = 200  # connections that are being opened
PYLVS = (sys.executable, "-m", "pylvs")


def sh(text: str) -> str:
    done = subprocess.run(text.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
    return done.stdout


def build() -> None:
    """Make client, director and real servers."""
    sh("modprobe ip_vs")
    sh("ip link set lo up")
    for space, near, far, network in (("c", "d0", "c0", 1), ("s1", "d1", "s1", 2), ("s2", "d2", "s2", 3)):
        sh(f"ip netns add {space}")
        sh(f"ip link add {near} type veth peer {far} netns {space}")
        sh(f"ip addr add 10.9.{network}.1/24 dev {near}")
        sh(f"ip link set {near} up")
        sh(f"ip -n {space} link set lo up")
        for address in CLIENTS if space == "c" else (f"10.9.{network}.2",):
            sh(f"ip -n {space} addr add {address}/24 dev {far}")
        sh(f"ip -n {space} link set {far} up")
        if space != "s2":
            sh(f"ip -n {space} route add default via 10.9.{network}.1")
        for device in near, far:
            where = f"ip netns exec {space} " if device == far else ""
            sh(f"{where}sysctl -qw net.ipv4.conf.{device}.rp_filter=0")
    sh("ip -n c link add c1 type veth peer s3 netns s2")
    for space, device, number in ("c", "c1", 5), ("s2", "s3", 2):
        sh(f"ip -n {space} addr add 10.9.4.{number}/24 dev {device}")
        sh(f"ip -n {space} link set {device} up")
    sh("ip -n s2 route add 10.9.1.0/24 via 10.9.4.5")
    sh("ip netns exec c sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.c1.rp_filter=0")
    sh(f"ip addr add {VIP}/32 dev lo")
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")
    sh("ip netns exec s2 sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.rp_filter=0")
    sh(f"ip -n s2 addr add {VIP}/32 dev lo")


def fill() -> None:
    """Make the services in the real IPVS. The first connections live until a slow machine has opened the last ones."""
    sh(f"{IPVSADM} --set {IDLE_S} 0 0")
    sh(f"{IPVSADM} -A -t {VIP}:{NAT_PORT} -s rr")
    sh(f"{IPVSADM} -a -t {VIP}:{NAT_PORT} -r 10.9.2.2 -m")
    sh(f"{IPVSADM} -A -t {VIP}:{DR_PORT} -s rr -p 600")
    sh(f"{IPVSADM} -a -t {VIP}:{DR_PORT} -r 10.9.3.2 -g")


# --- traffic ---


def serve(port: int, ready: int) -> None:
    """Send back what comes, on any number of connections."""
    found = selectors.DefaultSelector()
    listener = socket.create_server(("", port), backlog=4096)
    listener.setblocking(False)
    found.register(listener, selectors.EVENT_READ)
    os.write(ready, b"x")
    while True:
        for key, _ in found.select():
            end = key.fileobj
            assert isinstance(end, socket.socket)
            if end is listener:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        found.register(connection, selectors.EVENT_READ)
                continue
            try:
                data = end.recv(4096)
                if data:
                    end.send(data)
            except OSError:
                data = b""
            if not data:
                found.unregister(end)
                end.close()


class Clients:
    """Established connections that say something in turn, and new ones besides."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._found = selectors.DefaultSelector()
        self._ends: dict[socket.socket, float] = {}  # when each sent what was not answered; 0: it has the answer
        self.lost = self.answers = self.opened = self.refused = 0
        self.longest_s = 0.0
        for start in range(0, count, AT_ONCE):
            self._open(min(AT_ONCE, count - start), start)
        self.established = len(self._ends)

    def _open(self, count: int, first: int) -> None:
        fresh = []
        for number in range(first, first + count):
            end = socket.socket()
            end.setsockopt(socket.SOL_IP, BIND_ADDRESS_NO_PORT, 1)
            end.bind((CLIENTS[number % len(CLIENTS)], 0))
            end.setblocking(False)
            end.connect_ex((VIP, self._port))
            fresh.append(end)
            self._found.register(end, selectors.EVENT_WRITE)
        waiting, end_s = set(fresh), time.monotonic() + PATIENCE_S
        while waiting and time.monotonic() < end_s:
            for key, _ in self._found.select(1):
                if key.fileobj in waiting:
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    waiting.discard(end)
                    self._found.modify(end, selectors.EVENT_READ)
                    assert not end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    self._ends[end] = 0.0
        assert not waiting, f"{len(waiting)} connections were not established"

    def run(self, stop: Callable[[], bool]) -> None:
        """Send and receive on each, round after round, and open new ones; then once more, and wait for all answers."""
        is_last = False
        while True:
            is_last = is_last or stop()
            now = time.monotonic()
            for end, since in list(self._ends.items()):
                if not since:
                    self._send(end, now)
            self._receive(until=now + (PATIENCE_S if is_last else ROUND_S))
            if is_last:
                break
            self._one_more()
            time.sleep(max(now + ROUND_S - time.monotonic(), 0))  # else clients take the whole processor
        self.lost += len([since for since in self._ends.values() if since])

    def _send(self, end: socket.socket, now: float) -> None:
        try:
            end.send(b"ping")
            self._ends[end] = now
        except OSError:
            self._lose(end)

    def _receive(self, until: float) -> None:
        while any(self._ends.values()) and time.monotonic() < until:
            for key, _ in self._found.select(0.1):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                try:
                    data = end.recv(64)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._lose(end)
                    continue
                self.longest_s = max(self.longest_s, time.monotonic() - self._ends[end])
                self._ends[end] = 0.0
                self.answers += 1

    def _lose(self, end: socket.socket) -> None:
        self.lost += 1
        self._found.unregister(end)
        del self._ends[end]
        end.close()

    def _one_more(self) -> None:
        try:
            with socket.create_connection((VIP, self._port), PATIENCE_S) as end:
                end.sendall(b"new")
                if end.recv(16) != b"new":
                    raise OSError("no answer")
            self.opened += 1
        except OSError:
            self.refused += 1


def forked(space: str, run: Callable[[int], None]) -> tuple[int, int]:
    """Run a function in a network namespace; return the process and what reads its reports."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        os.close(reader)
        with open(f"/run/netns/{space}") as where:
            libc = __import__("ctypes").CDLL(None, use_errno=True)
            assert not libc.setns(where.fileno(), 0x40000000)  # CLONE_NEWNET
        run(writer)
        os._exit(0)
    except BaseException as error:
        print(f"{space}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)


def play_clients(port: int, count: int, ready: int) -> None:
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    clients = Clients(port, count)
    os.write(ready, b"x")
    clients.run(lambda: stopped)
    names = "established", "lost", "answers", "opened", "refused"
    found = {name: getattr(clients, name) for name in names} | {"longest_s": round(clients.longest_s, 3)}
    os.write(ready, json.dumps(found).encode())


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Run the real servers."""
    running = []
    for port, (space, _) in SERVERS.items():
        child, ready = forked(space, lambda ready, port=port: serve(port, ready))  # type: ignore[misc]
        running.append(child)
        assert os.read(ready, 1) == b"x"
    try:
        yield
    finally:
        for child in running:
            os.kill(child, signal.SIGKILL)


class Group:
    """Clients of each service, with this number of connections each."""

    def __init__(self, count: int) -> None:
        self._running = {
            port: forked("c", lambda ready, port=port: play_clients(port, count, ready))  # type: ignore[misc]
            for port in SERVERS
        }
        for _, ready in self._running.values():
            assert os.read(ready, 1) == b"x"

    def end(self) -> dict[str, dict[str, float]]:
        """End the clients; return what they counted by port."""
        for child, _ in self._running.values():
            os.kill(child, signal.SIGTERM)
        found = {str(port): json.loads(os.read(ready, 4096)) for port, (_, ready) in self._running.items()}
        for child, _ in self._running.values():
            os.waitpid(child, 0)
        return found


# --- what is played ---


def pylvs(*words: str) -> str:
    done = subprocess.run([*PYLVS, *words], capture_output=True, text=True, check=False)
    print(f"# pylvs {' '.join(words)}\n{done.stdout}{done.stderr}", end="", flush=True)
    assert done.returncode == 0
    return done.stdout


def active() -> int:
    """Return the active connections that the kernel counts."""
    rows = [line.split() for line in sh(f"{IPVSADM} -Ln").splitlines() if line.startswith("  -> 10.")]
    return sum(int(row[4]) for row in rows)


def main() -> None:
    count = int(sys.argv[1])
    most = 4 * count + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    build()
    fill()
    with servers():
        early = Group(count)
        assert active() >= 2 * count
        pylvs("adopt", "--dry-run", "--shadow", "5")
        pylvs("adopt")
        assert sh(f"{IPVSADM} -Sn") == ""
        late = Group(count)  # connections that ip_vs has never seen
        pylvs("adopt", "--back")
        assert sh(f"{IPVSADM} -Sn").count("\n") == 4
        assert active() >= 4 * count, sh(f"{IPVSADM} -Ln")
        time.sleep(1)  # some rounds of the clients
        print(json.dumps([early.end(), late.end()]), flush=True)


if __name__ == "__main__":
    main()
