"""Rows: the table joined with what the daemon knows."""

from __future__ import annotations

from pylvs.model.service import Method
from pylvs.top.rows import CRITICAL, GOOD, WARNING, Row, merged, totals
from tests.unit.top.examples import NOW, STATUS, TABLE, TLS, WEB, check, in_table, server, service


def rows_by_name(rows: tuple[Row, ...]) -> dict[str, Row]:
    return {each.server or each.service: each for row in rows for each in (row, *row.servers)}


def test_a_service_has_the_daemons_state_and_the_rates_of_the_table() -> None:
    rows = rows_by_name(merged(TABLE, STATUS["services"], NOW))
    web = rows[WEB]
    assert (web.state, web.severity, web.how) == ("up", WARNING, "wlc")
    assert (web.rates.connections, web.active, web.inactive) == (42, 420, 42)
    assert "down: 1 of 3" in web.reason
    assert (web.begun, web.completed) == (180, 174)
    down = rows["10.0.0.23:80"]
    assert (down.state, down.severity, down.how) == ("DOWN", CRITICAL, "")
    assert down.reason == "since 10 min: TCP_CHECK: connection refused"
    assert rows["10.0.0.22:80"].rates.out_bytes == 270_000
    assert rows["10.0.0.22:80"].configured


def test_what_only_the_table_has_is_shown_too() -> None:
    rows = rows_by_name(merged(TABLE, STATUS["services"], NOW))
    foreign = rows["TCP 10.0.0.100:8080"]
    assert (foreign.state, foreign.severity, foreign.configured) == ("EMPTY", CRITICAL, False)
    assert (rows["10.0.0.9:8080"].state, rows["10.0.0.9:8080"].severity) == ("weight 0", WARNING)


def test_without_a_daemon_the_table_alone() -> None:
    rows = merged(TABLE, None)
    assert [each.service for each in rows] == ["TCP 10.0.0.100:80", "TCP 10.0.0.100:443", "TCP 10.0.0.100:8080"]
    assert rows[0].reason == "no daemon checks it"
    assert rows[0].begun is None


def test_a_server_of_another_port_is_found_as_the_table_lists_it() -> None:
    """Methods but NAT list a server with the port of the service."""
    known = [service(WEB, ["TCP 10.0.0.100:80"], server("10.0.0.21:8080"))]
    (row,) = merged((in_table(80, ("10.0.0.21", 1, 7)),), known, NOW)
    assert [(each.server, each.rates.connections) for each in row.servers] == [("10.0.0.21:8080", 7)]
    (row,) = merged((in_table(80, ("10.0.0.21", 1, 7), method=Method.MASQ),), known, NOW)
    assert [(each.server, each.state) for each in row.servers] == [
        ("10.0.0.21:8080", "up"),
        ("10.0.0.21:80", "foreign"),
    ]


def test_a_service_with_several_keys_has_their_sum() -> None:
    table = (in_table(80, ("10.0.0.21", 1, 7)), in_table(81, ("10.0.0.21", 1, 5), method=Method.MASQ))
    (row,) = merged(table, [service("group web", ["TCP 10.0.0.100:80", "TCP 10.0.0.100:81"])], NOW)
    assert row.rates.connections == 12


def test_states() -> None:
    def state(**more: object) -> tuple[str, int]:
        (row,) = merged((), [service(TLS, [], server("10.0.0.31:443", **more))], NOW)  # type: ignore[arg-type]
        return row.servers[0].state, row.servers[0].severity

    assert state() == ("up", GOOD)
    assert state(checked=False) == ("up?", GOOD)
    assert state(checks=[]) == ("no check", GOOD)
    assert state(standing="drained") == ("drained", WARNING)
    assert state(standing="disabled") == ("disabled", WARNING)
    assert state(weight=0) == ("weight 0", WARNING)
    assert state(checks=[check(inconclusive=True)]) == ("unknown", WARNING)
    low = {"begun": 9, "completed": 0, "low": "completes 0 of 9 handshakes", "out": False}
    assert state(handshakes=low) == ("up", WARNING)
    (lost,) = merged((), [service(TLS, [], server("10.0.0.31:443", up=False), quorum=False)], NOW)
    assert (lost.state, lost.severity) == ("LOST", CRITICAL)


def test_a_sorry_server_that_serves_is_a_warning() -> None:
    sorry = {"server": "10.0.0.99:443", "in": True}
    known = [service(TLS, ["TCP 10.0.0.100:443"], server("10.0.0.31:443"), sorry_server=sorry)]
    (row,) = merged((in_table(443, ("10.0.0.99", 1, 3)),), known, NOW)
    assert row.severity == WARNING
    assert row.servers[1].state == "sorry"
    assert "sorry server 10.0.0.99:443 serves" in row.reason


def test_totals() -> None:
    found = totals(merged(TABLE, STATUS["services"], NOW))
    assert (found.services, found.bad_services, found.servers, found.bad_servers) == (3, 1, 5, 1)
    assert (found.active, found.rates.connections) == (470, 47)
