"""What of this host follows the table: attachments, the snapshots of what is local, forwarding of lo.

A service attaches the device that holds its virtual address or routes to it, a NAT destination also the one towards
itself. The address of a virtual router attaches, whichever its role is, the devices on whose link it is, and what
stands on them with a MAC of its own: nothing is attached at the moment of a take-over. An address on lo, a mark, or
an address that is nowhere near concerns every device that is up, no slave of another, and has an address.
lo is attached while there is any service, for clients on this host. While a real server is on this host, its answers
are looked at where they leave: at TC egress of what is attached, lo excepted, where they come in again.
`pylvs attach` and `pylvs detach` are remembered and come first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pylvs.dataplane import abi, attach, devices, encode, load, marks, roles, standby
from pylvs.dataplane.bitmaps import set_bit
from pylvs.dataplane.devices import Device
from pylvs.dataplane.libbpf import open_pin
from pylvs.dataplane.listing import Reader
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, InvalidOperation, NoSuchDevice
from pylvs.model.probe_marks import is_probe_mark
from pylvs.model.service import ServiceKey

GRACE_S = 60  # attaching native XDP resets many cards: after the last service went, it stays so long
_WANTED, _OFF = "wanted-", "off"
_IDLE = "idle-since"
_FORWARDING = "forwarding-"
_LOOPBACK_NET = 127
_CONF = "/proc/sys/net/ipv4/conf"
_WITH_OWN_MAC = ("macvlan", "ipvlan")  # what virtual routers put on a device
_SYSCTLS = {"ipv4": "/proc/sys/net/ipv4/conf/lo/forwarding", "ipv6": "/proc/sys/net/ipv6/conf/lo/forwarding"}


# --- addresses ---


def is_local(address: Address) -> bool:
    """Whether a device of this host has the address."""
    return address in devices.local_addresses()


def refresh_locals(tables: Tables) -> None:
    """Bring the snapshot of local addresses up to date."""
    wanted = {encode.address_bytes(each) for each in devices.local_addresses()}
    there = {key for key, _ in tables.locals.items()}
    for key in wanted - there:
        set_bit(tables, "reply_bits", key, 6 if any(key[4:]) else 4)
        tables.locals.put(key, b"\1")
    for key in there - wanted:
        tables.locals.remove(key)


def refresh_accept_local(tables: Tables) -> None:
    """Note the devices where the kernel takes packets from outside whose source is an address of this host."""
    wanted = set()
    for each in os.listdir(_CONF):
        with contextlib.suppress(OSError), open(f"{_CONF}/{each}/accept_local", encoding="ascii") as file:
            if file.read().strip() != "0":
                wanted.add(struct.pack("<I", 0 if each == "all" else socket.if_nametoindex(each)))
    there = set(tables.accept_locals.keys())
    for key in wanted - there:
        tables.accept_locals.put(key, b"\1")
    for key in there - wanted:
        tables.accept_locals.remove(key)


def refresh_marks(reader: Reader) -> None:
    """Bring up to date what the rules of marks, and services of marks, take from this host: devices, policy routing."""
    facts = reader.versions.facts()
    marks.refresh_devices(reader.tables, facts)
    if facts.get("marks")[0] or len(reader.tables.routed_marks):
        services = reader.service_slots(reader.versions.live)
        marks.refresh_routed(
            reader.tables, {(version["mark"], version["family"]) for _, version in services if version["mark"]}
        )


# --- forwarding of lo: how the routing tables are asked with ip_forward=0 ---


def prepare_host(state: State) -> None:
    """Switch lo's forwarding on, which turns nothing else on; what it was is noted."""
    for name, path in _SYSCTLS.items():
        with contextlib.suppress(FileNotFoundError), open(path, "r+", encoding="ascii") as file:
            before = file.read().strip()
            if before != "1":
                state.set_note(_FORWARDING + name, before)
                file.seek(0)
                file.write("1")


def _restore_host(state: State) -> None:
    for name, path in _SYSCTLS.items():
        before = state.note(_FORWARDING + name)
        if before is not None:
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
                file.write(before)


# --- attachments ---


def _spread_out(everything: list[Device]) -> set[int]:
    """The devices that an address of no device in particular concerns."""
    return {
        each.index
        for each in everything
        if each.up and not each.loopback and not each.master and each.has_unicast_address and _can_carry(each)
    }


@dataclass
class Concerns:
    """What of a table decides where it is attached."""

    virtual: set[Address] = field(default_factory=set)
    by_nat: set[Address] = field(default_factory=set)  # real servers
    marks: bool = False
    own_server: bool = False  # a real server is on this host
    shrunk: bool = False  # something left the table: devices may be let go

    def __bool__(self) -> bool:
        return bool(self.virtual or self.by_nat or self.marks or self.own_server or self.shrunk)

    def add_key(self, key: ServiceKey) -> None:
        """A service came."""
        if key.mark:
            self.marks |= not is_probe_mark(key.mark)  # whose packets come by lo, where other services are attached
        else:
            self.virtual.add(key.address)


def _concerns_of(reader: Reader) -> Concerns:
    """Of the whole table in force."""
    found = Concerns()
    for _, version in reader.service_slots(reader.versions.live):
        found.add_key(encode.key_of(version))
    table = reader.tables.destinations
    form = table.codec.view("address", "family", "used", "deleted_s")
    by_nat = abi.constant("DESTINATION_USED_BY_NAT")
    top = reader.tables.book.get(0, "destination_top")
    own = {encode.address_bytes(each) for each in devices.local_addresses()}
    for address, family, used, deleted_s in form.iter_unpack(table.array.memory[: top * table.array.stride]):
        if not used or deleted_s:
            continue
        if used == by_nat:
            found.by_nat.add(encode.address_of(address, family))
        found.own_server |= address in own or (family == 4 and address[0] == _LOOPBACK_NET)
    return found


def _wanted_devices(concerns: Concerns, everything: list[Device], of_routers: frozenset[Address]) -> set[int]:
    holders = {address: each for each in everything for address in each.addresses}
    by_index = {each.index: each for each in everything}
    found = _spread_out(everything) if concerns.marks else set()
    if concerns.virtual & of_routers:
        networks = [(index, network) for index, own, network in devices.links() if own not in of_routers]
        for address in concerns.virtual & of_routers:
            found |= _towards_router(address, holders, everything, networks)
    with devices.Routes() as routes:
        for address in concerns.virtual - of_routers:
            found |= _towards_virtual(address, holders, by_index, everything, routes)
        for address in concerns.by_nat:
            route = routes.to(address)
            if route and not route.local:
                found.add(route.ifindex)
    found = {index for index in found if index in by_index and _can_carry(by_index[index])}
    if concerns.virtual or concerns.marks:
        found |= {each.index for each in everything if each.loopback}
    return found


def _towards_router(
    address: Address,
    holders: dict[Address, Device],
    everything: list[Device],
    networks: list[tuple[int, devices.Network]],
) -> set[int]:
    """Where packets to an address of a virtual router come in, now or after its next change of roles."""
    linked = {index for index, network in networks if address in network}
    found = {each.index for each in everything if each.index in linked and _can_carry(each) and each.kind != "dummy"}
    found = found or _spread_out(everything)
    found |= {each.index for each in everything if each.kind in _WITH_OWN_MAC and each.lower in found}
    holder = holders.get(address)
    if holder is not None and _can_carry(holder) and holder.kind != "dummy":
        found.add(holder.index)
    return found


def _towards_virtual(
    address: Address,
    holders: dict[Address, Device],
    by_index: dict[int, Device],
    everything: list[Device],
    routes: devices.Routes,
) -> set[int]:
    holder = holders.get(address)
    if holder is None:
        route = routes.to(address)
        holder = by_index.get(route.ifindex) if route and not route.gateway else None
        if holder is None:
            return _spread_out(everything)
    return {holder.index} if _can_carry(holder) and holder.kind != "dummy" else _spread_out(everything)


def _can_carry(device: Device) -> bool:
    return not device.loopback and (device.bare or len(device.mac) == 6)


def request(reader: Reader, device: str, mode: attach.Mode) -> attach.Attachment:
    """`pylvs attach`: attach now, and keep it so whatever the table says."""
    found = devices.device(device)
    done = _attach(reader, found, mode, egress=_concerns_of(reader).own_server)
    reader.tables.state.set_note(f"{_WANTED}{found.index}", mode)
    _note_devices(reader)
    return done


def release(reader: Reader, device: str) -> bool:
    """`pylvs detach`: take it off, and leave it off whatever the table says. False if nothing was there."""
    found = devices.device(device)
    done = attach.detach(found.index, reader.tables.state)
    reader.tables.state.set_note(f"{_WANTED}{found.index}", _OFF)
    _note_devices(reader)
    return done


@contextlib.contextmanager
def _entry(state: State, name: str) -> Iterator[int]:
    """An entry program, loaded if it was not yet."""
    program = load.open_entry(state, name)
    try:
        yield program
    finally:
        os.close(program)


def _attach(reader: Reader, device: Device, mode: attach.Mode, egress: bool = False) -> attach.Attachment:
    state = reader.tables.state
    with contextlib.ExitStack() as opened:
        if device.bare:
            if mode in ("native", "generic"):
                raise InvalidOperation(
                    f"{device.name}: its packets come without link addresses: --mode tc is its only one"
                )
            return attach.attach(device.index, mode, state, tc_fd=opened.enter_context(_entry(state, load.BARE)))
        slot = device.index % abi.constant("DEVICES")
        other = reader.tables.devices.get(slot, "ifindex")
        if mode != "tc" and other not in (0, device.index):
            if mode != "auto":
                raise Busy(f"{device.name}: XDP here tells devices apart by index modulo 64, and {other} is taken")
            mode = "tc"
        tc = opened.enter_context(_entry(state, load.TC))
        out = opened.enter_context(_entry(state, load.EGRESS)) if egress and not device.loopback else None
        xdp = functools.partial(_entry, state, load.XDP)
        _write_device(reader.tables, device)
        return attach.attach(device.index, mode, state, tc_fd=tc, open_xdp=xdp, egress_fd=out)


def _write_device(tables: Tables, device: Device) -> None:
    slot = device.index % abi.constant("DEVICES")
    if not device.loopback and tables.devices.get(slot, "ifindex") in (0, device.index):
        tables.devices.write(slot, {"ifindex": device.index, "mac": device.mac, "present": 1})


def _note_devices(reader: Reader) -> None:
    """Which devices XDP may redirect to: with generic XDP all that are attached, else those whose driver transmits."""
    there = attach.attached(reader.tables.state)
    tables = reader.tables
    by_xdp = [each for each in there if each.mode in ("native", "generic")]
    able = set()
    if by_xdp:
        native = any(each.mode == "native" for each in by_xdp)
        for each in there:
            features = devices.native_xdp(each.ifindex) or 0 if each.mode == "native" else 0
            if not native or features & devices.XDP_TRANSMIT:
                able.add(each.ifindex)
    held = {int.from_bytes(key, "little") for key in list(tables.transmitters.keys())}
    for index in able - held:
        tables.transmitters.put(struct.pack("<I", index), struct.pack("<I", index))
    for index in held - able:
        tables.transmitters.remove(struct.pack("<I", index))
    kept = {each.ifindex for each in by_xdp}
    for slot in range(tables.devices.count):
        if tables.devices.get(slot, "ifindex") not in (0, *kept):
            tables.devices.clear(slot)


def follow_table(reader: Reader, changes: Concerns) -> None:
    """Attach what an edit brought in; where it took something away, detach what the table no longer concerns."""
    if not changes:
        return
    state = reader.tables.state
    if changes.marks:
        refresh_marks(reader)
    concerns = _concerns_of(reader) if changes.shrunk else changes
    everything = devices.devices()
    notes = {int(name.removeprefix(_WANTED)): text for name, text in state.notes().items() if name.startswith(_WANTED)}
    by_index = {each.index: each for each in everything}
    wanted = _wanted_devices(concerns, everything, standby.in_force(reader.tables).all)
    there = {each.ifindex: each for each in attach.attached(state)}
    changed = False
    for index in sorted(wanted - set(there)):
        if notes.get(index) == _OFF:
            continue
        _attach(reader, by_index[index], "auto")
        changed = True
    grace = _in_grace(state, empty=not wanted)
    for index in sorted(set(there) - wanted) if changes.shrunk else ():
        if index in notes or (there[index].mode == "native" and grace):
            continue
        with contextlib.suppress(NoSuchDevice):
            changed |= attach.detach(index, state)
    if changed:
        _note_devices(reader)
    if concerns.own_server or changes.shrunk or changed:
        wanted_out = concerns.own_server or (not changes.shrunk and _concerns_of(reader).own_server)
        _follow_own_server(reader, wanted_out)


def _follow_own_server(reader: Reader, wanted: bool) -> None:
    """Look at what this host sends while one of its own addresses is a real server."""
    state = reader.tables.state
    bare = {each.index for each in devices.devices() if each.bare}
    with _entry(state, load.EGRESS) if wanted else contextlib.nullcontext() as program:
        for each in attach.attached(state):
            if each.device != "lo" and each.ifindex not in bare and bool(each.egress) != wanted:
                attach.set_egress(each.ifindex, program)


def _in_grace(state: State, empty: bool) -> bool:
    if not empty:
        if state.note(_IDLE):
            state.set_note(_IDLE, None)
        return True
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    since = state.note(_IDLE)
    if since is None:
        state.set_note(_IDLE, str(now))
        return True
    return now - int(since) < GRACE_S


def swap_programs(
    tables: Tables, connections: int | None = None, prepare: Callable[[Tables], None] | None = None
) -> Reader:
    """Load the object anew (with `connections`: over another table of connections) and put it where the old one runs.

    Device by device, without a gap: the old one keeps its stages until the last device has the new one. `prepare` is
    called with the tables just before the first.
    """
    state = tables.state
    old = [open_pin(tables.path(name)) for name in ("stages_xdp", "stages_tc")]
    try:
        load.reload(state, connections)
        fresh = Reader(Tables(state))
        if prepare:
            prepare(fresh.tables)
        for each in attach.attached(state):
            _attach(fresh, devices.device(each.ifindex), each.mode, egress=bool(each.egress))
        return fresh
    finally:
        for descriptor in old:
            if descriptor is not None:
                os.close(descriptor)


def take_down(state: State) -> list[str]:
    """`pylvs down`: detach everything, restore what was changed, remove the tables. The names of the devices."""
    if not state.exists:
        return []
    with state.lock():
        gone = [each.device for each in attach.detach_all(state)]
        _restore_host(state)
    state.remove()
    roles.forget(state.cookie)
    return gone


__all__ = [
    "follow_table",
    "is_local",
    "prepare_host",
    "refresh_accept_local",
    "refresh_locals",
    "release",
    "request",
    "swap_programs",
    "take_down",
]
