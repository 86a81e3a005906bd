"""Write what the documents repeat of declarations in the source: `python -m tools.tables`.

The page of keywords is generated as a whole. Elsewhere a comment before a table names what it lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pylvs.bpf.reasons import reasons as declared
from pylvs.config.reference import reference
from pylvs.model.checks import KINDS
from pylvs.model.rows import NOTE, VERDICTS
from pylvs.peer import local as peer
from pylvs.sync import backup, master, wire

ROOT = Path(__file__).parents[1]
KEYWORDS = ROOT / "docs" / "reference" / "configuration.md"
TABLE = re.compile(r"(<!-- python -m tools\.tables: (\w+) -->\n)(?:\|.*\n)*")


def checkers() -> Iterator[str]:
    yield "| checker | the server is up when |"
    yield "|---|---|"
    for kind in dict.fromkeys(KINDS.values()):
        yield f"| {', '.join(f'`{word}`' for word in kind.words)} | {kind.up_when} |"


def reasons() -> Iterator[str]:
    """Yield what becomes of packets: name, verdict and sentence."""
    yield "| reason | verdict | what happened |"
    yield "|---|---|---|"
    order = (*VERDICTS, NOTE)
    for each in sorted(declared().values(), key=lambda reason: order.index(reason.verdict)):
        yield f"| {each.name} | {each.verdict} | {each.sentence} |"


def sync_counters(meanings: Mapping[str, str]) -> Iterator[str]:
    """Yield what a sync daemon counts."""
    yield "| counter | counts |"
    yield "|---|---|"
    yield from (f"| {name} | {meaning} |" for name, meaning in meanings.items())


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "checkers": checkers,
    "reasons": reasons,
    "sync_master": lambda: sync_counters(master.COUNTERS),
    "peer_refused": lambda: sync_counters(peer.COUNTERS),
    "sync_backup": lambda: sync_counters({**wire.COUNTERS, **backup.COUNTERS, **backup.STORED}),
}


def updated(page: Path) -> str:
    """Return the text of a page with its tables as they are declared now. Raises KeyError for an unknown table."""
    if page == KEYWORDS:
        return reference()
    return TABLE.sub(lambda found: found[1] + "".join(f"{row}\n" for row in TABLES[found[2]]()), page.read_text())


def pages() -> list[Path]:
    """Return the pages below docs/, generated ones too."""
    return sorted((ROOT / "docs").rglob("*.md"))


if __name__ == "__main__":
    for path in pages():
        path.write_text(updated(path))
