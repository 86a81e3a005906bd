"""The table as the daemon last left it, compared with the actual table and with the desired one.

Everything here runs in the table thread. Reading a large table is slow, so the cache reads it only after another
program has edited it, which its edition shows. The cache applies the daemon's own edits to its snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol

from pylvs.daemon.table import edits
from pylvs.daemon.table.edits import Edit, RefusedEdit, TableSnapshot, snapshot_of
from pylvs.model.dataclass import dataclass
from pylvs.model.director import Director
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.rows import PacketCounts, ServiceRow
from pylvs.model.service import ServiceKey, Timeouts, is_probe_mark
from pylvs.model.wanted import WantedRow


class LongLivedDirector(Director, Protocol):
    """A Director with the methods for a process that keeps it open."""

    def edition(self) -> int:
        """Return a number that every edit of the tables changes, by any process; 0 without tables."""

    def packet_counts(self) -> PacketCounts:
        """Return the drop reasons and other packet counters; empty without tables."""

    def follow_host(self) -> None:
        """Bring attachments and snapshots up to date with this host's addresses, devices and routes."""


class TableChanged(Busy):
    """Another program edited the tables between the plan and its edits."""


@dataclass(frozen=True, slots=True)
class DesiredTable:
    """The desired rows and timeouts. Other services in `owned` are deleted; with `exclusive`, all others are."""

    rows: Sequence[WantedRow]
    owned: Collection[ServiceKey] = ()
    exclusive: bool = False
    timeouts: Timeouts | None = None


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The edits that the table needs.

    `restored` are those edits that revert changes by other programs. `tables_gone`: the tables were there and are not
    any more. `changed`: the desired or the actual table differs from the one of the last plan.
    """

    edits: tuple[Edit, ...] = ()
    restored: tuple[Edit, ...] = ()
    tables_gone: bool = False
    timeouts: Timeouts | None = None
    changed: bool = True


class TableCache:
    """One Director and a snapshot of its table."""

    def __init__(self, director: LongLivedDirector) -> None:
        self.director = director
        self._snapshot: TableSnapshot | None = None
        self._edition = 0  # of the snapshot
        self._refused: set[ServiceKey] = set()  # services with an edit that was refused since the last plan
        # What the last applied plan put into the table. None replaces a row with a refused edit.
        self._applied: Sequence[WantedRow | None] = ()
        self._applied_keys: set[ServiceKey] = set()
        self._shape: tuple[Collection[ServiceKey], bool, int] | None = None

    def rows(self) -> list[ServiceRow]:
        """Read the table with its counters. Raises PylvsError, OSError."""
        return self.director.services() if self.director.edition() else []

    def plan(self, desired: DesiredTable) -> EditPlan:
        """Return the edits that lead to the desired table. Raises PylvsError, OSError where it cannot be read."""
        edition = self.director.edition()
        before, tables_gone = self._snapshot, bool(self._edition) and not edition
        foreign = before is None or edition != self._edition
        if foreign:
            self._applied, self._shape = (), None
            self._snapshot, self._edition = snapshot_of(self.director.services() if edition else ()), edition
        assert self._snapshot is not None
        self._refused = set()
        # The engine returns the same object for a row that did not change, so identity is enough and costs nothing.
        applied = self._applied
        rows = [row for at, row in enumerate(desired.rows) if at >= len(applied) or row is not applied[at]]
        # As many rows as before, and none with another key: no service was added or removed.
        same_services = self._shape == _shape(desired) and all(row.service.key in self._applied_keys for row in rows)
        if same_services:
            needed = edits.required_edits(self._snapshot, rows)
        else:
            # A daemon that was killed may have left services of checks, which no configuration names.
            owned = {*desired.owned, *(key for key in self._snapshot if is_probe_mark(key.mark))}
            needed = edits.required_edits(self._snapshot, desired.rows, owned, desired.exclusive)
        restored: tuple[Edit, ...] = ()
        if foreign and before is not None:
            own = frozenset(edits.required_edits(before, desired.rows, desired.owned, desired.exclusive))
            restored = tuple(edit for edit in needed if edit not in own)
        timeouts = desired.timeouts if desired.timeouts not in (None, self.director.timeouts()) else None
        return EditPlan(needed, restored, tables_gone, timeouts, bool(rows) or not same_services)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts of connections. Raises PylvsError, OSError."""
        with self.director.batch():
            self._check_unchanged()
            self.director.set_timeouts(timeouts)
            self._edition = self.director.edition()

    def apply(self, todo: Sequence[Edit], budget_s: float) -> tuple[int, list[RefusedEdit]]:
        """Apply edits of a plan for about `budget_s`; return how many were tried, and those that were refused.

        The destinations of a service that could not be added are skipped. Raises TableChanged, Busy, OSError before
        the first edit.
        """
        refused: list[RefusedEdit] = []
        count = 0
        with self.director.batch():
            self._check_unchanged()
            assert self._snapshot is not None
            end = time.monotonic() + budget_s
            try:
                for edit in todo:
                    if count and time.monotonic() >= end:
                        break
                    count += 1
                    if edit.key not in self._snapshot and not edit.adds_service:
                        continue
                    try:
                        edit.apply(self.director)
                    except PylvsError as error:
                        refused.append(RefusedEdit(edit, error))
                        self._refused.add(edit.key)
                    else:
                        edit.apply_to(self._snapshot)
            except BaseException:
                self._snapshot = None  # the last edit may or may not be in the table
                raise
            self._edition = self.director.edition()
        return count, refused

    def plan_applied(self, desired: DesiredTable) -> None:
        """Note that the plan for this table was applied, except for refused edits."""
        self._applied = [None if row.service.key in self._refused else row for row in desired.rows]
        self._applied_keys = {row.service.key for row in desired.rows}
        # A service whose deletion was refused has no row: only a plan of the whole table deletes it.
        whole = len(self._applied_keys) == len(desired.rows) and self._refused <= self._applied_keys
        self._shape = _shape(desired) if whole else None

    def _check_unchanged(self) -> None:
        """Within the batch: raise TableChanged unless the table is still that of the plan."""
        edition = self.director.edition()
        if edition == self._edition:
            return
        if self._edition or self.director.services():
            raise TableChanged("the tables were edited after the plan")
        self._edition = edition  # the batch itself made the tables


def _shape(desired: DesiredTable) -> tuple[Collection[ServiceKey], bool, int]:
    """Return what changes whenever a service is added or removed, except when one replaces another."""
    return desired.owned, desired.exclusive, len(desired.rows)
