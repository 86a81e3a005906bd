"""Ask real servers, and keep what they answered.

A probe of the virtual address is sent as the packet path sends a client's packet. Direct routing frames it to the
server's link address, a tunnel encapsulates it. So it meets what a client's packet meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, ip_address

from pylvs.doctor.clones import Clones, clones
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Subject, server_subject
from pylvs.doctor.servers import MOST_SERVERS, Endpoint, Way, endpoints, own_addresses, ways_to
from pylvs.doctor.virtual_routers import standby_of
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import Answers, Exchange, Payload, Question
from pylvs.doctor.wire.packets import Kind, Reply
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import PylvsError
from pylvs.model.service import Method, Protocol, Tunnel, TunnelFlag, TunnelKind
from pylvs.netlink.links import Device

NEIGHBOURS_S, NEIGHBOURS_AGAIN_S = 0.5, 0.2
ELSEWHERE_S, ELSEWHERE_AGAIN_S = 0.4, 0.15
MOST_SILENT, MOST_DEVICES = 16, 16  # next hops that are sought on other devices, and these
PROXIES_S = 0.85  # proxy ARP waits up to 0.8 s: net.ipv4.neigh.DEV.proxy_delay
ANSWERS_S, ANSWERS_AGAIN_S = 1.0, 0.35
DOUBTS_S, DOUBTS_AGAIN_S = 0.5, 0.2
MOST_CARDS = 4  # link addresses of one server that are asked apart
MOST_DOUBTS = 60  # endpoints that are asked further
# Tunnels that are tried if a real server is silent in its own; the ports are those of examples.
OTHER_TUNNELS = (
    *(Tunnel(TunnelKind.IPIP), Tunnel(TunnelKind.GRE), Tunnel(TunnelKind.GRE, 0, TunnelFlag.CSUM)),
    *(Tunnel(TunnelKind.GUE, port) for port in (6080, 5555)),
)
# Lengths of packets whose arrival is tried if the longest does not arrive: usual MTUs of links and tunnels.
ANYWHERE = (ip_address("192.0.2.77"), ip_address("2001:db8:77::77"))  # of documentation: by the default route
LENGTHS = (
    9000,
    8996,
    8950,
    1500,
    1496,
    1492,
    1480,
    1476,
    1472,
    1468,
    1460,
    1454,
    1450,
    1442,
    1440,
    1430,
    1420,
    1400,
    1380,
    1300,
    1280,
)


@dataclass(slots=True)
class Seen:
    """What came back from one endpoint, by the name of the probe; an empty list: nothing.

    `rip`: its port at its own address, `vip`: at the virtual address, each with `_echo`. `back`: its port, asked from
    outside. `from_vip`: an echo whose source is the virtual address, which a host that has this address drops;
    `port_from_vip` the same for its port.
    `back_malformed`: from outside as well, a packet that a firewall at input does not see.
    `unknown_source`: the request of the server for the link address of a host that asked. `inner_rip`: an echo in the
    tunnel to the server's own address. `lengths`: packets that arrived at the virtual address.
    """

    endpoint: Endpoint
    way: Way
    macs: Sequence[Reply] = ()
    replies: dict[str, Sequence[Reply]] = field(default_factory=dict)
    lengths: Mapping[int, Sequence[Reply]] = field(default_factory=dict)
    near_vip: bool = False  # this host has the virtual address, and the server asks for it on the link to this host
    is_standby: bool = False  # another director has the virtual address
    shares_mac_with: Address | None = None  # a gateway, or another real server
    skipped: bool = False  # it is silent at the virtual address, and was not asked further
    elsewhere: Sequence[Reply] = ()  # a host answers for its next hop, or for it, where no route leads

    def to(self, probe: str) -> Kind | None:
        """Return what came back to a probe, the most informative one; None: nothing."""
        order = (Kind.OPEN, Kind.ECHO, Kind.DATAGRAM, Kind.CLOSED, Kind.REFUSED, Kind.RETURNED)
        kinds = [each.kind for each in self.replies.get(probe, ())]
        return next((kind for kind in order if kind in kinds), None)

    @property
    def is_off_link(self) -> bool:
        """Return whether no route of a link leads to this server, though there is none at all, or it needs one."""
        way = self.way
        if way.device is None:
            return not way.is_local and not way.dropping
        return self.endpoint.destination.method is Method.ROUTE and not way.on_link

    @property
    def is_one_host(self) -> bool:
        """Return whether all link addresses that answer for the server are cards of one host.

        It replies by its route, so by one card, also to packets that came to another one.
        """
        replies = [self.replies.get(card(each.mac), ()) for each in self.macs[:MOST_CARDS]]
        return all(replies) and len({reply.mac for some in replies for reply in some}) == 1

    @property
    def everything(self) -> list[Reply]:
        """Return all that came back."""
        lengths = [reply for replies in self.lengths.values() for reply in replies]
        return [reply for replies in self.replies.values() for reply in replies] + lengths

    def answered(self, *probes: str) -> bool:
        """Return whether anything but an ICMP error came back to one of these probes."""
        return any(self.to(each) in (Kind.OPEN, Kind.ECHO, Kind.DATAGRAM, Kind.CLOSED) for each in probes)


def card(mac: bytes) -> str:
    """Return the name of the probe that is framed to one of several link addresses."""
    return f"at {mac.hex(':')}"


def other_tunnel(tunnel: Tunnel) -> str:
    """Return the name of the probe in another tunnel."""
    return f"in {tunnel}"


@dataclass(slots=True)
class Survey:
    """The answers of neighbours and of real servers."""

    neighbours: Answers
    seen: list[Seen]
    clones: Sequence[Clones] = ()

    def server_of(self, mac: bytes) -> Address | None:
        """Return the real server on the link that has a link address."""
        return next((each.way.server for each in self.seen if any(mac == found.mac for found in each.macs)), None)


def survey(facts: Facts) -> Survey:
    """Return what real servers answer; asked once. Raises PylvsError, OSError."""
    return facts.once("survey", partial(_survey, facts))


def _survey(facts: Facts) -> Survey:
    has_marks = any(row.service.key.mark for row in facts.services)
    wanted = endpoints(facts.services, facts.director.mark_rules() if has_marks else ())
    ways = ways_to(facts, {endpoint.server for endpoint in wanted})
    seen = [Seen(endpoint, ways[endpoint.server]) for endpoint in wanted]
    held = {assigned.address for assigned in facts.addresses}
    own = held | {endpoint.service.address for endpoint in wanted}
    with Exchange(own) as exchange:
        vips = list(dict.fromkeys([*facts.virtual_addresses, *(each.service.address for each in wanted)]))
        of_vips = list(_vip_questions(facts, exchange, vips[:MOST_SERVERS]))
        gateways = default_gateways(facts)
        _ask_neighbours(facts, exchange, [*ways.values(), *gateways], of_vips)
        for asked in seen:
            if asked.way.hop is not None:
                asked.macs = exchange.answers.macs(asked.way.hop) or _noted(asked.way, facts.static_neighbours)
            vip = asked.endpoint.service.address
            if asked.way.device is not None and vip in held:
                asked.near_vip = own_addresses(facts).has_network(asked.way.device, vip)
        _seek_elsewhere(facts, exchange, seen, gateways)
        _compare_macs(seen, gateways, exchange.answers)
        found_clones = clones(exchange, _alike(facts, seen, gateways, exchange.answers))
        _ask_servers(exchange, seen, of_vips)
        doubtful = list(filter(is_doubtful, seen))
        for asked in doubtful[MOST_DOUBTS:]:
            asked.skipped = True
        if doubtful:
            _ask_doubtful(exchange, doubtful[:MOST_DOUBTS])
        if of_vips:
            exchange.listen(PROXIES_S)
    with suppress(PylvsError):  # a daemon that hangs; asked last, because it takes time
        standby = standby_of(facts)
        for asked in seen:
            asked.is_standby = asked.endpoint.service.address in standby
    return Survey(exchange.answers, seen, found_clones)


def subjects(seen: Iterable[Seen]) -> frozenset[Subject]:
    """Return what findings about these endpoints are about."""
    return frozenset(server_subject(str(each.endpoint.listed), each.endpoint.server) for each in seen)


# --- neighbours ----------------------------------------------------------------------------------------------------


def link_source(facts: Facts, device: Device, target: Address) -> Address | None:
    """Return the address of a device that asks for a neighbour, preferably of its network.

    Virtual addresses are none: real servers have them, and do not answer a request from one.
    """
    known = own_addresses(facts)
    networks = [each for each in known.networks.get(device.index, ()) if each.address not in known.virtual]
    own = [each for each in networks if each.address.version == target.version]
    fit = [each.address for each in own if target in each.network and each.address != target]
    other = [each.address for each in own if each.address.is_link_local]
    return next(iter([*fit, *other] if target.version == 4 else [*other, *fit]), None)


def askable(device: Device) -> bool:
    """Return whether a device has neighbours with link addresses."""
    return device.up and not device.loopback and not device.bare and not device.master and len(device.mac) == 6


def _noted(way: Way, static: Mapping[tuple[int, Address], bytes]) -> Sequence[Reply]:
    """Return what the kernel uses for a next hop without asking: a permanent entry."""
    if way.device is None or way.hop is None:
        return []
    mac = static.get((way.device.index, way.hop))
    return [Reply(Kind.MAC, -1, way.server, way.hop, mac, way.device.index)] if mac else []


def _ask_neighbours(facts: Facts, exchange: Exchange, ways: Iterable[Way], of_vips: Sequence[Question]) -> None:
    """Ask who has the next hops, and the virtual addresses, which no other host should have."""
    hops = {(each.device, each.hop): None for each in ways if each.device and each.hop and askable(each.device)}
    questions = [
        exchange.who_has(device, hop, source)
        for device, hop in hops
        if (source := link_source(facts, device, hop)) or hop.version == 4
    ]
    exchange.ask([*of_vips, *questions], NEIGHBOURS_S, NEIGHBOURS_AGAIN_S)


def _seek_elsewhere(facts: Facts, exchange: Exchange, seen: Iterable[Seen], gateways: Iterable[Way]) -> None:
    """Ask on other devices, such as other VLANs of the same card, for next hops that do not answer on their own.

    Ask on all devices for real servers to which no route of a link leads, though packets need one.
    """
    silent: dict[tuple[Address, int], list[Seen]] = {}
    for asked in seen:
        way = asked.way
        if way.hop and way.device and askable(way.device) and not asked.macs:
            silent.setdefault((way.hop, way.device.index), []).append(asked)
        elif asked.is_off_link and not any(way.server in each.network for each in facts.addresses):
            silent.setdefault((way.server, 0), []).append(asked)
    devices = list(filter(askable, facts.devices))[:MOST_DEVICES]
    sought = list(silent.items())[:MOST_SILENT]
    questions = [
        exchange.who_has(device, hop, source)
        for (hop, index), _ in sought
        for device in devices
        if device.index != index and ((source := link_source(facts, device, hop)) or hop.version == 4)
    ]
    indices = {device.index: device for device in devices}
    questions += [
        exchange.broadcast_probe(indices[index], hop)  # it may have the link address of this host
        for (hop, index), _ in sought
        if index in indices and isinstance(hop, IPv4Address)
    ]
    if not questions:
        return
    exchange.ask(questions, ELSEWHERE_S, ELSEWHERE_AGAIN_S)
    own = {each.mac for each in facts.devices}
    routers = {reply.mac for way in gateways if way.hop for reply in exchange.answers.macs(way.hop)}  # with proxy ARP
    for (hop, index), alike in sought:
        found = [each for each in exchange.answers.macs(hop) if each.ifindex != index and each.mac not in own | routers]
        for asked in alike:
            asked.elsewhere = found


def default_gateways(facts: Facts) -> list[Way]:
    """Return the ways to anywhere else."""
    return [way for way in ways_to(facts, ANYWHERE).values() if way.hop is not None and not way.on_link]


def _compare_macs(seen: Iterable[Seen], gateways: Iterable[Way], answers: Answers) -> None:
    """Note servers that have the link address of a gateway or of another server: a router may answer for them."""
    owners: dict[bytes, dict[Address, None]] = {}
    for way in [*gateways, *(asked.way for asked in seen)]:
        hop = way.hop or way.server
        for reply in answers.macs(hop):
            owners.setdefault(reply.mac, {})[hop] = None
    for asked in seen:
        others = [owner for reply in asked.macs for owner in owners.get(reply.mac, ()) if owner != asked.way.hop]
        asked.shares_mac_with = next(iter(others), None)


def _alike(
    facts: Facts, seen: Iterable[Seen], gateways: Iterable[Way], answers: Answers
) -> dict[tuple[Device, bytes], dict[Address, Address]]:
    """Return the neighbours that share a link address on one device, and the addresses to ask them from."""
    found: dict[tuple[Device, bytes], dict[Address, Address]] = {}
    for way in [*(asked.way for asked in seen), *gateways]:
        device, hop = way.device, way.hop
        if device is None or hop is None or not askable(device):
            continue
        source = link_source(facts, device, hop)
        for reply in answers.macs(hop):
            if source is not None and reply.ifindex == device.index:
                found.setdefault((device, reply.mac), {})[hop] = source
    return {group: hosts for group, hosts in found.items() if len(hosts) > 1}


def _vip_questions(facts: Facts, exchange: Exchange, vips: Sequence[Address]) -> Iterator[Question]:
    """Yield the questions who has virtual addresses: without a source, and as other hosts ask."""
    own = own_addresses(facts)
    for device in filter(askable, facts.devices):
        for vip in vips:
            if not own.concerns(device, vip):
                continue
            if vip.version == 4:
                yield replace(exchange.who_has(device, vip, None), optional=True)
            if source := link_source(facts, device, vip):
                yield replace(exchange.who_has(device, vip, source), optional=True)


# --- servers -------------------------------------------------------------------------------------------------------


class Sender:
    """Makes the questions for one endpoint."""

    def __init__(self, exchange: Exchange, seen: Seen) -> None:
        self.exchange = exchange
        self.seen = seen
        self.numbers: dict[str, int] = {}

    def plain(self, name: str, source: Address, target: Address, payload: Payload, optional: bool = False) -> Question:
        """Return a question without a tunnel."""
        number = self.numbers[name]
        return self._framed(number, packets.packet(number, source, target, payload), optional)

    def inner(
        self,
        name: str,
        source: Address,
        target: Address,
        payload: Payload,
        optional: bool = False,
        tunnel: Tunnel | None = None,
    ) -> Question:
        """Return a question that takes the way of clients' packets: framed to the server, or in its tunnel.

        `tunnel`: in another one than that of the table.
        """
        number, way = self.numbers[name], self.seen.way
        body = packets.packet(number, source, target, payload)
        if self.seen.endpoint.destination.method is Method.TUNNEL and way.source:
            used = tunnel or self.seen.endpoint.destination.tunnel
            body = packets.encapsulated(number, way.source, way.server, used, body)
        return self._framed(number, body, optional)

    def to_card(self, name: str, mac: bytes, source: Address) -> Question:
        """Return an echo to the server's own address, framed to one of the link addresses that answer for it.

        A router that answers for the server does not forward it, because the hop limit is 1.
        """
        number = self.new(name)
        body = packets.packet(number, source, self.seen.way.server, self.exchange.echo(number), hop_limit=1)
        return self._framed(number, body, True, mac)

    def malformed(self, name: str, source: Address) -> Question:
        """Return a packet to the server that it reports before its packet filter sees it."""
        number = self.new(name)
        return self._framed(number, packets.malformed(number, source, self.seen.way.server), False)

    def _framed(self, number: int, body: bytes, optional: bool, mac: bytes = b"") -> Question:
        device = self.seen.way.device
        assert device is not None
        frame = body if device.bare else packets.frame(mac or self.seen.macs[0].mac, device.mac, body)
        return Question(device, frame, number, None, optional)

    def new(self, name: str) -> int:
        """Return the number of a probe's question."""
        self.numbers[name] = self.exchange.number()
        return self.numbers[name]


def reachable(seen: Seen) -> bool:
    """Return whether a frame can be sent to this server's next hop."""
    way = seen.way
    return way.device is not None and way.source is not None and bool(seen.macs or way.device.bare)


def _port(protocol: Protocol, number: int, port: int, size: int = 0) -> Payload | None:
    """Return what asks a port; None for a protocol without a harmless question."""
    if protocol is Protocol.TCP:
        return packets.syn(number, port, size)
    return packets.datagram(number, port) if protocol is Protocol.UDP else None


def _source_of(seen: Seen, target: Address) -> Address | None:
    """Return the source of a packet to a target of this IP version."""
    way = seen.way
    if way.source is not None and way.source.version == target.version:
        return way.source
    return None


def _ask_servers(exchange: Exchange, seen: Sequence[Seen], of_vips: Sequence[Question]) -> None:
    senders = [Sender(exchange, each) for each in seen if reachable(each)]
    questions = [question for sender in senders for question in _questions(sender)]
    exchange.ask([*of_vips, *questions], ANSWERS_S, ANSWERS_AGAIN_S)
    _take(senders, exchange.answers)
    exchange.send(list(_resets(senders)))


def _questions(sender: Sender) -> Iterator[Question]:
    """Yield the questions of the first round, which a healthy server answers all."""
    seen = sender.seen
    service, destination, way = seen.endpoint.service, seen.endpoint.destination, seen.way
    assert way.source is not None
    by_nat = destination.method is Method.MASQ
    port = destination.key.port if by_nat else service.port
    udp = service.protocol is not Protocol.TCP
    number = sender.new("rip_echo")
    yield sender.plain("rip_echo", way.source, way.server, sender.exchange.echo(number))
    if len(seen.macs) > 1:
        yield from (sender.to_card(card(each.mac), each.mac, way.source) for each in seen.macs[:MOST_CARDS])
    if port and (payload := _port(service.protocol, sender.new("rip"), port)):
        yield sender.plain("rip", way.source, way.server, payload, optional=udp)
    if by_nat:
        if port and way.mtu and not udp and way.server.version == way.source.version:
            payload = packets.syn(sender.new("long"), port, _padding(seen, way.mtu))
            yield sender.plain("long", way.source, way.server, payload)
        if port and way.outside and (payload := _port(service.protocol, sender.new("back"), port)):
            yield sender.plain("back", way.outside, way.server, payload, optional=udp)
        if way.outside:
            number = sender.new("back_echo")
            yield sender.plain("back_echo", way.outside, way.server, sender.exchange.echo(number))
        return
    source = _source_of(seen, service.address)
    if service.mark or source is None:
        return
    number = sender.new("vip_echo")
    yield sender.inner("vip_echo", source, service.address, sender.exchange.echo(number))
    if port and (payload := _port(service.protocol, sender.new("vip"), port)):
        yield sender.inner("vip", source, service.address, payload, optional=udp)
    if way.mtu and port and service.protocol is Protocol.TCP:
        payload = packets.syn(sender.new("long"), port, _padding(seen, way.mtu))
        yield sender.inner("long", source, service.address, payload)


def _padding(seen: Seen, length: int) -> int:
    """Return the octets of data in a SYN so that the packet, with its tunnel if it has one, has this length."""
    service, way = seen.endpoint.service, seen.way
    heads = (20 if service.address.version == 4 else 40) + 20
    if seen.endpoint.destination.method is not Method.TUNNEL:
        return length - heads
    return length - heads - packets.overhead(way.server.version, seen.endpoint.destination.tunnel)


def _take(senders: Iterable[Sender], answers: Answers) -> None:
    for sender in senders:
        for name, number in sender.numbers.items():
            sender.seen.replies[name] = answers.to(number)


def _resets(senders: Iterable[Sender]) -> Iterator[Question]:
    """Yield what ends the handshakes that servers have begun."""
    for sender in senders:
        seen, service = sender.seen, sender.seen.endpoint.service
        if seen.way.source is None:
            continue
        port = seen.endpoint.destination.key.port if seen.endpoint.destination.method is Method.MASQ else service.port
        for name, number in sender.numbers.items():
            if seen.to(name) is not Kind.OPEN:
                continue
            payload = packets.reset(number, port)
            if name == "back" and seen.way.outside:
                yield sender.plain(name, seen.way.outside, seen.way.server, payload)
            elif name == "rip" or seen.endpoint.destination.method is Method.MASQ:
                yield sender.plain(name, seen.way.source, seen.way.server, payload)
            elif (source := _source_of(seen, service.address)) is not None:
                yield sender.inner(name, source, service.address, payload)


# --- doubts --------------------------------------------------------------------------------------------------------


def is_doubtful(seen: Seen) -> bool:
    """Return whether more probes can tell why an endpoint does not answer."""
    if not reachable(seen) or seen.endpoint.service.mark:
        return False
    by_nat = seen.endpoint.destination.method is Method.MASQ
    silent = lacks_way_back(seen) if by_nat else not seen.answered("vip", "vip_echo")
    return silent or ("long" in seen.replies and seen.answered(_short(seen)) and not seen.answered("long"))


def lacks_way_back(seen: Seen) -> bool:
    """Return whether a server of NAT answers this host, and by the same link not what comes from outside."""
    pairs = (("rip", "back"), ("rip_echo", "back_echo"))
    asked = [back for near, back in pairs if back in seen.replies and seen.answered(near)]
    macs, device = {each.mac for each in seen.macs}, seen.way.device
    return bool(asked) and not any(
        device is not None and each.ifindex == device.index and (not macs or each.mac in macs)
        for back in asked
        for each in seen.replies[back]
    )


def _short(seen: Seen) -> str:
    """Return the name of the probe that the long one repeats."""
    return "rip" if seen.endpoint.destination.method is Method.MASQ else "vip"


def _ask_doubtful(exchange: Exchange, doubtful: Sequence[Seen]) -> None:
    senders = [Sender(exchange, each) for each in doubtful]
    questions, pretended, lengths = list[Question](), dict[int, Address](), dict[int, dict[int, int]]()
    for at, sender in enumerate(senders):
        seen, service = sender.seen, sender.seen.endpoint.service
        by_nat = seen.endpoint.destination.method is Method.MASQ
        target, port = (
            (seen.way.server, seen.endpoint.destination.key.port) if by_nat else (service.address, service.port)
        )
        source = _source_of(seen, target)
        if source is None:
            continue
        if by_nat and lacks_way_back(seen):
            questions += _of_way_back(exchange, sender, pretended, at)
        if seen.answered(_short(seen)):
            lengths[at] = _lengths(sender, source, target, port, questions)
            continue
        if service.address.version == seen.way.server.version:
            questions += _from_vip(sender)
        if seen.endpoint.destination.method is Method.TUNNEL and source.version == seen.way.server.version:
            payload = exchange.echo(sender.new("inner_rip"))
            questions.append(sender.inner("inner_rip", source, seen.way.server, payload))
            for tunnel in OTHER_TUNNELS:
                name = other_tunnel(tunnel)
                payload = exchange.echo(sender.new(name))
                questions.append(sender.inner(name, source, service.address, payload, tunnel=tunnel))
        elif seen.way.on_link and (unknown_source := unused_neighbour(seen)):
            pretended[at] = unknown_source
            payload = exchange.echo(sender.new("unknown_source"))
            questions.append(sender.inner("unknown_source", unknown_source, service.address, payload))
    exchange.ask(questions, DOUBTS_S, DOUBTS_AGAIN_S, whole=True)
    answers = exchange.answers
    _take(senders, answers)
    for at, sender in enumerate(senders):
        seen, vip = sender.seen, sender.seen.endpoint.service.address
        seen.lengths = {length: answers.to(number) for length, number in lengths.get(at, {}).items()}
        macs = {each.mac for each in seen.macs}
        if not seen.replies.get("from_vip"):
            seen.replies["from_vip"] = [each for each in answers.asked(vip) if each.mac in macs]
        if at in pretended:
            seen.replies["unknown_source"] = [each for each in answers.asked(pretended[at]) if each.mac in macs]
    exchange.send(list(_resets(senders)))


def _lengths(sender: Sender, source: Address, target: Address, port: int, questions: list[Question]) -> dict[int, int]:
    """Add questions of usual lengths below the MTU; return their numbers by length."""
    seen, found = sender.seen, dict[int, int]()
    for length in (each for each in LENGTHS if each < seen.way.mtu):
        name = f"length {length}"
        payload = packets.syn(sender.new(name), port, _padding(seen, length))
        found[length] = sender.numbers[name]
        questions.append(sender.inner(name, source, target, payload))
    return found


def _of_way_back(exchange: Exchange, sender: Sender, pretended: dict[int, Address], at: int) -> Iterator[Question]:
    """Yield questions to a server of NAT that has no way back: from outside, and from an address that no host has."""
    seen = sender.seen
    if seen.way.outside is not None:
        yield sender.malformed("back_malformed", seen.way.outside)
    source = unused_neighbour(seen) if seen.way.on_link else None
    if source is None:
        return
    pretended[at] = source
    number, port = sender.new("unknown_source"), seen.endpoint.destination.key.port
    payload = exchange.echo(number) if seen.answered("rip_echo") else packets.syn(number, port)
    yield sender.plain("unknown_source", source, seen.way.server, payload)


def _from_vip(sender: Sender) -> Iterator[Question]:
    """Yield what has the virtual address as its source: a server that has this address drops it."""
    seen, service = sender.seen, sender.seen.endpoint.service
    payload = sender.exchange.echo(sender.new("from_vip"))
    yield sender.plain("from_vip", service.address, seen.way.server, payload)
    if seen.to("rip") is Kind.OPEN and not seen.answered("rip_echo"):  # it ignores echo requests
        payload = packets.syn(sender.new("port_from_vip"), service.port)
        yield sender.plain("port_from_vip", service.address, seen.way.server, payload)


def unused_neighbour(seen: Seen) -> Address | None:
    """Return an address of the server's link that most likely no host has: to reply, the server must ask for it."""
    server = seen.way.server
    number = int(server) ^ 0x55 if server.version == 4 else int(server) ^ 0x5056000000005056
    found = type(server)(number)
    return found if found not in (seen.way.source, server) else None
