"""`pylvs check`: what it prints, and its exit status, as of `keepalived -t`."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.cli import configuration
from pylvs.cli.main import run

GOOD = """\
virtual_server 192.0.2.1 80 {
    protocol TCP
    lvs_sched rr
    lvs_method NAT
    real_server 10.0.0.2 80 {
        TCP_CHECK {
        }
    }
}
"""
ROUTER = """\
global_defs {
    dynamic_interfaces
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    prioritee 200
    virtual_ipaddress { 192.0.2.1 }
}
"""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has the service's address."""
    monkeypatch.setattr(configuration, "local_addresses", lambda: {ip_address("192.0.2.1")})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in which nothing is wrong."""
    path = tmp_path / "k.conf"
    path.write_text(GOOD)
    return path


def test_of_a_good_file_it_prints_what_is_in_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: 1 service, 1 real server; nothing found\n", "")


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_is_a_warning(text: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reload refuses it."""
    file.write_text(text)
    assert run(["check", str(file)]) == 5
    warning = f"{file}:1:1: warning: the file is empty; write a virtual_server or a vrrp_instance"
    assert capsys.readouterr().err.splitlines()[0] == warning


def test_every_finding_is_a_line_with_its_position(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("lvs_sched", "lvs_shed"))
    assert run(["check", str(file)]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"{file}: 1 service, 1 real server; 2 warnings"
    assert f"{file}:3:5: warning: lvs_shed is not known in virtual_server and is ignored" in err
    assert "did you mean 'lvs_sched'?" in err


def test_scripts_that_are_not_secure_have_a_status_of_their_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("    protocol", "    quorum_up /bin/sh root\n    protocl"))
    assert run(["check", str(file)]) == 6
    assert "enable_script_security is not set" in capsys.readouterr().err


def test_what_is_only_missing_on_this_machine_is_no_finding(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("    protocol", "    quorum_up /no/such/program root\n    protocol"))
    assert run(["check", str(file)]) == 0
    assert "note: /no/such/program is not run" in capsys.readouterr().err
    assert run(["check", "--strict", str(file)]) == 5


@pytest.mark.parametrize("text", [None, GOOD.rsplit("}", 1)[0], "include no-such-file.conf\n" + GOOD])
def test_what_cannot_be_read_is_a_finding(text: str | None, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.unlink() if text is None else file.write_text(text)
    assert run(["check", str(file)]) == 5
    assert f"{file}:" in capsys.readouterr().err


def test_programs_get_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("rr\n", "rrr\n"))
    assert run(["check", str(file), "--json", "--show"]) == 5
    found = json.loads(capsys.readouterr().out)
    (finding,) = found["findings"]
    assert (finding["file"], finding["line"], finding["column"], finding["width"]) == (str(file), 3, 15, 3)
    assert (finding["severity"], finding["security"], finding["fatal"]) == ("warning", False, False)
    assert found["services"] == ["192.0.2.1:80 tcp"]
    assert found["effective"]["blocks"][0]["block"] == "global_defs"


def test_what_is_shown_is_a_configuration(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(file), "--show"]) == 0
    again = tmp_path / "again.conf"
    again.write_text(capsys.readouterr().out)
    assert run(["check", str(again)]) == 0


def test_without_a_file_it_reads_that_of_the_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(configuration, "DEFAULT_FILE", str(tmp_path / "none.conf"))
    run(["check"])
    assert f"{tmp_path}/none.conf:1:1: error" in capsys.readouterr().err


def test_virtual_routers_are_counted_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(ROUTER)
    assert run(["check", str(file)]) == 5
    printed = capfd.readouterr().err.splitlines()
    assert printed == [
        f"{file}:7:5: warning: prioritee is not known in vrrp_instance and is ignored; did you mean 'priority'?",
        f"{file}: 0 services, 0 real servers, 1 virtual router; 1 warning",
    ]
    assert run(["check", "--json", str(file)]) == 5
    assert json.loads(capfd.readouterr().out)["virtual_routers"] == ["VI_1"]


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (GOOD, ["192.0.2.1"]),
        (GOOD.replace("192.0.2.1 80", "fwmark 1").replace("protocol TCP", ""), []),
        (
            GOOD
            + "vrrp_instance VI {\n interface eth0\n virtual_router_id 5\n virtual_ipaddress {\n 192.0.2.1\n }\n}\n",
            [],
        ),
    ],
)
def test_an_address_that_no_device_has_is_a_note(
    text: str, notes: list[str], file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "local_addresses", lambda: {ip_address("192.0.2.9")})
    file.write_text(text)
    run(["check", str(file)])
    printed = capsys.readouterr().err
    for address in notes:
        assert f"{file}:1:1: note: {address}: no device has it, and no virtual router adds it" in printed
        assert f"on the director: ip address add {address}/32 dev DEVICE" in printed
    assert printed.count("no device has it") == len(notes)


def test_the_file_may_be_given_as_to_pylvs_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lvs.conf"
    file.write_text("global_defs {\n router_id a\n}\n")
    assert run(["check", "-f", str(file)]) == run(["check", "--use-file", str(file)]) == run(["check", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [printed[0]] * 3
    assert printed[0].startswith(f"{file}: ")
    assert run(["check", str(file), "-f", str(file)]) != 0
    assert "name the file once" in capsys.readouterr().err
