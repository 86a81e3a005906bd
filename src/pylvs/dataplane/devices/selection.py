"""Which devices services and real servers need: by the addresses of a table, its routes, and what a driver can do.

A device runs XDP if a VIP or a NAT destination is on it or routed through it. It also does if the address of a virtual
router is on its link. It does, too, if it leads to real servers and its driver transmits XDP frames only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pylvs.bpf import abi
from pylvs.dataplane.devices.modes import Drivers, choose_mode
from pylvs.dataplane.devices.own_addresses import OwnAddresses
from pylvs.dataplane.tables import Tables, Versions, address_of, key_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Destination, Method, ServiceKey, is_probe_mark
from pylvs.netlink import links
from pylvs.netlink.links import Device

_WITH_OWN_MAC = ("macvlan", "ipvlan")  # what virtual routers add to a device
_SENDS_ONLY = ("dummy", "ifb", "nlmon")  # what comes in by them came in by another device before
# Their drivers never transmit XDP frames, or only while the far end takes them; a loss there is silent.
_WITHOUT_OUTPUT = ("veth", "vlan", "bridge", "macvlan", "ipvlan", "vrf", "dummy")
_NETWORK_BYTES = {4: 3, 6: 8}  # the bytes of an address that choose its route in nearly all networks


@dataclass(slots=True)
class Concerns:
    """What in a table decides which devices are attached, and how."""

    virtual: set[Address] = field(default_factory=set)
    by_nat: set[Address] = field(default_factory=set)  # real servers
    marks: bool = False
    own_server: bool = False  # a real server is on this host
    outputs: set[int] = field(default_factory=set)  # devices that lead to real servers
    shrunk: bool = False  # something left the table, or the host changed: evaluate the whole table

    def __bool__(self) -> bool:
        return bool(self.virtual or self.by_nat or self.marks or self.own_server or self.outputs or self.shrunk)

    def update(self, other: Concerns) -> None:
        """Add all of another edit."""
        self.virtual |= other.virtual
        self.by_nat |= other.by_nat
        self.outputs |= other.outputs
        self.marks |= other.marks
        self.own_server |= other.own_server
        self.shrunk |= other.shrunk

    def add_output(self, route: links.Route | None) -> None:
        """Add the route to a real server."""
        if route and not route.local:
            self.outputs.add(route.ifindex)

    def add_destination(self, destination: Destination, route: links.Route | None) -> None:
        """Add what a destination and the route to it need."""
        if destination.method == Method.MASQ:
            self.by_nat.add(destination.key.address)
        self.own_server |= route is not None and route.local
        self.add_output(route)

    def add_key(self, key: ServiceKey) -> None:
        """Add what a new service needs."""
        if key.mark:
            self.marks |= not is_probe_mark(key.mark)  # probes come in by lo, which is attached anyway
        else:
            self.virtual.add(key.address)

    def add_former(self, address: bytes, family: int, mark: int) -> None:
        """Add what the connections of a deleted destination need, by the key of its service."""
        if mark:
            self.marks |= not is_probe_mark(mark)
        else:
            self.virtual.add(address_of(address, family))


def concerns_of(tables: Tables) -> Concerns:
    """Return the concerns of the whole table in force: of its services, and of the connections of deleted servers."""
    found = Concerns()
    versions = Versions(tables)
    for _, version in versions.services(versions.live):
        found.add_key(key_of(version))
    table = tables.destinations
    form = table.codec.view("address", "family", "used", "virtual_address", "mark", "deleted_s", "virtual_family")
    by_nat = abi.constant("DESTINATION_USED_BY_NAT")
    top = tables.book.get(0, "destination_top")
    own = OwnAddresses()
    networks = dict[bytes, Address]()  # one real server of each: a route for each address would take too long
    elements = form.iter_unpack(table.array.elements(0, top))
    for slot, (address, family, used, virtual, mark, deleted_s, virtual_family) in enumerate(elements):
        if not used or (deleted_s and not _has_connections(tables, slot)):
            continue
        if deleted_s:
            found.add_former(virtual, virtual_family, mark)
        networks.setdefault(address[: _NETWORK_BYTES[family]], address_of(address, family))
        if used == by_nat:
            found.by_nat.add(address_of(address, family))
        found.own_server = found.own_server or own.has(address, family)
    with links.Routes() as routes:
        for each in networks.values():
            found.add_output(routes.to(each))
    return found


def _has_connections(tables: Tables, slot: int) -> bool:
    """Return whether connections have this destination."""
    return any(tables.conn_counts.get(slot, name) for name in ("active", "inactive"))


@dataclass(frozen=True, slots=True)
class Ways:
    """How packets to the addresses of a table come in and go out: what virtual routers and routes say.

    `networks` are those of this host's other addresses, with the device; none if no virtual address is a router's.
    `routes` has the virtual addresses that no device holds, and the real servers of NAT.
    """

    of_routers: frozenset[Address] = frozenset()
    networks: Sequence[tuple[int, links.Network]] = ()
    routes: Mapping[Address, links.Route | None] = field(default_factory=dict)


def ways_of(tables: Tables, concerns: Concerns, everything: Sequence[Device]) -> Ways:
    """Ask the kernel and the tables for the ways to the addresses of these concerns."""
    of_routers = _router_addresses(tables)
    held = {address for each in everything for address in each.addresses}
    networks = []
    if concerns.virtual & of_routers:
        networks = [(each.index, each.network) for each in links.addresses() if each.address not in of_routers]
    with links.Routes() as routes:
        asked = (concerns.virtual - of_routers - held) | concerns.by_nat
        return Ways(of_routers, networks, {address: routes.to(address) for address in asked})


def may_transmit(outputs: set[int], everything: Sequence[Device]) -> list[Device]:
    """Return those of the outputs whose drivers may transmit XDP frames."""
    return [each for each in everything if each.index in outputs and each.kind not in _WITHOUT_OUTPUT]


def needed_outputs(outputs: set[int], inputs: set[int], everything: Sequence[Device], drivers: Drivers) -> set[int]:
    """Return those of the outputs that must run XDP, because one of the inputs does and redirects to them."""
    found = {each.index for each in may_transmit(outputs, everything) if _demands_program(each, drivers)}
    if not found:
        return found
    modes = (choose_mode(each, everything, drivers)[0] for each in everything if each.index in inputs)
    return found if "native" in modes else set()


def _demands_program(device: Device, drivers: Drivers) -> bool:
    """Return whether the driver transmits XDP frames only while an XDP program runs on the device, as most cards do.

    If it transmits them now, our program may be the reason.
    """
    if not can_carry(device) or device.bare:
        return False
    features = drivers.features.get(device.index, 0)
    ours = bool(device.xdp_native) and device.xdp_native not in drivers.foreign
    return bool(features & links.XDP_BASIC) and (ours or not features & links.XDP_TRANSMIT)


def needed_devices(concerns: Concerns, ways: Ways, everything: Sequence[Device]) -> set[int]:
    """Return the indices of the devices that services and NAT destinations need."""
    holders = {address: each for each in everything for address in each.addresses}
    by_index = {each.index: each for each in everything}
    found = _spread_out(everything) if concerns.marks else set()
    for address in concerns.virtual & ways.of_routers:
        found |= _towards_router(address, holders, everything, ways.networks)
    for address in concerns.virtual - ways.of_routers:
        found |= _towards_virtual(address, holders, by_index, everything, ways)
    for address in concerns.by_nat:
        route = ways.routes[address]
        if route and not route.local:
            found.add(route.ifindex)
    return {index for index in found if index in by_index and can_carry(by_index[index])}


def below_vlans(needed: set[int], by_index: Mapping[int, Device]) -> set[int]:
    """Return the devices below VLAN devices that are needed: XDP there sees the tags."""
    found = (by_index[index] for index in needed if index in by_index)
    return {each.lower for each in found if each.vlan_protocol == links.ETH_P_8021Q}


def _towards_router(
    address: Address,
    holders: dict[Address, Device],
    everything: Sequence[Device],
    networks: Sequence[tuple[int, links.Network]],
) -> set[int]:
    """Return the devices that receive packets to a virtual router's address, now or after its next change of role."""
    linked = {index for index, network in networks if address in network}
    found = {
        each.index for each in everything if each.index in linked and can_carry(each) and each.kind not in _SENDS_ONLY
    }
    found = found or _spread_out(everything)
    found |= {each.index for each in everything if each.kind in _WITH_OWN_MAC and each.lower in found}
    holder = holders.get(address)
    if holder is not None and can_carry(holder) and holder.kind not in _SENDS_ONLY:
        found.add(holder.index)
    return found


def _towards_virtual(
    address: Address,
    holders: dict[Address, Device],
    by_index: dict[int, Device],
    everything: Sequence[Device],
    ways: Ways,
) -> set[int]:
    holder = holders.get(address)
    if holder is None:
        route = ways.routes[address]
        holder = by_index.get(route.ifindex) if route and not route.gateway else None
        if holder is None:
            return _spread_out(everything)
    return {holder.index} if can_carry(holder) and holder.kind not in _SENDS_ONLY else _spread_out(everything)


def _spread_out(everything: Sequence[Device]) -> set[int]:
    """Return the devices through which packets to an address of no particular device may come."""
    return {
        each.index
        for each in everything
        if each.up
        and not each.loopback
        and not each.master
        and each.kind not in _SENDS_ONLY
        and each.has_unicast_address
        and can_carry(each)
    }


def can_carry(device: Device) -> bool:
    return not device.loopback and (device.bare or len(device.mac) == 6)


def comes_in_by(device: Device, by_index: Mapping[int, Device]) -> bool:
    """Return whether a device receives packets first: it is not a port of a bridge or bond, which does."""
    if device.loopback:
        return True
    if not can_carry(device) or device.kind in _SENDS_ONLY or (device.bare and not device.up):
        return False
    master = by_index.get(device.master)
    return not device.master or (master is not None and master.kind == "vrf")


def _router_addresses(tables: Tables) -> frozenset[Address]:
    """Return the addresses of this host's virtual routers."""
    if not any(True for _ in tables.standby.items()):
        return frozenset()
    from pylvs.dataplane import vip_roles  # late: most hosts have no virtual router

    return vip_roles.in_force(tables).all
