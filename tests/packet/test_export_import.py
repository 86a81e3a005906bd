"""`pylvs export` and `pylvs import`: the whole table, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli.main import run
from pylvs.dataplane.transaction import Transaction
from pylvs.model.errors import NoSpace
from pylvs.model.marks.words import rule_of
from tests.json_page import assert_documented
from tests.packet.host import Host

Capture = pytest.CaptureFixture[str]
TEXT = """\
-A -t 192.0.2.1:80 -s wrr -p 300 -M 255.255.255.0
-a -t 192.0.2.1:80 -r 198.51.100.1:8080 -m -w 3 -x 10 -y 5
-a -t 192.0.2.1:80 -r 198.51.100.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -t [2001:db8::1]:443 -s mh -b mh-fallback,mh-port
-a -t [2001:db8::1]:443 -r [2001:db8::2]:443 -g -w 0
-A -f 7 -s rr
-a -f 7 -r 198.51.100.3:0 -g -w 1
"""


RULES = '{"pylvs_table": 1, "services": [{"mark": 7}], "client_rules": [{"service": "%s", "rules": %s}]}'


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    """Return the file's host; all of the table is as at first afterwards."""
    before = dict(director_host.director.settings())
    yield director_host
    director_host.director.change_mark_rules(lambda _: [])
    for name, value in before.items():
        director_host.director.change_setting(name, value)


def called(capfd: Capture, *words: str, status: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    assert run(words) == status, capfd.readouterr()
    out, err = capfd.readouterr()
    return out, err


def imported(capfd: Capture, path: Path, content: str | dict[str, Any], *words: str) -> list[str]:
    """Return the lines that `pylvs import` prints."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return called(capfd, "import", *words, str(path))[0].splitlines()


def exported(capfd: Capture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(called(capfd, "export")[0])
    return found


def test_a_table_returns_by_either_form(host: Host, capfd: Capture, tmp_path: Path) -> None:
    host.director.change_mark_rules(
        lambda _: [rule_of("7", dst="192.0.2.9", final=True), rule_of("8/0xff", dst="::/0")]
    )
    host.director.change_setting("sloppy_tcp", 1)
    lines = imported(capfd, tmp_path / "table", TEXT)
    called(capfd, "filter", "add", "-t", "192.0.2.1:80", "limit", "10.0.0.0/8", "20/min", "per", "24")
    called(capfd, "filter", "add", "-f", "7", "deny", "10.1.0.0/16", "pass")
    assert lines[:2] == ["+ TCP 192.0.2.1:80 wrr", "+   198.51.100.1:8080 nat weight 3"]
    assert sorted(called(capfd, "export", "--ipvsadm")[0].splitlines()) == sorted(TEXT.splitlines())
    whole = exported(capfd)
    assert_documented("pylvs export", whole)
    host.director.flush()
    host.director.change_mark_rules(lambda _: [])
    host.director.change_setting("sloppy_tcp", 0)
    assert imported(capfd, tmp_path / "json", whole)[0] == "+ TCP 192.0.2.1:80 wrr"
    assert exported(capfd) == whole
    by_service = {each["service"]: each["rules"] for each in whole["client_rules"]}
    assert by_service == {
        "FWM 7": ["deny 10.1.0.0/16 pass"],
        "TCP 192.0.2.1:80": ["limit 10.0.0.0/8 20/min per 24"],
    }
    assert imported(capfd, tmp_path / "json", whole) == ["nothing differs"]
    assert imported(capfd, tmp_path / "table", TEXT) == ["nothing differs"]


def test_a_dry_run_prints_what_the_import_does(host: Host, capfd: Capture, tmp_path: Path) -> None:
    imported(capfd, tmp_path / "table", TEXT)
    before = exported(capfd)
    wanted = json.loads(json.dumps(before))
    del wanted["services"][0]
    wanted["services"][0]["servers"][0]["weight"] = 9
    wanted["timeouts"]["udp_s"] = 60
    wanted["settings"] = {"net.ipv4.vs.sloppy_sctp": 1}
    wanted["mark_rules"] = [{"dst": "192.0.2.7", "mark": 7}]
    wanted["client_rules"] = [{"service": "FWM 7", "rules": ["allow 10.1.0.0/16", "deny 10.0.0.0/8"]}]
    lines = imported(capfd, tmp_path / "json", wanted, "--dry-run")
    assert lines[-5:] == [
        f"~ timeout udp_s {before['timeouts']['udp_s']} -> 60",
        "~ net.ipv4.vs.sloppy_sctp 0 -> 1",
        "+ mark rule --dst 192.0.2.7 7",
        "+ client rule FWM 7 deny 10.0.0.0/8",
        "+ client rule FWM 7 allow 10.1.0.0/16",
    ]
    assert exported(capfd) == before
    assert imported(capfd, tmp_path / "json", wanted) == lines
    after = exported(capfd)
    assert after["services"] == wanted["services"]
    assert after["settings"] == before["settings"] | {"sloppy_sctp": 1}
    assert (after["timeouts"]["udp_s"], len(after["mark_rules"])) == (60, 1)


def parts(found: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a document that another one has."""
    return {name: found[name] for name in of}


def test_rules_and_services_are_one_store(
    host: Host, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No packet finds a new service without its rules; rules alone change likewise. Without rules they stay."""
    commits, commit = list[int](), Transaction.commit

    def counting(edit: Transaction) -> None:
        commits.append(edit.generation)
        commit(edit)

    imported(capfd, tmp_path / "table", TEXT)
    of_mark = {"service": "FWM 7", "rules": ["deny 10.0.0.0/8"]}
    others = {"service": "TCP [2001:db8::1]:443", "rules": ["deny ::/0"]}
    whole = exported(capfd) | {"client_rules": [of_mark, others]}
    host.director.flush()
    del whole["timeouts"]  # an edit of its own
    monkeypatch.setattr(Transaction, "commit", counting)
    imported(capfd, tmp_path / "json", whole)
    assert (len(commits), parts(exported(capfd), whole)) == (1, whole)
    less = whole | {"client_rules": [of_mark | {"rules": ["deny 10.0.0.0/8", "allow 10.1.0.0/16"]}]}
    assert imported(capfd, tmp_path / "json", less) == [
        "+ client rule FWM 7 allow 10.1.0.0/16",
        "- client rule TCP [2001:db8::1]:443 deny ::/0",
    ]
    assert (len(commits), parts(exported(capfd), less)) == (2, less)
    del whole["client_rules"]
    assert imported(capfd, tmp_path / "json", whole) == ["nothing differs"]
    assert imported(capfd, tmp_path / "json", whole | {"client_rules": []})[0] == "- client rule FWM 7 deny 10.0.0.0/8"
    assert exported(capfd)["client_rules"] == []


def test_a_refused_import_changes_nothing(
    host: Host, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The services are the last change: what was set before them is withdrawn."""
    imported(capfd, tmp_path / "table", TEXT)
    before = exported(capfd)
    wanted = before | {"services": [], "settings": {"sloppy_tcp": 1}, "mark_rules": [{"dst": "::/0", "mark": 7}]}
    wanted["timeouts"] = {"tcp_s": 1}

    def refuse(*_: object) -> None:
        raise NoSpace("no space", "services", 1)

    (tmp_path / "json").write_text(json.dumps(wanted))
    with monkeypatch.context() as patched:
        patched.setattr("pylvs.dataplane.director.BpfDirector.apply", refuse)
        assert called(capfd, "import", str(tmp_path / "json"), status=1) == ("", "pylvs: no space\n")
    assert exported(capfd) == before


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("-A -t 192.0.2.1:80\n-C\n", "line 2: -C: no JSON of pylvs export, and no line of ipvsadm-save"),
        ("table\n", "line 1: table: no JSON of pylvs export, and no line of ipvsadm-save"),
        ("-a -t 192.0.2.1:80 -r 198.51.100.1\n", "line 1: -a -t 192.0.2.1:80 -r 198.51.100.1: no line before adds"),
        ("-A -t 192.0.2.1:80\n-A -t 192.0.2.1:80\n", "line 2: -A -t 192.0.2.1:80: TCP 192.0.2.1:80 is listed twice"),
        ("-A -t 192.0.2.1:99999\n", "line 1: -A -t 192.0.2.1:99999: "),
        ("{", "line 1, column 2: no JSON: "),
        ("[" * 100_000, "no JSON of pylvs export"),
        ("[]", "document: []: must be an object with "),
        ('{"pylvs_table": 2, "services": []}', "pylvs_table: 2: must be 1"),
        ('{"pylvs_table": 1}', "services: None: is missing"),
        ('{"pylvs_table": 1, "services": [], "conns": 1}', "conns: 1: is unknown"),
        ('{"pylvs_table": 1, "services": [{"mark": 1, "servers": [{"address": "x", "port": 1}]}]}', "services[0]: "),
        ('{"pylvs_table": 1, "services": [], "settings": {"sloppy": 1}}', "settings: sloppy: 1: sloppy: no such"),
        ('{"pylvs_table": 1, "services": [], "settings": {"drop_entry": 9}}', "settings: drop_entry: 9: "),
        ('{"pylvs_table": 1, "services": [], "timeouts": {"tcp_s": -1}}', "timeouts: tcp_s: -1: "),
        ('{"pylvs_table": 1, "services": [], "mark_rules": [{"mark": 1, "dst": "x"}]}', "mark_rules[0]: mark rule: "),
        ('{"pylvs_table": 1, "services": [], "mark_rules": [{"mark": 1, "dst": 5}]}', "mark_rules[0]: dst: 5: "),
        ('{"pylvs_table": 1, "services": [], "client_rules": {}}', "client_rules: {}: must be a list"),
        ('{"pylvs_table": 1, "services": [], "client_rules": [{}]}', "client_rules[0]: service: None: is missing"),
        (RULES % ("FWM 8", "[]"), "client_rules[0]: service: 'FWM 8': is no service of this document"),
        (RULES % ("x", "[]"), "client_rules[0]: service: 'x': must be "),
        (RULES % ("FWM 7", '"deny"'), "client_rules[0]: rules: 'deny': must be a list of: allow PREFIX, "),
        (RULES % ("FWM 7", '["deny ::/0", 5]'), "client_rules[0]: rules: ['deny ::/0', 5]: must be a list of: "),
        (RULES % ("FWM 7", '["deny 10.0.0.1/8"]'), "client_rules[0]: rule: 'deny 10.0.0.1/8': 10.0.0.1/8: has bits"),
        (RULES % ("FWM 7", '["deny ::/0"]'), "client_rules[0]: rule: 'deny ::/0': the service is of IPv4, the prefix"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    host: Host, capfd: Capture, tmp_path: Path, content: str, error: str
) -> None:
    imported(capfd, tmp_path / "table", TEXT)
    before = exported(capfd)
    (tmp_path / "bad").write_text(content)
    out, err = called(capfd, "import", str(tmp_path / "bad"), status=1)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"pylvs: {tmp_path / 'bad'}: {error}")
    assert exported(capfd) == before


def test_a_scheduler_that_does_not_exist_is_named(host: Host, capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("-A -t 192.0.2.1:80 -s xx\n")
    assert called(capfd, "import", str(tmp_path / "bad"), status=1)[1].startswith(
        "pylvs: TCP 192.0.2.1:80: no scheduler 'xx'; there are: rr, "
    )
    assert exported(capfd)["services"] == []
