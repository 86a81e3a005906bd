"""`--json` prints what docs/reference/json.md documents. Its tests of `show` and `bench` are in tests/packet/."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli.main import run
from pylvs.cli.packets import doctor
from pylvs.cli.rules.mark import print_rules
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.model.marks import MarkRule
from pylvs.model.sync.daemons import MASTER, RunningDaemon, SyncDaemon
from pylvs.realserver import vip
from pylvs.sync import control
from tests.json_page import assert_documented

Capture = pytest.CaptureFixture[str]
FILE = """\
virtual_server 192.0.2.1 80 {
    lb_algo rr
    real_server 10.0.0.2 80 {
        weight 1
    }
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {
        192.0.2.1
    }
}
"""
TABLE = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 1\n-A -t 192.0.2.2:80 -s rr\n"
RULE = MarkRule(
    value=1,
    family=4,
    protocol=6,
    source=ip_network("198.51.100.0/24"),
    target=ip_network("192.0.2.0/24"),
    source_ports=((1, 2),),
    target_ports=((80, 80),),
    device="eth0",
    link=bytes(6),
    tcp_flags=(2, 2),
    tos=(8, 8),
    mark=(3, 3),
)


def printed(capture: Capture, *words: str) -> Any:
    run([*words, "--json"])
    return json.loads(capture.readouterr().out)


def test_check_and_its_settings(tmp_path: Path, capfd: Capture) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(FILE)
    found = printed(capfd, "check", "--show", str(file))
    assert_documented("pylvs check", found)
    assert_documented("A block of effective", found["effective"], *found["effective"]["blocks"])


def test_diff(tmp_path: Path, capfd: Capture) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(FILE)
    new.write_text(FILE.replace("weight 1", "weight 2").replace("VI_1", "VI_2") + FILE.replace("192.0.2", "192.0.3"))
    found = [printed(capfd, "diff", *map(str, files)) for files in ((old, new), (new, old))]
    assert_documented("pylvs diff", *found)


def test_simulate(tmp_path: Path, capfd: Capture) -> None:
    table = tmp_path / "table"
    table.write_text(TABLE)
    assert_documented("pylvs simulate", printed(capfd, "simulate", str(table), "--clients", "10.1.0.0/30"))


def test_mark_rules_with_all_conditions(capfd: Capture) -> None:
    print_rules([RULE, replace(RULE, family=0, then_skip=1)], as_json=True)
    found = json.loads(capfd.readouterr().out)
    assert set(found[0]) >= {"proto", "if_mark", "tcp_flags"}
    assert_documented("pylvs mark list", found)


def test_doctor(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    bare = Finding("a", Severity.INFO, Layer.HOST, "b", "c", "d", "e")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "examine", lambda facts: [bare, replace(bare, fix_command="true", fix_host=HERE)])
    assert_documented("pylvs doctor", printed(capfd, "doctor"))


def test_sync(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(control, "running", lambda: [RunningDaemon(SyncDaemon(MASTER, "eth1"), 1472, 1)])
    monkeypatch.setattr(control, "counts", lambda role: {"messages": 1})
    assert_documented("pylvs sync", printed(capfd, "sync"))


def test_realserver_status(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr(vip, "status", lambda: [vip.Finding("192.0.2.1", True, "on lo")])
    assert_documented("pylvs realserver status", printed(capfd, "realserver", "status"))


def test_a_field_that_the_page_lacks_is_found() -> None:
    rule = {"number": 1, "family": None, "mark": 1, "mask": 1, "then": 2, "else": None}
    assert_documented("pylvs mark list", [rule])
    for wrong in rule | {"speed": 1}, rule | {"number": "1"}, {name: rule[name] for name in rule if name != "mask"}:
        with pytest.raises(AssertionError):
            assert_documented("pylvs mark list", [wrong])
