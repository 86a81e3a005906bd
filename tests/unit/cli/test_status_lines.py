"""`pylvs status`: what its lines tell about checks."""

from __future__ import annotations

from typing import Any

from pylvs.cli.daemon import lines


def status(*checks: dict[str, Any]) -> dict[str, Any]:
    """Return a status with one server of one service, which has these checks."""
    server = {
        "server": "10.0.0.1:80",
        "standing": "enabled",
        "up": True,
        "checked": True,
        "weight": 1,
        "configured_weight": 1,
        "active": 0,
        "inactive": 0,
        "since": 90.0,
        "reason": "connected",
        "checks": list(checks),
    }
    quorum = {"up": True, "since": 90.0, "weight": 1, "weight_up": 1}
    service = {"name": "web", "quorum": quorum, "sorry_server": None, "suspended": False, "servers": [server]}
    return {
        "now": 100.0,
        "version": "1",
        "pid": 7,
        "started_at": 90.0,
        "loaded_at": 90.0,
        "files": [],
        "findings": 0,
        "errors": [],
        "differs": [],
        "services": [service],
        "table": {"error": "", "refused": [], "unattached": []},
        "virtual_routers": {"problem": "", "instances": [], "sessions": []},
    }


def test_a_server_without_a_check_differs_from_one_that_is_up() -> None:
    reply = status()
    (line,) = [each for each in lines(reply) if "10.0.0.1" in each]
    assert "  no check  " in line
    reply["services"][0]["servers"][0]["checks_left_out"] = ["MISC_CHECK: /x is not run: no such file or directory"]
    (line,) = [each for each in lines(reply) if "10.0.0.1" in each]
    assert "  no check  " in line
    assert line.endswith("MISC_CHECK: /x is not run: no such file or directory; left out")


def test_a_check_that_this_host_cannot_make_is_unknown() -> None:
    good = {"check": "TCP_CHECK", "reason": "connected", "inconclusive": False}
    unknown = {"check": "HTTP_GET", "reason": "the prober process has ended", "inconclusive": True}
    (line,) = [each for each in lines(status(good, unknown)) if "10.0.0.1" in each]
    assert line.endswith("TCP_CHECK: connected; HTTP_GET: unknown: the prober process has ended")


def test_a_server_that_completes_few_handshakes_is_shown_with_them() -> None:
    good = {"check": "TCP_CHECK", "reason": "connected", "inconclusive": False}
    reply = status(good)
    (server,) = reply["services"][0]["servers"]
    server["handshakes"] = {"begun": 214, "completed": 0, "low": "completes 0 of 214 handshakes", "out": False}
    (line,) = [each for each in lines(reply) if "10.0.0.1" in each]
    assert line.endswith(": completes 0 of 214 handshakes; TCP_CHECK: connected")
    server["handshakes"] = {"begun": 0, "completed": 0, "low": "", "out": True}
    server["reason"] = "handshake_share: completes 0 of 214 handshakes"
    (line,) = [each for each in lines(reply) if "10.0.0.1" in each]
    assert line.endswith(": handshake_share: completes 0 of 214 handshakes; TCP_CHECK: connected")
    server["handshakes"] = None
    reply["services"][0]["handshakes_low"] = "completes 1 of 30 handshakes, all real servers alike"
    assert any(each.endswith(", completes 1 of 30 handshakes, all real servers alike") for each in lines(reply))
