"""Give table and connections back to the kernel's IPVS, and remove pylvs's tables.

The steps, and what serves if this process is killed after each:

1. give IPVS the settings, the connections, then the services; run a gate on all devices, which is open: pylvs;
2. let new connections wait, and give IPVS the rest: pylvs. If this process is killed, they wait for 5 s at most;
3. close the gate: IPVS. A later run continues here;
4. end IPVS's backup daemon, set backup_only, end pylvs's sync daemons, remove the tables of pylvs: IPVS.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from pylvs.bpf import maps
from pylvs.dataplane import load
from pylvs.dataplane.devices import gate
from pylvs.dataplane.devices.move import is_open
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.exchange.handover import HandoverReader
from pylvs.dataplane.state import GATE, GIVING_BACK
from pylvs.dataplane.tables import MASK32
from pylvs.dataplane.upgrade.upgrade import COPY_HOLDS_SYN
from pylvs.ipvs import messages
from pylvs.ipvs.feed import Feed, key_of
from pylvs.ipvs.kernel import SETTINGS, KernelIpvs
from pylvs.ipvs.listing import Key
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import Busy, PylvsError, Unsupported, counted, os_text
from pylvs.model.rows import ServiceRow
from pylvs.model.service import is_probe_mark
from pylvs.model.settings import shown_value
from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync import control
from pylvs.system.lock import Lock

_HOLD_S = 5
_PASSES = 5
_FEW = 50
_TRIALS = 5  # to give all connections while none opens
_RENEWED = 10_000  # connections between two renewals of the hold
_BACKUP_ONLY = "backup_only"
# IPVS has no conn_max. With backup_only and a backup daemon it passes all packets to the stack.
_LATER = ("conn_max", _BACKUP_ONLY)


@dataclass(slots=True)
class Returned:
    """What was given back. `pause_s`: how long new connections waited; `sync_daemons`: the roles of those stopped."""

    services: int = 0
    connections: int = 0
    pause_s: float = 0.0
    was_interrupted: bool = False
    sync_daemons: list[str] = field(default_factory=list)


class Return:
    """One run. `report` gets the name of each step after it; tests end the process there."""

    def __init__(
        self, director: BpfDirector, kernel: KernelIpvs, report: Callable[[str], None] = lambda _: None
    ) -> None:
        self._director = director
        self._kernel = kernel
        self._report = report
        self._returned = Returned()
        self._held_s, self._is_held = 0.0, False

    def run(self) -> Returned:
        """Give everything back. Raises Busy, Unsupported, and what the kernel refuses; then pylvs serves as before."""
        director = self._director
        state = director.state
        if state.exists and state.has_gate:
            if not state.note(GIVING_BACK):
                raise Busy("pylvs adopt runs in this network namespace, or was interrupted: run pylvs adopt first")
            with Lock(state.pin_path(GATE), 0, "pylvs adopt"):
                director.adopting = self._returned.was_interrupted = True
                if not is_open(state):
                    return self._end()
                self._undo()
        elif state.exists and state.note(GIVING_BACK):
            self._returned.was_interrupted = True
            self._undo()
        rows = [row for row in director.services() if not is_probe_mark(row.service.key.mark)]
        if not rows:
            raise Unsupported("pylvs has no services in this network namespace: there is nothing to give back")
        if self._kernel.rows():
            raise Busy("ip_vs has services in this network namespace already; ipvsadm -C of the kernel's removes them")
        if self._kernel.daemons():
            raise Busy("ip_vs runs a sync daemon: stop it with ipvsadm --stop-daemon")
        state.set_note(GIVING_BACK, "to ip_vs")
        self._report("noted")
        try:
            with ExitStack() as opened:
                self._prepare(rows, opened)
                self._switch()
        except BaseException:
            if not (state.exists and state.has_gate) or is_open(state):
                self._undo()
                raise
        return self._end()

    def _prepare(self, rows: list[ServiceRow], opened: ExitStack) -> None:
        """Fill IPVS. It sees no packet of other hosts."""
        director, kernel = self._director, self._kernel
        opened.enter_context(_without_backup_only())
        _write_settings({name: value for name, value in director.settings().items() if name not in _LATER})
        kernel.set_timeouts(director.timeouts())
        self._feed = opened.enter_context(Feed(kernel))
        self._report("daemon started")
        self._feed.send(HandoverReader(director.tables).changed())
        self._report("connections given")
        for row in rows:
            kernel.add_service(row.service)
            for each in reversed(row.destinations):
                kernel.add_destination(row.service.key, each.destination)
        self._returned.services = len(rows)
        self._report("services given")
        with director.batch():
            gate.close(director.state, is_open=True)
            director.adopting = True
        opened.enter_context(Lock(director.state.pin_path(GATE), 0, "pylvs adopt"))
        director.follow_host()
        self._report("devices gated")

    def _switch(self) -> None:
        """Give everything again: the services bind connections by messages alone. Then let new ones wait.

        While they do, only what has changed since is given, and looked for in the kernel's list.
        """
        director = self._director
        reader = HandoverReader(director.tables)
        given = dict[Key, SyncedConnection]()
        self._give(reader, given)
        self._report("connections given again")
        for _ in range(_TRIALS):
            given = self._missing(given)
            if not given:
                break
        self._report("list compared")
        for number in range(_PASSES):
            changed = self._give(reader, given)
            self._report(f"pass {number + 1}")
            if changed <= _FEW:
                break
        began = time.monotonic()
        for _ in range(_TRIALS):
            self._begin_hold()
            self._give(reader, given, hurries=True)
            given = self._missing(given)
            if not given and self._holds():
                break
        else:
            self._hold(hold=False)
            raise PylvsError(
                f"ip_vs does not take all connections ({counted(len(given), 'connection')} missing);"
                " pylvs serves as before"
            )
        self._returned.connections = reader.count
        gate.shut(director.state)
        self._returned.pause_s = time.monotonic() - began
        self._report("gate closed")

    def _give(self, reader: HandoverReader, given: dict[Key, SyncedConnection], hurries: bool = False) -> int:
        """Give what has changed since the last call, and note it; return how many connections that were."""
        changed = {key_of(each): each for each in self._renewing(reader.changed(hurries))}
        self._feed.send(changed.values())
        given |= changed
        return len(changed)

    def _missing(self, given: dict[Key, SyncedConnection]) -> dict[Key, SyncedConnection]:
        """Give those again that IPVS does not list, and return them."""
        return {key_of(each): each for each in self._feed.missing(given.values())}

    def _begin_hold(self) -> None:
        """Let new connections wait. They do as long as this process renews it, and for 5 s at most after it ends."""
        self._held_s, self._is_held = time.monotonic(), True
        self._hold()
        maps.grace_period()  # a packet may still be opening one
        self._feed.renew = self._renew
        self._report("new connections wait")

    def _renew(self) -> None:
        """Continue the hold, and note if it may have ended between."""
        self._is_held = self._holds()
        self._held_s = time.monotonic()
        self._hold()

    def _holds(self) -> bool:
        """Return whether all new connections have waited since the hold began, and do so for another second."""
        return self._is_held and time.monotonic() - self._held_s < _HOLD_S - 1

    def _renewing(self, connections: Iterable[SyncedConnection]) -> Iterator[SyncedConnection]:
        for number, connection in enumerate(connections):
            if number % _RENEWED == 0 and self._held_s:
                self._renew()
            yield connection

    def _hold(self, hold: bool = True) -> None:
        tables = self._director.tables
        until = load.clock(tables.state) + round(_HOLD_S * load.ticks_per_second())
        tables.pool.set(0, "copy_until", (until & MASK32 | COPY_HOLDS_SYN) if hold else 0)

    def _undo(self) -> None:
        """Let pylvs serve as before. IPVS serves nothing."""
        director, kernel = self._director, self._kernel
        kernel.flush()
        for daemon in kernel.daemons():
            if daemon.state == messages.BACKUP:
                kernel.stop_backup(daemon.interface, daemon.syncid)
        state = director.state
        self._hold(hold=False)
        director.adopting = True
        if state.has_gate:
            with director.batch():
                gate.withdraw(state)
        director.follow_host()
        state.set_note(GIVING_BACK, None)
        director.adopting = False

    def _end(self) -> Returned:
        """Remove pylvs's tables. IPVS serves already."""
        for daemon in self._kernel.daemons():
            if daemon.state == messages.BACKUP:
                self._kernel.stop_backup(daemon.interface, daemon.syncid)
        self._report("daemon stopped")
        _write_settings({_BACKUP_ONLY: self._director.settings()[_BACKUP_ONLY]})
        self._returned.sync_daemons = control.stop_all()  # before the tables: a master sends its last messages
        state = self._director.state
        self._director.close()
        load.take_down(state)
        self._report("tables removed")
        return self._returned


def _write_settings(settings: dict[str, int]) -> None:
    """Set the kernel's settings; those that it lacks are pylvs's own."""
    for name in settings:
        value = shown_value(name, settings)
        try:
            if _kernel_setting(name).split() != value.split():
                with open(f"{SETTINGS}/{name}", "w") as file:  # after a read, the kernel would ignore a write
                    file.write(value)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise PylvsError(f"ip_vs: setting net.ipv4.vs.{name}={value}: {os_text(error)}") from None


def _kernel_setting(name: str) -> str:
    with open(f"{SETTINGS}/{name}") as file:
        return file.read().strip()


@contextlib.contextmanager
def _without_backup_only() -> Iterator[None]:
    """Clear backup_only during the block, in which a backup daemon runs."""
    before = int(_kernel_setting(_BACKUP_ONLY))
    _write_settings({_BACKUP_ONLY: 0})
    try:
        yield
    finally:
        _write_settings({_BACKUP_ONLY: before})
