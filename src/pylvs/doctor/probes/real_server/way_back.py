"""A real server's replies that take another way than its own packets, and do not arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.routes import LOCAL, KernelRoutes, Outcome, rules_from
from pylvs.doctor.probes.real_server.facts import REMOTE_LOGIN, RealServer, listeners
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import Exchange, Question
from pylvs.doctor.wire.packets import Kind
from pylvs.model.addresses import Address, ip_option
from pylvs.netlink import neighbours
from pylvs.netlink.links import Device
from pylvs.netlink.socket_diag import TCP
from pylvs.system import proc

_ANSWER_S, _AGAIN_S = 0.6, 0.2
_MOST = 8  # clients


def service_port(facts: Facts, address: Address) -> int:
    """Return a TCP port at which an application serves an address; 0 if none does."""
    there = [each for each in listeners(facts) or () if each.protocol == TCP and each.port != REMOTE_LOGIN]
    return next((each.port for each in there if each.accepts(address)), 0)


def misrouted(facts: Facts, server: RealServer, address: Address, routes: KernelRoutes) -> Iterator[Finding]:
    """Yield that replies leave by a device or gateway that leads to no client.

    Their way is compared with that of packets from the real server's own address. A gateway that lets a packet's TTL
    expire is a router.
    """
    own, port = server.usual_source(address), service_port(facts, address)
    outward = {each.index: each for each in server.outward}
    nowhere = {each.index: each.name for each in facts.devices if _leads_nowhere(each)}
    near = [each for index, each in neighbours.link_addresses() if index in outward and each.version == address.version]
    near = [*near[:_MOST], *neighbours_of(facts, server, address.version)]
    tried = set[tuple[int, Address | None]]()
    for client in (*server.clients(address)[:_MOST], *near):
        way = routes.leaving(address, client, port)
        if way.error or (way.device, way.gateway) in tried or client == way.gateway:
            continue
        if way.device in nowhere and way.kind != LOCAL:
            yield _astray(address, client, f"by {nowhere[way.device]}, which leads to no other host", port)
            return
        usual = routes.leaving(own, client) if own is not None else way
        if own is None or usual.error or (usual.device, usual.gateway) == (way.device, way.gateway):
            continue
        tried.add((way.device, way.gateway))
        device = outward.get(way.device)
        if device is not None and (why := _fails(device, own, client, way, usual, outward)):
            yield _astray(address, client, why, port)
            return


def neighbours_of(facts: Facts, server: RealServer, version: int) -> Iterator[Address]:
    """Yield an address on each link: whether a host has it does not matter for routing."""
    outward = {each.index for each in server.outward}
    for held in facts.addresses:
        if held.index in outward and held.address.version == version and not held.address.is_link_local:
            beside = type(held.address)(int(held.address) ^ 0x55)
            if beside in held.network:
                yield beside


def _leads_nowhere(device: Device) -> bool:
    return device.loopback or device.kind == "dummy" or not device.up or not device.carrier


def lost_at_gateway(
    server: RealServer, address: Address, client: Address, way: Outcome, port: int
) -> Iterator[Finding]:
    """Yield that the gateway of replies that no client confirms is no router."""
    device = next((each for each in server.outward if each.index == way.device), None)
    own = server.usual_source(address)
    if device is None or own is None or way.gateway is None:
        return
    with Exchange({own}) as exchange:
        hop = device, way.gateway
        exchange.ask([exchange.who_has(*hop, own)], _ANSWER_S, _AGAIN_S)
        # What it sends must arrive: else its report may be lost on a wrong way, too.
        answers = bool(exchange.answers.macs(way.gateway)) and _answers(exchange, *hop, own)
        if answers and _are_routers(exchange, [hop], own, client) == [False]:
            yield _astray(address, client, f"by {way.gateway}, which forwards no packets", port)


def _answers(exchange: Exchange, link: Device, address: Address, own: Address) -> bool:
    """Return whether a neighbour answers an echo request."""
    number = exchange.number()
    body = packets.packet(number, own, address, exchange.echo(number))
    mac = exchange.answers.macs(address)[0].mac
    exchange.ask([Question(link, packets.frame(mac, link.mac, body), number)], _ANSWER_S, _AGAIN_S)
    return any(each.kind is Kind.ECHO for each in exchange.answers.to(number))


def _are_routers(
    exchange: Exchange, hops: Sequence[tuple[Device, Address]], own: Address, client: Address
) -> list[bool]:
    """Return which of these neighbours report that a packet's TTL has expired, as a router does."""
    numbers, questions = list[int](), list[Question]()
    for link, address in hops:
        for reply in exchange.answers.macs(address)[:1]:
            number = exchange.number()
            body = packets.packet(number, own, client, exchange.echo(number), hop_limit=1)
            questions.append(Question(link, packets.frame(reply.mac, link.mac, body), number))
            numbers.append(number)
    exchange.ask(questions, _ANSWER_S, _AGAIN_S)
    return [any(each.kind is Kind.REFUSED for each in exchange.answers.to(number)) for number in numbers]


def _fails(
    device: Device, own: Address, client: Address, way: Outcome, usual: Outcome, outward: dict[int, Device]
) -> str:
    """Return why packets that take a way do not arrive, while they do by the usual one; "" if they may."""
    with Exchange({own}) as exchange:
        hop = way.gateway or client
        beside = outward.get(usual.device)
        there = [(device, hop)]
        if beside is not None and usual.gateway is not None:
            there.append((beside, usual.gateway))
        exchange.ask([exchange.who_has(link, address, own) for link, address in there], _ANSWER_S, _AGAIN_S)
        if way.gateway is None:
            return "" if exchange.answers.macs(hop) else f"by {device.name}, where no host answers for clients"
        if not exchange.answers.macs(hop):
            return ""  # a silent gateway is a finding of its own
        routing = _are_routers(exchange, there, own, client)
    near = usual.gateway is None  # the client is on the link: a detour must be a router, too
    if not routing or routing[0] or not (near or routing[1:] == [True]):
        return ""
    return f"by {hop}, which forwards no packets"


def rule_for(address: Address, port: int) -> tuple[str, str | None]:
    """Return evidence and removal of the first rule that names the source of replies: its address or port."""
    rules = rules_from(address, port)
    if not rules:
        return "", None
    of_port = f" ipproto tcp sport {port}" if port else ""
    return (
        f"{of_port}; a rule of priority {rules[0]} applies",
        f"ip {ip_option(address.version)}rule del priority {rules[0]}",
    )


def _astray(address: Address, client: Address, where: str, port: int = 0) -> Finding:
    applies, removal = rule_for(address, port)
    return Finding(
        id="server_reply_misrouted",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"replies from {address} leave this real server {where}",
        evidence=f"ip route get {client} from {address}{applies}",
        why="Clients get no reply: those from the virtual address take another way than the real server's own packets.",
        fix="Remove the rule, or correct its table." if removal else "Correct the route.",
        fix_command=removal,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def default_route(facts: Facts, address: Address) -> str | None:
    """Return the command that adds the expected default route; None if none is known."""
    gateway = facts.expected.gateway
    if gateway is None or gateway.version != address.version:
        return None
    return f"ip {'' if address.version == 4 else '-6 '}route replace default via {gateway}"


def isolated(facts: Facts, address: Address, networks: Sequence[Address]) -> Iterator[Finding]:
    """Yield that this host has no route to any other one; `networks`: addresses to which routes lead."""
    own = {each.address for each in facts.addresses}
    if any(not each.is_link_local and each not in own for each in networks):
        return
    settings = [f"net/ipv6/conf/{each.name}/disable_ipv6" for each in facts.devices if each.up and not each.loopback]
    off = [proc.dotted(each) for each in settings if address.version == 6 and facts.number(each)]
    yield Finding(
        id="server_reply_unroutable",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title="this real server has no route to any other host",
        evidence=f"ip {ip_option(address.version)}route show: no route leads to a network"
        + "".join(f"; {each} is 1" for each in off),
        why="Neither its replies to clients nor those to the director leave it.",
        fix="Enable IPv6, and add the address of this host."
        if off
        else "Give its address the prefix length of its network, and add a default route.",
        fix_command=f"sysctl -q -w {' '.join(f'{each}=0' for each in off)}" if off else None,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def outside_network(
    facts: Facts, server: RealServer, address: Address, routes: KernelRoutes, severity: Severity
) -> list[Finding]:
    """Return that a host on the link is outside the networks of this host, and has no route."""
    outward = {each.index: each.name for each in server.outward}
    for (index, host), mac in neighbours.link_addresses().items():
        if host.version != address.version or index not in outward or host.is_link_local:
            continue
        way = routes.leaving(address, host)
        if not way.error or way.reason not in ("no route", "unreachable"):
            continue
        held = [each for each in facts.addresses if each.index == index and each.address.version == host.version]
        networks = ", ".join(f"{each.address}/{each.prefix}" for each in held if not each.address.is_link_local)
        return [
            Finding(
                id="server_reply_unroutable",
                severity=severity,
                layer=Layer.REPLY,
                title=f"this real server has no route to {host}, which is on its link",
                evidence=f"ip neigh: {mac.hex(':')} on {outward[index]} is {host}; the device has {networks}",
                why="It answers ARP or neighbour discovery, and cannot send a packet there.",
                fix=f"Correct the prefix length of {outward[index]}, if {host} belongs to its network.",
                fix_host=HERE,
                about=frozenset({str(address)}),
            )
        ]
    return []


def by_another_gateway(facts: Facts, server: RealServer, address: Address, routes: KernelRoutes) -> Iterator[Finding]:
    """Yield that replies of NAT do not go to the director; known where its address is."""
    gateway = facts.expected.gateway
    if not server.by_nat or gateway is None or gateway.version != address.version:
        return
    for client in server.known(address):
        way = routes.leaving(address, client)
        if (not way.error and way.gateway not in (gateway, None)) or way.error:
            family = ip_option(address.version)
            there = f"via {way.gateway}" if way.gateway else "no route"
            yield Finding(
                id="nat_reply_path",
                severity=Severity.ERROR,
                layer=Layer.REPLY,
                title=f"{address} does not reply through the director {gateway}",
                evidence=f"ip route get {client}: {there}",
                why="The director has to make the real server's address the virtual one again.",
                fix=f"Let the default route lead to {gateway}.",
                fix_command=_default(client, way, gateway, family),
                fix_host=HERE,
                about=frozenset({str(address)}),
            )
            return


def _default(client: Address, way: Outcome, gateway: Address, family: str) -> str:
    """Return the command that sets the default route, and removes others to the client."""
    command = f"ip {family}route replace default via {gateway}"
    if way.gateway is None:
        return command
    nearer = f"ip {family}route show match {client} | grep -v ^default | while read -r route; do"
    return f"{command}; {nearer} ip {family}route del $route; done"
