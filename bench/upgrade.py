"""Upgrade a director from another build under traffic, and count lost connections: `python -m bench.upgrade --help`.

A client, a director and a real server are network namespaces on one bridge. The client opens TCP connections to six
services: DR, NAT and tunnels, over IPv4 and IPv6. Each connection sends a message and waits for its echo, again and
again. One process sends on all connections in rounds. Another process sends on one connection of each service without a
break, and opens a new connection every few milliseconds. Then the first command of this build migrates the tables of
the other one.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from pylvs.system.namespaces import inside_network

HUB, CLIENT, DIRECTOR, SERVER = (f"pylvs-up-{name}" for name in ("hub", "client", "director", "server"))
PORT = 7000
MESSAGE = b"0123456789abcdef"
DEADLINE_S = 60.0  # for the echoes of a round
NEW_EVERY_S = 0.01


class Kind(NamedTuple):
    """A service: forwarding method, VIP and address of the real server."""

    name: str
    option: str
    vip: str
    server: str

    @property
    def version(self) -> int:
        return 6 if ":" in self.vip else 4


KINDS = (
    Kind("DR", "-g", "198.18.1.1", "10.99.0.2"),
    Kind("NAT", "-m", "198.18.1.2", "10.99.0.3"),
    Kind("TUN", "-i", "198.18.1.3", "10.99.0.2"),
    Kind("DR, IPv6", "-g", "fd98::1:1", "fd99::2"),
    Kind("NAT, IPv6", "-m", "fd98::1:2", "fd99::3"),
    Kind("TUN, IPv6", "-i", "fd98::1:3", "fd99::2"),
)
ADDRESSES = {
    CLIENT: ("198.18.0.2/16", "fd98::2/64"),
    DIRECTOR: ("198.18.0.1/16", "fd98::1/64", "10.99.0.1/24", "fd99::1/64"),
    SERVER: ("10.99.0.2/24", "10.99.0.3/24", "fd99::2/64", "fd99::3/64"),
}


def run(*words: str, within: str = "") -> str:
    """Run a command, in a namespace if it is named; exit with its message if it fails."""
    prefix = ("ip", "netns", "exec", within) if within else ()
    done = subprocess.run([*prefix, *words], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Make the namespaces, and remove them."""
    names = HUB, CLIENT, DIRECTOR, SERVER
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "link", "set", "lo", "up", within=name)
        run("ip", "link", "add", "br0", "type", "bridge", within=HUB)
        run("ip", "link", "set", "br0", "up", within=HUB)
        for name in names[1:]:
            port = name.rpartition("-")[2]
            run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", HUB)
            run("ip", "link", "set", port, "master", "br0", "up", within=HUB)
            run("ip", "link", "set", "eth0", "up", within=name)
            for address in ADDRESSES[name]:
                run("ip", "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []), within=name)
        for kind in KINDS:
            bits, nodad = (128, ["nodad"]) if kind.version == 6 else (32, [])
            run("ip", "addr", "add", f"{kind.vip}/{bits}", "dev", "eth0", *nodad, within=DIRECTOR)
        for setting in "ipv4.ip_forward", "ipv6.conf.all.forwarding":
            run("sysctl", "-qw", f"net.{setting}=1", within=DIRECTOR)
        _prepare_server()
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _prepare_server() -> None:
    """Let the server answer by DR and tunnels directly, and by NAT through the director."""
    for of_ipv6, own, gateway in ((False, "198.18.0.0/16", "10.99.0.1"), (True, "fd98::/64", "fd99::1")):
        ip = ("ip", "-6") if of_ipv6 else ("ip",)
        run(*ip, "route", "add", "default", "via", gateway, within=SERVER)
        run(*ip, "route", "add", own, "dev", "eth0", "table", "100", within=SERVER)
        run(*ip, "rule", "add", "from", own, "table", "100", within=SERVER)
    for name in "all", "eth0", "default":
        run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0", within=SERVER)
    for option in "-g", "-i":
        vips = [kind.vip for kind in KINDS if kind.option == option]
        run("pylvs", "realserver", "up", *(["--tunnel"] if option == "-i" else []), *vips, within=SERVER)


def serve(ready: Connection) -> None:
    """Echo on all connections."""
    with inside_network(f"/run/netns/{SERVER}"), select.epoll() as polled:
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        sockets = {listener.fileno(): listener}
        polled.register(listener, select.EPOLLIN)
        ready.send(True)
        while True:
            for number, _ in polled.poll():
                if number == listener.fileno():
                    accepted, _ = listener.accept()
                    sockets[accepted.fileno()] = accepted
                    polled.register(accepted, select.EPOLLIN)
                    continue
                data = b""
                with contextlib.suppress(OSError):
                    data = sockets[number].recv(1 << 12)
                    sockets[number].sendall(data)
                if not data:
                    polled.unregister(number)
                    sockets.pop(number).close()


def connect(kind: Kind) -> socket.socket:
    made = socket.create_connection((kind.vip, PORT), timeout=DEADLINE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def hold(control: Connection, count: int) -> None:
    """Hold this many connections, send on all of them in rounds, and report at the end what was lost."""
    with inside_network(f"/run/netns/{CLIENT}"), select.epoll() as polled:
        sockets = {}
        for index in range(count):
            made = connect(KINDS[index % len(KINDS)])
            sockets[made.fileno()] = made
            polled.register(made, select.EPOLLIN)
        control.send(len(sockets))
        rounds, longest, lost = 0, 0.0, set[int]()
        ending = False
        while not ending:
            ending = control.poll()
            begun = time.monotonic()
            for number in sockets.keys() - lost:
                try:
                    sockets[number].sendall(MESSAGE)
                except OSError:
                    lost.add(number)
            waiting = sockets.keys() - lost
            while waiting and time.monotonic() < begun + DEADLINE_S:
                for number, _ in polled.poll(1.0):
                    try:
                        data = sockets[number].recv(1 << 12)
                    except OSError:
                        data = b""
                    waiting.discard(number)
                    if not data:
                        lost.add(number)
                        polled.unregister(number)
            lost |= waiting
            rounds, longest = rounds + 1, max(longest, time.monotonic() - begun)
        control.send((rounds, longest, len(lost)))


class Pauses:
    """The longest times without an echo, and those of new connections."""

    def __init__(self) -> None:
        self.echo = [0.0] * len(KINDS)
        self.new = [0.0] * len(KINDS)
        self.opened = self.failed = self.echoes = 0


def probe(control: Connection) -> None:
    """Send on one connection of each service without a break, and open new ones; report after each request."""
    with inside_network(f"/run/netns/{CLIENT}"), select.epoll() as polled:
        sockets = [connect(kind) for kind in KINDS]
        index_of = {made.fileno(): index for index, made in enumerate(sockets)}
        for made in sockets:
            polled.register(made, select.EPOLLIN)
        found, since, ending = Pauses(), [time.monotonic()] * len(KINDS), False
        for made in sockets:
            made.sendall(MESSAGE)
        next_new, turn = time.monotonic(), 0
        control.send(True)
        while not ending:
            for number, _ in polled.poll(NEW_EVERY_S):
                index = index_of[number]
                sockets[index].recv(1 << 12)
                now = time.monotonic()
                found.echo[index] = max(found.echo[index], now - since[index])
                found.echoes += 1
                since[index] = now
                sockets[index].sendall(MESSAGE)
            if time.monotonic() >= next_new:
                next_new, turn = time.monotonic() + NEW_EVERY_S, (turn + 1) % len(KINDS)
                _open_one(found, turn)
            if control.poll():
                ending = control.recv()
                now = time.monotonic()
                found.echo = [max(pause, now - at) for pause, at in zip(found.echo, since, strict=True)]
                control.send(found)
                found, since = Pauses(), [time.monotonic()] * len(KINDS)


def _open_one(found: Pauses, turn: int) -> None:
    begun = time.monotonic()
    try:
        with connect(KINDS[turn]) as made:
            made.sendall(MESSAGE)
            if not made.recv(1 << 12):
                raise ConnectionResetError
        found.opened += 1
    except OSError:
        found.failed += 1
    found.new[turn] = max(found.new[turn], time.monotonic() - begun)


def start(function: Any, *arguments: Any) -> tuple[multiprocessing.Process, Connection]:
    """Start a function in a process, and wait until it is ready."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=function, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()  # then a process that fails ends the wait
    ours.recv()
    return process, ours


def make_services(ipvsadm: str) -> None:
    for kind in KINDS:
        vip, server = (f"[{each}]" if kind.version == 6 else each for each in (kind.vip, kind.server))
        run(ipvsadm, "-A", "-t", f"{vip}:{PORT}", "-s", "rr", within=DIRECTOR)
        run(ipvsadm, "-a", "-t", f"{vip}:{PORT}", "-r", f"{server}:{PORT}", kind.option, within=DIRECTOR)


def report(what: str, found: Pauses) -> None:
    pauses = ", ".join(f"{kind.name} {pause * 1e3:.0f}" for kind, pause in zip(KINDS, found.echo, strict=True))
    print(f"{what}: {found.echoes:,} echoes; longest pause in ms: {pauses}")
    print(
        f"    {found.opened:,} new connections, {found.failed} failed, the slowest after {max(found.new) * 1e3:.0f} ms"
    )


def measure(former: Path, connections: int, seconds: float) -> bool:
    """Measure one upgrade; return whether no connection was lost."""
    with network():
        make_services(str(former / ".venv/bin/ipvsadm"))
        start(serve)
        _, holder = start(hold, connections)
        _, prober = start(probe)

        def pauses(is_last: bool = False) -> Pauses:
            prober.send(is_last)
            found: Pauses = prober.recv()
            return found

        pauses()
        time.sleep(seconds)
        report("before", pauses())
        begun = time.monotonic()
        run("ipvsadm", "--set", "0", "0", "0", within=DIRECTOR)
        spent = time.monotonic() - begun
        report(f"during the upgrade, {spent:.1f} s", pauses())
        time.sleep(seconds)
        report("after", pauses(is_last=True))
        holder.send(True)
        rounds, longest, lost = holder.recv()
        print(run("pylvs", "show", within=DIRECTOR).splitlines()[0])
        print(
            f"{connections:,} connections: {lost} lost; {rounds} rounds of messages, the longest took {longest:.2f} s"
        )
        run("pylvs", "down", within=DIRECTOR)
    return not lost


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.upgrade", description=__doc__)
    parser.add_argument("former", type=Path, help="a source tree of the former build, after ./dev there")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure before and after")
    given = parser.parse_args(words)
    import resource

    most = given.connections + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return 0 if measure(given.former, given.connections, given.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
