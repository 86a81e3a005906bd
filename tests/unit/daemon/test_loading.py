"""Reading a configuration in this process or in another gives the same; refusals have a reason."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon import Options, loading
from pylvs.daemon.loading import ConfigurationLoader, Loaded, Refused, accept, load, load_in_subprocess
from pylvs.netlink import links
from pylvs.system.processes import other_version
from tests.shortages import SHORTAGES, failing
from tests.unit.config.vrrp_support import device
from tests.waiting import PATIENCE_S

TEXT = """
virtual_server 192.0.2.1 80 {
    lb_algo wlc
    lb_kind DR
    protocol TCP
    colour red
    real_server 10.0.0.1 80 {
        weight 3
        TCP_CHECK {
            connect_timeout 3
        }
    }
@extra real_server 10.0.0.2 80 {
@extra }
}
"""


@pytest.fixture
def options(tmp_path: Path) -> Options:
    path = tmp_path / "keepalived.conf"
    path.write_text(TEXT)
    return Options(str(path), ("extra",))


def test_a_subprocess_reads_the_same_configuration(options: Options) -> None:
    here = load(options)
    servers = [str(each.destination.key) for each in here.configuration.services[0].servers]
    assert servers == ["10.0.0.1:80", "10.0.0.2:80"]
    assert [finding.text for finding in here.findings if "colour" in finding.text]
    assert load_in_subprocess(options) == here
    gone = Options(options.file + ".gone")
    assert load_in_subprocess(gone) == load(gone)


def test_a_file_that_took_long_is_read_in_a_subprocess_next_time(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere: list[Options] = []

    def noted(options: Options) -> Loaded:
        elsewhere.append(options)
        return load(options)

    monkeypatch.setattr(loading, "load_in_subprocess", noted)
    quick, slow = ConfigurationLoader(slow_s=1000), ConfigurationLoader(slow_s=0)
    slow.load(options)
    assert elsewhere == [options], "nothing took less than no time"
    quick.load(options)
    quick.load(options)
    assert elsewhere == [options]


@pytest.mark.parametrize("per_byte", [1 << 47, 1 << 64], ids=["more than an address space", "more than a size"])
def test_a_reload_of_a_file_too_large_for_the_memory_reads_nothing(
    per_byte: int, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = ConfigurationLoader()
    loader.load(options)
    monkeypatch.setattr(loading, "MEMORY_PER_BYTE", per_byte)
    monkeypatch.setattr(loading, "parse", lambda _options: pytest.fail("the file was read"))
    with pytest.raises(Refused, match=r"keepalived\.conf: reading it may take \d+ MiB, and this .*; use a smaller"):
        loader.load(options)


def test_a_process_that_fails_is_a_finding_that_stops_everything(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_words: Any, **_named: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], -9, b"")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(Refused, match=r"the process that reads it failed \(ended by signal 9\)"):
        accept(load_in_subprocess(options), options, allow_empty=True)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no JSON"),
        (b"[" * 10**5, "no JSON"),
        (b"[]", "must be the fields of Loaded, not list"),
        (b'{"configuration":{"services":[{"name":1}]}}', r"configuration\.services\[0\]\.name: must be str, not int"),
    ],
)
def test_a_process_that_sends_something_else_is_a_finding(
    content: bytes, text: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 0, loading.VERSION_LINE + content)
    monkeypatch.setattr(subprocess, "run", lambda *_words, **_named: done)
    with pytest.raises(Refused, match=rf"the process that reads it sent no configuration \({text}\)"):
        accept(load_in_subprocess(options), options, allow_empty=True)


def test_a_process_of_another_version_reads_nothing_and_gives_the_reason(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip replaced the files below a daemon that runs."""
    monkeypatch.setattr(loading, "VERSION_LINE", b"0.0.1\n")
    with pytest.raises(Refused, match=re.escape(f"the process that reads it {other_version()}")):
        accept(load_in_subprocess(options), options, allow_empty=True)


def test_a_process_that_hangs_is_ended(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOAD_TIMEOUT_S", 0.05)
    monkeypatch.setattr(loading, "command", lambda *_: ["sleep", str(PATIENCE_S)])
    with pytest.raises(Refused, match=r"the process that reads it did not end within 0\.05 s"):
        accept(load_in_subprocess(options), options, allow_empty=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("virtual_server 192.0.2.1 80 {\n", "^the file cannot be run: [^ ]*/keepalived.conf:1:"),
        ("includem /nowhere/at/all.conf\n", "cannot be run"),
        ("# nothing\n! at all\n", "is empty; a former daemon left services; to remove them, run pylvs stop"),
        ("virtual_serve 192.0.2.1 80 {\n}\n", "is empty; a former daemon left services"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused_with_a_reason(options: Options, text: str, message: str) -> None:
    Path(options.file).write_text(text)
    with pytest.raises(Refused, match=message):
        accept(load(options), options, allow_empty=False)


def loaded(options: Options, text: str) -> Loaded:
    Path(options.file).write_text(text)
    return load(options)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("lb_algo", "lb_alg"),
        ("lb_algo wlc", "lb_algo wcl"),
        ("lb_kind DR", "lb_knd DR"),
        ("lb_kind DR\n", "lb_kind DR "),
        ("protocol TCP", "protcol TCP"),
        ("virtual_server", "virtual_serve"),
        ("real_server", "real_serve"),
        ("weight", "wieght"),
        ("TCP_CHECK", "tcp_check"),
    ],
)
def test_a_reload_refuses_a_new_typing_error_except_by_force(options: Options, word: str, instead: str) -> None:
    in_force = loaded(options, TEXT.replace("colour red", ""))
    assert not in_force.findings
    new = loaded(options, TEXT.replace("colour red", "").replace(word, instead, 1))
    assert accept(new, options, allow_empty=True) == new.configuration, "a start ignores the word"
    with pytest.raises(Refused, match=r"new mistakes?; repair .*, or reload with --force: .*keepalived\.conf:\d+"):
        accept(new, options, allow_empty=True, in_force=in_force)
    assert accept(new, options, allow_empty=True, in_force=in_force, force=True) == new.configuration


def test_a_reload_accepts_the_errors_that_are_in_force_already(options: Options) -> None:
    """A stock file starts, so it can be reloaded."""
    errors = "lb_algo wlc\n persistence_granularity 64\n track_script\n"
    in_force = loaded(options, TEXT.replace("lb_algo wlc", errors))
    assert len(loading.errors(in_force)) == 3
    moved = loaded(options, "\n# a comment\n" + TEXT.replace("weight 3", "weight 4").replace("lb_algo wlc", errors))
    assert accept(moved, options, allow_empty=False, in_force=in_force) == moved.configuration
    second = loaded(options, TEXT.replace("lb_algo wlc", errors) + TEXT.replace(" 80 {", " 81 {"))
    with pytest.raises(Refused, match=r"^1 new mistake; .*colour is not known"):
        accept(second, options, allow_empty=False, in_force=in_force)


def test_an_error_is_the_same_one_if_its_text_names_another_line(options: Options) -> None:
    script = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n192.0.2.1\n}\n"
    script += "track_script {\ns\n}\n}\nvrrp_script s {\nscript /bin/true\n}\n"
    in_force = loaded(options, TEXT + script)
    assert "defined only in line" in " ".join(each.text for each in loading.errors(in_force))
    moved = loaded(options, f"\n{TEXT}{script}")
    assert accept(moved, options, allow_empty=False, in_force=in_force) == moved.configuration


ROUTER = """vrrp_instance V {
 interface eth0
 virtual_router_id 1
 virtual_ipaddress {
  192.0.2.1
 }
}
"""
OTHER = ROUTER.replace(" V ", " W ").replace("_id 1", "_id 2").replace("192.0.2.1", "192.0.2.2")
GROUP = "vrrp_sync_group G {\n group {\n V\n W\n }\n}\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (ROUTER, ROUTER.replace("interface eth0", "interface eth99"), 2),
        (ROUTER, ROUTER.replace("192.0.2.1", "192.0.2.1 dev eth99"), 5),
        (ROUTER, ROUTER.replace(" virtual_router_id", " track_interface {\n  eth99\n }\n virtual_router_id"), 4),
        (ROUTER, GROUP + ROUTER + OTHER.replace("interface eth0", "interface eth99"), 15),
    ],
    ids=["interface", "address", "tracked", "member"],
)
def test_a_reload_that_would_lose_addresses_for_an_absent_device_needs_force(
    options: Options, old: str, new: str, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "devices", lambda: [device("eth0")])
    in_force, edited = loaded(options, old), loaded(options, new)
    assert accept(edited, options, allow_empty=False) == edited.configuration, "at a start it may come later"
    with pytest.raises(Refused, match=rf":{line}:\d+: this machine has no device 'eth99', and vrrp_instance V would"):
        accept(edited, options, allow_empty=False, in_force=in_force)
    assert accept(edited, options, allow_empty=False, in_force=in_force, force=True) == edited.configuration
    assert accept(edited, options, allow_empty=False, in_force=edited) == edited.configuration, "nothing changes"
    later = loaded(options, f"global_defs {{\n dynamic_interfaces\n}}\n{new}")
    assert accept(later, options, allow_empty=False, in_force=in_force) == later.configuration
    beside = loaded(options, old + OTHER.replace("interface eth0", "interface eth99"))
    assert accept(beside, options, allow_empty=False, in_force=in_force) == beside.configuration


def test_a_reload_without_services_needs_allow_empty(options: Options) -> None:
    in_force = loaded(options, TEXT)
    router = "vrrp_instance V {\ninterface lo0\nvirtual_router_id 1\nvirtual_ipaddress {\n192.0.2.1\n}\n}\n"
    for text, message in {
        "global_defs {\n}\n": "is empty; to empty the table, reload with --allow-empty",
        router: "has no virtual_server, and services are in force; to empty the table, reload with --allow-empty",
    }.items():
        new = loaded(options, text)
        for force in False, True:
            with pytest.raises(Refused, match=message):
                accept(new, options, allow_empty=False, in_force=in_force, force=force)
        assert accept(new, options, allow_empty=True, in_force=in_force) == new.configuration
    assert accept(new, options, allow_empty=False, in_force=new) == new.configuration, "there was no service"


def test_without_checks_none_are_left(options: Options) -> None:
    found = load(Options(options.file, checks=False))
    assert [server.checks for server in found.configuration.services[0].servers] == [()]


@pytest.mark.parametrize(
    ("number", "status"),
    [*((each, 1) for each in (*SHORTAGES, errno.EIO, errno.ESTALE)), (errno.ENOENT, 78), (errno.EACCES, 78)],
    ids=str,
)
def test_a_file_that_cannot_be_read_now_may_be_read_by_the_next_start(
    number: int, status: int, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "stat", failing(number))
    loaded = load(options)
    monkeypatch.undo()
    with pytest.raises(Refused, match=os.strerror(number)) as refused:
        accept(loaded, options, allow_empty=True)
    assert refused.value.exit_status == status
