"""Notify scripts of one subject: their order, the limits of that, and what is reported of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from pylvs.daemon.problems import script_problems
from pylvs.model.checks import Script
from pylvs.system.processes import notify_scripts
from pylvs.system.processes.notify_scripts import MOST_RUNNING, MOST_WAITING, NotifyScripts
from pylvs.system.processes.scripts import Ended
from tests.waiting import PATIENCE_S, until_async

WHERE = {"kind": "instance", "name": "VI_1"}


class Fake:
    """Scripts that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.limits: list[float] = []
        self.killed: list[str] = []
        self._ends: dict[str, asyncio.Future[Ended]] = {}

    async def run(self, script: Script, timeout_s: float, environment: Mapping[str, str] | None = None) -> Ended:
        name = script.arguments[0]
        self.begun.append(name)
        self.limits.append(timeout_s)
        self._ends[name] = asyncio.get_running_loop().create_future()
        try:
            return await self._ends[name]
        except asyncio.CancelledError:
            self.killed.append(name)
            raise

    def end(self, name: str, timed_out: bool = False) -> None:
        self._ends[name].set_result(Ended(None if timed_out else 0, timed_out=timed_out))


def play(scenario: Callable[[Fake, NotifyScripts[str], Callable[..., None]], Awaitable[None]]) -> None:
    async def main() -> None:
        fake = Fake()
        scripts: NotifyScripts[str] = NotifyScripts(fake)  # type: ignore[arg-type]

        def put(*names: str, of: str = "VI_1") -> None:
            for name in names:
                scripts.put(of, f"notify_{name}", Script((name,)), {**WHERE, "name": of})

        async with asyncio.timeout(4 * PATIENCE_S):
            await scenario(fake, scripts, put)
        await scripts.finish()
        assert scripts.report()["running"] == 0

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_scripts, "FINISH_S", 0.0)


async def rest() -> None:
    """Let the loop do all that is due."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_script_waits_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_scripts, "ORDERED_S", PATIENCE_S)

    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        put("backup", "master")
        put("other", of="VI_2")
        await until_async(lambda: set(fake.begun) == {"backup", "other"})
        await rest()
        assert "master" not in fake.begun
        assert (scripts.report()["running"], scripts.report()["waiting"]) == (2, 1)
        fake.end("backup")
        await until_async(lambda: "master" in fake.begun)

    play(scenario)


def test_no_script_waits_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A take-over must not wait for the script of the state before."""
    clock = 0.0
    monkeypatch.setattr(notify_scripts, "_now", lambda: clock)

    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        nonlocal clock
        put("backup")
        await rest()
        clock += notify_scripts.ORDERED_S
        put("master", "every")
        await rest()
        assert fake.begun == ["backup", "master"], "the script of every state waits for that of the state"
        clock += notify_scripts.ORDERED_S
        await until_async(lambda: len(fake.begun) == 3)
        clock += notify_scripts.ORDERED_S
        put("fault")
        await rest()
        assert fake.begun == ["backup", "master", "every", "fault"]

    monkeypatch.setattr(notify_scripts, "ORDERED_S", 0.5)  # of the real clock, for a wait that has begun
    play(scenario)


def test_of_many_scripts_that_hang_the_oldest_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_scripts, "ORDERED_S", 0.0)
    names = [f"s{number}" for number in range(MOST_RUNNING + 2)]

    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        for name in names:
            put(name)
            await rest()
        assert (fake.begun, fake.killed) == (names, names[:2])
        report = scripts.report()
        assert (report["running"], report["ended_early"]) == (MOST_RUNNING, 2)

    play(scenario)


def test_of_many_that_wait_the_oldest_are_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify_scripts, "ORDERED_S", PATIENCE_S)

    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        put("first")
        await rest()
        put(*(f"s{number}" for number in range(MOST_WAITING + 3)))
        waiting = [each["script"] for each in scripts.report()["scripts"] if each["state"] == "waiting"]
        assert waiting == [f"s{number}" for number in range(3, MOST_WAITING + 3)]

    play(scenario)


def test_what_does_not_end_is_a_problem_until_a_later_script_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(notify_scripts, "_now", lambda: clock)
    monkeypatch.setattr(notify_scripts, "ORDERED_S", 0.0)

    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        nonlocal clock

        def problems() -> list[str]:
            return [str(each) for each in script_problems(scripts.report())]

        scripts.configure(42.0)
        put("master")
        await rest()
        clock = 9.9
        assert (problems(), fake.limits) == ([], [42.0])
        clock = 25.0
        assert problems() == ["VI_1: notify_master master has not ended for 25 s"]
        fake.end("master", timed_out=True)
        await rest()
        assert problems() == ["VI_1: notify_master master was ended after 42 s"]
        assert scripts.report()["ended_early"] == 1
        put("backup")
        await rest()
        fake.end("backup")
        await rest()
        assert (problems(), scripts.report()["scripts"]) == ([], [])
        put("fault")
        await rest()
        fake.end("fault", timed_out=True)
        await rest()
        assert problems()
        scripts.configure(42.0)
        assert problems() == [], "a reload"

    play(scenario)


def test_the_report_names_what_a_script_is_about() -> None:
    async def scenario(fake: Fake, scripts: NotifyScripts[str], put: Callable[..., None]) -> None:
        script = Script(("/bin/true", "a b"))
        for where in ({"service": "web"}, {"service": "web", "server": "10.0.0.1:80"}):
            scripts.put(str(where), "notify_up", script, where)
        await rest()
        found: list[Mapping[str, Any]] = scripts.report()["scripts"]
        assert [each["object"] for each in found] == ["web", "10.0.0.1:80 of web"]
        assert {each["script"] for each in found} == {str(script)}

    play(scenario)
