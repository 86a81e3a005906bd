"""What `pylvs trace` prints of a packet: a few aligned lines, or a JSON object."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pylvs.system.logs import one_line
from pylvs.trace.changes import CHANGED, GONE, NEW, compared, is_addressed_later, sides, summary
from pylvs.trace.decision import connection, path, reason_text, why
from pylvs.trace.headers import Layer, endpoints, kind, tunnel
from pylvs.trace.packet import DROPPED, FORWARDED, HELD, PASSED, REJECTED, TO_TC, TracedPacket

Paint = Callable[[str, str], str]  # a text and the name of a colour
_LABEL_WIDTH, _DEVICE_WIDTH = 4, 12  # columns
_NO_MAC = "00:00:00:00:00:00"
_LABELS = {PASSED: "pass", DROPPED: "drop", HELD: "hold", TO_TC: "tc", REJECTED: "icmp"}
_OUTCOMES = {
    PASSED: "to the stack",
    DROPPED: "without a reason",
    HELD: "until the other fragments arrive",
    TO_TC: "XDP leaves it to TC",
    REJECTED: "an ICMP error to its sender",
}
_COLOURS = {FORWARDED: "green", PASSED: "yellow", DROPPED: "red", HELD: "yellow", REJECTED: "red", TO_TC: "cyan"}


def clock(moment: float) -> str:
    """Return the local time of day, as tcpdump prints it."""
    return datetime.fromtimestamp(moment).strftime("%H:%M:%S.%f")


def lines(packet: TracedPacket, paint: Paint) -> list[str]:
    """Return two or three lines: how the packet came, its service and server, and how it left."""
    before, after = sides(packet)
    came = [_device(packet.device, packet.hook), _macs(before), _ends(before), f"{kind(before)}, {packet.length} bytes"]
    rows = [("in", "cyan", "  ".join(filter(None, came)))]
    if packet.service is not None:
        parts = path(packet), "; ".join(filter(None, (why(packet), connection(packet))))
        rows.append(("via", "", "  ".join(filter(None, parts))))
    rows.append((*_label(packet), _left(packet, before, after)))
    head = f"{packet.number:>4} {clock(packet.time)} "
    found = []
    for label, colour, text in rows:
        padded = label.ljust(_LABEL_WIDTH)
        found.append(f"{head}{paint(padded, colour) if colour else padded} {one_line_columns(text)}".rstrip())
        head = " " * len(head)
    return found


def one_line_columns(text: str) -> str:
    """Make a text safe to print, and keep its blanks."""
    return "  ".join(one_line(part) if part.strip() else part for part in text.split("  "))


def _label(packet: TracedPacket) -> tuple[str, str]:
    return _LABELS.get(packet.verdict, "out"), _COLOURS.get(packet.verdict, "")


def _left(packet: TracedPacket, before: list[Layer], after: list[Layer]) -> str:
    if packet.verdict != FORWARDED:
        reason = "" if packet.verdict == TO_TC else reason_text(packet)
        return reason or _OUTCOMES.get(packet.verdict, packet.verdict)
    parts = [_device(packet.output or "", "")]
    if packet.after:
        outer = tunnel(after)
        around = [f"{layer.name} {layer.text('source')} > {layer.text('destination')}" for layer in outer[:1]]
        around += [layer.name for layer in outer[1:]]
        changed = summary(compared(packet, before, after))
        ends = _ends(after)
        ends = "" if ends == _ends(before) else ends
        macs = "" if is_addressed_later(packet) else _macs(after)
        parts += [macs, " ".join(around), ends, f"changed: {changed}" if changed else "unchanged"]
    parts.append(reason_text(packet))
    return "  ".join(filter(None, parts))


def _device(device: str, hook: str) -> str:
    return one_line(f"{device} {hook.replace('_', ' ')}").ljust(_DEVICE_WIDTH)


def _macs(layers: list[Layer]) -> str:
    """Return source and destination MAC; empty for packets of devices without link headers, and made-up ones."""
    if not layers:
        return ""
    source = layers[0].text("source MAC")
    return "" if source == _NO_MAC else f"{source} > {layers[0].text('destination MAC')}"


def _ends(layers: list[Layer]) -> str:
    source, destination = endpoints(layers)
    return f"{source} > {destination}" if source else ""


def as_values(packet: TracedPacket) -> dict[str, Any]:
    """Return the packet for `--json`: docs/reference/json.md lists the fields."""
    before, after = sides(packet)
    rows = compared(packet, before, after)
    source, destination = endpoints(before)
    found: dict[str, Any] = {
        "number": packet.number,
        "time": packet.time,
        "cpu": packet.cpu,
        "hook": packet.hook,
        "device": packet.device,
        "length": packet.length,
        "kind": kind(before),
        "source": source or None,
        "destination": destination or None,
        "service": packet.service,
        "server": packet.server,
        "method": packet.method,
        "choice": packet.choice,
        "scheduler": packet.scheduler,
        "load": packet.load,
        "candidates": packet.candidates,
        "why": why(packet) or None,
        "created": packet.created,
        "state": packet.state,
        "verdict": packet.verdict,
        "reason": packet.reason,
        "output": packet.output,
        "sent_source": None,
        "sent_destination": None,
        "changes": [
            {"layer": row.layer, "field": row.field, "kind": row.kind, "came": row.came, "left": row.left}
            for row in rows
            if row.kind in (CHANGED, NEW, GONE)
        ],
        "before": packet.before.hex(),
        "after": packet.after.hex(),
    }
    if packet.after:
        found["sent_source"], found["sent_destination"] = (end or None for end in endpoints(after))
    return found


def ending(matched: int, shown: int, limited: int, lost: int) -> str:
    """Return the line at the end of a trace."""
    parts = [f"{matched} matched", f"{shown} shown"]
    parts += [f"{limited} not shown by the rate limit"] if limited else []
    parts += [f"{lost} lost"] if lost else []
    return f"packets: {', '.join(parts)}"
