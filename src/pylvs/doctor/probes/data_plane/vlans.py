"""VLANs: whether clients ask for a virtual address in one for which this host has no device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.survey import askable
from pylvs.doctor.virtual_routers import standby_of
from pylvs.doctor.wire.tags import Asked, requests
from pylvs.netlink.links import ETH_P_8021AD, Device

LISTEN_S = 2.2
_UNANSWERED = 2  # requests: a host repeats one that has no answer each second


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield VLANs in which clients ask for a virtual address, and get no answer, because this host has no device."""
    if not facts.has_tables or not facts.virtual_addresses or not any(map(askable, facts.devices)):
        return
    asked = list(requests(LISTEN_S))
    wanted = set(facts.virtual_addresses) - set(standby_of(facts)) if asked else ()
    for one, count in Counter(asked).items():
        if one.target in wanted and count >= _UNANSWERED and not is_received(one, facts.devices):
            yield _without_device(facts, one)


def is_received(asked: Asked, devices: Sequence[Device]) -> bool:
    """Return whether this host has a device for the tag of a request, or a bridge or bond receives the frame."""
    if any(each.index == asked.ifindex and each.master for each in devices):
        return True
    tag = (asked.ifindex, asked.protocol, asked.vid)
    return any((each.lower, each.vlan_protocol, each.vid) == tag for each in devices)


def _without_device(facts: Facts, asked: Asked) -> Finding:
    names = {each.index: each for each in facts.devices}
    card = names[asked.ifindex].name if asked.ifindex in names else "a card"
    vip, kind = asked.target, " of 802.1ad" if asked.protocol == ETH_P_8021AD else ""
    holder = next((names[each.index] for each in facts.addresses if each.address == vip and each.index in names), None)
    here = f"{vip} is on {holder.name}" if holder else f"no device has {vip}"
    if holder and holder.vid:
        here += f" (VLAN {holder.vid})"
    command = f"ip link add link {card} name {card}.{asked.vid} type vlan{' proto 802.1ad' * bool(kind)} id {asked.vid}"
    move = f", and move the addresses of {holder.name} to it" if holder else ", with its addresses"
    return Finding(
        id="vlan_without_device",
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=f"clients ask for {vip} in VLAN {asked.vid}{kind} of {card}, where this host has no device",
        evidence=f"{asked.sender} asks for {vip} again and again, by requests with the tag {asked.vid}{kind} on {card};"
        f" {here}",
        why="The kernel drops frames of a VLAN without a device: no client of this VLAN finds the address.",
        fix=f"Make the device, by {command}{move}.",
        about=frozenset({str(vip)}),
        explains=frozenset({holder.name} if holder else ()),
    )
