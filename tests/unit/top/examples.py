"""Services of a table and of a daemon's reply, for tests of the console."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from pylvs.model.rows import Counters, DestinationRow, Rates, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.top.console import Console
from pylvs.top.feed import Snapshot
from pylvs.top.rates import End, EndRates, History
from pylvs.top.rows import merged, totals

NOW = 1_800_000_000.0
WEB, TLS = "10.0.0.100:80 tcp", "10.0.0.100:443 tcp"


def in_table(port: int, *servers: tuple[str, int, int], method: Method = Method.ROUTE) -> ServiceRow:
    """Return a service of the table with servers: address, weight, connections a second."""
    rows = tuple(
        DestinationRow(
            Destination(DestinationKey(ip_address(address), port), method, weight),
            active=10 * rate,
            inactive=rate,
            counters=Counters(rate * 100),
            rates=Rates(rate, 10 * rate, 8 * rate, 1000 * rate, 9000 * rate),
        )
        for address, weight, rate in servers
    )
    rate = sum(each[2] for each in servers)
    key = ServiceKey(Protocol.TCP, ip_address("10.0.0.100"), port)
    return ServiceRow(
        VirtualService(key, "wlc"), rows, rates=Rates(rate, 10 * rate, 8 * rate, 1000 * rate, 9000 * rate)
    )


def check(good: bool = True, reason: str = "connected", inconclusive: bool = False) -> dict[str, Any]:
    """Return a check as the daemon replies it."""
    return {
        "check": "TCP_CHECK",
        "good": good,
        "failures": 0 if good else 3,
        "weight": None,
        "reason": reason,
        "inconclusive": inconclusive,
        "took_s": 0.0012,
    }


def server(name: str, up: bool = True, standing: str = "enabled", **more: Any) -> dict[str, Any]:
    """Return a server as the daemon replies it."""
    return {
        "server": name,
        "up": up,
        "checked": True,
        "since": NOW - 600,
        "reason": "",
        "weight": 0 if standing == "drained" else 1,
        "configured_weight": 1,
        "standing": standing,
        "operator_weight": None,
        "in_table": up,
        "checks": [check(up, "connected" if up else "connection refused")],
        "checks_left_out": [],
        "handshakes": {"begun": 60, "completed": 58, "low": "", "out": False},
        **more,
    }


def service(name: str, keys: list[str], *servers: dict[str, Any], quorum: bool = True, **more: Any) -> dict[str, Any]:
    """Return a service as the daemon replies it."""
    up = sum(each["up"] for each in servers)
    return {
        "name": name,
        "keys": keys,
        "quorum": {"up": quorum, "since": NOW - 7200, "weight": 1, "hysteresis": 0, "weight_up": up},
        "sorry_server": None,
        "suspended": False,
        "handshakes_low": "",
        "servers": list(servers),
        **more,
    }


def status(*services: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what the console uses of GET /v1/status."""
    return {
        "version": "0.1.0",
        "pid": 4711,
        "now": NOW,
        "ready": True,
        "started_at": NOW - 3 * 86400,
        "problems": [],
        "unknown": [],
        "errors": [],
        "differs": [],
        "virtual_routers": {"problem": "", "data_plane": None, "instances": [], "sessions": []},
        "announcements": [],
        "peer": None,
        "services": list(services),
        **more,
    }


TABLE = (
    in_table(80, ("10.0.0.21", 1, 12), ("10.0.0.22", 1, 30)),
    in_table(443, ("10.0.0.31", 1, 5), method=Method.MASQ),
    in_table(8080, ("10.0.0.9", 0, 0)),
)
STATUS = status(
    service(TLS, ["TCP 10.0.0.100:443"], server("10.0.0.31:443")),
    service(
        WEB,
        ["TCP 10.0.0.100:80"],
        server("10.0.0.21:80"),
        server("10.0.0.22:80"),
        server("10.0.0.23:80", up=False),
    ),
    problems=[
        {"kind": "server", "severity": "warning", "object": f"10.0.0.23:80 of {WEB}", "text": "down: refused"},
        {"kind": "vip", "severity": "critical", "object": "10.0.0.100", "text": "no device has it"},
    ],
    virtual_routers={
        "problem": "",
        "data_plane": None,
        "instances": [
            {"name": "VI_1", "state": "MASTER", "since": NOW - 60, "priority": 150, "why": "no advertisement came"},
            {"name": "VI_2", "state": "FAULT", "since": NOW - 60, "priority": 150, "why": "eth1 is down"},
        ],
        "sessions": [],
    },
)
EVENTS = (
    {"event": "server_down", "at": NOW - 9, "service": WEB, "server": "10.0.0.23:80", "reason": "refused"},
    {"event": "vrrp_transition", "at": NOW - 5, "instance": "VI_1", "before": "BACKUP", "state": "MASTER"},
)


def ends() -> tuple[End, ...]:
    """Return drops of 12 a second."""
    rates = EndRates()
    for moment, count in ((0.0, 100), (2.0, 124)):
        reasons = [
            {"reason": "no route", "verdict": "dropped", "count": count, "sentence": "no route to the real server",
             "services": [{"service": "TCP 10.0.0.100:80", "count": count}]},
            {"reason": "no service", "verdict": "passed", "count": 7, "sentence": "of no service", "services": []},
        ]  # fmt: skip
        found = rates.add({"reasons": reasons}, moment)
    return found


def snapshot(reply: dict[str, Any] | None = STATUS, table: tuple[ServiceRow, ...] = TABLE, **more: Any) -> Snapshot:
    """Return what was read of a daemon's reply and a table."""
    rows = merged(table, reply["services"] if reply else None, NOW)
    given = {"host": "director", "ends": ends(), "events": EVENTS, "read_at": NOW - 1, **more}
    return Snapshot(rows=rows, totals=totals(rows), status=reply, **given)


def console(shown: Snapshot | None = None) -> Console:
    """Return a console with some history."""
    shown = shown or snapshot()
    history = History()
    for _ in range(20):
        history.add(shown.rows)
    return Console(shown, history, lambda: NOW)


def drawn(of: Console, width: int = 80, height: int = 24) -> list[str]:
    """Return the screen as texts, without what fills it on the right."""
    lines = of.lines(width, height)
    assert len(lines) == height
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def press(of: Console, *keys: str) -> Any:
    """Press keys by their names, or as a character; return what the last one returned."""
    found = None
    for key in keys:
        found = of.key(key, key if len(key) == 1 else None)
    return found
