"""This host's own addresses: on a device that does not use them, on another host as well, or a wrong one as source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from pylvs.doctor.clients import owner_of
from pylvs.doctor.commands import listed, named
from pylvs.doctor.configuration import services_of
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, here, server_subject
from pylvs.doctor.kernel.routes import KernelRoutes
from pylvs.doctor.probes.real_server.address import on_the_link
from pylvs.doctor.probes.real_server.facts import real_server
from pylvs.doctor.probes.way import with_own_mac
from pylvs.doctor.running import Status, address_of, status_of
from pylvs.doctor.servers import own_addresses
from pylvs.doctor.survey import Seen, askable, link_source, subjects, survey
from pylvs.doctor.virtual_routers import routers_of
from pylvs.doctor.wire.exchange import Exchange
from pylvs.doctor.wire.packets import Reply
from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.service import Method
from pylvs.netlink import neighbours
from pylvs.netlink.links import AssignedAddress, Device

_OPEN_VSWITCH = "openvswitch"
_JOINING = ("bridge", "bond", "team", _OPEN_VSWITCH)  # a port's packets are theirs; a VRF leaves them to the device
_LIMIT_S, _AGAIN_S = 0.6, 0.2
_MOST = 16  # addresses
_SECONDARY = 0x01  # IFA_F_SECONDARY
_LINK_SCOPE = 253  # RT_SCOPE_LINK
_ASK_S, _ASK_AGAIN_S = 0.4, 0.15


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the addresses of this host, a director or a real server."""
    if not facts.has_tables and real_server(facts) is None:
        return
    yield from _on_ports(facts)
    yield from _twice(facts)
    if facts.has_tables:
        yield from _virtual_sources(facts)
        yield from _virtual_senders(facts)


def _on_ports(facts: Facts) -> Iterator[Finding]:
    """Yield ports of bridges and bonds that have addresses."""
    by_index = {each.index: each for each in facts.devices}
    for port in facts.devices:
        joined = by_index.get(port.master)
        held = [each for each in facts.addresses if each.index == port.index and not each.address.is_link_local]
        if joined is not None and joined.kind in _JOINING and held:
            yield _on_port(port, joined, held, [*facts.virtual_addresses, *_servers(facts)])


def _on_port(port: Device, joined: Device, held: Sequence[AssignedAddress], explains: Sequence[object]) -> Finding:
    if joined.kind == _OPEN_VSWITCH:  # the device of its datapath, ovs-system, carries no packets of IP
        whose, target, command = "Open vSwitch", "an internal port of the switch", None
    else:
        whose = target = joined.name
        command = "; ".join(
            f"ip address del {each.address}/{each.prefix} dev {port.name};"
            f" ip address replace {each.address}/{each.prefix} dev {joined.name}"
            for each in held
        )
    return here(
        id="address_on_port",
        layer=Layer.HOST,
        title=f"{listed([str(each.address) for each in held])} of this host is on {port.name}, which is a port of"
        f" {whose}",
        evidence=f"ip link show {port.name}: master {joined.name}, of kind {joined.kind}",
        why=f"What {port.name} receives belongs to {whose}, so this host gets no packets there, nor ARP.",
        fix=f"Move the addresses to {target}, and add the routes by {port.name} there again.",
        command=command,
        about=[port.name, *(each.address for each in held)],
        explains=explains,
    )


def _servers(facts: Facts) -> frozenset[str]:
    """Return the subjects of all real servers of the table."""
    return frozenset(
        server_subject(str(row.service.key), each.destination.key.address)
        for row in facts.services
        for each in row.destinations
    )


def _twice(facts: Facts) -> Iterator[Finding]:
    """Yield own addresses that another host has, too. No host learns anything from the question (RFC 5227)."""
    server = real_server(facts)
    shared = {*(server.vips if server is not None and not server.by_nat else ()), *facts.virtual_addresses}
    with suppress(PylvsError):  # of the file: a finding of its own
        shared |= {address for router in routers_of(facts) for address in router.addresses}
    devices = {each.index: each for each in facts.devices if askable(each)}
    mine = [
        (devices[each.index], each.address)
        for each in facts.addresses
        if each.index in devices and not each.address.is_link_local and each.address not in shared
    ][:_MOST]
    own_macs = {each.mac for each in facts.devices}
    with Exchange({each.address for each in facts.addresses}) as exchange:
        questions = [
            exchange.who_has(device, address, None if address.version == 4 else source)
            for device, address in mine
            if address.version == 4 or (source := link_source(facts, device, address)) is not None
        ]
        exchange.ask(questions, _LIMIT_S, _AGAIN_S, whole=True)
        found = {address: exchange.answers.macs(address) for _, address in mine}
        seen = {device: exchange.answers.of_mac(device.mac, device.index) for device in devices.values()}
    yield from _own_macs(facts, devices, seen)
    alone = {each.address for each in facts.addresses if each.prefix == each.address.max_prefixlen}
    is_behind_vips = server is not None and not server.by_nat
    for device, address in mine:
        for reply in found[address]:
            if reply.mac in own_macs:
                continue
            if is_behind_vips and address in alone:  # as virtual addresses are, which the director has, too
                yield on_the_link(device, address, f"{reply.mac.hex(':')} answers for it, too")
            else:
                yield _other_has(facts, device, address, reply)
            break


def _own_macs(facts: Facts, devices: Mapping[int, Device], seen: Mapping[Device, Sequence[Reply]]) -> Iterator[Finding]:
    """Yield devices whose link address another host has, too; `seen`: ARP and ND that came in from it."""
    own, found = {each.address for each in facts.addresses}, dict[Device, set[Address]]()
    for (index, address), mac in neighbours.link_addresses().items():
        if index in devices and mac == devices[index].mac and address not in own:
            found.setdefault(devices[index], set()).add(address)
    for device, replies in seen.items():
        senders = {each.sender for each in replies if each.sender not in own}
        if senders:
            found.setdefault(device, set()).update(senders)
    for device, others in found.items():
        known = sorted(each for each in others if not each.is_unspecified)
        yield with_own_mac(device, str(known[0]) if known else "")


def _other_has(facts: Facts, device: Device, address: Address, reply: Reply) -> Finding:
    what, mac = "ARP" if address.version == 4 else "neighbour discovery", reply.mac.hex(":")
    other = owner_of(facts, reply.mac, device, address.version)
    name = f", {other}" if other is not None and other != address else ""
    return here(
        id="own_address_twice",
        layer=Layer.ADDRESS,
        title=f"another host{name} has {address}, an address of this host",
        evidence=f"{mac} answers {what} for {address} on {device.name}",
        why="Other hosts send what is for this one to the host that answered last: replies to checks, and of NAT.",
        fix=f"Take {address} from that host, or give this one another address.",
        about=[address],
    )


def _virtual_sources(facts: Facts) -> Iterator[Finding]:
    """Yield virtual addresses from which this host checks real servers that have them, where such a check fails.

    A server of NAT does not have the virtual address, and answers to it as to any other.
    """
    status = status_of(facts)
    if status is None:
        return
    own, failing = {each.address for each in facts.addresses}, defaultdict[Address, list[str]](list)
    for service in status["services"]:
        for row in service["servers"]:
            server = address_of(row["server"])
            if not row["up"] and row["standing"] == "enabled" and server not in own:
                failing[server] += service["keys"]
    sources = dict[Address, Address]()
    with KernelRoutes() as routes:
        for server, keys in failing.items():
            source = routes.source_to(server)
            if source is not None and any(_vip_of(key) == source for key in keys):
                sources[server] = source
    if not sources:
        return
    having = _having(facts, status)
    found = defaultdict[Address, list[Address]](list)
    for server, source in sources.items():
        if any(_vip_of(key) == source and (key, server) in having for key in failing[server]):
            found[source].append(server)
    for source, servers in found.items():
        explained = [server_subject(key, server) for server in servers for key in failing[server]]
        yield _virtual_source(facts, source, servers, explained)


def _vip_of(key: str) -> Address | None:
    """Return the address of a service, as the daemon names it; None for a mark."""
    protocol, _, rest = key.partition(" ")
    return None if protocol == "FWM" else address_of(rest)


def _having(facts: Facts, status: Status) -> set[tuple[str, Address]]:
    """Return the services and their servers that have the virtual address: those of direct routing and tunnels.

    A server that is down is not in the table: the file has its method. No file: only those of the table count.
    """
    listed = {
        (str(row.service.key), each.destination.key.address): each.destination.method
        for row in facts.services
        for each in row.destinations
    }
    with suppress(PylvsError, OSError):  # of the file: a finding of its own
        listed = (_methods(status["files"][0]) if status["files"] else {}) | listed
    return {pair for pair, method in listed.items() if method in (Method.ROUTE, Method.TUNNEL)}


def _methods(file: str) -> dict[tuple[str, Address], Method]:
    """Return the forwarding methods of all servers of a configuration, by service and server."""
    return {
        (str(key), server.destination.key.address): server.destination.method
        for service in services_of(file)
        for key in service.keys
        for server in service.servers
    }


def _virtual_source(facts: Facts, source: Address, servers: Sequence[Address], explains: Sequence[str]) -> Finding:
    own = [each.address for each in own_addresses(facts).real if each.address.version == source.version]
    return here(
        id="source_is_virtual",
        layer=Layer.HOST,
        title=f"this host checks {named(servers, 'server')} from the virtual address {source}",
        evidence=f"ip route get {servers[0]}: src {source}; pylvs status: the checks fail",
        why="Real servers of direct routing and tunnels have this address, too, and drop packets from it as their own.",
        fix=f"Give the route to the servers this host's own address as its source: src {own[0] if own else 'ADDRESS'}."
        " Virtual addresses have the prefix length 32; those of IPv6 128, and preferred_lft 0.",
        about=[source],
        explains=explains,
    )


def _virtual_senders(facts: Facts) -> Iterator[Finding]:
    """Yield virtual addresses from which this host asks for the link addresses of real servers that have them."""
    held = {each.address: each for each in facts.addresses}
    asked = defaultdict[tuple[Device, Address], list[Seen]](list)
    for seen in survey(facts).seen:
        device, vip = seen.way.device, seen.endpoint.service.address
        by_nat = seen.endpoint.destination.method is Method.MASQ
        if device is None or by_nat or not seen.way.on_link or not seen.macs or not askable(device):
            continue
        if vip in held and arp_sender(facts.addresses, device.index, seen.way.server) == vip:
            asked[device, vip].append(seen)
    for (device, vip), some in asked.items():
        servers = {each.way.server for each in some if (device.index, each.way.server) not in facts.static_neighbours}
        silent = _silent_to(device, vip, servers)
        deaf = [each for each in some if each.way.server in silent]
        if deaf:
            yield _virtual_sender(facts, held[vip], device, deaf)


def arp_sender(addresses: Iterable[AssignedAddress], index: int, target: Address) -> Address | None:
    """Return the address from which the kernel asks for a neighbour, to which it forwards (inet_select_addr)."""
    first = [
        each
        for each in addresses
        if each.index == index
        and each.address.version == target.version == 4
        and not each.flags & _SECONDARY
        and each.scope <= _LINK_SCOPE
    ]
    near = [each for each in first if target in each.network]
    return next((each.address for each in [*near, *first]), None)


def _silent_to(device: Device, source: Address, servers: Iterable[Address]) -> set[Address]:
    """Return the neighbours that do not answer a request from an address."""
    with Exchange({source}) as exchange:
        wanted = set(servers)
        exchange.ask([exchange.who_has(device, each, source) for each in wanted], _ASK_S, _ASK_AGAIN_S)
        return {each for each in wanted if not exchange.answers.macs(each)}


def _virtual_sender(facts: Facts, held: AssignedAddress, device: Device, deaf: Sequence[Seen]) -> Finding:
    vip, servers = held.address, sorted({each.way.server for each in deaf}, key=int)
    own = [
        each.address
        for each in own_addresses(facts).real
        if each.index == device.index and each.address.version == 4 and servers[0] in each.network
    ]
    bare = f"ip address %s {vip}/%s dev {device.name}"
    promote = f"sysctl -q -w net.ipv4.conf.{device.name.replace('.', '/')}.promote_secondaries=1"
    return here(
        id="source_is_virtual",
        layer=Layer.HOST,
        title=f"this host asks for the link addresses of {named(servers, 'server')} from the virtual address {vip}",
        evidence=f"{vip}/{held.prefix} is the first address of {device.name}; {servers[0]} answers an ARP request"
        f" without a source address, and none from {vip}",
        why="Real servers of direct routing and tunnels have this address, too, and ignore requests from it as their"
        " own: the kernel does not find their link addresses.",
        fix=f"Let {own[0]} be the first address, and give the virtual one the prefix length 32."
        if own
        else f"Give {device.name} an address of its own, and the virtual one the prefix length 32.",
        command=f"{promote}; {bare % ('del', held.prefix)}; {bare % ('add', 32)}" if own else None,
        about=[vip],
        explains=subjects(deaf),
    )
