"""Explain the way of a packet to a learner: both headers side by side, what happened, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pylvs.model.errors import counted
from pylvs.system.logs import one_line
from pylvs.trace.changes import CHANGED, DATA, GONE, NEW, SAME, Row, compared, sides
from pylvs.trace.decision import reason_text, spaced
from pylvs.trace.headers import Layer, endpoints, kind, tunnel
from pylvs.trace.packet import DROPPED, FORWARDED, HELD, PASSED, REJECTED, TO_TC, TracedPacket
from pylvs.trace.text import Paint, clock

WIDTH = 100  # of the sentences, in columns
_LONGEST_VALUE = 40  # characters
_MARKS = {SAME: " ", CHANGED: "*", NEW: "+", GONE: "-"}
_COLOURS = {CHANGED: "yellow", NEW: "green", GONE: "red"}
_LEGEND = {CHANGED: "* changed", NEW: "+ added", GONE: "- removed"}
_OF_BOTH = ("IPv4", "IPv6", "UDP")  # headers that are outside and inside
_HOOKS = {"xdp": "XDP", "tc": "TC", "tc_egress": "TC egress"}
_SCHEDULERS = {
    "rr": "the next usable server in turn",
    "wrr": "the next server in turn, and servers of greater weight more often",
    "lc": "the server with the least load",
    "wlc": "the server with the least load for its weight",
    "sed": "the server with the least load for its weight, the new connection included",
    "nq": "an idle server, else as sed does",
    "fo": "the usable server of the greatest weight",
    "ovf": "the server of the greatest weight that has fewer active connections than its weight",
    "dh": "a server by a hash of the packet's destination",
    "sh": "a server by a hash of the client's address",
    "mh": "a server by a consistent hash of the client's address",
    "lblc": "the server that this destination had, while it is not overloaded",
    "lblcr": "one of the servers that this destination had, while they are not overloaded",
    "twos": "the less loaded one of two random servers",
}
_ENDS = {  # of packets that are not forwarded
    PASSED: "The stack of this host gets it unmodified.",
    DROPPED: "It was dropped.",
    HELD: "It is a fragment, held until the others of its packet arrive.",
    TO_TC: "XDP cannot finish this packet, and passed it to TC, unmodified; TC's part follows.",
    REJECTED: "It was not forwarded; its sender gets an ICMP error instead.",
}
_LOAD = "The load of a server is 256 times its active connections, plus its inactive ones."


def lines(packet: TracedPacket, paint: Paint) -> list[str]:
    """Return the explanation, with a blank line at its end."""
    before, after = sides(packet)
    hook = _HOOKS.get(packet.hook, packet.hook)
    head = f"{packet.number}. {clock(packet.time)}  {packet.device}, {hook}, CPU {packet.cpu}"
    found = [one_line(f"{head}: {kind(before)}, {packet.length} bytes"), ""]
    rows = compared(packet, before, after)
    if packet.verdict != TO_TC:  # the packet of TC has the same headers
        found += [*_table(rows, bool(packet.after), paint), ""]
    for paragraph in sentences(packet, before, after, rows):
        text = one_line(" ".join(paragraph))
        found += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return [*found, ""]


def _table(rows: list[Row], is_sent: bool, paint: Paint) -> Iterator[str]:
    cells = [(_named(row), row.field, _cut(row.came), _cut(row.left)) for row in rows]
    left_title = "as it left" if is_sent else ""
    titles = ("", "", "as it came", left_title)
    layer, field, came = (max(len(cell[column]) for cell in (titles, *cells)) for column in range(3))
    yield f"  {'':{layer}}  {'':{field}}  {titles[2]:{came}}    {left_title}".rstrip()
    previous = ""
    for row, (name, field_name, old, new) in zip(rows, cells, strict=True):
        if row.kind == SAME and row.layer == DATA:
            new = "the same" if old == new else f"{new} are the same"
        elif row.kind == CHANGED and not new:
            new = "(by the kernel, behind TC)" if row.layer == "Ethernet" else "(none)"
        shown_name = "" if name == previous else name
        previous = name
        text = f"{shown_name:{layer}}  {field_name:{field}}  {old:{came}}  {_MARKS[row.kind]} {new if is_sent else ''}"
        yield f"  {paint(text.rstrip(), _COLOURS[row.kind]) if row.kind in _COLOURS else text.rstrip()}"
    kinds = {row.kind for row in rows}
    legend = [text for kind_of_row, text in _LEGEND.items() if kind_of_row in kinds]
    if legend:
        yield f"  {'':{layer}}  {'':{field}}  {'':{came}}  {', '.join(legend)}"


def _named(row: Row) -> str:
    """Return the name of a header; an outer one may have that of the inner one."""
    return f"outer {row.layer}" if row.kind in (NEW, GONE) and row.layer in _OF_BOTH else row.layer


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


# --- sentences ---


def sentences(
    packet: TracedPacket, before: list[Layer], after: list[Layer], rows: list[Row]
) -> Iterator[Iterator[str]]:
    """Yield what happened to the packet and why, as paragraphs of sentences, in the order in which it happened."""
    if packet.service is not None:
        yield _choice(packet)
    yield _forwarded(packet, before, after, rows) if packet.verdict == FORWARDED else _not_forwarded(packet)
    if packet.created:
        yield iter(("The connection gets an entry in the table, so its next packets use the same server.",))


def _choice(packet: TracedPacket) -> Iterator[str]:
    service, server = packet.service, packet.server or "no real server"
    if packet.choice == "scheduler":
        yield f"A new connection to the service {service}: no entry of the connection table fits."
        yield from _scheduled(packet, server)
    elif packet.choice == "existing_connection":
        yield f"The packet belongs to a connection of the service {service}, which the connection table has."
        yield f"So it is sent to the same real server as the packets before it, {server}."
    elif packet.choice == "template":
        yield f"A new connection to the service {service}, which is persistent."
        yield f"This client's template names {server}, so the scheduler has no choice."
    elif packet.choice in ("hash_fallback", "stateless"):
        yield f"The packet to the service {service} gets no entry in the connection table."
        yield f"A hash of the client chose {server}, so its next packets find the same server without an entry."
    elif packet.choice == "reply":
        yield f"A reply of the real server {server}, of a connection of the service {service}."
    elif packet.choice == "related":
        yield f"An ICMP error about a packet of a connection of the service {service}."
    elif packet.choice == "call":
        yield f"The Call-ID of this SIP message has a template of the service {service}, which names {server}."
    elif packet.choice == "bypass":
        yield f"The service {service} has no usable real server, and cache_bypass sends the packet to its destination."
    elif packet.choice is not None:
        yield f"The service {service} sends it to {server}: {spaced(packet.choice)}."
    elif packet.verdict != TO_TC:
        yield f"The packet is for the service {service}."


def _scheduled(packet: TracedPacket, server: str) -> Iterator[str]:
    name = packet.scheduler or "the scheduler"
    of = f" of {counted(packet.candidates, 'usable server')}" if packet.candidates is not None else ""
    takes = _SCHEDULERS.get(name)
    rule = f", which takes {takes}" if takes else ""
    load = f", with a load of {packet.load}" if packet.load is not None else ""
    yield f"Its scheduler {name}{rule}, chose {server}{of}{load}." if rule else f"{name} chose {server}{of}{load}."
    if packet.load is not None:
        yield _LOAD


def _forwarded(packet: TracedPacket, before: list[Layer], after: list[Layer], rows: list[Row]) -> Iterator[str]:
    out = f" by {packet.output}" if packet.output else ""
    if not packet.after:
        yield f"It was forwarded{out}."
    elif packet.choice == "reply" and packet.method == "nat":
        yield from _translated_back(before, after, rows)
    elif packet.method == "direct":
        yield from _routed(after, rows)
    elif packet.method == "nat":
        yield from _translated(before, after, rows)
    elif packet.method == "tunnel":
        yield from _encapsulated(after, rows)
    else:
        yield f"It left{out}."
    reason = reason_text(packet)
    if reason:
        yield f"Reason: {reason}."


def _routed(after: list[Layer], rows: list[Row]) -> Iterator[str]:
    changed = {row.field for row in rows if row.kind == CHANGED}
    limit = _limit(rows)
    less = f", and the {limit} is 1 less, as behind every router" if limit else ""
    if changed - {"destination MAC", "source MAC", "type", "TTL", "hop limit", "header checksum"}:
        yield "Direct routing: the packet kept its addresses."
    elif "destination MAC" in changed:
        yield f"Direct routing: only the MACs changed{less}."
    else:
        yield f"Direct routing: the addresses stay{less}."
    yield f"The packet is still for {endpoints(after)[1]}, an address that the real server must have on lo, too."
    yield "The server replies to the client itself, so the replies do not pass this machine."


def _limit(rows: list[Row]) -> str:
    """Return the name of the field that counts routers, if it changed."""
    return next((row.field for row in rows if row.kind == CHANGED and row.field in ("TTL", "hop limit")), "")


def _as_router(rows: list[Row]) -> Iterator[str]:
    if limit := _limit(rows):
        yield f"The {limit} is 1 less, as behind every router."


def _translated(before: list[Layer], after: list[Layer], rows: list[Row]) -> Iterator[str]:
    yield f"NAT: the destination {endpoints(before)[1]} became {endpoints(after)[1]}, and the checksums follow."
    yield from _as_router(rows)
    yield "The server replies to the client by way of this machine, which puts the service's address back."


def _translated_back(before: list[Layer], after: list[Layer], rows: list[Row]) -> Iterator[str]:
    yield f"NAT: the source {endpoints(before)[0]} became {endpoints(after)[0]}, and the checksums follow."
    yield from _as_router(rows)
    yield "So the client sees a reply of the address that it asked."


def _encapsulated(after: list[Layer], rows: list[Row]) -> Iterator[str]:
    outer = tunnel(after)
    if not outer:
        yield "Tunnelling: the packet left inside another one."
        return
    names = ", ".join(layer.name for layer in outer)
    ends = f"from {outer[0].text('source')} to {outer[0].text('destination')}"
    headers = "an outer header" if len(outer) == 1 else "outer headers"
    longer = counted(outer[-1].end - outer[0].start, "byte")
    yield f"Tunnelling: the packet is inside {headers} ({names}) {ends}, so it is {longer} longer."
    limit = _limit(rows)
    yield "Its own addresses did not change" + (f"; its {limit} is 1 less, as behind every router." if limit else ".")
    them, inner = "header" if len(outer) == 1 else "headers", endpoints(after)[1]
    taken = f"The real server takes the outer {them} off, and finds a packet for {inner}"
    yield f"{taken}: it must have that address on lo, too."
    yield "It replies to the client itself, so the replies do not pass this machine."


def _not_forwarded(packet: TracedPacket) -> Iterator[str]:
    if packet.verdict == PASSED and packet.reason == "no_service":
        yield "It is for no service, so the stack of this host gets it unmodified."
        return
    yield _ENDS.get(packet.verdict, f"It ended: {spaced(packet.verdict)}.")
    reason = reason_text(packet)
    if reason and packet.verdict != TO_TC:
        yield f"Reason: {reason}."
