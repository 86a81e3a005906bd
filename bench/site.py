"""Where things are measured: a network namespace of one's own, and a Director in it; nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import FrameType

from bench.processes import ip_batch, run
from pylvs.dataplane import load
from pylvs.dataplane.state import State
from pylvs.model.errors import PylvsError
from pylvs.system import proc
from pylvs.system.namespaces import inside_network

PREFIX = "pylvs-bench-"
DEVICE = "d0"
MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:fe"
OWN, ROUTER = "10.66.0.1", "10.66.255.254"  # of 10.66.0.0/16
VIP = "10.66.0.100"
OWN6, ROUTER6, VIP6 = "fd66::1", "fd66::ffff", "fd66::100"  # of fd66::/64
SERVERS = 8
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def server(number: int) -> str:
    """Return the address of a real server, counted from 1."""
    return f"10.66.{1 + number // 256}.{number % 256}"


def server6(number: int) -> str:
    """Return its address of IPv6."""
    return f"fd66::1:{number:x}"


def server_mac(number: int) -> str:
    """Return its link address."""
    return f"02:00:00:00:{1 + number // 256:02x}:{number % 256:02x}"


def has_ipv6() -> bool:
    """Return whether this kernel has IPv6."""
    return os.path.exists("/proc/sys/net/ipv6")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handling(numbers: Sequence[int], handler: Callable[[int, FrameType | None], object] | int) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def interruptible() -> AbstractContextManager[None]:
    """Turn signals that end the process into KeyboardInterrupt, so that the cleanup runs."""
    return _handling(_ENDING, _interrupt)


def undisturbed() -> AbstractContextManager[None]:
    """Ignore signals that end the process during the cleanup."""
    return _handling((signal.SIGINT, *_ENDING), signal.SIG_IGN)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Block signals: one during the start of a child process would leave that process running."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_ENDING))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _populate(servers: int) -> None:
    lines = [f"link add {DEVICE} address {MAC} type veth peer name d1"]
    lines += [f"link set {device} up" for device in ("lo", DEVICE, "d1")]
    lines += [f"addr add {address} dev {DEVICE}" for address in (f"{OWN}/16", f"{VIP}/32")]
    routes = [f"default via {ROUTER}"]
    neighbours = {ROUTER: ROUTER_MAC} | {server(number): server_mac(number) for number in range(1, servers + 1)}
    if has_ipv6():
        lines += [f"addr add {address} dev {DEVICE} nodad" for address in (f"{OWN6}/64", f"{VIP6}/128")]
        neighbours |= {server6(number): server_mac(number) for number in range(1, servers + 1)} | {ROUTER6: ROUTER_MAC}
        routes.append(f"::/0 via {ROUTER6}")
        proc.write("net/ipv6/conf/all/forwarding", "1")
    lines += [f"neigh add {each} lladdr {mac} nud permanent dev {DEVICE}" for each, mac in neighbours.items()]
    lines += [f"route add {route}" for route in routes]
    ip_batch(*lines)
    proc.write("net/ipv4/ip_forward", "1")


def remove_namespace(name: str) -> None:
    """Remove a namespace with its tables, if it exists."""
    path = f"/run/netns/{name}"
    if not os.path.exists(path):
        return
    with contextlib.suppress(OSError, PylvsError), inside_network(path):
        load.take_down(State.open())
    with contextlib.suppress(PylvsError):
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def new_site(role: str, servers: int = SERVERS) -> Iterator[str]:
    """Enter a new namespace with a link, servers on it and VIPs; yield its file; remove it at the end."""
    name = f"{PREFIX}{os.getpid()}-{role}"
    path = f"/run/netns/{name}"
    try:
        with deferred():
            run("ip", "netns", "add", name)
        with inside_network(path):
            _populate(servers)
            yield path
    finally:
        with undisturbed():
            remove_namespace(name)
