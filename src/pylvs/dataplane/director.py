"""The Director over pinned BPF maps, which ipvsadm and the daemon edit and packets read.

Each process opens the same pins and edits under one lock. It may be killed at any instant.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from pylvs.bpf import kernel
from pylvs.dataplane.state import State, check_requirements, collect_dead_states
from pylvs.dataplane.tables import Tables, Versions, service_key
from pylvs.model.errors import NoSuchService
from pylvs.model.service import Destination, DestinationKey, ServiceChange, ServiceKey, Timeouts, VirtualService

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, TypeVar

    from pylvs.dataplane.connections import ConnectionReader
    from pylvs.dataplane.editor import Editor
    from pylvs.dataplane.handshakes import HandshakeReader
    from pylvs.dataplane.reader import Reader
    from pylvs.dataplane.upgrade.former import FormerTables
    from pylvs.model.client_rules import ClientRule, Network
    from pylvs.model.director import Connection
    from pylvs.model.marks import MarkRule
    from pylvs.model.rows import DeviceProblem, Handshakes, PacketCounts, ServiceRow

    Result = TypeVar("Result")

# late: listings and edits import what they need: scripts call ipvsadm for each change

_READS = 50  # attempts at a consistent copy
TABLE_SIZE = 4096  # the buckets that listings show, as IPVS's default


def open_director() -> BpfDirector:
    """Open the Director of the current network namespace. Raises NotPermitted, Unsupported."""
    collect_dead_states()
    return BpfDirector(State.open())


def open_reader() -> BpfDirector:
    """Open it without the privileges for edits, which then raise NotPermitted. Raises NotPermitted, Unsupported."""
    return BpfDirector(State.open(reading=True), reading=True)


class BpfDirector:
    """Implements `pylvs.model.director.Director`. Without a state it reads as empty; the first edit makes one.

    It holds the tables as they are pinned now. It opens them again after another process replaced them: by a resize, or
    by `pylvs down` and a new edit.
    """

    def __init__(self, state: State, reading: bool = False) -> None:
        self.state = state  # the directory in which the tables are pinned
        self._reading = reading  # the process may lack the privileges for edits
        self.settled = False  # the lock is held and the tables are those that are pinned
        self.shadowing = False  # edits attach no device
        self.adopting = False  # this process is the one that edits behind a gate (devices/gate.py)
        self._tables = Tables(state)
        self._versions: Versions | None = None
        self._reader: Reader | None = None
        self._mark = 0  # of the tables that were checked
        self._former: FormerTables | None = None  # with another layout, which are read until an edit migrates them
        self._former_mark = 0  # of the former tables
        self._loaded: Editor | None = None
        self._handshakes: HandshakeReader | None = None

    @property
    def tables(self) -> Tables:
        """The maps of the state, as they are pinned now."""
        self.renew()
        return self._tables

    @property
    def versions(self) -> Versions:
        """The generations in the tables; the state must exist."""
        self.renew()
        if self._versions is None:
            self._versions = Versions(self._tables)
        return self._versions

    @property
    def reader(self) -> Reader:
        """The reader of the tables; the state must exist."""
        self.renew()
        if self._reader is None:
            from pylvs.dataplane.reader import Reader  # late: most edits do without

            self._reader = Reader(self._tables)
        return self._reader

    def renew(self) -> None:
        """Open the tables again if another process replaced them. None does while this one holds the lock."""
        if self.settled:
            return
        mark = self._tables.mark()
        if mark == self._mark or (mark and mark == self._former_mark):
            return
        if mark and not self._mark and self._loaded is None and not self.state.has_own_layout():
            self._read_former(mark)
            return
        if mark:
            self.state.check_build()
        self._use(Tables(self.state), mark)

    def _read_former(self, mark: int) -> None:
        """Read tables of another layout, which this process has not used before. An edit would migrate them."""
        from pylvs.dataplane.upgrade.former import FormerTables  # late: most processes find their own layout

        former = FormerTables(self.state)
        self._use(former, 0)
        self._former, self._former_mark = former, mark

    def _read(self, read: Callable[[Reader], Result]) -> Result:
        """Return what `read` finds; of copied tables, in one generation."""
        for _ in range(_READS):
            found = read(self.reader)
            if not (self._former and self._former.is_stale):
                break
            self._read_former(self._former_mark)
        return found

    def open_again(self) -> None:
        """Open the state again: another process made it, or other programs run now, perhaps over other maps."""
        self.state = State.open(reading=self._reading)
        self._use(Tables(self.state), 0)

    def _use(self, tables: Tables, mark: int) -> None:
        self._tables, self._mark, self._versions, self._reader = tables, mark, None, None
        self._former, self._former_mark = None, 0
        self._handshakes = None

    def slot(self, key: ServiceKey) -> int | None:
        """Return the slot of a service in force, else None."""
        if not self.settled and not self.state.exists:
            return None
        raw = self.tables.service_keys(key.address.version).get(service_key(key))
        if raw is None:
            return None
        slot: int = struct.unpack("<I", raw)[0]
        return slot if self.versions.version(slot)["present"] else None

    def known(self, key: ServiceKey) -> tuple[int, dict[str, Any]]:
        """Return slot and version of a service. Raises NoSuchService."""
        slot = self.slot(key)
        if slot is None:
            raise NoSuchService(f"{key}: no such virtual service")
        return slot, self.versions.version(slot)

    def edition(self) -> int:
        """Return a number that changes at every edit, by any process; 0 while there are no tables.

        It is cheap, and it finds tables that another process has made since. Long-lived processes poll it.
        """
        if not self.state.exists:
            self.open_again()
        self.renew()
        if self._former_mark:  # a program that polls it edits as well: it must migrate the tables first
            self.state.check_build()
        self._bring_in()
        return self._mark << 32 | self.versions.live if self._mark else 0

    @property
    def _editor(self) -> Editor:
        if self._loaded is None:
            from pylvs.dataplane.editor import Editor  # late: listings do without

            if self._reading:
                check_requirements()
            self.migrate()
            self._loaded = Editor(self)
        return self._loaded

    def migrate(self) -> None:
        """Take over tables whose layout is that of another build; the first edit does so, too.

        A process that has used the tables does not: then a newer build has migrated them, and this one must be
        restarted. Raises Unsupported, NoSpace, NotPermitted, Busy.
        """
        if not self._mark and self.state.exists and not self.state.has_own_layout():
            from pylvs.dataplane.upgrade import upgrade  # late: most processes find their own layout

            upgrade.migrate(self.state)

    def _bring_in(self) -> None:
        """Put new services of this batch in force, so that a read within the batch sees them."""
        if self._loaded is not None:
            self._loaded.bring_in()

    def make(self, connections: int = 0) -> None:
        """Make the state if it does not exist, for so many connections; 0: by memory.

        Raises NoSpace, Unsupported, NotPermitted.
        """
        self._editor.make(connections)

    def batch(self) -> AbstractContextManager[None]:
        """Hold the lock over many edits; reconcile the attachments at the end."""
        return self._editor.batch()

    def device_problems(self) -> Sequence[DeviceProblem]:
        return self._loaded.problems if self._loaded else ()

    def follow_host(self) -> list[str]:
        """Bring snapshots, attachments and destinations up to date with this host's addresses, devices and routes.

        Every edit does so for its own service. Call this after a change of the host. Return what other programs had
        changed, and this call or an edit since the last one has put right.
        """
        return self._editor.follow_host()

    def add_service(self, service: VirtualService) -> None:
        self._editor.add_service(service)

    def edit_service(self, service: VirtualService) -> None:
        self._editor.edit_service(service)

    def delete_service(self, key: ServiceKey) -> None:
        self._editor.delete_service(key)

    def flush(self) -> None:
        self._editor.flush()

    def zero(self, key: ServiceKey | None = None) -> None:
        self._editor.zero(key)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        self._editor.add_destination(key, destination)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        self._editor.edit_destination(key, destination)

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        self._editor.delete_destination(key, destination)

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        """Give a destination of DR or TUN another port. Its connections, templates and counters stay.

        Raises NoSuchService, NoSuchDestination, DestinationExists, InvalidOperation.
        """
        self._editor.rename_destination(key, former, name)

    def check(self, changes: Sequence[ServiceChange]) -> None:
        """Check the services and destinations of changes, without an edit. Raises as `apply`, but never NoSpace."""
        self._editor.check(changes)

    def apply(self, changes: Sequence[ServiceChange]) -> None:
        """Make all changes as one edit: packets see all of them, or none.

        Raises what the methods for single edits raise. The error's `subject` names the service and the destination.
        """
        self._editor.apply(changes)

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        return self._editor.change_mark_rules(change)

    def client_rules(self) -> Mapping[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of the services that have any, in the order of their prefixes."""
        self._bring_in()
        return self._read(lambda _: self._editor.client_rules.listed()) if self.state.exists else {}

    def change_client_rules(self, key: ServiceKey, change: Callable[[list[ClientRule]], Sequence[ClientRule]]) -> None:
        """Replace the client rules of a service atomically by the result of `change`.

        If `change` raises an exception, the rules stay. Raises NoSuchService, InvalidOperation, NoSpace.
        """
        self._editor.change_client_rules(key, change)

    def edit_client_rules(self, key: ServiceKey, added: Sequence[ClientRule], doomed: Collection[Network]) -> None:
        """Add client rules to those of a service, and delete those of some prefixes, atomically.

        The time does not depend on the number of rules where one is added or deleted. Raises NoSuchService,
        InvalidOperation, NoSpace.
        """
        self._editor.edit_client_rules(key, added, doomed)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        self._editor.set_timeouts(timeouts)

    def change_setting(self, name: str, value: int, drop: bool = False) -> None:
        """Change a setting; with `drop`, a smaller conn_max may end live connections."""
        self._editor.change_setting(name, value, drop)

    def larger_capacity(self) -> int:
        """Return the capacity that the connection table should have; 0: the present one. Raises NoSpace."""
        from pylvs.dataplane.upgrade import upgrade

        return upgrade.larger_capacity(self.tables) if self.state.exists else 0

    def grow(self) -> tuple[int, int] | None:
        """Double the capacity of the connection table if it is nearly full; return the former and the new one.

        Raises NoSpace if memory does not allow it, or an operator's limit; and what a change of conn_max does.
        """
        return self._editor.grow() if self.state.exists else None

    def services(self) -> list[ServiceRow]:
        self._bring_in()
        return self._read(lambda reader: reader.rows()) if self.state.exists else []

    def service(self, key: ServiceKey) -> ServiceRow:
        self._bring_in()
        return self._read(lambda reader: reader.row(self.known(key)[0]))

    def connections(self) -> Iterator[Connection]:
        if self.state.exists:
            yield from self._connection_reader().connections()

    def _connection_reader(self) -> ConnectionReader:
        tables = self.tables
        from pylvs.dataplane.connections import (  # late: not all listings need it
            ConnectionReader,
            FormerConnectionReader,
        )

        return FormerConnectionReader(self._former) if self._former else ConnectionReader(tables)

    def connections_apart(self) -> Iterator[Connection]:
        """Yield the same from maps of its own: other threads may use this object at the same time."""
        return BpfDirector(self.state, self._reading).connections()

    def close(self) -> None:
        """Close all maps; the next use opens them again. The Editor refers back, so garbage would keep them."""
        self._loaded = None
        self._use(Tables(self.state), 0)

    def table_size(self) -> int:
        return TABLE_SIZE

    def packet_counts(self) -> PacketCounts:
        """Return drop reasons, use of the table, expiry costs and totals; zeros while there are no tables."""
        from pylvs.bpf.reasons import reasons
        from pylvs.dataplane import reader
        from pylvs.model.rows import PacketCounts

        if not self.state.exists:
            return PacketCounts()
        totals = self.reader.statistics.totals()
        if self._former:
            return self._former.packet_counts(totals)
        tables = self.tables
        forwarded = reader.forwarded(tables)
        return PacketCounts(
            reader.reason_counts(tables),
            reader.table_use(tables),
            reader.expiry(tables),
            reader.timer_runs(tables),
            totals,
            reader.by_device(forwarded),
            {name: each.verdict for name, each in reasons().items()},
            all_forwarded=reader.all_of(forwarded),
        )

    def handshakes(self) -> Mapping[tuple[ServiceKey, DestinationKey], Handshakes]:
        """Return the handshakes of the destinations that have any, since they were added; empty without tables.

        Destinations that were deleted a short time ago are among them.
        """
        if not self.state.exists:
            return {}
        reader = self.reader  # opens the tables again if they were replaced
        if self._former:
            return {}
        if self._handshakes is None:
            from pylvs.dataplane.handshakes import HandshakeReader  # late: only the daemon and few commands need it

            self._handshakes = HandshakeReader(reader.tables)
        return self._handshakes.read()

    def mark_rules(self) -> list[MarkRule]:
        if not self.state.exists:
            return []
        from pylvs.dataplane.rules import marks

        return self.reader.steadily(lambda live: marks.read(self.tables, self.versions.facts(live)))

    def timeouts(self) -> Timeouts:
        if not self.state.exists:
            return Timeouts()
        return Timeouts(*self.versions.facts().get("timeouts_s"))

    def settings(self) -> Mapping[str, int]:
        from pylvs.model.settings import SETTINGS

        found = {name: setting.default for name, setting in SETTINGS.items()}
        if not self.state.exists:
            return found | {"conn_max": kernel.connection_limit()}
        tables = self.tables
        set_now = {name: tables.root.get(0, f"settings.{name}") for name in found if name != "conn_max"}
        return found | set_now | {"conn_max": tables.pool.get(0, "capacity")}
