"""The measured ratios as a picture: bars for the floor, for Katran as published, and for pylvs.

The SVG needs no library. It has a background of its own, so that it is readable on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from bench.record import Record
from bench.rows import FLOOR, FLOOR_TC, ROWS, Row, value_of
from pylvs.model.dataclass import dataclass

_WIDTH, _MARGIN, _LABELS, _NUMBERS = 880, 20, 380, 60
_BAR, _GAP, _HEAD = 13, 9, 34  # heights: of a bar, between rows, of a group's heading
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.quiet { fill: #59636e }
.ground { fill: #ffffff; stroke: #d0d7de }
.floor { fill: #818b98 }
.katran { fill: #bf8700 }
.pylvs { fill: #0969da }
.one { stroke: #818b98; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .quiet { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #3d444d }
  .floor { fill: #7d8590 }
  .katran { fill: #d29922 }
  .pylvs { fill: #4493f8 }
}
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a scale."""

    title: str
    floor: str
    rows: tuple[str, ...]


GROUPS = (
    Group(
        "XDP, one flow or few: instructions decide",
        FLOOR,
        (
            "no_service",
            "one_dr",
            "one_udp",
            "one_six",
            "one_persistent",
            "one_tun",
            "nat_forth",
            "nat_back",
            "across",
            "few_dr",
        ),
    ),
    Group(
        "XDP, many flows and new connections: memory decides",
        FLOOR,
        ("some_dr", "part_dr", "many_dr", "new_dr", "new_persistent", "new_limited"),
    ),
    Group("TC, one flow", FLOOR_TC, ("tc_no_service", "tc_one_dr", "tc_nat_forth", "tc_nat_back")),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of bars: kind and length of each, in floors."""

    label: str
    bars: tuple[tuple[str, float], ...]


def _lines(group: Group, record: Record) -> list[Line]:
    rows: dict[str, Row] = {row.name: row for row in ROWS}
    found = []
    for name in group.rows:
        row, bars = rows[name], []
        value = value_of(row, record.results)
        if value is None:
            continue
        if row.katran is not None:
            bars.append(("katran", row.katran))
        bars.append(("pylvs", value))
        found.append(Line(row.label.format(**record.sizes), tuple(bars)))
    return [Line(rows[group.floor].label, (("floor", 1.0),)), *found] if found else []


def _text(x: float, y: float, words: str, kind: str = "", end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{style}{anchor}>{escape(words)}</text>'


def _drawn(lines: Sequence[Line], top: float) -> Iterator[tuple[float, str]]:
    """Yield the pieces, each with its lower edge."""
    left = _MARGIN + _LABELS
    longest_bar = _WIDTH - _MARGIN - left - _NUMBERS
    unit = longest_bar / max(length for line in lines for _, length in line.bars)
    y = top
    for line in lines:
        height = len(line.bars) * _BAR
        yield y, _text(left - 10, y + height / 2 + 4, line.label, end=True)
        for kind, length in line.bars:
            width = max(length * unit, 1)
            yield y, f'<rect x="{left}" y="{y:.0f}" width="{width:.1f}" height="{_BAR - 1}" class="{kind}"/>'
            number = f"{length:.1f}" if length < 100 else f"{length:.0f}"
            yield y + _BAR, _text(left + width + 6, y + _BAR - 2, number, "quiet")
            y += _BAR
        y += _GAP
    x = left + unit
    yield y, f'<line x1="{x:.1f}" y1="{top:.0f}" x2="{x:.1f}" y2="{y - _GAP:.0f}" class="one"/>'


def draw(record: Record) -> str:
    """Return the picture of the results; empty if no packets were measured."""
    pieces: list[str] = []
    y = float(_MARGIN)
    for group in GROUPS:
        lines = _lines(group, record)
        if not lines:
            continue
        pieces.append(_text(_MARGIN, y + 14, group.title, "title"))
        y += _HEAD
        for reached, piece in _drawn(lines, y):
            pieces.append(piece)
            bottom = reached
        y = bottom + _GAP
    if not pieces:
        return ""
    x = float(_MARGIN)
    for kind, words in (
        ("floor", "the floor: swap the MAC addresses, send back"),
        ("katran", "Katran as published"),
        ("pylvs", "pylvs"),
    ):
        pieces.append(f'<rect x="{x:.0f}" y="{y + 4:.0f}" width="12" height="12" class="{kind}"/>')
        pieces.append(_text(x + 18, y + 14, words, "quiet"))
        x += 44 + 7 * len(words)
    where = record.machine
    note = f"times the floor, the less the better; Linux {where['kernel']}, {where['processor']}"
    pieces.append(_text(_MARGIN, y + 38, note, "quiet"))
    height = y + 38 + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img">',
            "<title>What a packet costs, in times of the floor</title>",
            f"<style>{_STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1:.0f}" rx="6" class="ground"/>',
            *pieces,
            "</svg>\n",
        ]
    )
