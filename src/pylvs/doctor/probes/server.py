"""Real servers: the way to them, and whether they accept what clients send. Judged by what they answered to probes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from pylvs.doctor.clients import clients_of
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity, Subject, server_subject
from pylvs.doctor.probes import tunnel, way
from pylvs.doctor.probes.data_plane.egress import egress_findings
from pylvs.doctor.probes.methods import exceptions
from pylvs.doctor.probes.traffic import answering, mixed
from pylvs.doctor.servers import Endpoint, Way, endpoints
from pylvs.doctor.survey import Seen, Survey, default_gateways, lacks_way_back, subjects, survey
from pylvs.doctor.wire.packets import PORT_UNREACHABLE, PROTOCOL_UNREACHABLE, Kind
from pylvs.model.addresses import Address, endpoint, ip_option
from pylvs.model.dataclass import replace
from pylvs.model.errors import counted
from pylvs.model.service import Method, Protocol, ServiceKey
from pylvs.netlink import socket_diag
from pylvs.netlink.links import Device
from pylvs.netlink.socket_diag import Listener

_SEVERAL = 2  # real servers
SENDS_ELSEWHERE = "reply_to_wrong_link_address"
OF_PASSING_REPLIES = ("nat_reply_path", "server_firewall")  # of NAT: what a connection of a client disproves


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with real servers and the way to them."""
    if not facts.has_tables:
        return
    found = survey(facts)
    differing = list(exceptions(facts.services))
    not_sent = frozenset[Subject]().union(*(each.explains for each in egress_findings(facts)))
    by_way: dict[Way, list[Seen]] = defaultdict(list)
    for asked in found.seen:
        by_way[asked.way].append(asked)
    of_ways = list[tuple[Way, Finding]]()
    silent = dict[Way, list[Seen]]()
    for path, seen in by_way.items():
        cause = next(way.findings(path, seen, facts.devices, facts.addresses), None)
        if cause is not None:
            yield cause
        elif any(path.hop in each.hosts for each in found.clones):
            continue  # what it answers depends on the port that the switch has learned last
        elif way.is_silent(path, seen):
            silent[path] = seen
        else:
            for wrong in _of_way(facts, found, path.server, seen):
                if wrong.about & not_sent:
                    continue  # the probes did not leave this host, either
                by_method = next((each for each in differing if each.explains(wrong)), None)
                of_ways.append((path, by_method.finding(f"{wrong.title}: {wrong.evidence}") if by_method else wrong))
    yield from (way.one_mac(each, found.seen) for each in found.clones)
    yield from way.of_neighbours(silent, by_way, facts.devices, found.neighbours)
    held = {each.address for each in facts.addresses}
    alike = list(of_all([finding for _, finding in of_ways], found.seen, held))
    replaced = frozenset[Subject]().union(*(each.about for each in alike))
    yield from alike
    yield from tunnel.joined([(path, each) for path, each in of_ways if not each.about & replaced], by_way)
    local = [each for each in endpoints(facts.services, local=True) if each.server in held]
    if local:
        yield from of_this_host(local, socket_diag.listeners())


def _of_way(facts: Facts, found: Survey, server: Address, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Yield why a real server that is reached does not answer, with what traffic shows of it."""
    by_nat = [each for each in seen if each.endpoint.destination.method is Method.MASQ]
    for wrong in of_server(server, seen):
        if server in clients_of(facts):
            yield _is_client(server, wrong)
        elif wrong.id in OF_PASSING_REPLIES and by_nat and server in answering(facts):
            pass  # it replies to clients through this host, though to no other address
        elif wrong.id in ("server_silent", SENDS_ELSEWHERE) and server in answering(facts):
            yield _only_to_us(server, wrong)
        elif wrong.id == "server_firewall" and server in mixed(facts):
            yield _a_part(server, wrong, mixed(facts)[server])
        elif wrong.id == "server_firewall" and server in answering(facts):
            yield _only_us(wrong)
        else:
            yield wrong
    if by_nat and server not in answering(facts):
        yield from _seeking(facts, found, server, by_nat)
    yield from _through_here(facts, found, server, [each for each in seen if each not in by_nat])


def _through_here(facts: Facts, found: Survey, server: Address, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Yield that a server of direct routing or a tunnel sends replies here, where they are from an own address."""
    held = {each.address for each in facts.addresses}
    for asked in seen:
        vip, device, macs = asked.endpoint.service.address, asked.way.device, {each.mac for each in asked.macs}
        replies = [each for each in found.neighbours.replies_from(vip) if each.mac in macs]
        if not replies or vip not in held or device is None or _forwards_own(facts, device, vip.version):
            continue
        gateway = next((way.hop for way in default_gateways(facts) if way.hop and way.hop.version == vip.version), None)
        family = ip_option(vip.version)
        yield Finding(
            id="reply_through_director",
            severity=Severity.ERROR,
            layer=Layer.REPLY,
            title=f"{server} sends its replies to clients to this director, which drops them",
            evidence=f"{device.name} received a segment from {vip} to {replies[0].sender}, from"
            f" {replies[0].mac.hex(':')}",
            why="The kernel drops packets that come in from an address of its own. Only NAT needs this way back.",
            fix=f"Let the default route of {server} lead to the router of the clients, not to this host.",
            fix_command=f"ip {family}route replace default via {gateway}" if gateway else None,
            fix_host=str(server) if gateway else None,
            about=subjects([asked]),
        )
        return


def _forwards_own(facts: Facts, device: Device, version: int) -> bool:
    """Return whether the kernel forwards packets that come in from its own addresses."""
    names = ("all", device.name) if device.name.isascii() else ("all",)
    if not facts.number(f"net/ipv{version}/conf/{names[-1]}/forwarding"):
        return False
    return version == 6 or any(facts.number(f"net/ipv4/conf/{each}/accept_local") for each in names)


def _seeking(facts: Facts, found: Survey, server: Address, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Yield that a server of NAT asks on its link for a client elsewhere: its route to it has no gateway."""
    device, macs = seen[0].way.device, {each.mac for asked in seen for each in asked.macs}
    if device is None or (device.name.isascii() and facts.number(f"net/ipv4/conf/{device.name}/proxy_arp")):
        return
    on_link = [each.network for each in facts.addresses if each.index == device.index]
    outside = {each.way.outside for each in seen if each.way.outside is not None}
    for sought in sorted(clients_of(facts) | outside, key=str):
        asking = [each for each in found.neighbours.asked(sought) if each.ifindex == device.index and each.mac in macs]
        if asking and not any(sought in network for network in on_link):
            family = ip_option(server.version)
            yield Finding(
                id="nat_reply_path",
                severity=Severity.ERROR,
                layer=Layer.REPLY,
                title=f"{server} does not reply through this director",
                evidence=f"{server} asks on {device.name} for the link address of {sought}, which is not there",
                why="Its route to clients has no gateway. The reply has to come back here, to get the virtual address.",
                fix=f"Remove the route of {server} that covers {sought}; its default route leads to"
                f" {seen[0].way.source}.",
                fix_command=f"ip {family}route show match {sought} | grep -v -e ^default -e via |"
                f" while read -r route; do ip {family}route del $route; done",
                fix_host=str(server),
                about=subjects(seen),
            )
            return


def of_all(found: Iterable[Finding], seen: Iterable[Seen], held: Collection[Address]) -> Iterator[Finding]:
    """Yield what all real servers of a service have in common: the table is likelier wrong than each of them.

    They refuse connections; or neither they nor this host has the virtual address. `held` are those of this host.
    """
    asked, wrong = defaultdict[ServiceKey, set[Subject]](set), defaultdict[str, set[Subject]](set)
    for each in seen:
        asked[each.endpoint.listed] |= subjects([each])
    for finding in found:
        wrong[finding.id] |= finding.about
    for service, about in asked.items():
        if len(about) < _SEVERAL or service.mark:
            continue
        if about <= wrong["not_listening"]:
            yield _all_refuse(service, frozenset(about))
        elif about <= wrong["server_lacks_vip"] and service.address not in held:
            yield _no_host_has(service, frozenset(about))


def _all_refuse(service: ServiceKey, about: frozenset[Subject]) -> Finding:
    return Finding(
        id="not_listening",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"all real servers of {service} refuse its connections",
        evidence=f"{len(about)} of {counted(len(about), 'real server')} refuse the port: no application listens on it",
        why="A wrong port or protocol of the service is likelier than an application that is down on each of them.",
        fix="Correct the port or the protocol in the table, or start the applications.",
        about=about,
    )


def _no_host_has(service: ServiceKey, about: frozenset[Subject]) -> Finding:
    return Finding(
        id="server_lacks_vip",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"neither this host nor a real server has the virtual address {service.address}",
        evidence=f"none of {counted(len(about), 'real server')} has {service.address}, and no device of this host",
        why="A wrong address of the service is likelier than one mistake on each host.",
        fix="Correct the address of the service, or add it to this host and to lo of the real servers.",
        about=about | {str(service.address)},
        symptom=True,
    )


def _only_to_us(server: Address, wrong: Finding) -> Finding:
    """Return that a server which answers clients does not answer this host."""
    return replace(
        wrong,
        severity=Severity.WARNING,
        title=f"{server} answers nothing of this director, but clients have just completed connections to it",
        why="It drops what this director sends itself, by a rule or for want of a route back: checks fail.",
    )


def _only_us(wrong: Finding) -> Finding:
    """Return that a server whose clients pass its firewall drops what this host asks."""
    return replace(
        wrong,
        severity=Severity.WARNING,
        title=f"{wrong.title} for this director, but clients have just completed connections",
        why="It drops what this director sends itself: checks fail.",
    )


def _a_part(server: Address, wrong: Finding, waiting: int) -> Finding:
    """Return that a firewall lets a part of the connections pass."""
    return replace(
        wrong,
        severity=Severity.WARNING,
        title=f"{wrong.title} for a part of the connections",
        evidence=f"{wrong.evidence}; ipvsadm -Lnc: {counted(waiting, 'connection')} to it wait, and others, begun"
        " later, got further",
        why="A rule with a limit, or for some clients, drops them. Or a rule of the routing policy loses the replies.",
        fix=f"Run pylvs doctor on {server}: it names the rule.",
    )


def _is_client(server: Address, wrong: Finding) -> Finding:
    """Return that a destination of the table is a client, which cannot serve."""
    return Finding(
        id="server_is_client",
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=f"the table has {server} as a real server, which is a client of this director",
        evidence=f"ipvsadm -Lnc: connections from {server}; as a real server: {wrong.title}",
        why="Clients that the director sends there get no answer.",
        fix="Correct the address of the real server in the table, or that of the client.",
        about=wrong.about,
    )


def of_server(server: Address, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Yield why a real server that is reached does not answer."""
    macs = {reply.mac for asked in seen for reply in asked.macs}
    if len(macs) > 1 and not any(asked.is_one_host for asked in seen):
        yield way.two_hosts(server, seen, macs)
    yield from filter(None, map(judged, seen))


def of_this_host(local: Iterable[Endpoint], listeners: Sequence[Listener] | None) -> Iterator[Finding]:
    """Yield destinations that are this host itself, where no application listens; `listeners` None: not known."""
    for found in local if listeners is not None else ():
        service, server = found.service, found.server
        if service.mark or not service.port or found.destination.method is Method.MASQ:
            continue
        there = [each for each in listeners or () if (each.protocol, each.port) == (service.protocol, service.port)]
        if service.protocol is Protocol.SCTP or any(each.accepts(service.address) for each in there):
            continue
        yield Finding(
            id="not_listening",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title=f"the real server {server} is this director, and no application listens on {service} here",
            evidence=f"{server} is an address of this host, and no socket receives {service}",
            why="This host refuses the connections that its table assigns to it.",
            fix="Correct the address in the table, or start the application here.",
            about=frozenset({server_subject(str(found.listed), server)}),
        )


def judged(seen: Seen) -> Finding | None:
    """Return why this endpoint does not answer; None if it does, or if the reason is not known."""
    if not seen.replies or seen.way.is_local:
        return None
    if seen.endpoint.destination.method is Method.MASQ:
        return _judged_nat(seen)
    if seen.endpoint.service.mark:
        return None if seen.answered("rip_echo", "rip") else _unknown(seen)
    tunnelled = seen.endpoint.destination.method is Method.TUNNEL
    kind = seen.to("vip")
    if kind in (Kind.OPEN, Kind.DATAGRAM):
        return _other_source(seen) or tunnel.too_long(seen)
    if tunnelled and (other := tunnel.answering_kind(seen)) is not None:
        return tunnel.other_kind(seen, other)
    if kind is Kind.CLOSED:
        return _not_listening(seen)
    if kind is Kind.REFUSED:
        code = _code(seen, "vip")
        # A port of UDP that is closed inside the tunnel looks alike, but the echo is then answered.
        outside = tunnelled and _from_server(seen, "vip") and not seen.answered("vip_echo")
        if outside and code in PROTOCOL_UNREACHABLE | PORT_UNREACHABLE:
            return tunnel.not_decapsulating(seen, code)
        if seen.endpoint.service.protocol is Protocol.UDP and code in PORT_UNREACHABLE:
            return _not_listening(seen)
        return _firewall(seen, "vip")
    if seen.to("vip_echo") is Kind.REFUSED and _code(seen, "vip_echo") in PROTOCOL_UNREACHABLE | PORT_UNREACHABLE:
        return tunnel.not_decapsulating(seen, _code(seen, "vip_echo"))
    if seen.to("vip_echo") is Kind.ECHO:
        asked_port = "vip" in seen.replies and seen.endpoint.service.protocol is Protocol.TCP
        return _firewall(seen, "vip") if asked_port else None
    return _no_vip(seen)


def _other_source(seen: Seen) -> Finding | None:
    """Judge a server whose application answers at the virtual address, from another one."""
    service, server = seen.endpoint.service, seen.endpoint.server
    senders = [each.sender for each in seen.replies["vip"] if each.kind in (Kind.OPEN, Kind.DATAGRAM)]
    if service.address in senders:
        return None
    is_tcp = service.protocol is Protocol.TCP
    return Finding(
        id="reply_source_differs",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"{server} replies from {senders[0]}, not from {service.address}",
        evidence=f"{service.protocol.name} port {service.port} of {service.address} was asked at {server}; the reply is"
        f" from {senders[0]}",
        why="Clients expect the reply from the virtual address, and drop others.",
        fix=f"Remove the rule of {server} that changes the source of replies."
        if is_tcp
        else f"Bind the application of {server} to {service.address}, or let it reply from where it was asked.",
        about=subjects([seen]),
    )


def _code(seen: Seen, probe: str) -> tuple[int, int]:
    return next(each.code for each in seen.replies[probe] if each.kind is Kind.REFUSED)


def _from_server(seen: Seen, probe: str) -> bool:
    return any(each.sender == seen.way.server for each in seen.replies[probe])


def _no_vip(seen: Seen) -> Finding | None:
    """Judge a server that does not answer at the virtual address at all."""
    vip, server = seen.endpoint.service.address, seen.endpoint.server
    if seen.skipped:
        return None
    from_vip = [*seen.replies.get("from_vip", ()), *seen.replies.get("port_from_vip", ())]
    if not seen.answered("rip_echo", "rip") and not from_vip:
        return _unknown(seen)
    if seen.endpoint.destination.method is Method.ROUTE and seen.shares_mac_with is not None:
        return way.behind_proxy(seen, seen.shares_mac_with)
    returned = seen.to("vip_echo") is Kind.RETURNED or seen.to("vip") is Kind.RETURNED
    if returned or from_vip:
        return _lacks_vip(seen, RETURNS if returned else REPLIES)
    if seen.endpoint.destination.method is Method.TUNNEL:
        if seen.to("inner_rip") is Kind.ECHO:
            return _lacks_vip(seen, "in the tunnel it answers at its own address")
        return tunnel.drops_decapsulated(seen)
    if seen.replies.get("unknown_source"):
        return Finding(
            id="reply_lost",
            severity=Severity.ERROR,
            layer=Layer.REPLY,
            title=f"replies of {server} from {vip} are lost on the link",
            evidence=f"{server} gets an echo to {vip}, and asks for the sender's link address; no reply arrives",
            why="The switch, or the hypervisor, discards frames whose source is not the server's own address.",
            fix=f"Permit {vip} as a source at this server's port: allowed address pairs, no source check.",
            about=subjects([seen]),
        )
    if not seen.answered("rip_echo") and "port_from_vip" not in seen.replies:
        return _unknown(seen)
    if not seen.near_vip:  # a reply to the virtual address may have left by another way
        return _lacks_vip(seen, "nothing at the virtual address is answered")
    return Finding(
        id="vip_packets_lost",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"{server} has {vip}, but nothing that is sent to it there gets an answer",
        evidence=f"{server} answers at its own address, drops what comes from {vip} as its own address, and answers"
        f" nothing at {vip}",
        why="The server drops these packets, or loses its replies: its rules and its routing tell which.",
        fix=f"Run pylvs doctor on {server}. If it finds nothing, permit packets to {vip} at its port of the switch.",
        about=subjects([seen]),
    )


RETURNS = "it sends a packet to that address back, which a host that has it does not"
REPLIES = "it replies to a packet from that address, which a host that has it drops"


def _lacks_vip(seen: Seen, evidence: str) -> Finding:
    vip, server = seen.endpoint.service.address, seen.endpoint.server
    command = f"ip link set lo up; ip address replace {vip}/{vip.max_prefixlen} dev lo"
    if vip.version == 4:
        silence = "sysctl -q -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
        command = f"{silence}; {command}"
    return Finding(
        id="server_lacks_vip",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"{server} does not have the virtual address {vip}",
        evidence=f"what is sent to {vip} at {server} has no answer; {evidence}",
        why="It gets packets to an address that is not its own, and drops or forwards them.",
        fix=f"Add {vip} to lo of {server}, or correct the address of the real server in the table.",
        fix_command=command,
        fix_host=str(server),
        about=subjects([seen]),
    )


def _unknown(seen: Seen) -> Finding | None:
    """Judge a server that answers ARP, or is behind a gateway, and nothing else."""
    server = seen.endpoint.server
    refused = [each for each in seen.everything if each.kind is Kind.REFUSED and each.sender != server]
    if not seen.way.on_link and refused:
        reply = refused[0]
        return Finding(
            id="server_unreachable",
            severity=Severity.ERROR,
            layer=Layer.ROUTE,
            title=f"{reply.sender} does not reach {server}",
            evidence=f"{reply.sender} sends ICMP type {reply.code[0]} code {reply.code[1]} for packets to {server}",
            why="A router on the way has no route to this real server, or no neighbour answers there.",
            fix="Start the host, or correct its address in the table or the routes of that router.",
            about=subjects([seen]),
        )
    if seen.endpoint.service.protocol is not Protocol.TCP:
        return None  # no application has to answer a datagram, and firewalls drop echo requests
    if seen.endpoint.service.mark and "rip" not in seen.replies and seen.way.on_link:
        return None  # it may ignore echo requests
    if any(each.kind is Kind.ASTRAY for each in seen.everything):
        return _sends_elsewhere(seen)
    tried = f"TCP port {seen.endpoint.service.port}" if "rip" in seen.replies else "echo requests"
    where = (
        f"{seen.macs[0].mac.hex(':')} answers {'ARP' if server.version == 4 else 'ND'} for {seen.way.hop}, but "
        if seen.macs
        else ""
    )
    return Finding(
        id="server_silent",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"{server} answers nothing",
        evidence=f"{where}{server} answers neither an echo nor {tried}",
        why="The host hangs, its firewall drops everything, or no route leads back to this host."
        if seen.way.on_link
        else "No host has this address, it hangs, its firewall drops everything, or no route leads back to this host.",
        fix="Look at the host itself: run pylvs doctor there.",
        about=subjects([seen]),
    )


def _sends_elsewhere(seen: Seen) -> Finding:
    """Judge a server whose replies to this host have the link address of another one."""
    server, source = seen.endpoint.server, seen.way.source
    mac = seen.way.device.mac.hex(":") if seen.way.device else ""
    return Finding(
        id=SENDS_ELSEWHERE,
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"{server} sends its replies to {source} to a wrong link address",
        evidence=f"replies of {server} to {source} came in on this link, with another link address than {mac}",
        why="A static neighbour entry of the server is wrong, or a switch and a router keep an old one.",
        fix=f"Delete the neighbour entry of {source} on {server}.",
        fix_command=f"ip neigh flush to {source} nud all",
        fix_host=str(server),
        about=subjects([seen]),
    )


def _not_listening(seen: Seen) -> Finding:
    service, server = seen.endpoint.service, seen.endpoint.server
    port, protocol = service.port, service.protocol.name
    other = seen.endpoint.destination.key.port
    if seen.to("rip") is Kind.OPEN:
        return Finding(
            id="not_listening_on_vip",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title=f"the application of {server} listens on {server} alone, not on {service.address}",
            evidence=f"{protocol} port {port} is open at {server} and refused at {service.address}",
            why="Clients' packets arrive with the virtual address as their destination.",
            fix=f"Let the application listen on {endpoint(service.address, port)}, or on every address.",
            about=subjects([seen]),
        )
    hint = f" The table has port {other}, but only NAT changes ports." if other not in (0, port) else ""
    return Finding(
        id="not_listening",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"no application listens on {protocol} port {port} of {server}",
        evidence=f"{server} refuses {protocol} port {port}, at {service.address} as at its own address",
        why="The server is up, but its application is not, or listens on another port. Or a rule rejects connections by"
        f" RST.{hint}",
        fix="Start the application, or correct its port.",
        about=subjects([seen]),
    )


def _firewall(seen: Seen, probe: str) -> Finding:
    service, server = seen.endpoint.service, seen.endpoint.server
    port = seen.endpoint.destination.key.port if probe == "rip" else service.port
    where = service.address if probe == "vip" else server
    what = f"{service.protocol.name} port {port}"
    refusing = [each for each in seen.replies[probe] if each.kind is Kind.REFUSED]
    host = refusing[0].sender if refusing and refusing[0].sender not in (service.address,) else server
    seen_there = (
        f"ICMP type {refusing[0].code[0]} code {refusing[0].code[1]} from {refusing[0].sender} answers {what}"
        if refusing
        else f"an echo to {where} is answered, {what} has no answer at all"
    )
    return Finding(
        id="server_firewall",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"a firewall of {host} blocks {what} at {where}",
        evidence=f"{seen_there}, sent to {server}",
        why="An application that is down refuses a connection by RST; this does not come from an application."
        if refusing
        else "An application that is down refuses a connection by RST. Rules drop packets silently, and so does the"
        " full queue of an application that hangs. A rule of the routing policy may lose the replies of the port.",
        fix=f"On {host}, accept {what} to {where}."
        + ("" if refusing else f" Or restart the application: pylvs doctor on {host} knows which."),
        about=subjects([seen]),
    )


def _judged_nat(seen: Seen) -> Finding | None:
    service, server = seen.endpoint.service, seen.endpoint.server
    port, kind = seen.endpoint.destination.key.port, seen.to("rip")
    if kind is Kind.CLOSED or (
        kind is Kind.REFUSED and service.protocol is Protocol.UDP and _code(seen, "rip") in PORT_UNREACHABLE
    ):
        return Finding(
            id="not_listening",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title=f"no application listens on {service.protocol.name} port {port} of {server}",
            evidence=f"{server} refuses {service.protocol.name} port {port}",
            why="The server is up, but its application is not, or listens on another port.",
            fix="Start the application, or correct its port in the table.",
            about=subjects([seen]),
        )
    if kind is Kind.REFUSED and _from_server(seen, "rip"):
        return _firewall(seen, "rip")
    if kind is None and service.protocol is Protocol.TCP and seen.to("rip_echo") is Kind.ECHO:
        return _firewall(seen, "rip")
    if not seen.answered("rip", "rip_echo"):
        return _unknown(seen) if service.protocol is Protocol.TCP else None
    return tunnel.too_long(seen) or _reply_path(seen)


def _accepts_few(seen: Seen, accepted: str, evidence: str) -> Finding:
    """Judge a server of NAT whose replies would come back, and that drops what comes from outside."""
    service, server, way = seen.endpoint.service, seen.endpoint.server, seen.way
    return Finding(
        id="server_firewall",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"a firewall of {server} accepts {accepted} alone, and not the clients",
        evidence=f"{server} answers {way.source}; asked from {way.outside}{evidence}",
        why="NAT replaces the destination alone: packets come to the server from the addresses of clients.",
        fix=f"On {server}, accept {service.protocol.name} port {seen.endpoint.destination.key.port} from all clients.",
        about=subjects([seen]),
    )


def _reports_back(seen: Seen) -> bool:
    """Return whether a report about a malformed packet came back from the server itself: its route leads here."""
    macs = {each.mac for each in seen.macs}
    return any(
        each.kind is Kind.REFUSED and each.sender == seen.way.server and each.mac in macs
        for each in seen.replies.get("back_malformed", ())
    )


def _reply_path(seen: Seen) -> Finding | None:
    """Judge whether a server of NAT replies through this host: to an address that is not of its own network.

    In standby the replies go through the master, which has the servers' gateway.
    """
    if seen.is_standby or not lacks_way_back(seen):
        return None
    way, server = seen.way, seen.endpoint.server
    replies = [reply for back in ("back", "back_echo") for reply in seen.replies.get(back, ())]
    how = f"its reply comes by {replies[0].mac.hex(':')} instead" if replies else "no reply comes"
    if not replies and "unknown_source" in seen.replies and not seen.replies["unknown_source"]:
        return _accepts_few(seen, str(way.source), " and from an unused address of its own network, it sends nothing")
    if not replies and _reports_back(seen):
        return _accepts_few(seen, "its own network", ", it reports a malformed packet, and answers no other one")
    gateway = way.source
    family = ip_option(server.version)
    return Finding(
        id="nat_reply_path",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"{server} does not reply through this director",
        evidence=f"{server} answers {way.source}, of its own network; asked from {way.outside}, {how}",
        why="The reply has to come back here, where the address of the real server becomes the virtual one again.",
        fix=f"Let the default route of {server} lead to {gateway}.",
        fix_command=f"ip {family}route replace default via {gateway}",
        fix_host=str(server),
        about=subjects([seen]),
    )
