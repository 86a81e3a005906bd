"""Rates, histories, sort, filter, and the texts of cells."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from pylvs.top.order import SORTS, Folds, filtered, listed, natural, ordered
from pylvs.top.rates import LENGTH, TOTAL, EndRates, History, dropped, dropped_of
from pylvs.top.rows import merged
from pylvs.top.text import bits, duration, fit, number, safe, sparkline, wrapped
from tests.unit.top.examples import NOW, STATUS, TABLE, TLS, WEB, ends, in_table, snapshot

ROWS = merged(TABLE, STATUS["services"], NOW)


def report(**counts: int) -> dict[str, object]:
    return {
        "reasons": [
            {"reason": name, "verdict": "dropped", "count": count, "sentence": "", "services": []}
            for name, count in counts.items()
        ]
    }


def test_drops_a_second_are_the_difference_of_two_readings() -> None:
    rates = EndRates()
    assert [each.rate for each in rates.add(report(ttl=10), 5.0)] == [0.0]
    assert [each.rate for each in rates.add(report(ttl=40), 7.0)] == [15.0]
    assert [each.rate for each in rates.add(report(ttl=3), 9.0)] == [0.0], "the counts began anew"
    assert [each.rate for each in rates.add(report(ttl=3), 9.0)] == [0.0], "no time has passed"
    assert [each.reason for each in rates.add(report(ttl=3, new=8, none=0), 10.0)] == ["new", "ttl"]


def test_drops_of_a_service_are_those_of_its_keys() -> None:
    assert [(each.reason, each.rate) for each in dropped(ends())] == [("no route", 12.0)]
    assert dropped_of(ends(), ("TCP 10.0.0.100:80", "FWM 7")) == 124
    assert dropped_of(ends(), ("TCP 10.0.0.100:443",)) == 0


def test_a_history_is_bounded_and_forgets_rows_that_are_gone() -> None:
    history = History()
    for rate in range(LENGTH + 5):
        history.add(merged((in_table(80, ("10.0.0.21", 1, rate)),), None))
    values = history.of(("TCP 10.0.0.100:80", "10.0.0.21:80"))
    assert (len(values), values[-1]) == (LENGTH, LENGTH + 4)
    assert history.of(TOTAL, "in_bytes")[-1] == 1000 * (LENGTH + 4)
    history.add(())
    assert history.of(("TCP 10.0.0.100:80", "")) == []
    history.add(merged((in_table(81, ("10.0.0.21", 1, 0)),), None))
    assert history.of(("TCP 10.0.0.100:81", "")) == [], "an idle row takes no memory"


def test_the_natural_order() -> None:
    names = ["10.0.0.10:80", "10.0.0.9:80", "FWM 7", "10.0.0.9:9"]
    assert sorted(names, key=natural) == ["10.0.0.9:9", "10.0.0.9:80", "10.0.0.10:80", "FWM 7"]


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_has_all_rows(sort: str) -> None:
    one, other = ordered(ROWS, sort), ordered(ROWS, sort, inverted=True)
    assert {each.service for each in one} == {each.service for each in other} == {each.service for each in ROWS}


def test_what_is_wrong_comes_first_and_numbers_from_the_greatest() -> None:
    assert [each.service for each in ordered(ROWS, "state")] == ["TCP 10.0.0.100:8080", WEB, TLS]
    assert [each.service for each in ordered(ROWS, "conn")] == [WEB, TLS, "TCP 10.0.0.100:8080"]
    assert [each.service for each in ordered(ROWS, "conn", inverted=True)][-1] == WEB
    assert [each.service for each in ordered(ROWS, "name")] == [WEB, TLS, "TCP 10.0.0.100:8080"]


def test_a_filter_finds_services_and_servers_by_all_words() -> None:
    assert [(row.service, len(servers)) for row, servers in filtered(ROWS, "")] == [
        (TLS, 1),
        (WEB, 3),
        ("TCP 10.0.0.100:8080", 1),
    ]
    assert [[each.server for each in servers] for _, servers in filtered(ROWS, "DOWN 10.0.0.23")] == [["10.0.0.23:80"]]
    assert [row.service for row, _ in filtered(ROWS, "443")] == [TLS]
    assert [row.service for row, _ in filtered(ROWS, ":443 !up")] == []
    assert filtered(ROWS, "nothing has this") == []


def test_a_small_table_is_open_and_of_a_large_one_what_is_wrong() -> None:
    assert len(listed(ROWS, "name", False, "", Folds())) == 8
    many = merged([in_table(port, ("10.0.0.21", 1, 1)) for port in range(1, 200)] + [TABLE[2]], None)
    lines = listed(many, "state", False, "", Folds())
    assert len(lines) == 201, "the server of one service"
    assert [each.server for each in lines[:3]] == ["", "10.0.0.9:8080", ""]
    folds = Folds()
    folds.choose_all(True)
    assert len(listed(many, "state", False, "", folds)) == 400
    folds.choose("TCP 10.0.0.100:8080", False)
    assert len(listed(many, "state", False, "", folds)) == 399


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.0k"), (1234, "1.2k"), (12_345, "12k"), (999_600, "1.0M"), (8.9e9, "8.9G")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert len(text) <= 5


def test_texts_of_cells() -> None:
    assert bits(1000) == "8.0k"
    assert [duration(each) for each in (-1, 119, 120, 7200, 2 * 86400)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
    assert sparkline([0, 5, 10], 5) == "  ▁▅█"
    assert sparkline([], 3) == "   "
    assert sparkline([0, 0], 3) == " ▁▁"
    assert sparkline(list(range(100)), 2) == "██"
    assert wrapped("one two three four", 10) == ["one two", "three four"]
    assert wrapped("abcdefghijklm", 10) == wrapped("abcdefghijklm", -3) == ["abcdefghij", "klm"]
    assert wrapped("", 4) == [""]


@pytest.mark.parametrize("text", ["web", "a very long name indeed", "日本語の名前", "", "e\u0301"])
def test_a_cell_has_its_width(text: str) -> None:
    for width in (1, 2, 5, 12):
        assert cell_len(fit(safe(text), width)) == width
        assert cell_len(fit(safe(text), width, right=True)) == width


def test_ten_thousand_services_are_listed_without_delay_of_the_natural_order() -> None:
    """Only the lines on the screen are drawn: the number of rows does not change what a screen costs."""
    rows = merged([in_table(port, ("10.0.0.21", 1, port % 7), ("10.0.0.22", 1, 0)) for port in range(1, 10_001)], None)
    assert len(listed(rows, "conn", False, "", Folds())) == 10_000
    assert snapshot(None, TABLE).totals.services == 3
