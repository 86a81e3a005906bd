"""Virtual routers (VRRP): two masters, advertisements that do not agree, faults."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from time import time

from pylvs.dataplane.devices.host import ThisHost
from pylvs.doctor.advertisements import Received, listen
from pylvs.doctor.commands import named
from pylvs.doctor.configuration import File
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity, here
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.probes.router_filter import of_filter
from pylvs.doctor.virtual_routers import Router, file_of, routers_of
from pylvs.model.addresses import ANY_V4, Address, family_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.vrrp import OWNER, Authentication, VrrpInstance
from pylvs.vrrp.protocol.adverts import (
    AH_BYTES,
    AH_PROTOCOL,
    HEAD_BYTES,
    PASSWORD_BYTES,
    TTL,
    Advertisement,
    InvalidAdvert,
    decode,
)

_LEAST_S, _MOST_S = 0.3, 2.2  # of listening
_DISCARD = 9  # RFC 863
_SLACK = 1.25  # intervals of advertisements
_BY_FILTER = ("vrrp_two_masters", "vrrp_not_sent")  # what a packet filter of this host explains


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the virtual routers of this host."""
    routers = routers_of(facts)
    if not routers:
        return
    wanted = {name for router in routers for name in router.devices}
    devices = [each for each in facts.devices if each.name in wanted and each.up]
    interval_s = max(router.instance.advert_interval_s for router in routers)
    seconds = min(max(_SLACK * interval_s, _LEAST_S), _MOST_S)
    peers = {peer.address for router in routers for peer in router.instance.peers}
    _address_packets(peers)
    received = listen(devices, seconds) if devices else []
    with ThisHost() as host:
        silent = frozenset(host.unresolved(peers)) if peers else frozenset[Address]()
    own = frozenset(each.address for each in facts.addresses)
    rules = packet_filter(facts)
    for router in routers:
        complete = bool(devices) and _SLACK * router.instance.advert_interval_s <= seconds
        others = any(each.vrid == router.instance.vrid and not each.sent for each in received)
        yield from of_status(router, alone=complete and not others)
        yield from of_peers(router, silent)
        filtered = list(of_filter(router, received, facts.addresses, rules.decision))
        yield from filtered
        found = of_adverts(router, received, own, file_of(facts), complete)
        yield from (each for each in found if not (filtered and each.id in _BY_FILTER))


def _address_packets(peers: Iterable[Address]) -> None:
    """Send an empty datagram to the discard port of each peer: the kernel asks for its link address."""
    for peer in peers:
        with suppress(OSError), socket.socket(family_of(peer), socket.SOCK_DGRAM) as end:
            end.sendto(b"", (str(peer), _DISCARD))


def of_peers(router: Router, silent: Collection[Address]) -> Iterator[Finding]:
    """Yield the peers of a router whose next hop does not answer ARP or neighbour discovery."""
    for peer in router.instance.peers:
        if peer.address in silent:
            yield _router(
                router,
                id="vrrp_peer_silent",
                severity=Severity.WARNING,
                title=f"unicast_peer {peer.address} of {router} is not reached",
                evidence=f"ip neigh: the next hop to {peer.address} does not answer",
                why="That director gets no advertisements: it is down, or it becomes master, too.",
                fix="Correct the address, or start that director.",
            )


def of_status(router: Router, alone: bool = False) -> Iterator[Finding]:
    """Yield faults, and tracked objects that fail. `alone`: no other router advertises its VRID."""
    status = router.status
    if router.state == "FAULT":
        reasons = [str(each) for each in status.get("faults", ())] or [str(status.get("why", ""))]
        down = [
            each["name"] for each in status.get("tracks", ()) if each["kind"] == "interface" and each["up"] is False
        ]
        yield _router(
            router,
            id="vrrp_fault",
            severity=Severity.ERROR if alone else Severity.WARNING,
            title=f"{router} is in the state FAULT: {reasons[0]}",
            evidence=f"pylvs vrrp status: {'; '.join(reasons)}",
            why="No director has the addresses: no other one advertises this VRID."
            if alone
            else "It does not take over the addresses while that lasts.",
            fix="Mend the object that it tracks.",
            command=f"ip link set dev {down[0]} up" if down else None,
        )
    if status.get("held_until"):
        yield _router(
            router,
            id="vrrp_held",
            severity=Severity.INFO,
            title=f"an operator keeps {router} from becoming master",
            evidence=f"pylvs vrrp status: yielded for {max(status['held_until'] - time(), 0):.0f} more seconds",
            why="Until then this director does not take over, even if no other one is master.",
            fix="Cancel it, if the maintenance is over.",
            command=f"pylvs vrrp resume {router.instance.name}",
        )
    for track in status.get("tracks", ()):
        if track["weight"] and track["up"] is False:
            yield _router(
                router,
                id="vrrp_track_down",
                severity=Severity.WARNING,
                title=f"{track['kind']} {track['name']}, which {router} tracks, is down",
                evidence=f"pylvs vrrp status: {track['reason'] or 'down'}; priority {status['priority']} instead of"
                f" {status['base_priority']}",
                why="The priority differs from the configured one, which decides the next take-over.",
                fix=f"Mend {track['kind']} {track['name']}.",
            )


def _router(
    router: Router,
    *,
    id: str,
    severity: Severity,
    title: str,
    evidence: str,
    why: str,
    fix: str,
    command: str | None = None,
) -> Finding:
    found = here(
        id=id,
        severity=severity,
        layer=Layer.ADDRESS,
        title=title,
        evidence=evidence,
        why=why,
        fix=fix,
        command=command,
        about=[router.instance.name, *(router.addresses if severity is Severity.ERROR else ())],
    )
    # Without a command the host of the title may be the one to mend.
    return found if command else replace(found, fix_host=None)


def of_adverts(
    router: Router, received: Sequence[Received], own: Collection[Address], file: File, complete: bool
) -> Iterator[Finding]:
    """Yield what the advertisements on the links show of a router. `complete`: each master has sent one."""
    instance = router.instance
    mine = [each for each in received if each.vrid == instance.vrid and each.device in router.devices]
    mine = [each for each in mine if each.datagram.source.version == router.packets]
    sent = [each for each in mine if each.sent or each.datagram.source in own]
    others = {each.datagram.source: each for each in mine if not each.sent and each.datagram.source not in own}
    for other in others.values():
        yield from _of_other(router, other, file)
    foreign = [each for each in received if not each.sent and each.datagram.source not in own]
    yield from _of_other_vrids(router, [each for each in foreign if each.vrid != instance.vrid], file)
    if router.state == "MASTER" and complete and not sent:
        yield _router(
            router,
            id="vrrp_not_sent",
            severity=Severity.ERROR,
            title=f"no advertisement of {router} leaves this host, which is master",
            evidence=f"{named(sorted(router.devices), 'device')}: no packet of protocol 112 from here with VRID"
            f" {instance.vrid} within {_SLACK:g} intervals",
            why="The other director does not know of this master, and becomes master as well.",
            fix="Look for the rule that drops them: nft list ruleset, iptables-save.",
        )


def _of_other(router: Router, received: Received, file: File) -> Iterator[Finding]:
    """Yield what is wrong between this router and another one that advertises its VRID."""
    instance, sender = router.instance, received.datagram.source
    mismatch = compare(router, received)
    if mismatch is not None:
        yield _mismatched(router, sender, mismatch, file)
    elif router.state == "MASTER":
        advert = _advert(received)
        priority = advert.priority if advert else 0
        effective = int(router.status.get("priority", instance.priority))
        if priority == effective == OWNER:
            yield _router(
                router,
                id="vrrp_two_owners",
                severity=Severity.ERROR,
                title=f"{sender} and this host both have priority 255 in {router}",
                evidence=f"this host is master, and {sender} advertises VRID {instance.vrid} with priority {priority}",
                why="Priority 255 never gives way, so both have the addresses.",
                fix="Give one of them a lower priority.",
                command=_edit(file, instance, "priority", "100"),
            )
            return
        deaf = sender if (priority, int(sender)) < (effective, int(router.source or ANY_V4)) else None
        where = f"{sender} does not receive the advertisements of this host" if deaf else "this host does not obey them"
        yield _router(
            router,
            id="vrrp_two_masters",
            severity=Severity.ERROR,
            title=f"{sender} is master of {router}, and so is this host",
            evidence=f"this host is master with priority {effective}, and {sender} advertises VRID {instance.vrid} with"
            f" priority {priority}: {where}",
            why="Both answer ARP for the addresses. Clients reach now the one, now the other, and connections break.",
            fix=f"Run pylvs doctor on {sender}: a packet filter there drops protocol 112, or its group is another one."
            if deaf
            else "Look for what drops protocol 112 here.",
        )


def _of_other_vrids(router: Router, received: Sequence[Received], file: File) -> Iterator[Finding]:
    """Yield the routers that advertise the addresses of this one with another VRID."""
    for other in {each.datagram.source: each for each in received if each.device in router.devices}.values():
        advert, sender = _advert(other), other.datagram.source
        shared = router.addresses & set(advert.addresses) if advert else frozenset[Address]()
        if not shared:
            continue
        yield _router(
            router,
            id="vrrp_vrid_mismatch",
            severity=Severity.ERROR,
            title=f"{sender} has VRID {other.vrid} for the addresses of {router}, and this host {router.instance.vrid}",
            evidence=f"this host is {router.state}, and {sender} advertises {named(sorted(shared, key=str), 'address')}"
            f" with VRID {other.vrid}",
            why="Routers with different VRIDs ignore each other, so both become master.",
            fix="Write the same virtual_router_id on both.",
            command=_edit(file, router.instance, "virtual_router_id", str(other.vrid)),
        )


def _edit(file: File, instance: VrrpInstance, keyword: str, value: str) -> str | None:
    """Return the command that writes a keyword and reloads; None if the file must be edited by hand."""
    edit = file.setting("vrrp_instance", instance.name, keyword, value)
    return f"{edit} && pylvs reload" if edit else None


def _advert(received: Received) -> Advertisement | None:
    """Return an advertisement; None if it is not valid."""
    datagram = received.datagram
    payload = datagram.payload[AH_BYTES:] if datagram.protocol == AH_PROTOCOL else datagram.payload
    try:
        return decode(payload, datagram.source, datagram.destination)
    except InvalidAdvert:
        return None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How an advertisement differs: both values of one setting, and its keyword with the other router's value."""

    id: str
    what: str
    ours: str
    theirs: str
    keyword: str = ""
    value: str = ""


def compare(router: Router, received: Received) -> Mismatch | None:
    """Return the first difference between a router and what another one of its VRID advertises; None if they agree."""
    instance, datagram = router.instance, received.datagram
    ah = datagram.protocol == AH_PROTOCOL
    payload = datagram.payload[AH_BYTES:] if ah else datagram.payload
    if len(payload) < HEAD_BYTES:
        return Mismatch("vrrp_invalid", "length", f"at least {HEAD_BYTES} bytes", f"{len(payload)} bytes")
    advert = _advert(received)
    if advert is not None and advert.addresses and router.addresses.isdisjoint(advert.addresses):
        ours = named(sorted(router.addresses, key=str), "address")
        return Mismatch("vrid_clash", "virtual addresses", ours, named(advert.addresses, "address"))
    version = payload[0] >> 4
    if version != instance.version:
        theirs = str(version)
        return Mismatch("vrrp_version_mismatch", "version", str(instance.version), theirs, "version", theirs)
    unicast = not datagram.destination.is_multicast
    if unicast != bool(instance.peers):
        ways = "multicast", "unicast"
        return Mismatch("vrrp_unicast_mismatch", "destination", ways[bool(instance.peers)], ways[unicast])
    if not unicast and datagram.ttl != TTL:
        return Mismatch("vrrp_ttl", "TTL", str(TTL), str(datagram.ttl))
    if advert is None:
        return Mismatch("vrrp_invalid", "checksum or length", "a valid packet", "another one")
    kind = Authentication.AH if ah else advert.authentication
    if instance.version == 2 and kind is not instance.authentication:
        kinds = [each.value if each else "none" for each in (instance.authentication, kind)]
        return Mismatch("vrrp_auth_mismatch", "authentication", *kinds)
    password = instance.password[:PASSWORD_BYTES].rstrip(b"\0")
    if instance.version == 2 and kind is Authentication.PASS and advert.password != password:
        return Mismatch("vrrp_auth_mismatch", "password", "that of auth_pass", "another one")
    if instance.version == 2 and advert.interval_s != instance.advert_interval_s:
        intervals = f"{instance.advert_interval_s:g} s", f"{advert.interval_s:g} s"
        return Mismatch("vrrp_interval_mismatch", "advert_int", *intervals, "advert_int", f"{advert.interval_s:g}")
    if set(advert.addresses) != router.addresses and not instance.skip_address_check:
        lists = (named(sorted(each, key=str), "address") for each in (router.addresses, set(advert.addresses)))
        return Mismatch("vrrp_addresses_mismatch", "virtual addresses", *lists)
    return None


_WHY = {
    "vrid_clash": "Another group of routers on this link has the same VRID. Each drops or obeys the other's packets.",
    "vrrp_addresses_mismatch": "After a take-over the missing addresses are nowhere. keepalived drops such packets.",
    "vrrp_invalid": "A packet that is damaged or of another program decides nothing.",
}
_DROPPED = "Each drops the other's advertisements, so both become master."
_FIX = {
    "vrid_clash": "Give this virtual router another virtual_router_id, on all of its directors.",
    "vrrp_addresses_mismatch": "Write the same list in virtual_ipaddress on both.",
    "vrrp_auth_mismatch": "Write the same authentication block on both.",
    "vrrp_unicast_mismatch": "Write unicast_peer on both, or on none.",
    "vrrp_ttl": "Let the sender use 255, or let no router forward these packets.",
    "vrrp_invalid": "Find the program that sends them.",
}


def _mismatched(router: Router, sender: Address, mismatch: Mismatch, file: File) -> Finding:
    mild = mismatch.id in ("vrrp_addresses_mismatch", "vrrp_invalid")
    clash = mismatch.id == "vrid_clash"
    return _router(
        router,
        id=mismatch.id,
        severity=Severity.WARNING if mild else Severity.ERROR,
        title=f"{sender} uses VRID {router.instance.vrid} of {router} for other addresses"
        if clash
        else f"{router} and {sender} do not agree on {mismatch.what}",
        evidence=f"this host ({router.state}) has {mismatch.ours}, and {sender} advertises {mismatch.theirs}",
        why=_WHY.get(mismatch.id, _DROPPED),
        fix=_FIX.get(mismatch.id, f"Write the same {mismatch.what} on both."),
        command=_edit(file, router.instance, mismatch.keyword, mismatch.value) if mismatch.keyword else None,
    )
