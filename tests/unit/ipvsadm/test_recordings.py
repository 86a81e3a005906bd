"""Every recorded case of the real ipvsadm comes out the same, to the letter."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from typing import Any

import pytest

from pylvs.ipvsadm import main as program
from pylvs.model.errors import NotPermitted
from pylvs.model.rows import Counters, Rates
from pylvs.model.service import DestinationKey, Protocol, ServiceKey
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import ORACLE, call, cases_of, counters, differences, replay

OTHERWISE = ("privileges",)  # needs another user; see test_without_the_privilege
CASES = [
    pytest.param(case, recording, id=f"{path.stem}: {case.name}")
    for path in sorted((ORACLE / "cases").glob("*.txt"))
    if path.stem not in OTHERWISE
    for case, recording in cases_of(path.stem)
]
SERVICE = ServiceKey(Protocol.TCP, IPv4Address("192.0.2.1"), 80)
SERVER = DestinationKey(IPv4Address("198.51.100.11"), 80)


@pytest.mark.parametrize(("case", "recording"), CASES)
def test_case(case: Any, recording: Any) -> None:
    assert not list(differences(case, recording))


@pytest.mark.parametrize("entry", counters(), ids=lambda entry: str(entry["counter"]))
def test_counters_of_any_size(entry: dict[str, Any]) -> None:
    director = MemoryDirector()
    call(director, "ipvsadm", "-R", stdin="-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 198.51.100.11 -m\n")
    every = [entry["counter"]] * 5
    director.count_service(SERVICE, Counters(*every), Rates(*every))
    director.count(SERVICE, SERVER, counters=Counters(*every), rates=Rates(*every))
    for options, lines in entry.items():
        if options != "counter":
            assert call(director, "ipvsadm", "-Ln", *options.split()).stdout.splitlines()[-2:] == lines


def test_without_the_privilege(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refuse() -> MemoryDirector:
        raise NotPermitted("CAP_NET_ADMIN is missing")

    monkeypatch.setattr(program, "open_director", refuse)
    tried = 0
    for case, recording in cases_of("privileges"):
        for command, wanted in zip(case.commands, recording.results, strict=True):
            if command.argv[0] != "setpriv":
                continue
            words = command.argv[command.argv.index("ipvsadm") :]
            monkeypatch.setattr(sys, "argv", list(words))
            status = program.main()
            out, err = capfd.readouterr()
            assert replay.Result(out, err, status) == wanted
            tried += 1
    assert tried


def test_the_help_of_save_needs_no_privilege(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> MemoryDirector:
        raise NotPermitted("CAP_NET_ADMIN is missing")

    monkeypatch.setattr(program, "open_director", refuse)
    monkeypatch.setattr(sys, "argv", ["ipvsadm-save", "-q"])
    assert program.save() == 1
    assert capfd.readouterr() == ("", f"{program.SAVE_HELP}\n")
    monkeypatch.setattr(sys, "argv", ["ipvsadm-save", "-n"])
    assert program.save() == 2
    assert "Usage" not in capfd.readouterr().err
