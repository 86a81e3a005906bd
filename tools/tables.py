"""Write what the documents repeat of declarations in the source: `python -m tools.tables`.

The page of keywords is generated as a whole. Elsewhere a comment before a table names what it lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pylvs.config.reference import reference
from pylvs.model.checks import KINDS

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "bpf" / "abi" / "base.h"
KEYWORDS = ROOT / "docs" / "reference" / "configuration.md"
TABLE = re.compile(r"(<!-- python -m tools\.tables: (\w+) -->\n)(?:\|.*\n)*")


def checkers() -> Iterator[str]:
    yield "| checker | the server is up when |"
    yield "|---|---|"
    for kind in dict.fromkeys(KINDS.values()):
        yield f"| {', '.join(f'`{word}`' for word in kind.words)} | {kind.up_when} |"


def reasons() -> Iterator[str]:
    """Yield the drop reasons: an enumerator and the comment behind it."""
    declared = re.findall(r"^\tREASON_(\w+), /\* (.*) \*/$", REASONS.read_text(), re.MULTILINE)
    yield "| reason | what happened |"
    yield "|---|---|"
    for name, meaning in declared:
        yield f"| {name.lower().replace('_', ' ')} | {meaning} |"


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {"checkers": checkers, "reasons": reasons}


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
