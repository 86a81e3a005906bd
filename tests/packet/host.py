"""A host of one's own for tests of the packet path: a namespace, a Director in it, and frames run through its programs.

Nothing goes over a wire: the kernel runs the loaded programs on a given frame (BPF_PROG_TEST_RUN) and tells the verdict
and what became of the frame. Next hops are permanent neighbours, so nothing waits for an answer either.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from unittest import mock

from pylvs.bpf import abi, kernel, maps
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, attachments, policy
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.model.addresses import Address
from pylvs.model.destination import Destination, DestinationKey, Method
from pylvs.model.errors import Busy
from pylvs.model.service import Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.system.namespaces import inside_network
from tests.packet.waiting import until

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
TC_PASS, TC_DROP, TC_REDIRECT = 0xFFFFFFFF, 2, 7
HOOKS = ("xdp", "tc")
SENT = {"xdp": (XDP_TX, XDP_REDIRECT), "tc": (TC_REDIRECT,)}
PASSED = {"xdp": XDP_PASS, "tc": TC_PASS}
DROPPED = {"xdp": XDP_DROP, "tc": TC_DROP}

MAC = "02:00:00:00:00:01"
ROUTER_MAC = "02:00:00:00:00:fe"
OWN4, OWN6 = "10.77.0.1", "fd77::1"
VIP4, VIP6 = "10.77.0.100", "fd77::100"
ROUTER4, ROUTER6 = "10.77.0.254", "fd77::fe"
SERVERS = 8  # real servers with known MACs: 10.77.0.11 to .18, fd77::11 to ::18
_numbers = itertools.count()
_start_timers = load._start_timer


def server4(number: int) -> str:
    """A real server's address, counted from 1."""
    return f"10.77.0.{10 + number}"


def server6(number: int) -> str:
    """Likewise of IPv6."""
    return f"fd77::{10 + number}"


def server_mac(number: int) -> str:
    """Where both of them are on the link."""
    return f"02:00:00:00:01:{number:02x}"


def key(port: int, protocol: Protocol = Protocol.TCP, vip: str = VIP4) -> ServiceKey:
    """A service's key."""
    return ServiceKey(protocol, ip_address(vip), port)


def ip(*words: str) -> None:
    """Run ip(8); a failure raises with its words."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Host:
    """The namespace that the test is in, and its Director."""

    def __init__(self, name: str, director: BpfDirector, expiry: ExpiryTimer) -> None:
        self.name = name
        self.director = director
        self.expiry = expiry
        self.ifindex = socket.if_nametoindex("d0")
        self._programs: dict[str, int] = {}
        self._ports = itertools.count(1024)

    def program(self, name: str) -> int:
        """The descriptor of an entry program, which stays this host's: "xdp", "tc", "tc_egress", "tc_bare"."""
        if name not in self._programs:
            state, entry = self.director.state, f"pylvs_{name}"
            if not os.path.exists(state.pin_path(entry)):
                with self.director.batch():
                    os.close(load.open_entry(state, entry))
            self._programs[name] = load.open_entry(state, entry)
        return self._programs[name]

    def close_programs(self) -> None:
        """Give them back; those that run now are opened when they are asked for."""
        for descriptor in self._programs.values():
            os.close(descriptor)
        self._programs.clear()

    # --- frames ---

    def run(self, frame: bytes, hook: str = "xdp", mark: int = 0) -> kernel.Run:
        """What one program makes of a frame that comes in by d0; at TC a filter before may have given it a mark."""
        length = len(frame)
        if hook == "xdp":
            context = struct.pack("<6I", 0, length, 0, self.ifindex, 0, 0)
        else:
            context = struct.pack("<8xI28xI148x", mark, self.ifindex)
        return kernel.run_program(self.program(hook), frame, context)

    def receive(self, frame: bytes) -> tuple[str, kernel.Run]:
        """The frame's way through both hooks: XDP, and TC if XDP passes it up. The hook that decided, and how."""
        done = self.run(frame, "xdp")
        if done.verdict != XDP_PASS:
            return "xdp", done
        assert done.data == frame, "XDP passed the frame up, but not untouched"
        return "tc", self.run(frame, "tc")

    def forwarded(self, frame: bytes, hook: str = "xdp") -> bytes:
        """The frame as it leaves by a next hop that is known; the test fails if it does not.

        Once a second a frame asks for the next hop; it goes up from XDP, and from TC through the kernel's neighbour
        code, which nobody sees here. The same frame is then run again: give one that may come twice.
        """
        for _ in range(4):
            done = self.run(frame, hook)
            if done.verdict in SENT[hook] and done.data[:6] != frame[:6]:
                return done.data
        raise AssertionError(f"verdict {done.verdict} at {hook}, reasons {self.reasons()}")

    # --- the tables ---

    def new_key(self, protocol: Protocol = Protocol.TCP, vip: str = VIP4) -> ServiceKey:
        """The key of a service that no test had before: nothing is left of it in any table."""
        return key(next(self._ports), protocol, vip)

    def serve(
        self,
        service: ServiceKey,
        servers: int = 1,
        method: Method = Method.ROUTE,
        scheduler: str = "rr",
        port: int | None = None,
        flags: ServiceFlag = ServiceFlag(0),
        family: int | None = None,
    ) -> list[DestinationKey]:
        """Add a service with the first so many servers, in this order."""
        self.director.add_service(VirtualService(service, scheduler, flags))
        family = family or service.address.version
        keys = []
        for number in range(1, servers + 1):
            address: Address = ip_address(server4(number) if family == 4 else server6(number))
            keys.append(DestinationKey(address, service.port if port is None else port))
            self.director.add_destination(service, Destination(keys[-1], method))
        return keys

    def counts(self, service: ServiceKey) -> dict[str, tuple[int, int]]:
        """Active and inactive connections by server."""
        rows = self.director.service(service).destinations
        return {str(row.destination.key.address): (row.active, row.inactive) for row in rows}

    def reason(self, name: str) -> int:
        """How often it happened."""
        return self.director.tables.reasons.sums(abi.constant(f"REASON_{name}"))[0]

    def reasons(self) -> dict[str, int]:
        """What happened to packets beyond being forwarded."""
        names = [name for name in abi.shipped().enum("reason") if name not in ("REASONS", "REASON_NONE")]
        found = {name.removeprefix("REASON_").lower(): self.reason(name.removeprefix("REASON_")) for name in names}
        return {name: count for name, count in found.items() if count}

    def pool(self, name: str) -> int:
        """A number of the connection table's."""
        return int(self.director.tables.pool.get(0, name))

    def wait_ticks(self, count: int = 2) -> None:
        """Return after so many ticks of the packet path's clock.

        For as long as one tick, packets go by what they found of this host's addresses.
        """
        begin = load.clock(self.director.state)
        until(lambda: load.clock(self.director.state) - begin & 0xFFFFFFFF >= count, "the clock of the packet path")


def stop_timer(director: BpfDirector, name: str) -> None:
    """Stop a timer of the packet path: the kernel cancels it when the element that holds it is written."""
    with maps.ArrayMap.open(director.tables.path(name)) as timers:
        timers.put(0, timers.get(0) or b"")


class ExpiryTimer:
    """The timer in the kernel that ends connections, which a test may stop.

    Without it no pause of the machine, however long, ends a connection between two steps of a test.
    """

    def __init__(self) -> None:
        self._start = -1  # the program that starts it

    def __call__(self, opened: BpfObject) -> None:
        """Start all timers, in place of `load._start_timer`."""
        self.close()
        self._start = os.dup(opened.program_fd("start_expiry"))
        _start_timers(opened)

    def close(self) -> None:
        """Close the descriptor."""
        if self._start >= 0:
            os.close(self._start)
            self._start = -1

    def stop(self, director: BpfDirector) -> None:
        """Stop the timer."""
        stop_timer(director, "sweepers")

    def start(self) -> None:
        """Start the stopped timer."""
        until(lambda: not kernel.run_program(self._start, bytes(64)).verdict, "memory for a timer")

    def run(self, director: BpfDirector) -> None:
        """Start the stopped timer, and stop it after it looked at each connection at least once."""
        pool = director.tables.pool
        begin = pool.get(0, "sweeps")
        self.start()
        try:  # the first of the two rounds may be the rest of one
            until(lambda: pool.get(0, "sweeps") - begin & 0xFFFFFFFF >= 2, "two rounds of the expiry timer")
        finally:
            self.stop(director)


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread runs on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _populate() -> None:
    """The link d0 with its addresses, and who is on it."""
    ip("link", "add", "d0", "address", MAC, "type", "veth", "peer", "name", "d1")
    for device in "lo", "d0", "d1":
        ip("link", "set", device, "up")
    ip("addr", "add", f"{OWN4}/24", "dev", "d0")
    ip("addr", "add", f"{VIP4}/32", "dev", "d0")
    ip("addr", "add", f"{OWN6}/64", "dev", "d0", "nodad")
    ip("addr", "add", f"{VIP6}/128", "dev", "d0", "nodad", "preferred_lft", "0")  # never a source of one's own
    neighbours = {ROUTER4: ROUTER_MAC, ROUTER6: ROUTER_MAC}
    for number in range(1, SERVERS + 1):
        neighbours |= {server4(number): server_mac(number), server6(number): server_mac(number)}
    for address, mac in neighbours.items():
        ip("neigh", "add", address, "lladdr", mac, "nud", "permanent", "dev", "d0")
    ip("route", "add", "default", "via", ROUTER4)
    ip("-6", "route", "add", "default", "via", ROUTER6)
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
            file.write("1")


def _take_down(state: State) -> None:
    """Others on this machine may be making their tables at this moment, one after the other."""
    for _ in range(5):
        with suppress(Busy):
            policy.take_down(state)
            return
    policy.take_down(state)


@contextmanager
def new_host(connections: int = 4096, expires: bool = True, mode: attach.Mode | None = "generic") -> Iterator[Host]:
    """A fresh namespace with a Director whose table holds so many connections; the caller is inside until it ends.

    Without `expires` no connection ends by itself. `mode`: how d0 is attached by hand; None: it is not.
    """
    expiry = ExpiryTimer()
    name = f"pylvs-pk{os.getpid()}-{next(_numbers)}"
    try:
        ip("netns", "add", name)
        with inside_network(f"/run/netns/{name}"):
            _populate()
            director = BpfDirector(State.open())
            with (
                mock.patch.object(kernel, "connection_limit", return_value=connections),
                mock.patch.object(load, "_start_timer", expiry),
            ):
                director.make()
            try:
                if not expires:
                    expiry.stop(director)
                with director.batch():
                    attachments.release(director.reader, "d1")  # the far end of d0
                    if mode:
                        attachments.request(director.reader, "d0", mode)
                host = Host(name, director, expiry)
                try:
                    yield host
                finally:
                    host.close_programs()
            finally:
                _take_down(director.state)
    finally:
        expiry.close()
        if os.path.exists(f"/run/netns/{name}"):  # else interrupted before
            ip("netns", "del", name)
