"""notify_up, notify_down, quorum_up and quorum_down: which of them an event runs, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.daemon.telling.notify import Notifier, script_of
from pylvs.health.events import CheckFailed, Event, QuorumGained, QuorumLost, ServerDown, ServerUp, WeightChanged
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.scripts import Script
from pylvs.model.service import Protocol, ServiceKey
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.notify import serial_scripts
from pylvs.system.processes.scripts import Processes
from tests.waiting import until_async

KEY = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)


def server_key(number: int) -> DestinationKey:
    return DestinationKey(ip_address(f"10.0.0.{number}"), 80)


def script(*words: str) -> Script:
    return Script(words)


def service(name: str = "web", servers: int = 2, **fields: object) -> WantedService:
    """Whose scripts are named for what they tell."""
    wanted = tuple(
        WantedServer(
            Destination(server_key(number)), notify_up=script(f"up{number}"), notify_down=script(f"down{number}")
        )
        for number in range(1, servers + 1)
    )
    made = WantedService(name, (KEY,), servers=wanted, quorum_up=script("quorum-up"), quorum_down=script("quorum-down"))
    return replace(made, **fields)  # type: ignore[arg-type]


def up(number: int, **fields: object) -> Event:
    return ServerUp(at=0, service="web", reason="", server=server_key(number), weight=1, **fields)


def down(number: int, **fields: object) -> Event:
    return ServerDown(at=0, service="web", reason="", server=server_key(number), **fields)  # type: ignore[arg-type]


def gained(**fields: object) -> Event:
    return QuorumGained(at=0, service="web", reason="", weight=1, quorum=1, hysteresis=0, **fields)  # type: ignore[arg-type]


def lost(**fields: object) -> Event:
    return QuorumLost(at=0, service="web", reason="", weight=0, quorum=1, hysteresis=0, **fields)  # type: ignore[arg-type]


CHECKED = {"at": 0, "service": "web", "reason": "", "server": server_key(1)}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (up(1), "notify_up up1"),
        (down(2), "notify_down down2"),
        (down(2, initial=True), "notify_down down2"),
        (down(2, ending=True), "notify_down down2"),
        (gained(), "quorum_up quorum-up"),
        (gained(initial=True), "quorum_up quorum-up"),
        (lost(), "quorum_down quorum-down"),
        (lost(ending=True), "quorum_down quorum-down"),
        (lost(initial=True), "quorum_down quorum-down"),
        (lost(initial=True, silent=True), ""),
        (up(9), ""),
        (WeightChanged(**CHECKED, before=1, weight=2), ""),  # type: ignore[arg-type]
        (CheckFailed(**CHECKED, check="TCP_CHECK", attempt=1, attempts=1, counted=True), ""),  # type: ignore[arg-type]
    ],
)
def test_which_script_an_event_runs(event: Event, expected: str) -> None:
    found = script_of(event, service())
    assert (f"{found[0]} {found[1]}" if found else "") == expected


def test_without_scripts_nothing_is_run() -> None:
    plain = service(servers=0, quorum_up=None, quorum_down=None)
    plain = replace(plain, servers=(WantedServer(Destination(server_key(1))),))
    assert [script_of(event, plain) for event in (up(1), down(1), gained(), lost())] == [None] * 4


class Told:
    """A notifier whose scripts write into a file, as slowly as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "told"
        self.file.touch()
        self.notifier = Notifier(Processes(at_once=16))

    def says(self, word: str, wait: str = ":") -> Script:
        return script("/bin/sh", "-c", f"echo '<{word}' >>{self.file}; {wait}; echo '{word}>' >>{self.file}")

    def lines(self) -> list[str]:
        return self.file.read_text().split()


def play(folder: Path, scenario: Callable[[Told], Awaitable[None]]) -> list[str]:
    """What was told in the end."""

    async def main() -> Told:
        told = Told(folder)
        try:
            await scenario(told)
        finally:
            await told.notifier.finish()
        return told

    return asyncio.run(main()).lines()


def wanted(told: Told, *scripts: Script) -> Configuration:
    """Servers whose notify_down these are."""
    servers = tuple(
        WantedServer(Destination(server_key(number)), notify_down=each, notify_up=told.says("up"))
        for number, each in enumerate(scripts, 1)
    )
    return Configuration((WantedService("web", (KEY,), servers=servers),))


def test_one_servers_scripts_run_in_order_and_no_other_waits_for_them(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scenario(told: Told) -> None:
        slow = told.says("slow", f"until [ -e {gate} ]; do sleep 0.02; done")
        told.notifier.configure(wanted(told, slow, told.says("quick")))
        for event in (down(1), up(1), down(2)):
            told.notifier.heard(event)
        await until_async(lambda: "quick>" in told.lines())
        assert "<up" not in told.lines()
        gate.touch()

    lines = play(tmp_path, scenario)
    assert [line for line in lines if "quick" not in line] == ["<slow", "slow>", "<up", "up>"]


def test_what_is_heard_costs_no_time(tmp_path: Path) -> None:
    """Whoever tells it goes on before anything was run."""

    async def scenario(told: Told) -> None:
        told.notifier.configure(wanted(told, told.says("down")))
        for _ in range(10):
            told.notifier.heard(down(1))
        assert told.lines() == []

    assert play(tmp_path, scenario).count("down>") == 10


def test_of_too_many_that_wait_the_latest_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_scripts, "MOST_WAITING", 2)
    gate = tmp_path / "gate"

    async def scenario(told: Told) -> None:
        told.notifier.configure(wanted(told, told.says("down", f"until [ -e {gate} ]; do sleep 0.02; done")))
        told.notifier.heard(down(1))
        await until_async(lambda: "<down" in told.lines())
        for event in (up(1), down(1), up(1), down(1), up(1)):
            told.notifier.heard(event)
        gate.touch()

    assert play(tmp_path, scenario) == ["<down", "down>", "<down", "down>", "<up", "up>"]


def test_the_last_words_of_what_was_removed_are_those_of_its_time(tmp_path: Path) -> None:
    async def scenario(told: Told) -> None:
        told.notifier.configure(wanted(told, told.says("old"), told.says("other")))
        told.notifier.configure(wanted(told, told.says("new")))
        told.notifier.heard(down(1, ending=True))
        told.notifier.heard(down(2, ending=True))
        await until_async(lambda: "other>" in told.lines())
        told.notifier.heard(down(1))

    assert {line for line in play(tmp_path, scenario) if line.startswith("<")} == {"<old", "<other", "<new"}


def test_a_script_that_hangs_is_ended_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(told: Told) -> None:
        told.notifier.configure(wanted(told, script("/bin/sleep", "600")))
        with monkeypatch.context() as patch:
            patch.setattr(serial_scripts, "TIMEOUT_S", 0.2)
            told.notifier.heard(down(1))
            for _ in range(3):  # it has begun
                await asyncio.sleep(0)
        told.notifier.configure(wanted(told, told.says("next")))
        told.notifier.heard(down(1))

    assert play(tmp_path, scenario) == ["<next", "next>"]


def test_the_end_waits_for_what_is_not_told_yet_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(told: Told) -> None:
        told.notifier.configure(wanted(told, told.says("told", "sleep 0.2")))
        told.notifier.heard(down(1, ending=True))

    assert play(tmp_path, scenario) == ["<told", "told>"]
    monkeypatch.setattr(serial_scripts, "FINISH_S", 0.5)

    async def hanging(told: Told) -> None:
        told.notifier.configure(wanted(told, script("/bin/sleep", "600")))
        told.notifier.heard(down(1, ending=True))

    begin = time.monotonic()
    play(tmp_path, hanging)
    assert time.monotonic() - begin < 600  # for which the script would run
