"""Compare the headers of a packet as it came with those as it left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from pylvs.model.dataclass import dataclass
from pylvs.trace.headers import Field, Layer, decoded
from pylvs.trace.packet import FORWARDED, TracedPacket

SAME, CHANGED, NEW, GONE = "same", "changed", "new", "gone"
_LINK = ("Ethernet", "VLAN")
_CHECKSUMS = ("header checksum", "checksum")
_PROTOCOL = ("protocol", "next header")  # of an outer header: what is inside
_MACS = ("destination MAC", "source MAC")
DATA = "data"


@dataclass(frozen=True, slots=True)
class Row:
    """One field on both sides; an empty text where the packet lacks it. A changed one without `left` changes later."""

    layer: str
    field: str
    came: str
    left: str
    kind: str  # SAME, CHANGED, NEW or GONE


def sides(packet: TracedPacket) -> tuple[list[Layer], list[Layer]]:
    """Return the headers of the packet as it came and as it left."""
    return decoded(packet.before), decoded(packet.after, is_tunnel=packet.method == "tunnel")


def compared(packet: TracedPacket, before: list[Layer], after: list[Layer]) -> list[Row]:
    """Return the notable fields of both sides and all that differ, from the outer header to the inner one.

    If the packet was not sent, all fields are those that came.
    """
    if not packet.after:
        return [Row(layer.name, field.name, field.text, "", SAME) for layer, field in _notable(before)]
    found = list[Row]()
    for old, new in _aligned(before, after):
        found += _rows(old, new)
    if is_addressed_later(packet):
        found = [Row(row.layer, row.field, row.came, "", CHANGED) if row.field in _MACS else row for row in found]
    return found + list(_data(packet, before, after))


def is_addressed_later(packet: TracedPacket) -> bool:
    """Return whether the kernel's neighbour code writes the MACs, behind the programs of TC that sent the packet."""
    return (
        packet.hook != "xdp"
        and packet.verdict == FORWARDED
        and packet.output != "lo"
        and packet.before[:12] == packet.after[:12] != bytes(12)
    )


def _notable(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Field]]:
    return ((layer, field) for layer in layers for field in layer.fields if field.notable)


def _aligned(before: list[Layer], after: list[Layer]) -> Iterator[tuple[Layer | None, Layer | None]]:
    """Pair the headers of both sides. An outer header has no pair."""
    old_link, old = _split(before)
    new_link, new = _split(after)
    yield from zip_longest(old_link, new_link)
    added, removed = _outer(old, new), _outer(new, old)
    yield from ((None, layer) for layer in new[:added])
    yield from ((layer, None) for layer in old[:removed])
    yield from zip_longest(old[removed:], new[added:])


def _split(layers: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    count = sum(layer.name in _LINK for layer in layers)
    return layers[:count], layers[count:]


def _outer(inner: list[Layer], whole: list[Layer]) -> int:
    """Return how many headers `whole` has around those of `inner`; the last ones may be missing, by the snap length."""
    names, all_names = [layer.name for layer in inner], [layer.name for layer in whole]
    for count in range(1, len(all_names)):
        if all_names[count:] == names[: len(all_names) - count]:
            return count if all_names[:count].count("IPv4") + all_names[:count].count("IPv6") else 0
    return 0


def _rows(old: Layer | None, new: Layer | None) -> Iterator[Row]:
    if old is None or new is None or old.name != new.name:
        for layer, field in _notable([old] if old else []):
            yield Row(layer.name, field.name, field.text, "", GONE)
        if new is not None:
            for field in new.fields:
                if field.notable or field.name in _PROTOCOL:
                    yield Row(new.name, field.name, "", field.text, NEW)
        return
    others = {field.name: field for field in new.fields}
    for field in old.fields:
        other = others.pop(field.name, None)
        left = other.text if other else ""
        if field.text != left or field.notable:
            yield Row(new.name, field.name, field.text, left, SAME if field.text == left else CHANGED)
    for field in others.values():
        yield Row(new.name, field.name, "", field.text, CHANGED)


def _data(packet: TracedPacket, before: list[Layer], after: list[Layer]) -> Iterator[Row]:
    """Yield a row of what follows the headers. It is compared as far as both sides were captured."""
    if not before or not after or before[-1].name != after[-1].name:
        return
    old, new = packet.before[before[-1].end :], packet.after[after[-1].end :]
    size = min(len(old), len(new))
    if size:
        whole = packet.length - before[-1].end
        text = f"{whole} bytes"
        known = text if whole <= size else f"the first {size}"
        yield Row(DATA, "", text, known, SAME if old[:size] == new[:size] else CHANGED)


def summary(rows: Sequence[Row]) -> str:
    """Return what changed in a few words: "MACs, destination port, TTL, +IPv4". Checksums follow from the rest."""
    changed = [row for row in rows if row.kind == CHANGED and row.field not in _CHECKSUMS]
    found = ["MACs"] if any(row.field in _MACS for row in changed) else []
    found += [row.field or row.layer for row in changed if row.field not in _MACS]
    found += [f"+{name}" for name in dict.fromkeys(row.layer for row in rows if row.kind == NEW)]
    found += [f"-{name}" for name in dict.fromkeys(row.layer for row in rows if row.kind == GONE)]
    return ", ".join(found)
