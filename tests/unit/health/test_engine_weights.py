"""Weights set by checks: how several combine, and that none outlives its check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pylvs.health.events import WeightChanged
from pylvs.health.probes import Outcome
from pylvs.model.checks import MiscCheck, Script
from tests.unit.health.engine_harness import DEAD, OK, PACE, EngineHarness, server, service, tcp, unchecked


def script(name: str) -> MiscCheck:
    """Return a check that may set the weight."""
    return MiscCheck(script=Script((name,)), dynamic=True, pace=PACE)


A, B = script("a"), script("b")


def weighing(weight: int) -> Outcome:
    return Outcome(True, f"weight {weight}", weight)


def test_two_dynamic_checks_combine_as_in_keepalived() -> None:
    """As recorded from 2.2.7: configured weight 10, quorum 8, and the exit statuses of two scripts."""
    with EngineHarness(service(server(1, A, B, weight=10), quorum=8)) as harness:
        harness.start()
        for check, outcome, expected in (
            (A, weighing(20), {1: 20}),
            (B, weighing(5), {1: 15}),
            (A, weighing(0), {1: 0}),
            (A, DEAD, {}),
            (A, OK, {1: 5}),
            (B, weighing(0), {1: 0}),
        ):
            harness.set_outcome(check, outcome)
            harness.pass_(25)
            assert harness.table() == expected
        assert harness.names() == [
            "quorum_gained",
            "weight_changed 1",
            "weight_changed 1",
            "weight_changed 1",
            "quorum_lost",
            "server_down 1",
            "server_up 1",
            "weight_changed 1",
        ]


def test_a_weight_ends_with_an_outcome_without_weight() -> None:
    with EngineHarness(service(server(1, A, weight=10))) as harness:
        harness.start()
        harness.set_outcome(A, weighing(3))
        harness.pass_(10)
        assert harness.table() == {1: 3}
        harness.set_outcome(A, OK)
        harness.pass_(10)
        assert harness.table() == {1: 10}
        changes = harness.take(WeightChanged)
        assert [(each.before, each.weight) for each in changes] == [(10, 3), (3, 10)]


def test_a_weight_does_not_outlive_a_failure() -> None:
    with EngineHarness(service(server(1, A, weight=10))) as harness:
        harness.start()
        harness.set_outcome(A, weighing(3))
        harness.pass_(10)
        harness.set_outcome(A, DEAD)
        harness.pass_(10)  # a first failure: not down yet, and the weight as it was
        assert harness.table() == {1: 3}
        harness.pass_(15)
        assert harness.table() == {}
        (down,) = harness.snapshot("web").servers
        assert (down.weight, down.checks[0].weight) == (10, None)
        harness.set_outcome(A, OK)
        harness.pass_(10)
        assert harness.table() == {1: 10}


def test_weights_count_for_the_quorum() -> None:
    with EngineHarness(service(server(1, A, weight=10), unchecked(2, 10), quorum=15, sorry=99)) as harness:
        harness.start()
        harness.set_outcome(A, weighing(4))
        harness.pass_(10)
        assert harness.table() == {99: 1}
        harness.set_outcome(A, weighing(5))
        harness.pass_(10)
        assert harness.table() == {1: 5, 2: 10}


def test_a_weight_of_0_drains() -> None:
    with EngineHarness(service(server(1, A), server(2))) as harness:
        harness.start()
        harness.set_outcome(A, weighing(0))
        harness.pass_(10)
        assert harness.table() == {1: 0, 2: 1}
        snapshot = harness.snapshot("web").servers[0]
        assert (snapshot.up, snapshot.weight, snapshot.configured_weight) == (True, 0, 1)


def test_without_weight_the_sorry_server_serves() -> None:
    """A quorum that was lowered to 0, as all weights are 0: at the start, after reloads and back."""
    heavy, without = service(unchecked(1), sorry=9), service(unchecked(1, 0), sorry=9, quorum=0)
    with EngineHarness(without) as harness:
        assert harness.table() == {9: 1}
        harness.start()
        assert harness.table() == {9: 1}
        for wanted, table, events in (
            (heavy, {1: 1}, ["weight_changed 1", "quorum_gained", "sorry_server_out 9"]),
            (without, {9: 1}, ["weight_changed 1", "quorum_lost", "sorry_server_in 9"]),
        ):
            harness.names()
            harness.replace(wanted)
            assert harness.table() == table
            assert harness.names() == events


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("port", [80, 81])
def test_a_weight_that_a_check_has_set_survives_a_reload_of_the_configured_one(shared: bool, port: int) -> None:
    """The probe of a shared check begins anew: it depends on the configured weight."""
    drains = replace(A, pace=replace(PACE, shared=shared))
    with EngineHarness(service(server(1, drains, weight=10), server(2))) as harness:
        harness.start()
        harness.set_outcome(drains, weighing(0))
        harness.pass_(10)
        harness.take(WeightChanged)
        edited = service(server(1, drains, tcp(1, port=port), weight=7), server(2))
        harness.replace(edited)
        assert harness.table() == {1: 0, 2: 1}
        harness.replace(replace(edited, quorum=1, servers=(server(1, drains, weight=8), server(2))))
        assert harness.table() == {1: 0, 2: 1}
        assert harness.take(WeightChanged) == []
        harness.set_outcome(drains, OK)
        harness.pass_(20)
        assert harness.table() == {1: 8, 2: 1}
        harness.replace(service(server(1, drains, weight=9), server(2)))
        assert harness.table() == {1: 9, 2: 1}
