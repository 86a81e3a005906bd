"""notify_up, notify_down, quorum_up and quorum_down: which script an event runs, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.daemon.notifications import Notifier, script_of
from pylvs.health.events import (
    CheckFailed,
    Event,
    QuorumGained,
    QuorumLost,
    ServerAdded,
    ServerDown,
    ServerUp,
    WeightChanged,
)
from pylvs.model.checks import Script
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from pylvs.system.processes import notify_scripts
from pylvs.system.processes.scripts import Processes
from tests.waiting import until_async

KEY = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)


def server_key(number: int) -> DestinationKey:
    return DestinationKey(ip_address(f"10.0.0.{number}"), 80)


def script(*arguments: str) -> Script:
    return Script(arguments)


def service(name: str = "web", servers: int = 2, **fields: object) -> WantedService:
    """Return a service whose scripts are named for their events."""
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


class Recorder:
    """A notifier with scripts that write into a file, as slowly as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "received"
        self.file.touch()
        self.notifier = Notifier(Processes(at_once=16))

    def script_writing(self, text: str, wait: str = ":") -> Script:
        return script("/bin/sh", "-c", f"echo '<{text}' >>{self.file}; {wait}; echo '{text}>' >>{self.file}")

    def lines(self) -> list[str]:
        return self.file.read_text().split()


def play(folder: Path, scenario: Callable[[Recorder], Awaitable[None]]) -> list[str]:
    """Return what the scripts wrote."""

    async def main() -> Recorder:
        recorder = Recorder(folder)
        try:
            await scenario(recorder)
        finally:
            await recorder.notifier.finish()
        return recorder

    return asyncio.run(main()).lines()


def wanted(recorder: Recorder, *scripts: Script) -> Configuration:
    """Return servers with these notify_down scripts."""
    servers = tuple(
        WantedServer(Destination(server_key(number)), notify_down=each, notify_up=recorder.script_writing("up"))
        for number, each in enumerate(scripts, 1)
    )
    return Configuration((WantedService("web", (KEY,), servers=servers),))


def test_one_servers_scripts_run_in_order_and_no_other_waits_for_them(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def scenario(recorder: Recorder) -> None:
        slow = recorder.script_writing("slow", f"until [ -e {gate} ]; do sleep 0.02; done")
        recorder.notifier.configure(wanted(recorder, slow, recorder.script_writing("quick")))
        for event in (down(1), up(1), down(2)):
            recorder.notifier.notify(event)
        await until_async(lambda: "quick>" in recorder.lines())
        assert "<up" not in recorder.lines()
        gate.touch()

    lines = play(tmp_path, scenario)
    assert [line for line in lines if "quick" not in line] == ["<slow", "slow>", "<up", "up>"]


@pytest.mark.parametrize(("notifies", "lines"), [(True, ["<up", "up>"]), (False, [])])
def test_rs_init_notifies_runs_notify_up_of_servers_that_begin_up(
    notifies: bool, lines: list[str], tmp_path: Path
) -> None:
    async def scenario(recorder: Recorder) -> None:
        settings = GlobalSettings(rs_init_notifies=notifies)
        recorder.notifier.configure(replace(wanted(recorder, recorder.script_writing("down")), settings=settings))
        for begins_up in (True, False):
            recorder.notifier.notify(
                ServerAdded(at=0, service="web", reason="", server=server_key(1), weight=1, up=begins_up)
            )

    assert play(tmp_path, scenario) == lines


def test_notify_does_not_wait_for_scripts(tmp_path: Path) -> None:
    """`notify` returns before a script runs."""

    async def scenario(recorder: Recorder) -> None:
        recorder.notifier.configure(wanted(recorder, recorder.script_writing("down")))
        for _ in range(10):
            recorder.notifier.notify(down(1))
        assert recorder.lines() == []

    assert play(tmp_path, scenario).count("down>") == 10


def test_of_too_many_waiting_scripts_the_latest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_scripts, "MOST_WAITING", 2)
    gate = tmp_path / "gate"

    async def scenario(recorder: Recorder) -> None:
        recorder.notifier.configure(
            wanted(recorder, recorder.script_writing("down", f"until [ -e {gate} ]; do sleep 0.02; done"))
        )
        recorder.notifier.notify(down(1))
        await until_async(lambda: "<down" in recorder.lines())
        for event in (up(1), down(1), up(1), down(1), up(1)):
            recorder.notifier.notify(event)
        gate.touch()

    assert play(tmp_path, scenario) == ["<down", "down>", "<down", "down>", "<up", "up>"]


def test_a_removed_server_runs_the_script_of_its_last_configuration(tmp_path: Path) -> None:
    async def scenario(recorder: Recorder) -> None:
        recorder.notifier.configure(wanted(recorder, recorder.script_writing("old"), recorder.script_writing("other")))
        recorder.notifier.configure(wanted(recorder, recorder.script_writing("new")))
        recorder.notifier.notify(down(2, ending=True))

    assert play(tmp_path, scenario) == ["<other", "other>"]


@pytest.mark.parametrize("ending", [False, True], ids=["a failure", "the stop of the daemon"])
def test_a_server_that_stays_runs_the_script_of_the_configuration_in_force(ending: bool, tmp_path: Path) -> None:
    async def scenario(recorder: Recorder) -> None:
        recorder.notifier.configure(wanted(recorder, recorder.script_writing("old"), recorder.script_writing("gone")))
        new = wanted(recorder, recorder.script_writing("new"))
        servers = (*new.services[0].servers, WantedServer(Destination(server_key(2))))
        recorder.notifier.configure(replace(new, services=(replace(new.services[0], servers=servers),)))
        recorder.notifier.notify(down(2, ending=ending))
        recorder.notifier.notify(down(1, ending=ending))

    assert play(tmp_path, scenario) == ["<new", "new>"]


def test_a_script_that_hangs_is_ended_at_the_limit_of_the_configuration(tmp_path: Path) -> None:
    async def scenario(recorder: Recorder) -> None:
        hanging = wanted(recorder, script("/bin/sleep", "600"))
        recorder.notifier.configure(replace(hanging, settings=GlobalSettings(notify_timeout_s=0.2)))
        recorder.notifier.notify(down(1))
        await until_async(lambda: recorder.notifier.scripts()["ended_early"] == 1)
        recorder.notifier.notify(up(1))

    assert play(tmp_path, scenario) == ["<up", "up>"]


def test_the_stop_waits_for_scripts_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(recorder: Recorder) -> None:
        recorder.notifier.configure(wanted(recorder, recorder.script_writing("received", "sleep 0.2")))
        recorder.notifier.notify(down(1, ending=True))

    assert play(tmp_path, scenario) == ["<received", "received>"]
    monkeypatch.setattr(notify_scripts, "FINISH_S", 0.5)

    async def hanging(recorder: Recorder) -> None:
        recorder.notifier.configure(wanted(recorder, script("/bin/sleep", "600")))
        recorder.notifier.notify(down(1, ending=True))

    begin = time.monotonic()
    play(tmp_path, hanging)
    assert time.monotonic() - begin < 600  # for which the script would run
