"""The console without a terminal: what is on the screen, and what keys do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from pylvs.top.actions import Action
from pylvs.top.console import QUIT, REFRESH
from pylvs.top.text import BAD, WARN
from tests.unit.top.examples import (
    NOW,
    TABLE,
    TLS,
    WEB,
    console,
    drawn,
    in_table,
    press,
    server,
    service,
    snapshot,
    status,
)

HOSTILE = "\x1b[2J[red]\x07\u202eevil[/red]\n\ttab"


def test_the_first_screen_shows_what_is_wrong() -> None:
    lines = drawn(console())
    text = "\n".join(lines)
    assert lines[0].startswith(" pylvs top  director  pylvs run 0.1.0, process 4711, up 3 d")
    assert lines[1] == "Services 3 !! 1 LOST  Servers 5 !! 1 down  Active 470  Inactive 47"
    assert lines[2].startswith("Conn/s 47   In 470 p/s 376kbit/s   Out 376 p/s 3.4Mbit/s")
    assert lines[3] == "! Drops/s 12 (no route 12)   VI_1 MASTER   !! VI_2 FAULT"
    assert lines[4] == "!! 10.0.0.100: no device has it"
    assert lines[5].startswith("!  10.0.0.23:80 of 10.0.0.100:80 tcp: down: refused")
    assert re.search(r"^!! v TCP 10\.0\.0\.100:8080 +EMPTY", lines[7])
    assert re.search(r"^!! +10\.0\.0\.23:80 +DOWN", text, re.MULTILINE)
    assert "server down 10.0.0.23:80 of 10.0.0.100:80 tcp: refused" in lines[-2]
    assert lines[-1].endswith("1/8")


@pytest.mark.parametrize("width", [20, 40, 80, 132, 250])
@pytest.mark.parametrize("height", [5, 10, 24, 60])
def test_every_view_fits_every_terminal(width: int, height: int) -> None:
    of = console()
    for keys in ("1", "2", "3", "4", "5", "f1", "escape", "1", "enter", "escape", "d", "n", "/", "x", "escape"):
        press(of, keys)
        for line in of.lines(width, height):
            assert cell_len("".join(text for text, _ in line)) <= width
        assert len(of.lines(width, height)) == height


@pytest.mark.parametrize("key", ["2", "3", "4", "5", "enter"])
def test_each_view_shows_how_old_its_data_is_and_why(key: str) -> None:
    of = console(snapshot(fault="no pylvs run answers", fault_since=NOW - 60))
    press(of, key)
    lines = drawn(of)
    assert re.search(r"\d\d:\d\d:\d\d  \S+ s old$", lines[0].rstrip())
    assert re.match(r"!! since \d\d:\d\d:\d\d: no pylvs run answers", lines[1])


def test_a_paused_console_fits_a_narrow_terminal() -> None:
    of = console()
    press(of, "z")
    assert {cell_len("".join(text for text, _ in line)) for line in of.lines(20, 24)} <= set(range(21))


@pytest.mark.parametrize("key", ["d", "e", "w"])
def test_an_action_where_no_server_is_chosen_names_the_key_to_them(key: str) -> None:
    of = console()
    press(of, "2", key)
    assert drawn(of)[-1].startswith(f"{key} acts on a server: 1 leads to them")
    assert of.question is None


def test_a_wide_screen_shows_all_columns_and_reasons() -> None:
    heading = next(line for line in drawn(console(), 200) if "SERVICE" in line)
    for title in ("STATE", "WGT", "CONN/s", "p/s OUT", "HANDSHAKE", "METHOD", "LAST CONN/s", "REASON"):
        assert title in heading
    narrow = next(line for line in drawn(console()) if "SERVICE" in line)
    assert "HANDSHAKE" not in narrow
    assert "ACTIVE" in narrow


def test_the_column_that_sorts_is_always_shown() -> None:
    of = console()
    while of.sort != "handshakes":
        press(of, ">")
    heading = next(line for line in drawn(of) if "SERVICE" in line)
    assert "HANDSHAK▼" in heading
    press(of, "I")
    assert "HANDSHAK▲" in next(line for line in drawn(of) if "SERVICE" in line)


def test_colours_never_carry_a_meaning_alone() -> None:
    of = console()
    for keys in ("1", "2", "3", "4", "5", "1", "enter"):
        press(of, keys)
        for line in of.lines(80, 24):
            text = "".join(part for part, _ in line)
            if {style for _, style in line} & {BAD, WARN}:
                words = ("!", "down", "DOWN", "FAULT", "LOST", "EMPTY", "weight 0", "FAILED", "no route")
                assert any(word in text for word in words), text


def test_hostile_texts_are_text() -> None:
    name = f"web {HOSTILE}"
    reply = status(
        service(name, ["TCP 10.0.0.100:80"], server(f"10.0.0.21:80{HOSTILE}", up=False, reason=HOSTILE)),
        problems=[{"kind": HOSTILE, "severity": "critical", "object": HOSTILE, "text": HOSTILE}],
    )
    event = {"event": HOSTILE, "at": NOW, "service": name, "reason": HOSTILE}
    of = console(snapshot(reply, events=(event,), fault=HOSTILE, host=HOSTILE))
    for keys in ("1", "2", "3", "4", "5", "1", "down", "enter", "escape", "d", "n", "w"):
        press(of, keys)
        for line in of.lines(200, 40):
            text = "".join(part for part, _ in line)
            assert text.isprintable(), text
    assert "[red]" in "\n".join(drawn(console(snapshot(reply)), 200))


def test_the_cursor_stays_on_its_row_while_rows_move() -> None:
    of = console()
    press(of, "C", "down")
    row = of.selected_row()
    assert row is not None
    ident = row.ident
    busier = (in_table(443, ("10.0.0.31", 1, 500)), *TABLE[:1], TABLE[2])
    of.show(snapshot(table=busier))
    drawn(of)
    moved = of.selected_row()
    assert moved is not None
    assert moved.ident == ident


def test_the_cursor_scrolls_a_long_list() -> None:
    table = tuple(in_table(port, ("10.0.0.21", 1, 0)) for port in range(1, 10_001))
    of = console(snapshot(None, table))
    press(of, "N")
    drawn(of)
    press(of, "end")
    assert any("TCP 10.0.0.100:10000 " in line for line in drawn(of))
    assert drawn(of)[-1].endswith("10000/10000")
    press(of, "pageup", "home")
    assert any("TCP 10.0.0.100:1 " in line for line in drawn(of))


def test_services_are_folded_and_opened() -> None:
    of = console()
    press(of, "N", "-")
    assert sum("10.0.0.2" in line for line in drawn(of)[6:-3]) == 0
    press(of, "+")
    assert sum("10.0.0.2" in line for line in drawn(of)[6:-4]) == 3
    press(of, "*")
    assert drawn(of)[-1].endswith("1/3")
    press(of, " ")
    assert drawn(of)[-1].endswith("1/6")
    press(of, "down", "left")
    row = of.selected_row()
    assert row is not None
    assert row.ident == (WEB, ""), "from a server to its service"


def test_typing_filters_and_escape_clears() -> None:
    of = console()
    press(of, "/", *"443")
    assert drawn(of)[-1].startswith("filter: 443_")
    assert sum("10.0.0.31:443" in line for line in drawn(of)) == 1
    assert not any(f"> {WEB}" in line or f"v {WEB}" in line for line in drawn(of))
    press(of, "enter")
    assert drawn(of)[-1].startswith(" filter: 443 ")
    press(of, "f4", "backspace", "backspace", "backspace", *"q?")
    assert "no service matches 'q?'" in "\n".join(drawn(of))
    press(of, "escape")
    assert of.filter == ""


def test_details_of_a_server_and_a_service() -> None:
    of = console()
    press(of, "N", "enter")
    text = "\n".join(drawn(of, height=40))
    assert "in the table: TCP 10.0.0.100:80" in text
    assert "dropped packets so far: 124" in text
    assert "10.0.0.23:80 DOWN" in text
    press(of, "escape", "end", "up", "up")
    press(of, "home", "down", "down", "down", "enter")
    text = "\n".join(drawn(of, height=40))
    assert "10.0.0.23:80 of 10.0.0.100:80 tcp" in text
    assert "TCP_CHECK FAILED, 1.2 ms, 3 failures in a row: connection refused" in text
    assert "handshakes in the last minute: 58 of 60 completed" in text
    assert "server down 10.0.0.23:80" in text
    of.show(snapshot(status()))
    assert "it is gone" in "\n".join(drawn(of))


def test_views_and_help_have_keys() -> None:
    of = console()
    for key, text in (("2", "no route to the real server"), ("3", "VI_2 FAULT"), ("4", "vrrp transition VI_1")):
        press(of, key)
        assert text in "\n".join(drawn(of)), key
    press(of, "tab")
    assert "no device has it" in "\n".join(drawn(of))
    press(of, "?")
    assert "KEYS of pylvs top" in drawn(of)[0]
    press(of, "escape")
    assert of.view == "problems"
    press(of, "escape")
    assert of.view == "services"
    assert press(of, "q") == QUIT
    assert press(of, "f10") == QUIT
    assert press(of, "f5") == REFRESH


def test_a_pause_keeps_the_screen() -> None:
    of = console()
    press(of, "z")
    of.show(snapshot(status(), ()))
    assert "PAUSED" in drawn(of)[0]
    assert any("10.0.0.23" in line for line in drawn(of))
    press(of, "z")
    of.show(snapshot(status(), ()))
    assert "no services" in "\n".join(drawn(of))


def test_a_daemon_that_does_not_answer_is_in_the_header() -> None:
    lost = "no pylvs run answers at /run/pylvs/control"
    of = console(snapshot(fault=lost, fault_since=NOW - 60))
    line = of.lines(80, 24)[1]
    assert line[0][0].startswith("!! since ")
    assert lost in line[0][0]
    assert "no pylvs run: the table alone" in drawn(console(snapshot(None)))[0]


def select(of: Any, server: str) -> None:
    press(of, "N", "home")
    for _ in range(20):
        row = of.selected_row()
        if row is not None and row.server == server:
            return
        press(of, "down")
    raise AssertionError(server)


def test_a_drain_prints_what_will_happen_and_asks() -> None:
    of = console()
    select(of, "10.0.0.21:80")
    assert press(of, "d") is None
    text = "\n".join(drawn(of))
    assert "drain 10.0.0.21:80 of 10.0.0.100:80 tcp?" in text
    assert "120 active connections and 12 inactive ones" in " ".join(text.split())
    assert "New connections go to 1 other server." in text
    assert press(of, "n") is None
    assert "nothing is changed" in drawn(of)[-1]
    press(of, "d")
    action = press(of, "y")
    assert isinstance(action, Action)
    assert (action.path, action.content) == ("/v1/drain", {"server": "10.0.0.21:80", "service": WEB})


def test_a_drain_of_the_last_server_warns() -> None:
    of = console()
    select(of, "10.0.0.31:443")
    press(of, "d")
    assert "WARNING: no other server" in "\n".join(drawn(of))


def test_enter_and_other_keys_confirm_nothing() -> None:
    of = console()
    select(of, "10.0.0.21:80")
    for key in ("enter", "d", "q", "escape", "w"):
        press(of, "d")
        assert press(of, key) is None
        assert of.question is None


def test_a_weight_is_typed_and_confirmed() -> None:
    of = console()
    select(of, "10.0.0.21:80")
    press(of, "w", *"70x", "enter")
    assert "the weight must be a number from 0 to " in drawn(of)[-1]
    press(of, "w", *"5", "enter")
    assert "weight 5 for 10.0.0.21:80" in "\n".join(drawn(of))
    action = press(of, "y")
    assert action.content == {"server": "10.0.0.21:80", "service": WEB, "weight": 5}
    press(of, "w", *"auto", "enter")
    assert press(of, "y").content["weight"] is None
    press(of, "w", "escape")
    assert of.question is None


def test_enable_of_a_drained_server() -> None:
    reply = status(service(TLS, ["TCP 10.0.0.100:443"], server("10.0.0.31:443", standing="drained")))
    of = console(snapshot(reply, TABLE[1:2]))
    select(of, "10.0.0.31:443")
    press(of, "e")
    assert "Its checks decide again" in "\n".join(drawn(of))
    assert press(of, "y").path == "/v1/enable"


def test_actions_need_a_server_of_a_daemon() -> None:
    of = console()
    press(of, "N", "d")
    assert "select a server" in drawn(of)[-1]
    select(of, "10.0.0.9:8080")
    press(of, "w")
    assert "no such server in its file" in drawn(of)[-1]
    alone = console(snapshot(None))
    select(alone, "10.0.0.21:80")
    press(alone, "d")
    assert "need pylvs run" in drawn(alone)[-1]
