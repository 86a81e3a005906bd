"""The doctor's findings about a daemon: what its status says, and what a connection from here adds."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.doctor.finding import Finding, Layer, Severity, diagnosis, server_subject
from pylvs.doctor.probes.checks import Attempt, of_overrides, of_servers
from pylvs.doctor.probes.daemon import beside, hangs, of_problems
from pylvs.doctor.probes.file import of_reload, of_unreadable
from pylvs.doctor.probes.table import NO_SERVER
from pylvs.doctor.processes import Keepalived

KEY, NAME = "TCP 192.0.2.1:80", "192.0.2.1:80 tcp"


def server(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "server": f"198.51.100.{number}:80",
        "up": True,
        "reason": "TCP_CHECK: Connection refused",
        "weight": 1,
        "standing": "enabled",
        "operator_weight": None,
        "in_table": True,
        "checks": [],
        "checks_left_out": [],
        **changes,
    }


def status(*servers: dict[str, Any], quorum: bool = True, sorry: bool = False, **more: Any) -> dict[str, Any]:
    service = {
        "name": NAME,
        "keys": [KEY],
        "quorum": {"up": quorum},
        "sorry_server": {"server": "198.51.100.9:80", "in": sorry},
        "servers": list(servers),
    }
    return {"services": [service], "problems": [], "differs": [], **more}


DOWN = {"up": False, "in_table": False}


def ids(found: Any) -> list[tuple[str, str]]:
    return [(each.id, each.severity.name) for each in found]


@pytest.mark.parametrize(
    ("connection", "found"),
    [
        (Attempt(""), "check_disagrees"),
        (Attempt("Connection refused", refused=True), "not_listening"),
        (Attempt("no reply within 1 s"), "server_down"),
        (None, "server_down"),
    ],
)
def test_a_connection_from_here_shows_why_a_server_is_down(connection: Attempt | None, found: str) -> None:
    """A check may be wrong, and a server may be."""
    connections = {"198.51.100.2:80": connection} if connection else {}
    assert ids(of_servers(status(server(1), server(2, **DOWN)), connections)) == [(found, "WARNING")]


def test_the_last_server_is_an_error_unless_a_sorry_server_serves() -> None:
    """Clients fail now."""
    down = [server(1, **DOWN), server(2, **DOWN)]
    assert {name for _, name in ids(of_servers(status(*down, quorum=False), {}))} == {"ERROR"}
    assert {name for _, name in ids(of_servers(status(*down, quorum=False, sorry=True), {}))} == {"WARNING"}


def test_a_server_that_was_taken_out_is_no_failure() -> None:
    """Its checks may fail during the maintenance."""
    found = status(server(1), server(2, standing="disabled", **DOWN))
    assert ids(of_servers(found, {})) == []
    assert ids(of_overrides(found)) == [("servers_taken_out", "INFO")]


def test_an_error_if_an_operator_has_taken_out_the_last_server() -> None:
    """By any of the commands; a server that is down besides does not serve either."""
    drained, weightless = server(1, standing="drained"), server(1, operator_weight=0, weight=0)
    for out in drained, weightless:
        assert ids(of_overrides(status(out))) == [("servers_taken_out", "ERROR")]
        assert ids(of_overrides(status(out, server(2, **DOWN)))) == [("servers_taken_out", "ERROR")]
        assert ids(of_overrides(status(out, server(2)))) == [("servers_taken_out", "INFO")]
    (found,) = of_overrides(status(weightless))
    assert found.fix_command == f"pylvs weight 198.51.100.1:80 auto --service '{NAME}'"


def test_the_cause_of_a_lost_quorum_comes_instead_of_it() -> None:
    """A quorum is lost because servers are down."""
    lost = {"kind": "quorum_lost", "severity": "critical", "object": NAME, "text": "quorum lost"}
    now = status(server(1), server(2, **DOWN), quorum=False, problems=[lost])
    assert ids(of_problems(now)) == [("quorum_lost", "ERROR")]
    assert ids(diagnosis([*of_problems(now), *of_servers(now, {})])) == [("server_down", "WARNING")]


def test_a_server_that_gets_connections_may_have_another_cause() -> None:
    """The way to it is examined, too; one of weight 0 is not, as by inhibit_on_failure."""
    now = status(server(1, up=False), quorum=False)
    way = {server_subject(KEY, ip_address("198.51.100.1"))}
    assert [[each.symptom for each in of_servers(now, {}, probed)] for probed in (way, set[str]())] == [[True], [False]]


def test_a_daemon_that_hangs_is_the_cause_of_its_services_without_a_server() -> None:
    """Nothing returns their servers."""
    assert hangs(0, frozenset()).severity is Severity.WARNING
    found = hangs(0, frozenset({KEY, NO_SERVER}))
    assert found.severity is Severity.ERROR
    assert found.explains == {KEY, NO_SERVER}
    assert found.evidence.endswith(f"; {KEY} has no server")


@pytest.mark.parametrize("of", ["198.51.100.1:80 of ", ""])
def test_the_cause_of_incomplete_handshakes_comes_instead_of_them(of: str) -> None:
    low = {"kind": "handshakes", "severity": "warning", "object": of + NAME, "text": "completes 0 of 15 handshakes"}
    now = status(server(1), server(2), problems=[low])
    assert ids(of_problems(now)) == [("handshakes_low", "WARNING")]
    lacks, other = (cause(number) for number in (1, 3))
    assert ids(diagnosis([*of_problems(now), lacks])) == [("server_lacks_vip", "ERROR")]
    assert len(diagnosis([*of_problems(now), other])) == 2, "that of a server elsewhere"


def cause(number: int) -> Finding:
    about = frozenset({server_subject(KEY, ip_address(f"198.51.100.{number}"))})
    return Finding("server_lacks_vip", Severity.ERROR, Layer.ADDRESS, "no VIP", "none", "why", "fix", about=about)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("server_down", []),  # of_servers names it
        ("check_path", [("check_elsewhere", "WARNING")]),
        ("state", [("state_not_saved", "WARNING")]),
        ("prober", [("daemon_problem", "WARNING")]),
        ("one of a later version", [("daemon_problem", "WARNING")]),
    ],
)
def test_each_problem_has_one_finding(kind: str, found: list[tuple[str, str]]) -> None:
    """A kind that is not known here has a finding, too."""
    problem = {"kind": kind, "severity": "warning", "object": "", "text": "text"}
    assert ids(of_problems(status(server(1), problems=[problem]))) == found


def test_a_check_that_cannot_be_made() -> None:
    """The command makes a program executable that is not."""
    reason = "the script cannot be run: Permission denied: /usr/local/bin/check"
    check = {"check": "MISC_CHECK", "inconclusive": True, "reason": reason}
    found = of_servers(status(server(1, checks=[check], checks_left_out=["MISC_CHECK: no path"])), {})
    inconclusive, left_out = found
    assert inconclusive.fix_command == "chmod +x /usr/local/bin/check"
    assert left_out.id == "check_left_out"


@pytest.mark.parametrize(
    ("code", "reply", "found"),
    [
        (200, {"differences": []}, []),
        (200, {"differences": ["lb_algo rr -> wlc"]}, ["file_not_loaded"]),
        (409, {"error": "keepalived.conf:3:5: error"}, ["file_refused"]),
        (503, {"error": "busy"}, []),
        (200, "text", []),
    ],
)
def test_what_a_reload_would_do(code: int, reply: Any, found: list[str]) -> None:
    """A file that was written without a change is no finding."""
    assert [each.id for each in of_reload(code, reply)] == found


def test_a_file_that_is_gone() -> None:
    """The daemon continues, but a restart fails."""
    gone = status(differs=["/etc/keepalived/keepalived.conf cannot be read any more: No such file or directory"])
    assert [each.id for each in of_unreadable(gone)] == ["file_unreadable"]
    assert list(of_unreadable(status(differs=["198.51.100.1:80 of web: drained by the operator"]))) == []


@pytest.mark.parametrize(
    ("routers", "services", "severity"),
    [(True, False, Severity.ERROR), (False, True, Severity.WARNING), (False, False, None)],
)
def test_a_keepalived_that_does_the_same(routers: bool, services: bool, severity: Severity | None) -> None:
    """With --vrrp it runs beside a daemon that runs no virtual routers."""
    found: list[Finding] = list(beside(7, [Keepalived(8, "/a.conf", routers, services)], has_routers=True))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    assert not list(beside(7, [Keepalived(8, "/a.conf", True, False)], has_routers=False))
