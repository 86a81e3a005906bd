"""Tunnels: whether a real server decapsulates, what it does with the inner packet, and how long packets may be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from pylvs.doctor.commands import edit_destination
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.servers import Way
from pylvs.doctor.survey import OTHER_TUNNELS, Seen, other_tunnel, subjects
from pylvs.doctor.wire.packets import PROTOCOL_UNREACHABLE, Kind, overhead
from pylvs.model.addresses import ip_option
from pylvs.model.dataclass import replace
from pylvs.model.service import Method, Tunnel, TunnelKind, VirtualService

_SEVERAL = 2  # times as many as arrived
_TAG = 4  # octets of an 802.1Q tag


def _up(seen: Seen) -> str:
    """Return the command that makes the server decapsulate."""
    tunnel, vip = seen.endpoint.destination.tunnel, seen.endpoint.service.address
    kind = tunnel.kind.name.lower()
    port = f" --tun-port {tunnel.port}" if tunnel.kind is TunnelKind.GUE else ""
    return f"pylvs realserver up {vip} --tun-type {kind}{port}"


INFERRED = {"server_tunnel_source", "tunnel_rp_filter"}  # from silence alone


def joined(found: Iterable[tuple[Way, Finding]], asked: Collection[Way]) -> Iterator[Finding]:
    """Yield these findings; those that all servers behind a next hop share become one about the way.

    `found` has the findings with the way to their server, `asked` the ways to all servers.
    """
    silent, others = dict[Way, Finding](), list[Finding]()
    for path, finding in found:
        if finding.id in INFERRED and not path.on_link:
            silent.setdefault(path, finding)
        else:
            others.append(finding)
    yield from others
    for hop in dict.fromkeys(path.hop for path in silent):
        alike = [path for path in silent if path.hop == hop]
        if len(alike) > 1 and len(alike) == sum(path.hop == hop for path in asked):
            yield _way_silent(str(hop), alike, [silent[path] for path in alike])
        else:
            yield from (silent[path] for path in alike)


def _way_silent(hop: str, ways: Sequence[Way], findings: Sequence[Finding]) -> Finding:
    servers = ", ".join(str(path.server) for path in ways)
    return Finding(
        id="tunnel_way_silent",
        severity=Severity.WARNING,
        layer=Layer.ROUTE,
        title=f"no reply to a tunnelled packet comes back through {hop}",
        evidence=f"{servers} answer at their own addresses, and nothing that is sent in a tunnel",
        why="They have this next hop in common: its filter or rp_filter is likelier than one mistake on each server.",
        fix=f"On {hop}, permit tunnels and replies from virtual addresses. Else run pylvs doctor on a server.",
        about=frozenset().union(*(finding.about for finding in findings)),
    )


def not_decapsulating(seen: Seen, code: tuple[int, int]) -> Finding:
    server, tunnel = seen.endpoint.server, seen.endpoint.destination.tunnel
    name = tunnel.kind.name
    where = f" on UDP port {tunnel.port}" if tunnel.kind is TunnelKind.GUE else ""
    what = "protocol unreachable" if code in PROTOCOL_UNREACHABLE else "port unreachable"
    return Finding(
        id="server_not_decapsulating",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"{server} does not decapsulate {name}{where}",
        evidence=f"{server} answers a packet in the tunnel with ICMP {what}",
        why="Clients' packets come to it in a tunnel, and it has no receiver for that.",
        fix=f"Let {server} decapsulate {name}.",
        fix_command=_up(seen),
        fix_host=str(server),
        about=subjects([seen]),
    )


def drops_decapsulated(seen: Seen) -> Finding:
    """Judge a server with the virtual address that is silent in the tunnel.

    If it refuses a tunnel to its own address, it knows the virtual address as an inner destination: the receiver drops
    it. Otherwise it decapsulates everything, and drops the inner packet.
    """
    server, vip, way = seen.endpoint.server, seen.endpoint.service.address, seen.way
    name = seen.endpoint.destination.tunnel.kind.name
    evidence = (
        f"{server} answers at its own address and has {vip}; to {name} it sends neither a reply nor an ICMP error"
    )
    if seen.to("inner_rip") is Kind.REFUSED:
        return Finding(
            id="server_tunnel_source",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title=f"{server} does not answer in {name} tunnels from {way.source}",
            evidence=f"{evidence}; a tunnel to another address than {vip} it refuses",
            why="It decapsulates for this address, and drops the packets of this director, or loses its replies.",
            fix=f"Permit this director on {server}. If that does not help, run pylvs doctor there: it names the rule"
            f" or route that loses replies from {vip}.",
            fix_command=f"{_up(seen)} --director {way.source}",
            fix_host=str(server),
            about=subjects([seen]),
        )
    names = ["all", *(["tunl0"] if seen.endpoint.destination.tunnel.kind is TunnelKind.IPIP else [])]
    settings = " ".join(f"net.ipv4.conf.{name}.rp_filter=0" for name in names)
    return Finding(
        id="tunnel_rp_filter",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"{server} drops what arrives in its {name} tunnel: rp_filter",
        evidence=evidence,
        why="Packets of clients come in by the tunnel, but the route to clients leads by another device: a strict"
        " rp_filter drops them.",
        fix=f"Switch rp_filter off on the tunnel device of {server}. If that does not help, rules drop {name}: on the"
        " server, or on a router before it.",
        fix_command=f"sysctl -q -w {settings}",
        fix_host=str(server),
        about=subjects([seen]),
    )


def too_long(seen: Seen) -> Finding | None:
    """Judge a tunnel in which small packets arrive, and the longest do not."""
    if "long" not in seen.replies or seen.answered("long"):
        return None
    arrived = [length for length, replies in seen.lengths.items() if any(each.kind is Kind.OPEN for each in replies)]
    reported = [each for each in seen.everything if each.mtu]
    reported += [each for replies in seen.lengths.values() for each in replies if each.mtu]
    number = min((each.mtu for each in reported), default=0) or max(arrived, default=0)
    if not number or not arrived:
        return None
    fitting = [length for length in seen.lengths if length <= number]
    if not reported and len(fitting) > _SEVERAL * sum(length in arrived for length in fitting):
        return _partly(seen, len(arrived))
    way, server = seen.way, seen.endpoint.server
    assert way.device is not None
    by = f"; {reported[0].sender} reports it" if reported else f", and one of {number} octets does"
    tunnelled = seen.endpoint.destination.method is Method.TUNNEL
    inner = number - (overhead(server.version, seen.endpoint.destination.tunnel) if tunnelled else 0)
    via = f" via {way.hop}" if not way.on_link else ""
    family = ip_option(server.version)
    where = " in its tunnel" if tunnelled else ""
    tag = ""
    if way.device.vid and way.mtu - number == _TAG:
        tag = f" A port on the way does not take the {_TAG} octets more of a tag of VLAN {way.device.vid}."
    return Finding(
        id="tunnel_mtu" if tunnelled else "path_mtu",
        severity=Severity.ERROR,
        layer=Layer.ROUTE,
        title=f"the path to {server} takes packets of {number} octets, this host sends {way.mtu}{where}",
        evidence=f"a packet of {way.mtu} octets{where} does not arrive{by}",
        why=f"Packets of clients up to {inner} octets fit. Longer ones are lost: small requests work, uploads hang."
        + tag,
        fix="Set the MTU of the route to the real server, so that clients get to know it."
        + (" Or let all ports take longer frames." if tag else ""),
        fix_command=f"ip {family}route replace {server}{via} dev {way.device.name} mtu {number}",
        fix_host=HERE,
        about=subjects([seen]),
    )


def _partly(seen: Seen, arrived: int) -> Finding:
    """Judge a server that answers some packets of a burst, and not those that are shorter."""
    service, server = seen.endpoint.service, seen.endpoint.server
    return Finding(
        id="server_rate_limit",
        severity=Severity.WARNING,
        layer=Layer.SERVER,
        title=f"{server} answers a part of the packets to {service.protocol.name} port {service.port} alone",
        evidence=f"of {len(seen.lengths)} SYNs at a time, {arrived} were answered, long and short ones",
        why="A rule of its packet filter drops what exceeds a limit, or a link on the way loses packets.",
        fix=f"Run pylvs doctor on {server}: it names the rule.",
        about=subjects([seen]),
    )


def answering_kind(seen: Seen) -> Tunnel | None:
    """Return another tunnel in which the server answers at the virtual address."""
    own = seen.endpoint.destination.tunnel
    other = (each for each in OTHER_TUNNELS if (each.kind, each.port) != (own.kind, own.port))
    return next((each for each in other if seen.to(other_tunnel(each)) is Kind.ECHO), None)


def other_kind(seen: Seen, other: Tunnel) -> Finding:
    """Judge a server that decapsulates another kind of tunnels than the table has."""
    server, own = seen.endpoint.server, seen.endpoint.destination.tunnel
    wanted = replace(seen.endpoint.destination, tunnel=other)
    return Finding(
        id="tunnel_kind_differs",
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=f"{server} decapsulates {_text(other)}, and this director sends {_text(own)}",
        evidence=f"an echo to {seen.endpoint.service.address} is answered in {_text(other)}, not in {_text(own)}",
        why="A real server decapsulates the kinds of tunnels that it is set up for, and drops others.",
        fix="Give both the same kind.",
        fix_command=edit_destination(VirtualService(seen.endpoint.listed), wanted),
        fix_host=HERE,
        about=subjects([seen]),
    )


def _text(tunnel: Tunnel) -> str:
    return f"{tunnel.kind.name}{f' on UDP port {tunnel.port}' if tunnel.kind is TunnelKind.GUE else ''}"
