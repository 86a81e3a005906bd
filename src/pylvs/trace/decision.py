"""Why a packet got its real server, and what became of it, in a few words."""

from __future__ import annotations

from pylvs.model.errors import counted
from pylvs.trace.packet import DROPPED, FORWARDED, HELD, PASSED, REJECTED, TO_TC, TracedPacket

# By the names of enum reason (bpf/abi/base.h): what the reason means for this packet.
REASONS = {
    "no_destination": "the service has no usable real server",
    "no_route": "there is no route to the real server",
    "ttl": "its TTL has expired",
    "too_big": "it is longer than the path MTU, and must not be fragmented",
    "unavailable": "its real server was deleted; the connection is kept",
    "expiring": "its connection is being removed",
    "table_full_stateless": "the connection table is full: forwarded by a hash, without a connection",
    "table_full_dropped": "the connection table is full, and NAT needs a connection",
    "truncated": "it is too short for its headers",
    "not_local": "this host does not have the address of the service",
    "fragment_failed": "it could not be fragmented",
    "no_headroom": "there is no headroom for a tunnel header",
    "missed_tail_call": "a program was being replaced",
    "icmp_rate_limited": "the rate limit suppressed the ICMP error",
    "local_refused": "the real server is this host, which this method cannot reach",
    "server_local": "the real server is this host",
    "fragmented": "sent in fragments",
    "to_tc": "TC finishes it",
    "source_routed": "it is source-routed",
    "drop_packet": "the sysctl drop_packet takes some packets while memory is short",
    "mtu_too_small": "the path MTU leaves less than IP's minimum inside the tunnel",
    "gso_unsupported": "it is a GSO packet that cannot be encapsulated",
    "bad_checksum": "an ICMP error with a wrong checksum",
    "path_mtu_updated": "an ICMP error that set the path MTU of a tunnel",
    "no_connection": "a NAT server sent it, and there is no connection",
    "gso_segmented": "a GSO packet, sent in segments",
    "refused_table_copy": "the connection table is being copied into one of another size",
    "refused_table_full": "the connection table is full",
    "refused_index_full": "there is no entry for one more connection of this client's port",
    "refused_raced": "another CPU changed its persistence template",
    "fragment_queued": "a fragment, held until the others arrive",
    "fragment_duplicate": "a duplicate fragment",
    "fragment_overlap": "fragments that overlap or contradict each other",
    "fragment_invalid": "an invalid fragment",
    "fragment_timeout": "the other fragments did not arrive in time",
    "fragment_displaced": "a newer packet took the place of its incomplete packet",
    "fragment_too_long": "the fragments are longer than can be reassembled",
    "half_open_ended": "a newer handshake took the place of an unfinished one",
    "no_call_id": "a SIP message without a Call-ID",
    "refused_calls_full": "there is no space for the Call-ID of another template",
    "fragment_locked": "another CPU used the fragments of its packet for too long",
    "flood_stateless": "a SYN of a flood: forwarded by a hash, without a connection",
}
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
    """Return the reason with its name: "no destination: the service has no usable real server"."""
    if packet.reason is None:
        return ""
    name, meaning = spaced(packet.reason), REASONS.get(packet.reason, "")
    return f"{name}: {meaning}" if meaning else name


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
