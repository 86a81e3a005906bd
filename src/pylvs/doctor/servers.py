"""The real servers of the table, and the ways of packets to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from itertools import zip_longest

from pylvs.doctor.facts import Facts
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.marks import MarkRule, Not
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Destination, Method, Protocol, ServiceKey, is_probe_mark
from pylvs.netlink.links import AssignedAddress, Device, Routes, dropping_route

MOST_SERVERS = 200  # of a larger table the first ones are asked
SERVICES_A_SERVER = 3
MOST_ENDPOINTS = 300


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A destination of a service, `listed` in the table; `service` is what clients ask for, and what is probed.

    They differ for services of marks: `service` then has the address of a rule that gives the mark. Its port is 0 if
    the rules do not name a single one.
    """

    service: ServiceKey
    destination: Destination
    listed: ServiceKey

    @property
    def server(self) -> Address:
        """Return the real server's address."""
        return self.destination.key.address

    @property
    def way(self) -> tuple[Address, Method, str]:
        """Return what endpoints with the same way share."""
        return self.server, self.destination.method, str(self.destination.tunnel)


@dataclass(frozen=True, slots=True)
class Way:
    """How this host reaches a real server. `device` is None without a route; `dropping`: a route that drops.

    `is_local`: routing takes the server for this host; `not_held`: no address of this host explains that.
    `hop` is the gateway, or the server itself. `source` is an address of this host for probes, no virtual one, and
    `outside` one that the server reaches by its gateway alone.
    """

    server: Address
    device: Device | None = None
    hop: Address | None = None
    dropping: str = ""
    is_local: bool = False
    source: Address | None = None
    outside: Address | None = None
    mtu: int = 0
    not_held: bool = False

    @property
    def on_link(self) -> bool:
        """Return whether the server is on a link of this host, not behind a gateway."""
        return self.hop == self.server


def endpoints(rows: Iterable[ServiceRow], rules: Sequence[MarkRule] = (), local: bool = False) -> list[Endpoint]:
    """Return the destinations to probe: those that get connections, some services of each server.

    `local`: also those that the table has as this host itself.
    """
    found: dict[tuple[Address, Method, str], list[Endpoint]] = {}
    for row in rows:
        if is_probe_mark(row.service.key.mark):
            continue
        for listed in row.destinations:
            if not listed.destination.weight or (listed.destination.method is Method.LOCAL and not local):
                continue
            for key in asked_of(row.service.key, rules):
                endpoint = Endpoint(key, listed.destination, row.service.key)
                if endpoint.way not in found and len(found) >= MOST_SERVERS:
                    continue
                known = found.setdefault(endpoint.way, [])
                if len(known) < SERVICES_A_SERVER:
                    known.append(endpoint)
    in_turn = zip_longest(*found.values())  # the first of each server, then the second ones
    return [endpoint for turn in in_turn for endpoint in turn if endpoint is not None][:MOST_ENDPOINTS]


def asked_of(listed: ServiceKey, rules: Sequence[MarkRule]) -> list[ServiceKey]:
    """Return what clients of a service ask for: itself, or the addresses of the rules that give its mark."""
    if not listed.mark:
        return [listed]
    giving = [rule for rule in rules if rule.may_give(listed.mark, listed.address.version) and rule.target]
    addresses = {
        rule.target.network_address
        for rule in giving
        if rule.target and rule.target.num_addresses == 1 and rule.target.version == listed.address.version
    }
    asked = {(rule.protocol, rule.target_ports) for rule in giving}
    protocol, port = Protocol.TCP, 0
    if len(asked) == 1 and not any(rule.turned & (Not.TARGET_PORTS | Not.PROTOCOL) for rule in giving):
        (number, ranges) = asked.pop()
        if number in set(Protocol) and len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            protocol, port = Protocol(number), ranges[0][0]
    return [ServiceKey(protocol, address, port) for address in sorted(addresses, key=str)] or [listed]


def ways_to(facts: Facts, servers: Iterable[Address]) -> dict[Address, Way]:
    """Return the ways to real servers."""
    devices = {each.index: each for each in facts.devices}
    found = {}
    with Routes() as routes:
        wanted = list(servers)
        routes.ask(wanted)
        for server in wanted:
            route = routes.to(server)
            down = _down(facts, server) if route is None or route.gateway else None
            if down is not None:
                found[server] = Way(server, down, server)
            elif route is None:
                found[server] = Way(server, dropping=dropping_route(server))
            elif route.local:
                is_held = any(each.address == server for each in facts.addresses)
                found[server] = Way(server, is_local=True, not_held=not is_held)
            else:
                device = devices.get(route.ifindex)
                source, outside = sources(facts, server, route.gateway or server, route.ifindex)
                mtu = min(filter(None, (route.mtu, device.mtu if device else 0)), default=0)
                found[server] = Way(server, device, route.gateway or server, "", False, source, outside, mtu)
    return found


def _down(facts: Facts, server: Address) -> Device | None:
    """Return the device with a server's network if it is down: its routes are gone, and another one may be used."""
    networks = {each.index: None for each in facts.addresses if server in each.network and each.address != server}
    holders = [each for each in facts.devices if each.index in networks]
    return None if any(each.up for each in holders) else next(iter(holders), None)


def sources(facts: Facts, server: Address, hop: Address, index: int) -> tuple[Address | None, Address | None]:
    """Return an address of this host on the server's network, or the nearest one, and one that is not on it.

    Virtual addresses are none: real servers have them, and drop packets from them.
    """
    own = [each for each in own_addresses(facts).real if each.address.version == server.version]
    near = [each.address for each in own if each.index == index and hop in each.network]
    near += [each.address for each in own if each.index == index] + [each.address for each in own]
    far = [each.address for each in own if server not in each.network and each.index != index]
    return next(iter(near), None), next(iter(far), None)


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """This host's addresses: all by device, those with a network by device, and those that are not virtual.

    `virtual`: the addresses of services, also those that this host does not have.
    """

    held: Mapping[int, Set[Address]]
    networks: Mapping[int, Sequence[AssignedAddress]]
    real: Sequence[AssignedAddress]
    virtual: Set[Address] = frozenset()

    def concerns(self, device: Device, vip: Address) -> bool:
        """Return whether hosts on a device's link ask for a virtual address by ARP or ND."""
        return vip in self.held.get(device.index, ()) or self.has_network(device, vip)

    def has_network(self, device: Device, address: Address) -> bool:
        """Return whether an address is of a network on a device's link."""
        return any(address in each.network for each in self.networks.get(device.index, ()))


def own_addresses(facts: Facts) -> OwnAddresses:
    """Return this host's addresses. Raises PylvsError, OSError."""
    return facts.once("own addresses", partial(_own_addresses, facts))


def _own_addresses(facts: Facts) -> OwnAddresses:
    vips = {row.service.key.address for row in facts.services}
    held, networks, real = defaultdict(set), defaultdict(list), []
    for assigned in facts.addresses:
        address = assigned.address
        held[assigned.index].add(address)
        if assigned.prefix < address.max_prefixlen:
            networks[assigned.index].append(assigned)
        if not (address.is_loopback or address.is_link_local or address in vips):
            real.append(assigned)
    return OwnAddresses(held, networks, real, vips)
