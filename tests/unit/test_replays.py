"""The rule of pace, the delays that it uses, and samples of scenarios."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from tests import ledger
from tests.conformance import live
from tests.oracle_support.replays import (
    KEPT_PACE_S,
    LATEST_S,
    REPLAYS,
    DirectorReplay,
    MachineTooSlow,
    Proof,
    Replay,
    proof,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

import harness
from families import statistics
from families.common import Steps
from wire import Moment, Wire

LATE = KEPT_PACE_S + 0.1
STEPS = {"a", "b"}
AGREES = DirectorReplay(STEPS, set(), 0.1)
DIFFERS = DirectorReplay(STEPS, {"b"}, KEPT_PACE_S)
CAME_LATE = DirectorReplay(STEPS, {"b"}, LATE)
OF_ANOTHER = DirectorReplay({"c"}, set(), 0.1)
ANOTHER_LATE = DirectorReplay({"c"}, {"c"}, LATE)
REASON = "steps differ, and one came 2.1 s later than recorded"


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the reasons in the ledger after the test."""
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    found: list[str] = []
    yield found
    assert [entry.reason for entry in ledger.read(tmp_path / "ledger")] == found


def played(
    *replays: Replay | DirectorReplay | tuple[DirectorReplay, ...], different: set[str] | None = None
) -> tuple[Proof, int]:
    """Return what these replays prove, without the text, and how many ran. A `DirectorReplay` has one director."""
    left = list(replays)

    def play() -> Replay:
        made = left.pop(0)
        if isinstance(made, DirectorReplay):
            made = (made,)
        return made if isinstance(made, Replay) else Replay(1.0, "the differences", list(made))

    made = proof(play, different or set(), "a test")
    return replace(made, text=""), len(replays) - len(left)


def test_a_difference_at_the_recordings_pace_is_judged_at_once(entries: list[str]) -> None:
    assert played(DIFFERS, AGREES) == (Proof(STEPS, {"b"}), 1)


def test_a_difference_that_came_late_is_replayed(entries: list[str]) -> None:
    assert played(CAME_LATE, AGREES) == (Proof(STEPS), 2)
    assert played(CAME_LATE, DIFFERS, AGREES) == (Proof(STEPS, {"b"}), 2)
    entries += [REASON] * 2


def test_each_director_is_proven_by_a_replay_in_which_it_was_in_time(entries: list[str]) -> None:
    both = {*STEPS, "c"}
    assert played((AGREES, ANOTHER_LATE), (CAME_LATE, OF_ANOTHER)) == (Proof(both), 2)
    assert played((AGREES, ANOTHER_LATE), (CAME_LATE, ANOTHER_LATE), (CAME_LATE, OF_ANOTHER)) == (Proof(both), 3)
    entries += [REASON] * 3


def test_a_difference_in_time_is_judged_although_another_director_was_late(entries: list[str]) -> None:
    assert played((DIFFERS, ANOTHER_LATE), (AGREES, OF_ANOTHER)) == (Proof(STEPS, {"b"}), 1)
    assert played((AGREES, ANOTHER_LATE), (DIFFERS, OF_ANOTHER)) == (Proof({*STEPS, "c"}, {"b"}), 2)
    entries += [REASON]


def test_a_step_that_is_not_in_the_recording_is_not_proven_by_other_steps(entries: list[str]) -> None:
    assert played((AGREES, DirectorReplay(set(), {"more"}, LATE)), AGREES) == (Proof(STEPS), 2)
    assert played((AGREES, DirectorReplay(set(), {"more"}, 0.1))) == (Proof(STEPS, {"more"}), 1)
    entries += [REASON]


def test_known_differences_make_no_replay_void(entries: list[str]) -> None:
    assert played(CAME_LATE, different={"b", "not in this sample"}) == (Proof(STEPS, {"b"}), 1)


def test_agreement_counts_unless_timers_were_hardly_compared(entries: list[str]) -> None:
    late = DirectorReplay({"a"}, set(), LATEST_S + 1, LATEST_S)
    assert played(late) == (Proof({"a"}), 1)
    assert played(DirectorReplay({"a"}, set(), LATEST_S + 1, LATEST_S + 1), late) == (Proof({"a"}), 2)
    entries += ["timers were read 31.0 s later than recorded"]


def test_repetitions_of_a_scenario_are_in_the_ledger(entries: list[str]) -> None:
    again = Replay(1.0, "", [AGREES], repeated=["a part, try 1"])
    assert played(again) == (Proof(STEPS), 1)
    entries += ["a part, try 1"]


def test_a_machine_that_is_always_too_slow_fails_the_test(entries: list[str]) -> None:
    with pytest.raises(MachineTooSlow, match=r"(?s)too slow for a test: 3 replays.*the differences"):
        played(CAME_LATE, Replay(1.0, "", too_slow="gave up"), CAME_LATE, AGREES)
    entries += [REASON, "gave up", REASON]
    assert len(entries) == REPLAYS


def test_a_delay_is_measured_from_the_recording() -> None:
    expected: list[dict[str, Any]] = [
        {"step": "sent"},
        {"step": "table", "at_s": 1.0, "connections": []},
        {"step": "counters"},
        {"step": "of the next director"},
    ]
    moments = {
        "sent": Moment(1, 3.0, 0.0, ""),
        "table": Moment(1, 4.5, 0.0, ""),
        "counters": Moment(1, 8.0, 2.5, ""),  # after a pause of 2.5 s
        "of the next director": Moment(2, 0.5, 0.0, ""),
    }
    found = [(delay.step, delay.seconds, delay.timed) for delay in harness.delays(expected, moments)]
    assert found == [
        ("sent", 3.0, False),
        ("table", 3.5, True),
        ("counters", 4.5, False),
        ("of the next director", 0.5, False),
    ]
    assert harness.lives(expected, [], moments) == [
        harness.Life(["sent", "table", "counters"], [], 4.5, 3.5),
        harness.Life(["of the next director"], [], 0.5),
    ]


def test_each_step_belongs_to_its_director() -> None:
    """A step that was not made belongs to that of the step before, and one too many to the director that made it."""
    expected = [{"step": step} for step in ("one", "not made", "two", "three")]
    moments = {
        "one": Moment(1, 0.0, 0.0, ""),
        "too many": Moment(1, 9.0, 0.0, ""),
        "two": Moment(2, 3.0, 0.0, ""),
        "three": Moment(2, -1.0, 0.0, ""),
    }
    assert harness.lives(expected, ["not made", "two", "too many"], moments) == [
        harness.Life(["one", "not made"], ["not made", "too many"]),
        harness.Life(["two", "three"], ["two"], 3.0),
    ]


def scenario() -> SimpleNamespace:
    """Return a scenario of six parts, each with two steps."""
    module = SimpleNamespace()

    def part(wire: Wire, number: int, steps: int = 2) -> Steps:
        found = Steps(wire)
        found.under(f"part {number}")
        for step in range(steps):
            found.note(str(step), value=number)
        return found

    module.part = part
    module.run = lambda wire, steps=2: [row for number in range(6) for row in module.part(wire, number, steps)]
    return module


def sample(steps: int) -> tuple[list[Any], Any]:
    """Return the recorded steps of a sample, and the sample."""
    recorded = scenario().run(Wire())
    module = scenario()
    parts = harness._sample(module, 4)
    wire = Wire()
    run = harness.Run(module.run(wire, steps), wire.moments, [], parts)
    return harness.recorded_parts(json.loads(json.dumps(recorded)), run), run


def test_a_sample_is_every_nth_part() -> None:
    expected, run = sample(2)
    assert [row["step"] for row in expected] == ["part 0: 0", "part 0: 1", "part 4: 0", "part 4: 1"]
    assert harness.compare("it", expected, run.found) == (4, [], [])


def test_a_sample_misses_what_its_parts_do_not_make() -> None:
    expected, run = sample(1)
    assert harness.compare("it", expected, run.found)[1] == ["part 0: 1", "part 4: 1"]
    with pytest.raises(harness.ScenarioError, match="not in the recording"):
        harness.recorded_parts([{"step": "another"}], run)


class _SlowGuest:
    """A guest whose first attempt loses the second example's frame, as on a busy machine."""

    def __init__(self) -> None:
        self.attempts = 0

    def play(self, examples: list[object]) -> list[dict[str, object]]:
        self.attempts += 1
        return [{"late": self.attempts == 1 and number == 1} for number in range(len(examples))]


def test_what_a_guest_made_of_an_example_is_what_the_attempt_that_counts_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "scripted", lambda steps: steps)
    monkeypatch.setattr(live, "difference", lambda steps, made: (0, "a frame is missing") if made["late"] else None)
    monkeypatch.setattr(ledger, "record", lambda *entry: None)
    guest, report = _SlowGuest(), live.Report()
    made = live.compare(guest, [[], [], []], report)  # type: ignore[arg-type]
    assert not report.differences
    assert guest.attempts == 2
    assert made == [{"late": False}] * 3


def test_one_random_number_may_be_that_of_the_frame_sent() -> None:
    """The kernel draws the identification of its own packets at random."""
    drawn = [{"step": name, "out": [{"to": "c1", "id": "any"}]} for name in ("one", "two")]
    known = [{"step": name, "out": [{"to": "c1", "id": 8}]} for name in ("one", "two")]
    assert harness.compare("it", drawn, [drawn[0], known[1]]) == (2, [], [])
    assert harness.compare("it", drawn, known)[1] == ["two"], "each packet keeps the number"
    wrong = {"step": "two", "out": [{"to": "c2", "id": 8}]}
    assert harness.compare("it", drawn, [drawn[0], wrong])[1] == ["two"]
    zero = {"step": "two", "out": [{"to": "c1", "id": 0}]}
    assert harness.compare("it", drawn, [drawn[0], zero])[1] == ["two"]


def test_rates_begin_when_a_tick_has_reached_both_service_and_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing in between shows the first tick of the service, beside a server without one."""
    clock, wire = SimpleNamespace(now=0.0), MagicMock()
    moved = SimpleNamespace(monotonic=lambda: clock.now, sleep=lambda s: setattr(clock, "now", clock.now + s))
    monkeypatch.setattr(statistics, "time", moved)
    service, server = ([f"{name} {tick}" for tick in range(20)] for name in ("service", "server"))
    listed = [list(both) for both in zip(service, server, strict=True)]
    wire.rows.side_effect = [listed[0], [service[1], server[0]], *listed[1:]]
    found = {step["step"]: step["row"] for step in statistics.rates(wire, MagicMock())}
    assert [found[f"rate dr 200: service, tick {tick}"] for tick in range(6)] == service[1:7]
    assert [found[f"rate dr 200: real server, tick {tick}"] for tick in range(6)] == server[1:7]


def test_a_new_directors_first_question_may_be_lost() -> None:
    """Until the kernel has noticed the carrier it drops what the wire's end sends."""
    wire = Wire()
    with patch.object(wire, "_ask", side_effect=[None, None, []]) as ask:
        wire._await_link()
    assert [call.args[0] for call in ask.call_args_list] == [0.2, 0.4, 0.8]
