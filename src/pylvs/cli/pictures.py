"""Pictures of a spread: bars for a terminal, and as SVG."""

from __future__ import annotations

from html import escape

from pylvs.reference.simulation import Spread

WIDTH = 40  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
SVG_BAR, SVG_LINE, SVG_LEFT, SVG_RIGHT = 400, 24, 260, 120  # pixels


def _rows(spread: Spread) -> list[tuple[str, str, int]]:
    """Name, weight and connections of each server; a last one for what was refused."""
    rows = [(server, f"weight {spread.weights[server]}", got) for server, got in spread.servers.items()]
    return [*rows, ("refused", "", spread.refused)] if spread.refused else rows


def bars(spread: Spread) -> list[str]:
    """A line for each server: its bar, its connections, its share."""
    rows = _rows(spread)
    name_width = max(len(name) for name, _, _ in rows)
    weight_width = max(len(weight) for _, weight, _ in rows)
    most = max(got for _, _, got in rows) or 1
    lines = []
    for name, weight, got in rows:
        eighths = round(got / most * WIDTH * 8)
        bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
        share = got / len(spread.answers)
        lines.append(f"  {name:{name_width}}  {weight:{weight_width}}  {bar:{WIDTH}}  {got}  {share:.1%}")
    return lines


def bars_svg(spreads: list[Spread]) -> str:
    """The same for a browser."""
    parts, y = [], 0
    for spread in spreads:
        y += SVG_LINE
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(f"{spread.service} {spread.scheduler}")}</text>')
        rows = _rows(spread)
        most = max(got for _, _, got in rows) or 1
        for name, weight, got in rows:
            y += SVG_LINE
            length = got / most * SVG_BAR
            parts.append(f'<text x="4" y="{y}">{escape(f"{name} {weight}")}</text>')
            parts.append(f'<rect x="{SVG_LEFT}" y="{y - 14}" width="{length:.1f}" height="18" fill="#4878a8"/>')
            share = f"{got} ({got / len(spread.answers):.1%})"
            parts.append(f'<text x="{SVG_LEFT + length + 6:.1f}" y="{y}">{share}</text>')
        y += SVG_LINE // 2
    size = f'width="{SVG_LEFT + SVG_BAR + SVG_RIGHT}" height="{y + SVG_LINE}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14">'
    return "\n".join([head, *parts, "</svg>", ""])
