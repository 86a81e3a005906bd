"""Any order of outcomes, reloads and overrides: the table follows from the states, and events report them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pylvs.health.events import (
    Override,
    QuorumGained,
    QuorumLost,
    ServerDown,
    ServerUp,
    SorryServerIn,
    SorryServerOut,
    Standing,
)
from pylvs.health.probes import Outcome
from pylvs.health.state import ServerSnapshot, ServiceSnapshot
from pylvs.model.checks import Check, MiscCheck, Script
from pylvs.model.service import Destination
from pylvs.model.wanted import WantedRow, WantedServer, WantedService
from tests.unit.health.engine_harness import DEAD, OK, PACE, EngineHarness, key, server, service, tcp, vip

NUMBERS = st.integers(1, 4)
PACES = st.builds(
    lambda alpha, shared, retry: replace(PACE, alpha=alpha, shared=shared, retry=retry, warmup_s=4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
)
OUTCOMES = st.sampled_from(
    [
        OK,
        OK,
        DEAD,
        DEAD,
        *(Outcome(True, f"weight {each}", each) for each in (0, 1, 5)),
        Outcome(False, "?", None, True),
    ]
)


@st.composite
def servers(draw: st.DrawFn) -> WantedServer:
    """Draw a server of a few kinds; reloads then keep some."""
    number, pace = draw(NUMBERS), draw(PACES)
    kinds: list[Check] = [
        tcp(number, pace),
        tcp(number, pace, port=443),
        MiscCheck(script=SCRIPT, dynamic=True, pace=pace),
    ]
    checks = draw(st.lists(st.sampled_from(kinds), max_size=2))
    weight, inhibit = draw(st.integers(0, 2)), draw(st.booleans())
    return replace(server(number, weight=weight, inhibit_on_failure=inhibit), checks=tuple(checks))


SCRIPT = Script(("weigh",))
SERVICES = st.builds(
    lambda number, each, **more: service(*each, name=f"web {number}", keys=(vip(number),), **more),
    st.integers(1, 3),
    st.lists(servers(), max_size=4, unique_by=lambda each: each.destination.key),
    quorum=st.integers(1, 4),
    hysteresis=st.integers(0, 2),
    sorry=st.sampled_from([None, None, 99, 1]),
    sorry_server_inhibit=st.booleans(),
    omega=st.booleans(),
)
CONFIGURATIONS = st.lists(SERVICES, max_size=3, unique_by=lambda each: each.name)


def row_of(wanted: WantedService, now: ServiceSnapshot) -> tuple[Destination, ...]:
    """Derive the table from the states independently, server by server and rule by rule."""
    rows: dict[Any, Destination] = {}
    sorry = wanted.sorry_server if not now.has_quorum else None
    for configured, state in zip(wanted.servers, now.servers, strict=True):
        drained, disabled = (state.override.standing is each for each in (Standing.DRAINED, Standing.DISABLED))
        serves = state.up and not disabled and (sorry is None or drained)
        if serves:
            rows[state.server] = replace(configured.destination, weight=state.weight)
        elif configured.inhibit_on_failure and not disabled:
            rows[state.server] = replace(configured.destination, weight=0)
    if sorry is not None:
        rows[sorry.key] = sorry
    elif wanted.sorry_server is not None and wanted.sorry_server_inhibit and wanted.sorry_server.key not in rows:
        rows[wanted.sorry_server.key] = replace(wanted.sorry_server, weight=0)
    return tuple(rows.values())


class States(RuleBasedStateMachine):
    """The engine under every possible input."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = EngineHarness()
        self.wanted: dict[str, WantedService] = {}
        self.rows: tuple[WantedRow, ...] = ()  # as read after changes only
        self.changes = 0
        self.up: dict[tuple[str, Any], bool] = {}  # by events only
        self.quorums: dict[str, bool] = {}
        self.sorry: dict[str, Any] = {}

    @initialize(services=CONFIGURATIONS)
    def begin(self, services: list[WantedService]) -> None:
        self.harness.replace(*services)
        self.wanted = {each.name: each for each in services}
        self.up = {(name, each.server): each.up for name in self.wanted for each in self.now(name).servers}
        self.harness.start(0)
        self.rows = self.harness.engine.desired_rows()
        self.listen()
        assert self.quorums.keys() == self.wanted.keys()

    @rule(number=NUMBERS, outcome=OUTCOMES)
    def a_server_answers_so(self, number: int, outcome: Outcome) -> None:
        self.harness.set_outcome(number, outcome)

    @rule(seconds=st.sampled_from([0.5, 1, 3, 10, 30]))
    def time_passes(self, seconds: float) -> None:
        self.harness.pass_(seconds)
        self.listen()

    @rule(services=CONFIGURATIONS)
    def a_reload(self, services: list[WantedService]) -> None:
        self.reload(services)

    @rule(data=st.data())
    def a_small_reload(self, data: st.DataObject) -> None:
        if self.wanted:
            name = data.draw(st.sampled_from(sorted(self.wanted)))
            changed = replace(self.wanted[name], quorum=data.draw(st.integers(1, 4)))
            changed = replace(changed, servers=changed.servers[data.draw(st.integers(0, 1)) :])
            self.reload([changed if each.name == name else each for each in self.wanted.values()])

    @rule(number=NUMBERS, what=st.sampled_from(["drain", "disable", "enable"]))
    def the_operator_sets(self, number: int, what: str) -> None:
        if any(key(number) == each.destination.key for wanted in self.wanted.values() for each in wanted.servers):
            getattr(self.harness.engine, what)(key(number))
        self.listen()

    @rule(number=NUMBERS, weight=st.sampled_from([None, 0, 3]))
    def the_operator_weighs(self, number: int, weight: int | None) -> None:
        if any(key(number) == each.destination.key for wanted in self.wanted.values() for each in wanted.servers):
            self.harness.engine.set_weight(key(number), weight)
        self.listen()

    def reload(self, services: list[WantedService]) -> None:
        """Servers that stay keep their state."""
        before = {name: {each.server: each for each in self.now(name).servers} for name in self.wanted}
        old, self.wanted = self.wanted, {each.name: each for each in services}
        known = set(self.up)
        self.harness.replace(*services)
        there = {(name, each.server) for name in self.wanted for each in self.now(name).servers}
        for name, wanted in self.wanted.items():
            for configured, now in zip(wanted.servers, self.now(name).servers, strict=True):
                was = before.get(name, {}).get(now.server)
                if was is not None and configured in old[name].servers:
                    assert kept(now) == kept(was)
                if was is not None:
                    assert now.override == was.override
                    assert now.up or not was.up or any(check.good is False for check in now.checks)
                if (name, now.server) not in known:
                    self.up[name, now.server] = not any(
                        check.check.pace.alpha and not check.good for check in now.checks
                    )
        self.listen()
        for gone in known - there:
            assert not self.up.pop(gone)
        for name in old.keys() - self.wanted.keys():
            assert not self.quorums.pop(name)
            self.sorry.pop(name, None)

    def now(self, name: str) -> ServiceSnapshot:
        return self.harness.snapshot(name)

    def listen(self) -> None:
        """Check that events of one subject alternate."""
        for event in self.harness.events:
            match event:
                case ServerUp():
                    assert not self.up[event.service, event.server]
                    self.up[event.service, event.server] = True
                case ServerDown():
                    assert self.up[event.service, event.server] != event.initial
                    self.up[event.service, event.server] = False
                case QuorumGained() | QuorumLost():
                    has = isinstance(event, QuorumGained)
                    assert event.initial == (event.service not in self.quorums)
                    assert event.initial or self.quorums[event.service] != has
                    self.quorums[event.service] = has
                case SorryServerIn():
                    assert self.sorry.get(event.service) is None
                    self.sorry[event.service] = event.server
                case SorryServerOut():
                    assert self.sorry[event.service] == event.server
                    self.sorry[event.service] = None
        self.harness.events.clear()
        if self.harness.changes != self.changes:
            self.changes = self.harness.changes
            self.rows = self.harness.engine.desired_rows()

    @invariant()
    def the_table_follows_from_the_states(self) -> None:
        expected = []
        for name, wanted in self.wanted.items():
            (virtual,) = wanted.services()
            expected.append(WantedRow(virtual, row_of(wanted, self.now(name))))
        assert self.harness.engine.desired_rows() == tuple(expected)

    @invariant()
    def listeners_to_changes_have_the_desired_rows(self) -> None:
        assert self.harness.engine.desired_rows() == self.rows

    @invariant()
    def listeners_to_events_have_the_states(self) -> None:
        for name, wanted in self.wanted.items():
            now = self.now(name)
            assert {each.server: each.up for each in now.servers} == {
                each.server: self.up[name, each.server] for each in now.servers
            }
            assert now.has_quorum == self.quorums[name]
            serving = wanted.sorry_server.key if wanted.sorry_server and not now.has_quorum else None
            assert self.sorry.get(name) == serving

    @invariant()
    def servers_follow_from_their_checks(self) -> None:
        for name, wanted in self.wanted.items():
            now = self.now(name)
            assert now.weight_up == sum(each.weight for each in now.servers if each.up)
            for configured, state in zip(wanted.servers, now.servers, strict=True):
                failed = any(check.good is False for check in state.checks)
                assert not (state.up and failed)
                if state.checked:
                    assert state.up != failed
                    assert state.weight == weight_of(configured, state)

    @rule()
    def in_the_end_all_are_up(self) -> None:
        for number in range(1, 5):
            self.harness.set_outcome(number, OK)
        self.harness.pass_(60)
        self.listen()
        for name in self.wanted:
            assert all(each.up and each.checked for each in self.now(name).servers)

    def teardown(self) -> None:
        self.harness.__exit__()


def kept(state: ServerSnapshot) -> tuple[object, ...]:
    """Return what a reload must keep of a server that does not change."""
    return replace(state, weight=0, in_table=True, checks=()), [replace(each, shared_by=0) for each in state.checks]


def weight_of(configured: WantedServer, state: ServerSnapshot) -> int:
    """Derive the effective weight from checks and override."""
    if state.override != Override():
        if state.override.standing is not Standing.ENABLED:
            return 0
        if state.override.weight is not None:
            return state.override.weight
    base = configured.destination.weight
    return max(base + sum(check.weight - base for check in state.checks if check.weight is not None), 0)


TestStates = States.TestCase
TestStates.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
