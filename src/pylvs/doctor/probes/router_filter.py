"""Packet filters of this host that drop the advertisements of its virtual routers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from pylvs.doctor.advertisements import Received
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.packet_filter.host import INPUT, OUTPUT
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.virtual_routers import Router
from pylvs.model.addresses import Address
from pylvs.netlink.links import AssignedAddress
from pylvs.vrrp.sockets import protocol_of

Decide = Callable[[Sequence[str], Packet], Decision]


def of_filter(
    router: Router, received: Sequence[Received], held: Collection[AssignedAddress], decide: Decide
) -> Iterator[Finding]:
    """Yield the rules that drop what this router receives, and what it sends."""
    instance = router.instance
    own = router.source or next((each.address for each in held if each.address.version == router.packets), None)
    if own is None:
        return
    others = [each.datagram.source for each in received if each.vrid == instance.vrid and not each.sent]
    other = next((each for each in others if each not in {each.address for each in held}), None)
    peers: list[Address] = [each.address for each in instance.peers]
    sender = other or next(iter(peers), None) or _neighbour(own, held)
    protocol, device = protocol_of(instance), instance.interface
    came = Packet(sender, own if peers else instance.multicast, protocol, iif=device)
    split = router.state == "MASTER" and other is not None
    yield from _dropped(router, decide(INPUT, came), "come in", split)
    for target in peers or [instance.multicast]:
        yield from _dropped(router, decide(OUTPUT, Packet(own, target, protocol, oif=device)), "leave", split)


def _neighbour(own: Address, held: Collection[AssignedAddress]) -> Address:
    """Return another address of the network of our own."""
    network = next((each.network for each in held if each.address == own), None)
    if network is None or network.num_addresses < 4:
        return own
    first, second = network[1], network[2]
    return second if first == own else first


def _dropped(router: Router, decision: Decision, way: str, split: bool) -> Iterator[Finding]:
    if decision.verdict is not Verdict.DROP:
        return
    command = decision.accept or decision.remove
    fails = split or (way == "leave" and router.state == "MASTER")
    yield Finding(
        id="vrrp_filtered",
        severity=Severity.ERROR if fails else Severity.WARNING,
        layer=Layer.HOST,
        title=f"a packet filter here drops the advertisements of {router} that {way}",
        evidence=f"{decision.text}; it drops protocol {protocol_of(router.instance)} of {router.instance.interface}",
        why="This host becomes master beside the other one: it does not know of it."
        if way == "come in"
        else "The other director becomes master beside this one: it does not know of it.",
        fix="Accept these packets.",
        fix_command=command,
        fix_host=HERE if command else None,
        about=frozenset({router.instance.name, *(map(str, router.addresses) if fails else ())}),
    )
