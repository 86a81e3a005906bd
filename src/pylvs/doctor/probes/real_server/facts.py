"""What the doctor knows of this host as a real server: its virtual addresses, devices and clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from ipaddress import ip_address

from pylvs.doctor.facts import Facts
from pylvs.doctor.kernel.orphans import orphaned
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.netlink import socket_diag
from pylvs.netlink.links import AssignedAddress, Device
from pylvs.realserver import decapsulation, vip
from pylvs.system.namespaces import network_cookie
from pylvs.system.undo_log import Memory, load

# Addresses of clients that no one knows: some of the Internet, in different parts of the address space.
_ANYWHERE = {
    4: tuple(map(ip_address, ("1.0.0.1", "120.0.0.1", "150.0.0.1", "203.1.0.1"))),
    6: tuple(map(ip_address, ("2400:cb00::1", "2600:1f00::1", "2a00:1450::1"))),
}
_MOST_CLIENTS = 64
_SILENT = vip.SILENT
REMOTE_LOGIN = 22  # of no service: administrators use a real server's own address
_DECAPSULATING = decapsulation.TUNNEL_KINDS | {"gre", "ip6gre", "vti", "vti6"}


@dataclass(frozen=True, slots=True)
class RealServer:
    """This host as a real server.

    `vips`: the virtual addresses that it should hold, with what holds them. `outward`: the devices by which packets
    come in, and `tunnels` those that decapsulate. `own_addresses` are those of `outward`. `expected`: clients that it
    certainly has. `by_nat`: packets of NAT come to it, so `vips` are its own addresses. `guessed`: nothing shows that
    this host is a real server, so only what is wrong on any host counts.
    """

    memory: Memory
    vips: Mapping[Address, tuple[AssignedAddress, ...]]
    outward: Sequence[Device]
    loopback: Device
    peers: Sequence[socket_diag.Peer]
    own_addresses: Sequence[Address]
    tunnels: Sequence[Device] = ()
    expected: Sequence[Address] = ()
    by_nat: bool = False
    guessed: bool = False

    def held(self) -> list[Address]:
        """Return the virtual addresses that are on this host."""
        return [address for address, holders in self.vips.items() if holders]

    def clients(self, address: Address) -> list[Address]:
        """Return clients of a virtual address: those that are connected or expected, and some of the Internet."""
        return [*self.known(address)[:_MOST_CLIENTS], *_ANYWHERE[address.version]]

    def known(self, address: Address) -> list[Address]:
        """Return clients of a virtual address that there are: those that are connected, or expected."""
        connected = dict.fromkeys(each.peer for each in self.peers if each.local == address)
        return list(connected | dict.fromkeys(each for each in self.expected if each.version == address.version))

    def usual_source(self, address: Address) -> Address | None:
        """Return the source of packets that are no replies: with NAT, replies have the same one."""
        return address if self.by_nat else next(iter(self.own(address.version)), None)

    def own(self, version: int) -> list[Address]:
        """Return the addresses of the outward devices: the real server's own."""
        return [each for each in self.own_addresses if each.version == version]


def real_server(facts: Facts) -> RealServer | None:
    """Return this host as a real server; None if nothing shows that it is one."""
    return facts.once("real_server", lambda: _real_server(facts))


def listeners(facts: Facts) -> Sequence[socket_diag.Listener] | None:
    """Return the listening sockets; None if this kernel does not report them."""
    return facts.once("listeners", socket_diag.listeners)


def _real_server(facts: Facts) -> RealServer | None:
    if facts.has_tables or orphaned(facts):
        return None
    memory = load(vip.memory_path(network_cookie()))
    by_index = {each.index: each for each in facts.devices}
    loopback = next(each for each in facts.devices if each.loopback)
    wanted = dict.fromkeys(map(ip_address, memory.addresses))
    wanted |= dict.fromkeys(each.address for each in facts.addresses if _may_be_vip(each, by_index[each.index]))
    outward = [each for each in facts.devices if _is_outward(each, facts.devices)]
    indices = {each.index for each in outward}
    if facts.vips:
        wanted = dict.fromkeys(facts.vips)
    prepared = is_prepared(facts) or memory.addresses
    by_nat = bool(facts.vips) and not prepared and all(_is_own(each, facts.addresses, indices) for each in facts.vips)
    guessed = not wanted and not prepared
    if guessed:
        wanted = dict.fromkeys(_served(facts, indices))
        by_nat = True
    if guessed and not wanted:
        return None
    holders = {address: tuple(each for each in facts.addresses if each.address == address) for address in wanted}
    own = [
        each.address
        for each in facts.addresses
        if each.index in indices and each.address not in wanted and not each.address.is_link_local
    ]
    peers, expected = socket_diag.peers(), facts.expected.clients
    return RealServer(memory, holders, outward, loopback, peers, own, tunnels(facts), expected, by_nat, guessed)


def _is_own(address: Address, everything: Sequence[AssignedAddress], outward: Set[int]) -> bool:
    """Return whether an address is a host's own: the first one on a device to others.

    Who names it on a real server means NAT, whose packets have it as their destination.
    """
    return address in _first_addresses(everything, outward, address.version)


def _first_addresses(everything: Sequence[AssignedAddress], outward: Set[int], version: int) -> list[Address]:
    """Return the first address of each device to others."""
    found = dict[int, Address]()
    for held in everything:
        if held.index in outward and held.address.version == version and not held.address.is_link_local:
            found.setdefault(held.index, held.address)
    return list(found.values())


def _served(facts: Facts, outward: Set[int]) -> list[Address]:
    """Return this host's own addresses at which an application serves other hosts: it may be a real server of NAT."""
    sockets = [
        each for each in listeners(facts) or () if each.protocol == socket_diag.TCP and each.port != REMOTE_LOGIN
    ]
    own = [each for version in (4, 6) for each in _first_addresses(facts.addresses, outward, version)]
    return [address for address in own if any(each.accepts(address) for each in sockets)]


def is_prepared(facts: Facts) -> bool:
    """Return whether the settings of ARP are those of a real server."""
    values = {name: facts.number(f"net/ipv4/conf/all/{name}") for name in _SILENT}
    return all(values[name] in good for name, good in _SILENT.items())


def _may_be_vip(held: AssignedAddress, device: Device) -> bool:
    address = held.address
    if address.is_loopback or address.is_link_local or address.is_multicast:
        return False
    alone = held.prefix == address.max_prefixlen
    return device.loopback or (alone and (device.kind == "dummy" or device.kind in _DECAPSULATING))


def _is_outward(device: Device, everything: Sequence[Device]) -> bool:
    """Return whether packets of other hosts come in by a device."""
    if not device.up or device.loopback or device.master or device.bare or not device.has_unicast_address:
        return False
    if device.kind == "dummy" or device.kind in _DECAPSULATING:
        return False
    ports = [each for each in everything if each.master == device.index]
    return device.kind != "bridge" or any(each.kind not in ("veth", "tun") for each in ports)  # of containers


def tunnels(facts: Facts) -> list[Device]:
    """Return the tunnel devices of the kernel that are up."""
    return [each for each in facts.devices if each.up and each.kind in _DECAPSULATING]
