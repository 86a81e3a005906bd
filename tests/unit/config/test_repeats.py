"""Findings that one cause repeats are folded where they are printed."""

from __future__ import annotations

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.config.repeats import folded
from pylvs.config.show import Report


def printed(text: str) -> list[str]:
    document, unread = read_text(text, "x")
    return Report(document).text((*unread, *compile_document(document).findings)).splitlines()


def test_more_than_three_findings_of_one_cause_are_two_lines() -> None:
    first = "x:2:1: warning: foo is not known outside of all blocks and is ignored; remove it"
    assert printed("bar\n" + "foo\n" * 3)[1:] == [first.replace(":2:", f":{line}:") for line in (2, 3, 4)]
    assert printed("bar\n" + "foo\n" * 20)[1:] == [
        first,
        "x: 19 more like this, in lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ...",
    ]


def test_numbers_and_addresses_may_differ_but_quoted_texts_must_not() -> None:
    servers = "".join(f"real_server 10.0.0.{number} 80{number} {{\n}}\n" for number in range(1, 6))
    service = f"virtual_server 192.0.2.1 80 {{\nprotocol TCP\nlb_algo rr\nlb_kind DR\n{servers}}}\n"
    assert printed(service) == [
        (
            "x:5:13: warning: port 801 of the real server is not the service's; it is 80 in the table; "
            "DR and TUN change no port; checks still go to the written one"
        ),
        "x: 4 more like this, in lines 7, 9, 11, 13",
    ]
    surplus = "global_defs {\n" + "".join(f"router_id a b{number}\n" for number in range(4)) + "}\n"
    assert len([line for line in printed(surplus) if "surplus" in line]) == 4


def test_the_order_stays() -> None:
    document, _ = read_text("a\nb\na\nb\na\nb\na\nc\na\n", "x")
    findings = compile_document(document).findings
    found = [(each.location.line, bool(more)) for each, more in folded(findings)]
    assert found == [(1, True), (2, False), (4, False), (6, False), (8, False)]
