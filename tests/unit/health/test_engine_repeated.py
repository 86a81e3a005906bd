"""The engine behaves the same if another process repeats its probes: the engine's other tests, with such probes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import pytest

from pylvs.health.probes import Probe
from pylvs.model.checks import Check
from pylvs.model.wanted import WantedServer, WantedService
from tests.unit.health import (
    engine_harness,
    test_engine_adoption,
    test_engine_operator,
    test_engine_reload,
    test_engine_shared,
    test_engine_start,
    test_engine_suspension,
    test_engine_table,
    test_engine_weights,
)
from tests.unit.health.engine_harness import EngineHarness, server, service, tcp
from tests.unit.health.repeating import Repeating

MODULES: tuple[ModuleType, ...] = (
    test_engine_adoption,
    test_engine_operator,
    test_engine_reload,
    test_engine_shared,
    test_engine_start,
    test_engine_suspension,
    test_engine_table,
    test_engine_weights,
)
TESTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": test
    for module in MODULES
    for name, test in vars(module).items()
    if name.startswith("test_") and inspect.isfunction(test) and not inspect.signature(test).parameters
}
# The order of simultaneous outcomes is another one here.
del TESTS["test_engine_table.test_thousands_of_concurrent_failures_are_all_reported"]
repetitions: list[int] = []  # one for each probe that was repeated


class RepeatingHarness(EngineHarness):
    """Every probe can be repeated by another process."""

    def _probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        return Repeating(super()._probe_of(check, service, server), lambda: repetitions.append(1))


@pytest.mark.parametrize("name", TESTS)
def test_the_engine_behaves_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_harness, *MODULES):
        monkeypatch.setattr(module, "EngineHarness", RepeatingHarness)
    TESTS[name]()


def test_almost_all_probes_are_repetitions() -> None:
    repetitions.clear()
    with RepeatingHarness(service(server(1), server(2))) as harness:
        harness.start(599.5)
        assert len(harness.probes) == 2 * 60
        assert len(repetitions) == 2 * 59
        snapshot = harness.snapshot("web").servers[0].checks[0]
        assert (snapshot.probes, snapshot.failed_probes, snapshot.good) == (60, 0, True)
        assert snapshot.next_in_s == pytest.approx(0.5)
        assert not snapshot.running


def test_a_failure_of_a_repetition_has_its_retries() -> None:
    with RepeatingHarness(service(server(1), server(2))) as harness:
        harness.start(14.5)
        harness.names()
        harness.kill(2)
        harness.pass_(6)  # the probe at 20 fails, and its retry a second later has not run yet
        assert harness.table() == {1: 1, 2: 1}
        harness.pass_(1)
        assert harness.names() == ["server_down 2"]
        harness.revive(2)
        harness.pass_(10)
        assert harness.names() == ["server_up 2"]


class Vanishing(Repeating):
    """A probe whose process ends when the test says so."""

    ends: ClassVar[list[Callable[[], None]]] = []

    def repeat(self, every_s: float, on_same: Any, on_end: Any) -> Callable[[], object]:
        cancel = super().repeat(every_s, on_same, on_end)

        def end() -> None:
            cancel()
            on_end(None, 0.0)

        Vanishing.ends.append(end)
        return cancel


def test_probes_continue_on_time_when_their_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    made = partial(Vanishing)
    Vanishing.ends.clear()
    monkeypatch.setattr(RepeatingHarness, "_probe_of", lambda self, *given: made(EngineHarness._probe_of(self, *given)))
    with RepeatingHarness(service(server(1, tcp(1)))) as harness:
        harness.start(14.5)
        for end in Vanishing.ends:
            end()
        harness.pass_(20)
        assert harness.times(1) == [0, 10, 20, 30]
        assert harness.snapshot("web").servers[0].checks[0].inconclusive is False
