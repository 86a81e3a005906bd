"""The page about kernels shows what was seen, and each cell what the guest printed."""

from __future__ import annotations

from dataclasses import replace

from tests.kernels.sources import SOURCES
from tests.kernels.table import COLUMNS, PAGE, Seen, cell, page, read, table

SEEN = Seen(
    "trixie",
    "Debian 13",
    "6.12.1",
    "e1000e",
    {
        "tc": "78 frames forwarded, 78 of them at TC (a reason)",
        "vlan": "78 frames forwarded, 16 of them at TC (a reason)",
        "vlan to vlan": "78 frames forwarded, 78 of them at TC (a reason)",
        "other programs": "the verifier accepts them",
    },
)


def test_the_page_has_the_table_of_what_was_seen() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read()) == text
    assert {seen.source for seen in read()} <= SOURCES.keys()


def test_a_cell_names_the_hook_that_forwarded_most_frames() -> None:
    assert cell(SEEN, ["tc"]) == "TC"
    assert cell(SEEN, ["vlan"]) == "XDP"
    assert cell(SEEN, COLUMNS["VLAN"]) == "XDP and TC"
    assert cell(SEEN, ["other programs"]) == "yes"


def test_a_cell_without_all_of_its_lines_has_a_dash() -> None:
    assert cell(SEEN, COLUMNS["programs load"]) == "–"
    assert cell(SEEN, COLUMNS["tap"]) == "–"


def test_a_guest_that_stopped_is_named_below_the_table() -> None:
    head, line, row, *rest = table([replace(SEEN, failure="tap: nothing came within 60 s")])
    assert head.count("|") == line.count("|") == row.count("|")
    assert row.startswith("| Debian 13 | 6.12.1 | e1000e | – |")
    assert rest == ["", "- Debian 13, e1000e: tap: nothing came within 60 s"]
