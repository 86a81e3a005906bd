"""A host for tests of the packet path: a namespace, a Director in it, and frames through its programs.

No frame crosses a wire: the kernel runs the loaded programs on a frame (BPF_PROG_TEST_RUN), and returns the verdict and
the resulting frame. Next hops are permanent neighbours, so no packet waits for neighbour discovery.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import ip_address
from unittest import mock

from pylvs.bpf import abi, kernel, libbpf, maps
from pylvs.bpf.reasons import reasons
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane import load
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.modes import Mode
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.reader import Reader, denied_syns
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model import rows
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.system.namespaces import inside_network
from tests.iproute import ip_batch
from tests.recycled import Stock
from tests.waiting import until, until_up

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
PREDICTABLE = tuple(name for name in SCHEDULERS if name != "twos")  # schedulers that do not draw at random
SERVERS = 8  # real servers with known MACs: 10.77.0.11 to .18, fd77::11 to ::18
_numbers = itertools.count()
stock = Stock()
_start_timers = load.start_timers


def server4(number: int) -> str:
    """Return the address of a real server, counted from 1."""
    return f"10.77.0.{10 + number}"


def server6(number: int) -> str:
    """Return the IPv6 address of a real server."""
    return f"fd77::{10 + number}"


def server_mac(number: int) -> str:
    """Return the link address of a real server."""
    return f"02:00:00:00:01:{number:02x}"


def key(port: int, protocol: Protocol = Protocol.TCP, vip: str = VIP4) -> ServiceKey:
    return ServiceKey(protocol, ip_address(vip), port)


def ip(*words: str) -> None:
    """Run ip(8); raise with its error output if it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Host:
    """The test's namespace and its Director."""

    def __init__(self, name: str, director: BpfDirector, expiry: ExpiryTimer) -> None:
        self.name = name
        self.director = director
        self.expiry = expiry
        self.ifindex = socket.if_nametoindex("d0")
        self._programs: dict[str, int] = {}
        self._ports = itertools.count(1024)

    def program(self, name: str) -> int:
        """Return the descriptor of an entry program, which the host keeps: "xdp", "tc", "tc_egress", "tc_bare"."""
        if name not in self._programs:
            state, entry = self.director.state, f"pylvs_{name}"
            if not os.path.exists(state.loaded_path(entry)):
                with self.director.batch():
                    os.close(load.open_entry(state, entry))
            self._programs[name] = load.open_entry(state, entry)
        return self._programs[name]

    def close_programs(self) -> None:
        """Close the descriptors. The next use opens the programs that run then."""
        for descriptor in self._programs.values():
            os.close(descriptor)
        self._programs.clear()

    # --- frames ---

    def run(self, frame: bytes, hook: str = "xdp", mark: int = 0) -> kernel.Run:
        """Run one program on a frame that comes in by d0. At TC an earlier filter may have set a mark."""
        length = len(frame)
        if hook == "xdp":
            context = struct.pack("<6I", 0, length, 0, self.ifindex, 0, 0)
        else:
            context = struct.pack("<8xI28xI148x", mark, self.ifindex)
        done = kernel.run_program(self.program(hook), frame, context)
        if hook == "xdp":  # without the metadata before the frame
            metadata = int.from_bytes(done.context[:4], "little")
            return kernel.Run(done.verdict, done.data[metadata:], done.context, done.duration_ns)
        return done

    def write_device(self, ifindex: int, bond: int = 0, trunk: int = 0, vid: int = 0) -> None:
        """Tell XDP of a device with the MAC address of this host: a port of a bond, a VLAN device, or none of these."""
        mac = bytes.fromhex(MAC.replace(":", ""))
        fields = {"ifindex": ifindex, "mac": mac, "present": 1, "bond": bond, "trunk": trunk, "vid": vid}
        self.director.tables.devices.write(ifindex % abi.constant("DEVICES"), fields)

    def receive(self, frame: bytes) -> tuple[str, kernel.Run]:
        """Run a frame through XDP, and through TC if XDP passes it. Return the hook that decided, and its verdict."""
        done = self.run(frame, "xdp")
        if done.verdict != XDP_PASS:
            return "xdp", done
        assert done.data == frame, "XDP passed the frame up, but not untouched"
        return "tc", self.run(frame, "tc")

    def forwarded(self, frame: bytes, hook: str = "xdp") -> bytes:
        """Return the frame as it leaves through a known next hop; fail the test if it does not leave.

        If the host `confirms`, a frame may ask for the next hop: XDP passes it, and TC sends it by the kernel's
        neighbour code. The test cannot see it there. So the same frame runs again, which must be harmless.
        """
        for _ in range(4):
            done = self.run(frame, hook)
            if done.verdict in SENT[hook] and done.data[:6] != frame[:6]:
                return done.data
        raise AssertionError(f"verdict {done.verdict} at {hook}, reasons {self.reasons()}")

    # --- the tables ---

    def new_key(self, protocol: Protocol = Protocol.TCP, vip: str = VIP4) -> ServiceKey:
        """Return the key of a service that no earlier test had, so that no table has a trace of it."""
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
        """Add a service with the first real servers, in this order."""
        self.director.add_service(VirtualService(service, scheduler, flags))
        family = family or service.address.version
        keys = []
        for number in range(1, servers + 1):
            address: Address = ip_address(server4(number) if family == 4 else server6(number))
            keys.append(DestinationKey(address, service.port if port is None else port))
            self.director.add_destination(service, Destination(keys[-1], method))
        return keys

    def counts(self, service: ServiceKey) -> dict[str, tuple[int, int]]:
        """Return active and inactive connections by server."""
        rows = self.director.service(service).destinations
        return {str(row.destination.key.address): (row.active, row.inactive) for row in rows}

    def reason(self, name: str) -> int:
        """Return the count of one reason."""
        denied = denied_syns(abi.shipped(), self.director.tables.path("denied_syns"))
        counted = self.director.tables.reasons.sums(abi.constant(f"REASON_{name}"))[0]
        return counted + sum(each.count for each in denied if name == "CLIENT_DENIED")

    def reasons(self) -> dict[str, int]:
        """Return the counts of reasons other than those of packets that passed: the kernel's own come at any time."""
        names = [each.label for each in reasons().values() if each.verdict not in (rows.FORWARDED, rows.PASSED)]
        found = {name: self.reason(name.upper()) for name in names}
        return {name: count for name, count in found.items() if count}

    def pool(self, name: str) -> int:
        """Return a number of the connection table."""
        return int(self.director.tables.pool.get(0, name))

    def wait_ticks(self, count: int = 2) -> None:
        """Return after this many ticks of the packet path's clock.

        For one tick, packets use what they found about this host's addresses.
        """
        begin = load.clock(self.director.state)
        until(lambda: load.clock(self.director.state) - begin & 0xFFFFFFFF >= count, "the clock of the packet path")

    def wait_for_lookups(self) -> None:
        """Wait until packets look their next hops up again, which they keep for a second."""
        self.wait_ticks(round(load.ticks_per_second()) + 1)


@contextmanager
def current_counters() -> Iterator[None]:
    """Let listings count all packets until now, and not those until the estimator's latest round."""
    reader = vars(BpfDirector)["reader"].fget

    def current(director: BpfDirector) -> Reader:
        found: Reader = reader(director)
        if type(found.tables) is Tables:  # not copies of another layout
            count_packets(found.tables)
        return found

    with mock.patch.object(BpfDirector, "reader", property(current)):
        yield


def count_packets(tables: Tables) -> None:
    """Count what packets have counted until now, as the estimator's next round will. Rates do not change."""
    top, estimates = tables.book.get(0, "destination_top"), tables.estimates
    for slot, counted in enumerate(tables.statistics.all_sums(top, 5)[:top] if top else ()):
        if tables.destinations.get(slot, "used"):
            estimates.set(slot, "passed", *counted)
            if not tables.destinations.get(slot, "deleted_s"):
                estimates.set(slot, "last", *counted)


def stop_timer(director: BpfDirector, name: str) -> None:
    """Stop a timer of the packet path: the kernel cancels it when its map element is written."""
    with maps.ArrayMap.open(director.tables.path(name)) as timers:
        timers.put(0, timers.get(0) or b"")


class ExpiryTimer:
    """The timer in the kernel that ends connections, which a test may stop.

    With a stopped timer, no pause of the machine ends a connection between two steps of a test.
    """

    def __init__(self) -> None:
        self._start = -1  # the program that starts it

    def __call__(self, state: State) -> None:
        """Start all timers, in place of `load.start_timers`."""
        self.close()
        self._start = libbpf.open_pin(state.loaded_path("start_expiry")) or -1
        _start_timers(state)

    def close(self) -> None:
        if self._start >= 0:
            os.close(self._start)
            self._start = -1

    def stop(self, director: BpfDirector) -> None:
        stop_timer(director, "sweepers")

    def start(self) -> None:
        until(lambda: not kernel.run_program(self._start, bytes(64)).verdict, "memory for a timer")

    def run(self, director: BpfDirector) -> None:
        """Start the stopped timer, and stop it after it checked each connection at least once."""
        pool = director.tables.pool
        begin = pool.get(0, "sweeps")
        self.start()
        try:  # the first of two rounds may have begun before
            until(lambda: pool.get(0, "sweeps") - begin & 0xFFFFFFFF >= 2, "two rounds of the expiry timer")
        finally:
            self.stop(director)


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Bind this thread to one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _populate() -> None:
    """Make the link d0 with its addresses and neighbours."""
    neighbours = {ROUTER4: ROUTER_MAC, ROUTER6: ROUTER_MAC}
    for number in range(1, SERVERS + 1):
        neighbours |= {server4(number): server_mac(number), server6(number): server_mac(number)}
    lines = [
        f"link add d0 address {MAC} type veth peer name d1",
        *(f"link set {device} up" for device in ("lo", "d0", "d1")),
        f"addr add {OWN4}/24 dev d0",
        f"addr add {VIP4}/32 dev d0",
        f"addr add {OWN6}/64 dev d0 nodad",
        f"addr add {VIP6}/128 dev d0 nodad preferred_lft 0",  # this host never sends from it
        *(f"neigh add {address} lladdr {mac} nud permanent dev d0" for address, mac in neighbours.items()),
        f"route add default via {ROUTER4}",
        f"route add default via {ROUTER6}",
    ]
    ip_batch(lines)
    until_up("d0")
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{path}", "w", encoding="ascii") as file:
            file.write("1")
    for device in "all", "default", "lo", "d0", "d1":  # the namespace has inherited those of this machine
        with open(f"/proc/sys/net/ipv4/conf/{device}/rp_filter", "w", encoding="ascii") as file:
            file.write("0")


def _take_down(state: State) -> None:
    """Remove the tables, even if other processes make theirs at the moment."""
    for _ in range(5):
        with suppress(Busy):
            load.take_down(state)
            return
    load.take_down(state)


@contextmanager
def populated_namespace() -> Iterator[tuple[str, ExpiryTimer]]:
    """Enter a new namespace with the devices of a host, until the block ends; yield its name and a timer."""
    expiry = ExpiryTimer()
    name = f"pylvs-pk{os.getpid()}-{next(_numbers)}"
    try:
        ip("netns", "add", name)
        with inside_network(f"/run/netns/{name}"):
            _populate()
            yield name, expiry
    finally:
        expiry.close()
        if os.path.exists(f"/run/netns/{name}"):  # otherwise it was interrupted before
            ip("netns", "del", name)


@contextmanager
def new_host(
    connections: int = 4096,
    expires: bool = True,
    mode: Mode | None = "generic",
    recycled: bool = False,
    confirms: bool = False,
) -> Iterator[Host]:
    """Enter a new namespace with a Director whose table holds this many connections, until the block ends.

    Without `expires` no connection ends by itself. `mode` attaches d0; None: it is not attached. `recycled`: it may use
    the load of an earlier host with `recycled`, with emptied maps. Not for tests of loading. `confirms`: XDP
    passes a packet up every 16 seconds, to ask for its next hop. Without it no clock decides what a test sees.
    """
    assert not (recycled and confirms), "the load has one period"
    never = nullcontext() if confirms else mock.patch.object(load, "confirm_ticks", return_value=0xFFFFFFFF)
    with populated_namespace() as (name, expiry), never:
        director = BpfDirector(State.open())
        with (
            mock.patch.object(kernel, "connection_limit", return_value=connections),
            mock.patch.object(load, "start_timers", expiry),
            mock.patch.object(load, "create", stock.create) if recycled else nullcontext(),
        ):
            director.make()
        try:
            if not expires:
                expiry.stop(director)
            with director.batch():
                attachments.release(director.tables, "d1")  # the far end of d0
                if mode:
                    attachments.request(director.tables, "d0", mode)
            host = Host(name, director, expiry)
            try:
                yield host
            finally:
                host.close_programs()
        finally:
            with stock.keeping(director.state) if recycled else nullcontext():
                _take_down(director.state)
