"""The table as the daemon last left it, compared with what is there now and with what is wanted.

All of it runs in one thread, the editor's. To read a large table takes long, so that is done only where its edition
says that somebody else edited it; what the daemon's own edits made of it is known.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol

from pylvs.daemon.table import reconcile
from pylvs.daemon.table.edits import AddService, Edit
from pylvs.daemon.table.image import Image, image_of, note
from pylvs.daemon.table.reconcile import Failure
from pylvs.model.dataclass import dataclass
from pylvs.model.director import Director, ServiceRow
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.rows import PacketCounts
from pylvs.model.service import ServiceKey, Timeouts, is_probe_mark
from pylvs.model.wanted import WantedRow


class Holder(Director, Protocol):
    """A Director for whoever holds it for long."""

    def edition(self) -> int:
        """A number that is another one after every edit of the tables, by whomever; 0 while there are none."""

    def packet_counts(self) -> PacketCounts:
        """What happened to packets beyond being forwarded; nothing while there are no tables."""

    def follow_host(self) -> None:
        """Take over what changed around the tables: this host's addresses, devices and routes."""


class Outdated(Busy):
    """Somebody else edited the tables between the plan and its edits."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the table should be: its rows, which other services are the daemon's to remove, and the timeouts."""

    rows: Sequence[WantedRow]
    ours: Collection[ServiceKey] = ()
    exclusive: bool = False
    timeouts: Timeouts | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `restored` are those of the edits that somebody else's edits made necessary; `lost` says that
    the tables are gone altogether, `news` that the wish or the table is another one than at the last plan."""

    edits: tuple[Edit, ...] = ()
    restored: frozenset[Edit] = frozenset()
    lost: bool = False
    timeouts: Timeouts | None = None
    news: bool = True

    def __bool__(self) -> bool:
        return bool(self.edits or self.timeouts)


class Table:
    """One Director and what is known of its table."""

    def __init__(self, director: Holder) -> None:
        self.director = director
        self._seen: Image | None = None
        self._edition = 0  # that `_seen` is of
        self._right: dict[int, WantedRow] = {}  # rows that the table has, by their identity
        self._failed: set[ServiceKey] = set()  # whose edits were refused since the last plan
        self._keys: set[ServiceKey] = set()  # of the last wish that came true
        self._shape: tuple[Collection[ServiceKey], bool, int] | None = None  # of that wish

    def rows(self) -> list[ServiceRow]:
        """The table as it is, with its counts. Raises PylvsError, OSError."""
        return self.director.services() if self.director.edition() else []

    def plan(self, wish: Wish) -> Plan:
        """What makes the table the wanted one. Raises PylvsError and OSError when it cannot be read."""
        edition = self.director.edition()
        before, lost = self._seen, bool(self._edition) and not edition
        foreign = before is None or edition != self._edition
        if foreign:
            self._right, self._shape = {}, None
            self._seen, self._edition = image_of(self.director.services() if edition else ()), edition
        assert self._seen is not None
        self._failed = set()
        rows = [row for row in wish.rows if id(row) not in self._right]
        # As many rows as before, and none of another key: no service came or went.
        same = self._shape == _shape(wish) and all(row.service.key in self._keys for row in rows)
        if same:
            todo = reconcile.edits(self._seen, rows)
        else:
            # Services of checks are a daemon's, whether or not this one knows of the one that left them.
            ours = {*wish.ours, *(key for key in self._seen if is_probe_mark(key.mark))}
            todo = reconcile.edits(self._seen, wish.rows, ours, wish.exclusive)
        restored: frozenset[Edit] = frozenset()
        if foreign and before is not None:
            restored = frozenset(todo).difference(reconcile.edits(before, wish.rows, wish.ours, wish.exclusive))
        timeouts = wish.timeouts if wish.timeouts not in (None, self.director.timeouts()) else None
        return Plan(todo, restored, lost, timeouts, bool(rows) or not same)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Those of the connections. Raises PylvsError, OSError."""
        with self.director.batch():
            self._check()
            self.director.set_timeouts(timeouts)
            self._edition = self.director.edition()

    def apply(self, todo: Sequence[Edit], budget_s: float) -> tuple[int, list[Failure]]:
        """Do a plan's edits for about so long: how many of them are dealt with, and which of those were refused.

        Of a service that could not be added the servers are not tried. Raises Outdated, Busy, OSError before the first.
        """
        failures: list[Failure] = []
        count = 0
        with self.director.batch():
            self._check()
            assert self._seen is not None
            end = time.monotonic() + budget_s
            try:
                for edit in todo:
                    if count and time.monotonic() >= end:
                        break
                    count += 1
                    if edit.key not in self._seen and not isinstance(edit, AddService):
                        continue
                    try:
                        edit.apply(self.director)
                    except PylvsError as error:
                        failures.append(Failure(edit, error))
                        self._failed.add(edit.key)
                    else:
                        note(self._seen, edit)
            except BaseException:
                self._seen = None  # nobody knows whether the last edit was done
                raise
            self._edition = self.director.edition()
        return count, failures

    def came_true(self, wish: Wish) -> None:
        """The plan for this wish was carried out, but for the edits that were refused."""
        self._right = {id(row): row for row in wish.rows if row.service.key not in self._failed}
        self._keys = {row.service.key for row in wish.rows}
        # A service whose removal was refused has no row: only a plan of the whole table removes it.
        whole = len(self._keys) == len(wish.rows) and self._failed <= self._keys
        self._shape = _shape(wish) if whole else None

    def _check(self) -> None:
        """Within the batch: the table is still that of the plan. Raises Outdated."""
        edition = self.director.edition()
        if edition == self._edition:
            return
        if self._edition or self.director.services():
            raise Outdated("the tables were edited meanwhile")
        self._edition = edition  # there were none: the batch has just made them


def _shape(wish: Wish) -> tuple[Collection[ServiceKey], bool, int]:
    """What stays the same as long as no service comes or goes, unless one takes the place of another."""
    return wish.ours, wish.exclusive, len(wish.rows)
