"""How commands print: colours, the list of commands, events, plurals, effects."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from pylvs.cli import director, group, main
from pylvs.cli.common import at_clock, paint
from pylvs.cli.daemon import event_line
from pylvs.cli.daemon import lines as status_lines
from pylvs.cli.director import _daemons
from pylvs.daemon import units
from pylvs.daemon.api.encoding import overridden
from pylvs.daemon.state import directory
from pylvs.daemon.state.directory import NAMESPACES_FILE, StateDirectory
from pylvs.daemon.state.drains import Drain, Stage
from pylvs.health.events import Override, Standing
from pylvs.lab import demo
from pylvs.system import logs
from tests.unit.cli.test_status_lines import status


class Terminal(io.StringIO):
    """An output stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_up_and_errors_have_colours_at_a_terminal_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mup" in "".join(status_lines(status(), paint))
    assert main.red("pylvs:", Terminal()) != "pylvs:" == main.red("pylvs:", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(status_lines(status(), paint))
    assert main.red("pylvs:", Terminal()) == "pylvs:"


def test_a_demonstration_has_neither_colours_nor_bold_text_where_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value, styled in ("", True), ("1", False):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("TERM", "xterm")
        output = Terminal()
        guide = demo.console(output)
        guide.print(Text("a", style="bold italic"))
        assert ("\x1b" in output.getvalue()) == styled


def test_the_help_has_every_command_in_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [name for names in group.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(group.COMMANDS)
    assert main.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{title}:\n" in printed for title in group.GROUPS)
    assert "Others:" not in printed


def test_one_finding_is_one_finding() -> None:
    for number, text in ((1, "1 finding (pylvs check)"), (2, "2 findings (pylvs check)")):
        assert text in next(iter(status_lines(status() | {"findings": number})))


def test_an_event_of_an_override_is_printed_by_its_reason() -> None:
    event = {
        "event": "overridden",
        "at": 0,
        "server": "10.0.0.1:80",
        "override": {"standing": "drained", "weight": None},
    }
    assert event_line(event | {"reason": "the operator: drained"}).endswith(
        "overridden 10.0.0.1:80: the operator: drained"
    )


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"event": "weight_changed", "server": "10.0.0.1:80", "service": "web", "before": 5, "weight": 0},
            "weight changed 5 -> 0 10.0.0.1:80 of web",
        ),
        (
            {"event": "weight_changed", "server": "10.0.0.1:80", "service": "web", "before": 0, "weight": 5},
            "weight changed 0 -> 5 10.0.0.1:80 of web",
        ),
        ({"event": "vrrp_priority", "instance": "VI_1", "before": 100, "priority": 0}, "vrrp priority VI_1 100 -> 0"),
        (
            {"event": "vrrp_transition", "instance": "VI_1", "before": "MASTER", "state": "BACKUP", "priority": 0},
            "vrrp transition VI_1 MASTER -> BACKUP priority=0",
        ),
        (
            {"event": "quorum_lost", "service": "web", "weight": 0, "quorum": 1, "hysteresis": 0, "silent": False},
            "quorum lost of web weight=0 quorum=1 hysteresis=0",
        ),
        ({"event": "reloaded", "edits": 0, "differences": []}, "reloaded edits=0 differences=[]"),
        (
            {"event": "vrrp_track", "kind": "script", "name": "web", "up": False},
            "vrrp track kind=script name=web up=false",
        ),
        (
            {"event": "vrrp_track", "kind": "file", "name": "load", "up": None, "number": 0},
            "vrrp track kind=file name=load number=0",
        ),
        (
            {"event": "vrrp_track", "kind": "script", "name": "web", "state": "unknown"},
            "vrrp track kind=script name=web state=unknown",
        ),
        (
            {"event": "server_down", "server": "10.0.0.1:80", "service": "web", "initial": True, "ending": False},
            "server down 10.0.0.1:80 of web initial=true",
        ),
    ],
)
def test_an_event_is_printed_with_each_value_that_it_has(event: dict[str, Any], line: str) -> None:
    assert event_line({"at": 0, "reason": "why"} | event) == f"{at_clock(0)} {line}: why"


def test_a_log_line_has_the_zone_of_its_time() -> None:
    stream = io.StringIO()
    logs.set_up("text", stream)
    logs.get_logger().info("started")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d info: started$", stream.getvalue())


@pytest.mark.parametrize(
    ("zone", "text"), [("AAA-2", "1970-01-01 02:00:00+02:00"), ("AAA3:30", "1969-12-31 20:30:00-03:30")]
)
def test_a_time_of_a_listing_has_its_zone(zone: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as local:
        local.setenv("TZ", zone)
        time.tzset()
        found = at_clock(0)
    time.tzset()
    assert found == text


def test_status_distinguishes_a_finished_drain_from_a_disabled_server() -> None:
    server: Any = SimpleNamespace(server="10.0.0.1:80", override=Override(Standing.DISABLED), configured_weight=1)
    service: Any = SimpleNamespace(name="web", servers=[server])
    names: Any = (("web", "10.0.0.1:80"),)
    for stage, printed in (
        (Stage.REMOVED, "drained and out of the table"),
        (Stage.CALLED_OFF, "disabled by the operator"),
    ):
        (text,) = overridden([service], [Drain(1, names, 0.0, stage=stage)])
        assert printed in text


@pytest.mark.parametrize(
    ("services", "reason", "explained"), [(0, "auto", True), (1, "auto", False), (0, "on request", False)]
)
def test_show_explains_why_native_xdp_stays_without_services(
    services: int, reason: str, explained: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = {"xdp": 0, "tc": 0, "xdp_share": 0.0}
    device = {"device": "e0", "mode": "native", "reason": reason, "xdp": 5, "tc": 6, "tc_egress": 0}
    device |= {"rp_filter": "", "forwarded": none}
    empty: dict[str, Any] = {
        "unattached": [],
        "not_forwarding": [],
        "absent": [],
        "not_routing": [],
        "unresolved": [],
        "master": [],
        "standby": [],
        "reasons": {},
    }
    counts = {"connections": 0, "conn_max": 16, "fill": 0.0, "half_open": 0, "half_open_share": 0.0}
    found = {"tables": True, "object": "x", "services": services, "forwarded": none, "devices": [device]}
    monkeypatch.setattr(director, "_overview", lambda: found | empty | counts)
    assert main.run(["show"]) == 0
    assert ("native XDP stays for a minute" in capsys.readouterr().out) == explained


def test_show_names_a_server_that_completes_few_handshakes() -> None:
    counted = [
        {"service": "TCP 192.0.2.1:80", "server": f"10.0.0.{number}:80", "begun": 30, "completed": completed}
        for number, completed in ((1, 0), (2, 30), (3, 29))
    ]
    assert list(director._silent_servers(counted)) == [
        "10.0.0.1:80 of TCP 192.0.2.1:80: since it was added, completes 0 of 30 handshakes, others 98%"
    ]
    assert list(director._silent_servers(counted[1:])) == []


def test_down_names_the_daemons_that_make_the_tables_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(director, "network_cookie", lambda: 1)
    assert _daemons() == []
    for name in "net1", "net1-other", "net11":
        (tmp_path / name).mkdir()
    state = StateDirectory(tmp_path / "net1-other")
    state.acquire()
    assert len(_daemons()) == 1
    state.release()


@pytest.mark.parametrize(
    ("path", "unit", "tables", "named"),
    [
        ("daemon/net1", "", 1, True),
        ("daemon/net1", "", 2, False),  # net_namespace_ipvs
        ("daemon/net2", "", 1, True),
        ("own", "pylvs@a.service", 1, True),
        ("own", "pylvs@a.service", 2, False),
        ("own", "", 1, False),
    ],
)
def test_down_names_a_daemon_by_the_namespace_of_its_tables(
    path: str, unit: str, tables: int, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "STATE_ROOT", tmp_path / "daemon")
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    monkeypatch.setattr(director, "network_cookie", lambda: 1)
    monkeypatch.setattr(directory, "network_cookie", lambda: 1)
    monkeypatch.setenv(units.VARIABLE, unit)
    state = StateDirectory(tmp_path / path)
    state.acquire()
    units.note(state.path)
    state.write(NAMESPACES_FILE, {"daemon": ["", 7], "tables": ["", tables]})
    command = "pylvs stop" if path == "daemon/net1" else f"pylvs stop --state-dir {state.path}"
    assert _daemons() == ([(os.getpid(), command)] if named else [])
    state.write(NAMESPACES_FILE, None)
    state.release()
