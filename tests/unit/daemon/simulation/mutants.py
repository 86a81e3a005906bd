"""Planted bugs that the simulation must find. Each patches one name of the product, without copying its code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import PropertyMock, patch

from pylvs.daemon.services import Services
from pylvs.daemon.state import saved
from pylvs.daemon.table import cache
from pylvs.daemon.table.cache import DestinationEdit, TableCache
from pylvs.daemon.table.reconciler import Reconciler
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.checkers import misc
from pylvs.health.engine import Engine
from pylvs.health.events import NO_OVERRIDE
from pylvs.health.probes import Outcome, ProbeScheduler
from pylvs.health.state import CheckState, ServiceState
from pylvs.health.state_builder import StateBuilder
from pylvs.system.processes.notify_scripts import NotifyScripts
from pylvs.system.processes.scripts import ScriptRunner
from pylvs.system.table_thread import TableThread

Mutant = Callable[[], AbstractContextManager[Any]]


def _failed_edits_count_as_done() -> AbstractContextManager[Any]:
    plan_applied = TableCache.plan_applied

    def mutated(self: TableCache, desired: Any) -> None:
        self._refused.clear()
        plan_applied(self, desired)

    return patch.object(TableCache, "plan_applied", mutated)


def _no_hysteresis_on_the_way_down() -> AbstractContextManager[Any]:
    def mutated(self: ServiceState, had: bool) -> bool:
        return self.weight_up >= self.wanted.quorum + (0 if had else self.wanted.hysteresis)

    return patch.object(ServiceState, "quorum_after", mutated)


def _quorum_is_gained_one_too_early() -> AbstractContextManager[Any]:
    def mutated(self: ServiceState, had: bool) -> bool:
        hysteresis = self.wanted.hysteresis
        return self.weight_up >= self.wanted.quorum + (-hysteresis if had else hysteresis - 1)

    return patch.object(ServiceState, "quorum_after", mutated)


def _helper_death_is_swallowed() -> AbstractContextManager[Any]:
    return patch.object(ScriptRunner, "_end_all", lambda self, problem: None)


def _helper_death_counts_against_servers() -> AbstractContextManager[Any]:
    outcome = misc.outcome
    return patch.object(misc, "outcome", lambda ended, dynamic: outcome(replace(ended, unable=False), dynamic))


def _edits_run_in_the_event_loop() -> AbstractContextManager[Any]:
    async def mutated(self: TableThread, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return work(*arguments, **named)

    return patch.object(TableThread, "run", mutated)


def _one_retry_too_few() -> AbstractContextManager[Any]:
    delay_after = CheckState.delay_after

    def mutated(self: CheckState, outcome: Outcome, at: float) -> float:
        if not outcome.ok and not outcome.inconclusive and self.failures == 0 and self.check.pace.retry:
            self.failures = 1
        return delay_after(self, outcome, at)

    return patch.object(CheckState, "delay_after", mutated)


def _overrides_are_lost_in_a_reload() -> AbstractContextManager[Any]:
    server = StateBuilder._server

    def mutated(self: StateBuilder, *arguments: Any) -> Any:
        made = server(self, *arguments)
        made.override = NO_OVERRIDE
        return made

    return patch.object(StateBuilder, "_server", mutated)


def _overrides_are_not_saved() -> AbstractContextManager[Any]:
    return patch.object(saved, "save_overrides", lambda *_: None)


def _removals_come_first() -> AbstractContextManager[Any]:
    row_edits = cache._row_edits

    def is_no_removal(edit: Any) -> bool:
        return edit.desired is not None

    def mutated(found: Any, row: Any) -> Any:
        return sorted(row_edits(found, row), key=is_no_removal)

    return patch.object(cache, "_row_edits", mutated)


def _foreign_services_are_deleted() -> AbstractContextManager[Any]:
    required_edits = cache.required_edits

    def mutated(found: Any, desired: Any, owned: Any = (), exclusive: bool = False) -> Any:
        return required_edits(found, desired, owned, exclusive or bool(owned))

    return patch.object(cache, "required_edits", mutated)


def _foreign_edits_are_not_noticed() -> AbstractContextManager[Any]:
    def mutated(self: TableCache) -> None:
        self._edition = self.director.edition()

    return patch.object(TableCache, "_check_unchanged", mutated)


def _a_change_does_not_wake_the_reconciler() -> AbstractContextManager[Any]:
    return patch.object(Reconciler, "wake", lambda self: None)


def _the_reconciler_stops_at_an_error() -> AbstractContextManager[Any]:
    reconcile = Reconciler.reconcile

    async def mutated(self: Reconciler) -> Any:
        result = await reconcile(self)
        if result.error:
            await asyncio.sleep(600)
        return result

    return patch.object(Reconciler, "reconcile", mutated)


def _no_script_runs_beside_an_earlier_one() -> AbstractContextManager[Any]:
    put = NotifyScripts.put

    def mutated(self: NotifyScripts[Any], name: Any, *rest: Any) -> None:
        if not (name in self._subjects and self._subjects[name].running):
            put(self, name, *rest)

    return patch.object(NotifyScripts, "put", mutated)


def _the_state_in_the_table_is_not_adopted() -> AbstractContextManager[Any]:
    return patch.object(Engine, "adopt", lambda self, rows: None)


def _servers_are_not_noted_after_refused_edits() -> AbstractContextManager[Any]:
    async def mutated(self: Services) -> None:
        await asyncio.Event().wait()

    return patch.object(Services, "_save_pending_ownership", mutated)


def _probes_wait_for_each_other() -> AbstractContextManager[Any]:
    made = ProbeScheduler.__init__
    return patch.object(ProbeScheduler, "__init__", lambda self, at_once: made(self, 1))


def _suspended_checks_run_on() -> AbstractContextManager[Any]:
    return patch.object(ProbeScheduler, "pause", lambda self, slot: None)


def _tasks_outlive_the_daemon() -> AbstractContextManager[Any]:
    async def mutated(self: BackgroundTasks, *_: object) -> None:
        """Cancel nothing."""

    return patch.multiple(BackgroundTasks, __aexit__=mutated, cancel=lambda self: None)


def _the_sorry_server_is_never_used() -> AbstractContextManager[Any]:
    return patch.object(ServiceState, "sorry", PropertyMock(return_value=False))


def _the_last_server_is_removed_before_its_successor_is_added() -> AbstractContextManager[Any]:
    return patch.object(DestinationEdit, "removes_last_usable", lambda *_: False)


EVERY: dict[str, Mutant] = {
    name.removeprefix("_").replace("_", " "): mutant
    for name, mutant in list(globals().items())
    if name.startswith("_") and not name.startswith("__")
}
