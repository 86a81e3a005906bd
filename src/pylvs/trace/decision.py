"""Why a packet got its real server, and what became of it, in a few words."""

from __future__ import annotations

from pylvs.bpf.reasons import reasons
from pylvs.model.errors import counted
from pylvs.trace.packet import DROPPED, FORWARDED, HELD, PASSED, REJECTED, TO_TC, TracedPacket

METHODS = {"direct": "direct", "nat": "NAT", "tunnel": "tunnel", "local": "local", "bypass": "bypass"}
_CHOICES = {
    "existing_connection": "existing connection",
    "template": "persistence template",
    "hash_fallback": "hash of the client, without a connection",
    "stateless": "hash of the client, without a connection",
    "reply": "reply of the real server",
    "related": "ICMP error about a connection",
    "bypass": "cache_bypass: no usable real server",
    "call": "Call-ID of the SIP message",
}
_PICKS = {  # of schedulers that do not compare loads
    "rr": "next in turn",
    "wrr": "next in turn, by weight",
    "fo": "greatest weight",
    "ovf": "greatest weight that is not full",
    "dh": "hash of the destination",
    "sh": "hash of the client",
    "mh": "hash of the client",
    "nq": "idle server",
    "lblc": "server of this destination",
    "lblcr": "server of this destination",
    "twos": "less loaded of two",
}
_BY_WEIGHT = ("wlc", "sed", "nq", "lblc", "lblcr", "twos")
_OUTCOMES = {PASSED: "passed to the stack", TO_TC: "passed to TC", HELD: "held", REJECTED: "rejected by an ICMP error"}


def spaced(name: str) -> str:
    """Return a name of an enumeration as text. A newer packet path may have names that are unknown here."""
    return name.replace("_", " ")


def why(packet: TracedPacket) -> str:
    """Return why the packet has its real server: "wlc: least load for its weight, 256, of 3 servers"."""
    if packet.choice is None:
        return ""
    if packet.choice != "scheduler":
        return _CHOICES.get(packet.choice, spaced(packet.choice))
    name = packet.scheduler or "scheduler"
    of = f"of {counted(packet.candidates, 'server')}" if packet.candidates is not None else ""
    pick = _PICKS.get(name, "its choice")
    if packet.load is not None:
        pick = f"{'least load for its weight' if name in _BY_WEIGHT else 'least load'}, {packet.load}"
    return f"{name}: {', '.join(filter(None, (pick, of)))}"


def reason_text(packet: TracedPacket) -> str:
    """Return the reason with its name: "no destination: its service has no usable destination; ..."."""
    if packet.reason is None:
        return ""
    name = spaced(packet.reason)
    declared = reasons().get(name)
    if declared is None:
        return name
    if declared.verdict == FORWARDED:  # the verdict and the hook say so
        return ""
    return declared.sentence if declared.sentence.endswith(name) else f"{name}: {declared.sentence}"


def connection(packet: TracedPacket) -> str:
    """Return what the packet did to its connection: "new connection, SYN_RECV"."""
    return ", ".join(filter(None, ("new connection" if packet.created else "", packet.state)))


def path(packet: TracedPacket) -> str:
    """Return service, real server and method; empty without a service."""
    if packet.service is None:
        return ""
    server = f" -> {packet.server}" if packet.server else ""
    method = f" {METHODS.get(packet.method, packet.method)}" if packet.method else ""
    return f"{packet.service}{server}{method}"


def outcome(packet: TracedPacket) -> str:
    """Return what became of the packet: "forwarded by eth1", "dropped: no destination: ..."."""
    if packet.verdict == FORWARDED:
        found = f"forwarded by {packet.output}" if packet.output else "forwarded"
    else:
        found = _OUTCOMES.get(packet.verdict, DROPPED if packet.verdict == DROPPED else spaced(packet.verdict))
    reason = reason_text(packet)
    return f"{found}: {reason}" if reason else found


def comment(packet: TracedPacket) -> str:
    """Return everything in one line, as the comment of the packet in a file."""
    parts = outcome(packet), path(packet), why(packet), connection(packet), f"hook {packet.hook}, CPU {packet.cpu}"
    return "; ".join(filter(None, parts))
