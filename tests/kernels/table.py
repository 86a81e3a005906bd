"""What was seen on each kernel, and the table of it in docs/reference/kernels.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.packet.host import PREDICTABLE

ROOT = Path(__file__).parents[2]
SEEN = ROOT / "tests" / "kernels" / "seen.json"
PAGE = ROOT / "docs" / "reference" / "kernels.md"
_BEGIN, _END = "<!-- by ./dev kernels --write -->\n", "<!-- end -->\n"
_FRAMES = re.compile(r"(\d+) frames forwarded, (\d+) of them at TC")
# A column, and the lines of tests/interop/kernel_in_guest.py that it is about.
COLUMNS = {
    "programs load": ("other programs", "filters", "tracing", "realserver"),
    "schedulers": tuple(PREDICTABLE),
    "unfinished checksums": tuple(
        f"unfinished checksums by {kind}" for kind in ("VLAN", "bond", "ipvlan", "WireGuard")
    ),
    "veth": ("tc",),
    "generic": ("generic",),
    "card": ("native",),
    "card to card": ("card to card",),
    "VLAN": ("vlan", "vlan to vlan"),
    "bond": ("bond", "vlan on a bond", "bond after failover"),
    "bridge": ("bridge",),
    "macvlan": ("macvlan",),
    "tap": ("tap",),
    "MTU 9000": ("MTU 9000",),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guest printed: the text of each line by its name, and why it stopped, if it did."""

    source: str
    title: str
    release: str
    card: str
    lines: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def cell(seen: Seen, names: Iterable[str]) -> str:
    """Return the cell about these lines: the hook, "yes", or that there is no result."""
    found = [seen.lines[name] for name in names if name in seen.lines]
    if len(found) < len(tuple(names)):
        return "–"
    counts = [match for text in found if (match := _FRAMES.search(text))]
    if not counts:
        return "yes"
    hooks = {"TC" if int(count[2]) > int(count[1]) // 2 else "XDP" for count in counts}
    return " and ".join(sorted(hooks, reverse=True))


def table(rows: Iterable[Seen]) -> Iterator[str]:
    """Yield the lines of the table, and the reasons of guests that stopped."""
    failures = []
    yield f"| kernel | release | card | {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * (len(COLUMNS) + 3)
    for seen in rows:
        cells = [cell(seen, names) for names in COLUMNS.values()]
        yield f"| {seen.title} | {seen.release} | {seen.card} | {' | '.join(cells)} |"
        if seen.failure:
            failures.append(f"- {seen.title}, {seen.card}: {seen.failure}")
    if failures:
        yield ""
        yield from failures


def read() -> list[Seen]:
    """Return what was seen."""
    return [Seen(**row) for row in json.loads(SEEN.read_text(encoding="utf-8"))]


def write(new: Iterable[Seen]) -> None:
    """Put results in the place of earlier ones of the same source and card, and make the page's table."""
    rows = {(seen.source, seen.card): seen for seen in (read() if SEEN.exists() else [])}
    rows |= {(seen.source, seen.card): seen for seen in new}
    ordered = sorted(
        rows.values(), key=lambda seen: ([int(n) for n in re.findall(r"\d+", seen.release)[:3]], seen.card)
    )
    SEEN.write_text(json.dumps([asdict(seen) for seen in ordered], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), ordered), encoding="utf-8")


def page(text: str, rows: Iterable[Seen]) -> str:
    """Return the page's text with the table of these rows."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n" + "".join(f"{line}\n" for line in table(rows)) + f"\n{_END}{after}"
