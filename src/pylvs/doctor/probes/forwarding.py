"""A router between clients and the director: whether it forwards the packets that it has to. Known in a lab alone."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.expected import Flow
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, here
from pylvs.doctor.kernel.routes import LOCAL, KernelRoutes, Outcome, rejecting
from pylvs.doctor.packet_filter.host import FORWARD, packet_filter
from pylvs.doctor.packet_filter.packet import Packet, Verdict
from pylvs.model.addresses import Address, endpoint, ip_option
from pylvs.netlink.links import Device
from pylvs.system import proc

_LOOSE = 2  # of rp_filter
_PORT = 40000


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield why this router does not forward some packets: one cause for each flow."""
    if not facts.expected.flows:
        return
    with KernelRoutes() as routes:
        causes = (next(_causes(facts, flow, routes), None) for flow in facts.expected.flows)
        found = dict[tuple[str, str], Finding]()
        for cause in filter(None, causes):
            found.setdefault((cause.id, cause.evidence), cause)
    yield from found.values()


def _causes(facts: Facts, flow: Flow, routes: KernelRoutes) -> Iterator[Finding]:
    by_name = {each.name: each for each in facts.devices}
    for name in (flow.iif, flow.oif):
        if name in by_name and not by_name[name].up:
            yield _down(flow, name)
    yield from _not_forwarding(facts, flow)
    if flow.public is not None:
        yield from _public(facts, flow, flow.public)
    if flow.iif in by_name:
        yield from _routed(facts, flow, by_name[flow.iif], by_name.get(flow.oif), routes)
    yield from _filtered(facts, flow)


def _finding(
    flow: Flow,
    *,
    id: str,
    layer: Layer,
    title: str,
    evidence: str,
    fix: str,
    command: str | None = None,
    why: str = "",
) -> Finding:
    return here(
        id=id,
        layer=layer,
        title=title,
        evidence=evidence,
        why=why or f"Packets from {flow.saddr} to {flow.public or flow.daddr} get no further.",
        fix=fix,
        command=command,
        about=[flow.saddr if flow.is_reply else flow.daddr],
    )


def _down(flow: Flow, name: str) -> Finding:
    return _finding(
        flow,
        id="link_down",
        layer=Layer.LINK,
        title=f"{name} of this router is down",
        evidence=f"ip link show {name}: it is not set up",
        fix="Set it up.",
        command=f"ip link set {name} up",
    )


def _not_forwarding(facts: Facts, flow: Flow) -> Iterator[Finding]:
    """Yield the setting that keeps a device from forwarding. For IPv6, that of all devices decides."""
    version = flow.daddr.version
    every = f"net/ipv{version}/conf/all/forwarding"
    path = f"net/ipv{version}/conf/{flow.iif}/forwarding" if version == 4 else every
    if facts.number(path) != 0:
        return
    setting = path if facts.number(every) else every
    yield _finding(
        flow,
        id="router_not_forwarding",
        layer=Layer.ROUTE,
        title="this router does not forward packets"
        if setting == every
        else f"this router does not forward packets that come in by {flow.iif}",
        evidence=f"{proc.dotted(setting)} is 0",
        fix="Let it forward.",
        command=f"sysctl -q -w {proc.dotted(setting)}=1",
    )


# The public address.


def _public(facts: Facts, flow: Flow, public: Address) -> Iterator[Finding]:
    if all(each.address != public for each in facts.addresses):
        yield _finding(
            flow,
            id="router_lacks_address",
            layer=Layer.ADDRESS,
            title=f"this router does not have the public address {public}",
            evidence=f"no device has {public}",
            fix=f"Add it to {flow.iif}.",
            command=f"ip address add {public}/{public.max_prefixlen} dev {flow.iif}",
            why="Clients ask for its link address, and no host answers.",
        )
    packet = Packet(flow.saddr, public, flow.protocol, _PORT, flow.dport, iif=flow.iif)
    found = packet_filter(facts).translation(packet)
    if found is not None and (found.address, found.port) == (flow.daddr, flow.dport):
        return
    family = "ip" if public.version == 4 else "ip6"
    chain = f"{family} public in"
    rule = f"nft add table {family} public; nft add chain {chain} '{{ type nat hook prerouting priority -101; }}';"
    rule += f" nft add rule {chain} {family} daddr {public} dnat to {flow.daddr}"
    target = endpoint(found.address or public, found.port) if found is not None else ""
    yield _finding(
        flow,
        id="router_lacks_dnat",
        layer=Layer.ADDRESS,
        title=f"this router sends packets to {public} to {target}, not to {flow.daddr}"
        if target
        else f"no rule of this router turns {public} into the virtual address {flow.daddr}",
        evidence=found.text if found is not None else "nft list ruleset, iptables-save -t nat: no rule applies",
        fix="Replace that rule." if found is not None else "Add the rule.",
        command=f"{found.remove}; {rule}" if found is not None else rule,
        why="Clients use the public address, and the director serves the virtual one.",
    )


# Routes and rules.


def _routed(facts: Facts, flow: Flow, device: Device, out: Device | None, routes: KernelRoutes) -> Iterator[Finding]:
    found = routes.arriving(flow.saddr, flow.daddr, device.index)
    onward = routes.leaving_to(flow.daddr)
    obstacle = next((each for each in rejecting(flow.daddr.version) if each.covers(flow.daddr)), None)
    question = f"ip route get {flow.daddr} from {flow.saddr} iif {flow.iif}"
    if obstacle is not None and (onward.error or found.error):
        yield _finding(
            flow,
            id="router_route_drops",
            layer=Layer.ROUTE,
            title=f"this router's {obstacle.text} drops packets to {flow.daddr}",
            evidence=f"{question}: refused",
            fix="Remove it.",
            command=obstacle.command,
        )
    elif found.invalid_source and not onward.error:
        value = max(facts.number(f"net/ipv4/conf/{each}/rp_filter") or 0 for each in ("all", flow.iif))
        if value:
            yield _strict(facts, flow, value)
    elif found.error:
        yield _finding(
            flow,
            id="router_without_route",
            layer=Layer.ROUTE,
            title=f"this router has no route to {flow.daddr}",
            evidence=f"{question}: {found.reason or found.error}",
            fix="Add the route.",
            command=f"ip route replace {flow.daddr} dev {flow.oif}",
        )
    elif found.kind == LOCAL or (out is not None and found.device != out.index):
        yield _elsewhere(facts, flow, found, question)


def _strict(facts: Facts, flow: Flow, value: int) -> Finding:
    names = [each for each in ("all", flow.iif) if facts.number(f"net/ipv4/conf/{each}/rp_filter")]
    new = 0 if value == _LOOSE else _LOOSE
    settings = " ".join(f"{proc.dotted(f'net/ipv4/conf/{each}/rp_filter')}={new}" for each in names)
    return _finding(
        flow,
        id="router_rp_filter",
        layer=Layer.ROUTE,
        title=f"rp_filter on {flow.iif} of this router drops packets from {flow.saddr}",
        evidence=f"rp_filter is {value} on {flow.iif}, and the route to {flow.saddr} does not lead there",
        fix="Set it to loose." if new else "Switch it off.",
        command=f"sysctl -q -w {settings}",
    )


def _elsewhere(facts: Facts, flow: Flow, found: Outcome, question: str) -> Finding:
    names = {each.index: each.name for each in facts.devices}
    is_local = found.kind == LOCAL
    where = "itself" if is_local else names.get(found.device, str(found.device))
    family = ip_option(flow.daddr.version)
    routes = f"ip {family}route show {flow.daddr}"
    command = f"{routes} | while read -r route; do ip {family}route del $route; done"
    return _finding(
        flow,
        id="router_wrong_route",
        layer=Layer.ROUTE,
        title=f"this router sends packets to {flow.daddr} to {where}, not to {flow.oif}",
        evidence=f"{question}: dev {where}{f' via {found.gateway}' if found.gateway else ''}",
        fix="Take the address from it." if is_local else "Remove the route.",
        command=None if is_local else command,
    )


def _filtered(facts: Facts, flow: Flow) -> Iterator[Finding]:
    """Yield the rule that drops the packets of a flow. Replies belong to a connection, others open it."""
    target, new = flow.public or flow.daddr, not flow.is_reply
    sport, dport = (_PORT, flow.dport) if new else (flow.sport, _PORT)
    packet = Packet(flow.saddr, target, flow.protocol, sport, dport, iif=flow.iif, oif=flow.oif, new=new)
    decision = packet_filter(facts).decision(FORWARD, packet, str(flow.daddr if new else flow.saddr))
    if decision.verdict is Verdict.DROP:
        yield _finding(
            flow,
            id="router_firewall",
            layer=Layer.ROUTE,
            title=f"the packet filter of this router drops packets from {flow.saddr} to {target}",
            evidence=decision.text,
            fix="Remove the rule." if decision.remove else "Accept these packets before it.",
            command=decision.remove or decision.accept,
        )
