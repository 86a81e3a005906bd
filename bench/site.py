"""Where things are measured: a network namespace of one's own, and a Director in it; nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

from pylvs.dataplane import load
from pylvs.dataplane.state import State
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.system.namespaces import inside_network

PREFIX = "pylvs-bench-"
DEVICE = "d0"
MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:fe"
OWN, ROUTER = "10.66.0.1", "10.66.255.254"  # of 10.66.0.0/16
VIP = "10.66.0.100"
OWN6, VIP6, SERVER6 = "fd66::1", "fd66::100", "fd66::1:1"  # of fd66::/64
SERVERS = 8
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def server(number: int) -> str:
    """Return the address of a real server, counted from 1."""
    return f"10.66.{1 + number // 256}.{number % 256}"


def server_mac(number: int) -> str:
    """Return its link address."""
    return f"02:00:00:00:{1 + number // 256:02x}:{number % 256:02x}"


def has_ipv6() -> bool:
    """Return whether this kernel has IPv6."""
    return os.path.exists("/proc/sys/net/ipv6")


def ip(*words: str, lines: str = "") -> None:
    """Run ip(8) with these lines as input. Raises Unsupported with its error."""
    try:
        done = subprocess.run(["ip", *words], input=lines, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unsupported("there is no ip command; install iproute2") from None
    if done.returncode:
        raise Unsupported(f"ip {' '.join(words)}: {done.stderr.strip() or 'failed'}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn signals that end the process into KeyboardInterrupt, so that the cleanup runs."""
    former = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals that end the process during the cleanup."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Block signals: one during the start of a child process would leave that process running."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_ENDING))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _populate(servers: int) -> None:
    ip("link", "add", DEVICE, "address", MAC, "type", "veth", "peer", "name", "d1")
    for device in "lo", DEVICE, "d1":
        ip("link", "set", device, "up")
    for address in f"{OWN}/16", f"{VIP}/32":
        ip("addr", "add", address, "dev", DEVICE)
    neighbours = {ROUTER: ROUTER_MAC} | {server(number): server_mac(number) for number in range(1, servers + 1)}
    if has_ipv6():
        for address in f"{OWN6}/64", f"{VIP6}/128":
            ip("addr", "add", address, "dev", DEVICE, "nodad")
        neighbours[SERVER6] = server_mac(1)
    entries = (f"neigh add {each} lladdr {mac} nud permanent dev {DEVICE}\n" for each, mac in neighbours.items())
    ip("-batch", "-", lines="".join(entries))
    ip("route", "add", "default", "via", ROUTER)
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")


def _remove(name: str) -> None:
    """Remove every part of the site that exists."""
    path = f"/run/netns/{name}"
    if not os.path.exists(path):
        return
    with contextlib.suppress(OSError, PylvsError), inside_network(path):
        load.take_down(State.open())
    with contextlib.suppress(PylvsError):
        ip("netns", "del", name)


@contextlib.contextmanager
def new_site(role: str, servers: int = SERVERS) -> Iterator[None]:
    """Enter a new namespace with a link, servers on it and VIPs; remove it at the end."""
    name = f"{PREFIX}{os.getpid()}-{role}"
    try:
        with deferred():
            ip("netns", "add", name)
        with inside_network(f"/run/netns/{name}"):
            _populate(servers)
            yield
    finally:
        with undisturbed():
            _remove(name)
