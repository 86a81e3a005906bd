"""The times of probes."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pylvs.health.probes import BATCH, Outcome, Probe, ProbeScheduler, ScheduledProbe, descriptor_limit
from pylvs.model.checks import MiscCheck, Script
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.unit.health.engine_harness import DEAD, OK, PACE, EngineHarness, server, service


class Diary:
    """A scheduler whose probes note when they began."""

    def __init__(self, loop: FakeTimeLoop, at_once: int = 0) -> None:
        self.loop = loop
        self.scheduler = ProbeScheduler(at_once)
        self.begun: list[float] = []
        self.most = 0
        self.cancelled = 0

    def scheduled(self, every_s: float = 10, takes_s: float = 0) -> ScheduledProbe:
        async def probe() -> Outcome:
            self.begun.append(self.loop.time() - START_S)
            self.most = max(self.most, len(self.scheduler._running))
            try:
                await asyncio.sleep(takes_s)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return OK

        return self.of(probe, lambda outcome: every_s)

    def of(self, probe: Probe, done: Callable[[Outcome], float]) -> ScheduledProbe:
        scheduled = ScheduledProbe(probe)
        scheduled.on_outcome = done
        return scheduled


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    loop = FakeTimeLoop()
    yield loop
    loop.close()


def test_a_probe_repeats_after_its_delay_from_the_end(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    diary.scheduler.schedule(diary.scheduled(every_s=10, takes_s=2), 3)
    loop.pass_(50)
    assert diary.begun == [3, 15, 27, 39]


@pytest.mark.parametrize(
    ("takes_s", "ok", "begun"),
    [
        (2, True, [0, 10, 20, 30, 40]),
        (25, True, [0, 25]),
        (0.5, False, [0, 10, 11, 21, 31, 41]),
    ],
)
def test_a_program_runs_again_after_its_delay_from_the_start(takes_s: float, ok: bool, begun: list[float]) -> None:
    check = MiscCheck(script=Script(("/bin/true",)), pace=PACE)
    with EngineHarness(service(server(1, check)), chance=lambda: 0.0) as harness:
        harness.probe_s = takes_s
        harness.start(5)
        harness.set_outcome(1, OK if ok else DEAD)
        harness.pass_(40)
        assert harness.times(1) == begun


def test_a_probe_scheduled_before_the_start_waits_for_it(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.schedule(diary.scheduled(), 3)
    loop.pass_(20)
    diary.scheduler.start(loop)
    loop.pass_(5)
    assert diary.begun == [23]


def test_an_earlier_time_replaces_a_later_one(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    scheduled = diary.scheduled()
    diary.scheduler.schedule(scheduled, 9)
    diary.scheduler.schedule(scheduled, 2)
    diary.scheduler.schedule(diary.scheduled(), 5)
    loop.pass_(11)
    assert diary.begun == [2, 5]


def test_a_slot_never_runs_twice_at_once(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    scheduled = diary.scheduled(every_s=10, takes_s=5)
    diary.scheduler.schedule(scheduled, 0)
    loop.pass_(1)
    diary.scheduler.schedule(scheduled, 0)
    loop.pass_(1)
    assert diary.begun == [0]
    loop.pass_(10)
    assert diary.begun == [0]
    loop.pass_(4)
    assert diary.begun == [0, 15]


def test_the_limit_of_concurrent_probes_holds_and_all_run(loop: FakeTimeLoop) -> None:
    diary = Diary(loop, at_once=7)
    diary.scheduler.start(loop)
    for _ in range(50):
        diary.scheduler.schedule(diary.scheduled(every_s=1000, takes_s=2), 0)
    loop.pass_(60)
    assert diary.most == 7
    assert len(diary.begun) == 50
    assert len(diary.scheduler._running) == 0


def test_some_descriptors_are_reserved() -> None:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert descriptor_limit() == descriptors * 3 // 4


def test_a_waiting_probe_can_be_removed_or_hastened(loop: FakeTimeLoop) -> None:
    diary = Diary(loop, at_once=1)
    diary.scheduler.start(loop)
    several = [diary.scheduled(every_s=1000, takes_s=2) for _ in range(4)]
    for scheduled in several:
        diary.scheduler.schedule(scheduled, 0)
    loop.pass_(1)
    diary.scheduler.remove(several[1])
    diary.scheduler.schedule(several[2], 0)
    loop.pass_(60)
    assert diary.begun == [0, 2, 4]


def test_many_due_probes_do_not_starve_others(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    for _ in range(BATCH * 3):
        diary.scheduler.schedule(diary.scheduled(), 1)
    seen: list[int] = []

    async def watch() -> None:
        while len(diary.begun) < BATCH * 3:
            seen.append(len(diary.begun))
            await asyncio.sleep(0)

    loop.call_later(1, lambda: tasks.append(loop.create_task(watch())))
    tasks: list[asyncio.Task[None]] = []
    loop.pass_(2)
    assert len(set(seen) - {0}) >= 2


def test_a_running_probe_that_is_removed_is_cancelled(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    scheduled = diary.scheduled(takes_s=5)
    diary.scheduler.schedule(scheduled, 0)
    loop.pass_(1)
    scheduled.on_outcome = lambda outcome: pytest.fail("the probe was removed")
    diary.scheduler.remove(scheduled)
    loop.pass_(60)
    assert (diary.begun, diary.cancelled, len(diary.scheduler._running)) == ([0], 1, 0)


def test_a_paused_probe_waits_and_a_running_one_counts(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    scheduled = diary.scheduled(every_s=10, takes_s=2)
    diary.scheduler.schedule(scheduled, 0)
    loop.pass_(1)
    diary.scheduler.pause(scheduled)
    loop.pass_(100)
    assert (diary.begun, diary.cancelled, scheduled.took_s) == ([0], 0, 2)
    diary.scheduler.resume(scheduled, 5)
    loop.pass_(6)
    assert diary.begun == [0, 106]


def test_the_stop_waits_for_running_scripts(loop: FakeTimeLoop) -> None:
    diary = Diary(loop)
    diary.scheduler.start(loop)
    for delay in (0, 0, 5):
        diary.scheduler.schedule(diary.scheduled(takes_s=3), delay)
    loop.pass_(1)
    loop.run_until_complete(diary.scheduler.close())
    assert (diary.cancelled, len(diary.scheduler._running)) == (2, 0)
    loop.pass_(60)
    assert diary.begun == [0, 0]


def test_a_checker_that_raises_is_a_failure_with_a_reason(loop: FakeTimeLoop, caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Outcome] = []

    async def probe() -> Outcome:
        raise ZeroDivisionError("by nothing")

    def done(outcome: Outcome) -> float:
        outcomes.append(outcome)
        return 10

    diary = Diary(loop)
    diary.scheduler.start(loop)
    diary.scheduler.schedule(diary.of(probe, done), 0)
    loop.pass_(15)
    assert outcomes == [Outcome(False, "the checker failed: ZeroDivisionError: by nothing", inconclusive=True)] * 2
    assert "a checker raised" in caplog.text


def test_a_check_continues_after_an_outcome_that_could_not_be_applied(
    loop: FakeTimeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Outcome] = []

    async def probe() -> Outcome:
        return Outcome(True, "")

    def done(outcome: Outcome) -> float:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            raise ZeroDivisionError
        return 10

    diary = Diary(loop)
    diary.scheduler.start(loop)
    diary.scheduler.schedule(diary.of(probe, done), 0)
    loop.pass_(25)
    assert len(outcomes) == 4, "at 0, a second later, and every ten seconds"
    assert "could not be applied" in caplog.text


def test_setting_the_clock_changes_nothing() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        for jump in (86400, -7 * 86400, 3600):
            harness.wall_offset += jump
            harness.pass_(20)
        assert harness.times(1) == [0, 10, 20, 30, 40, 50, 60]
        harness.kill(1)
        harness.pass_(20)
        assert harness.table() == {}


def test_first_probes_are_spread_over_the_warmup() -> None:
    pace = replace(PACE, delay_loop_s=60, warmup_s=60)
    chance = random.Random(4).random
    with EngineHarness(service(*(server(number, pace=pace) for number in range(1, 201))), chance=chance) as harness:
        harness.start(60)
        firsts = [when for number in range(1, 201) for when in harness.times(number)]
        assert len(firsts) == 200  # each once
        by_ten_seconds = [sum(start <= when < start + 10 for when in firsts) for start in range(0, 60, 10)]
        assert min(by_ten_seconds) >= 15
        assert max(by_ten_seconds) <= 55


def test_a_checker_that_cancels_itself_is_repeated(loop: FakeTimeLoop) -> None:
    diary, outcomes = Diary(loop), list[Outcome]()

    async def probe() -> Outcome:
        raise asyncio.CancelledError

    def done(outcome: Outcome) -> float:
        outcomes.append(outcome)
        return 10

    diary.scheduler.start(loop)
    diary.scheduler.schedule(diary.of(probe, done), 1)
    loop.pass_(25)
    assert [outcome.inconclusive for outcome in outcomes] == [True, True, True]
