"""The Director over pinned BPF maps: what ipvsadm and the daemon edit, and what packets see.

Tools are peers: each opens the same pins, edits under one lock, and may be killed at any instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from pylvs.dataplane.reader import Opened, Reader, expiry, reason_counts
from pylvs.dataplane.state import State, collect_dead_states
from pylvs.dataplane.tables import Tables
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.rows import ServiceRow, Trouble
from pylvs.model.service import ServiceKey, VirtualService

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.dataplane.destination_slots import DestinationSlots
    from pylvs.dataplane.editor import Editor
    from pylvs.model.connection import Connection
    from pylvs.model.marks import MarkRule
    from pylvs.model.rows import PacketCounts
    from pylvs.model.service import Timeouts

TABLE_SIZE = 4096  # the buckets that listings show, as IPVS's default


def open_director() -> BpfDirector:
    """The Director of the current network namespace. Raises NotPermitted, Unsupported."""
    collect_dead_states()
    return BpfDirector(State.open())


class BpfDirector:
    """See `pylvs.model.director.Director`. Without a state it reads as empty; the first edit makes one."""

    def __init__(self, state: State) -> None:
        self._opened = Opened(state)
        self._loaded: Editor | None = None

    @property
    def state(self) -> State:
        """Where the tables are pinned."""
        return self._opened.state

    @property
    def tables(self) -> Tables:
        """The tables themselves."""
        return self._opened.tables

    @property
    def reader(self) -> Reader:
        """The reading side; the state must exist."""
        return self._opened.reader

    @property
    def slots(self) -> DestinationSlots:
        """The slots of destinations; the state must exist."""
        return self._editor.slots

    def edition(self) -> int:
        """A number that is another one after every edit of the tables, by whomever; 0 while there are none.

        For whoever holds a Director for long: it is cheap to ask, and finds tables that were made since.
        """
        if not self.state.exists:
            self._opened.again()
        self._opened.renew()
        self._bring_in()
        mark = self._opened.mark
        return mark << 32 | self.reader.versions.live if mark else 0

    # --- editing ---

    @property
    def _editor(self) -> Editor:
        if self._loaded is None:
            from pylvs.dataplane.editor import Editor  # late: listings do without

            self._loaded = Editor(self._opened)
        return self._loaded

    def _bring_in(self) -> None:
        """What was added in this batch is seen by whoever reads in it."""
        if self._loaded is not None:
            self._loaded.bring_in()

    def make(self) -> None:
        """Make the state if it is not there. Raises NoRoom, Unsupported, NotPermitted."""
        self._editor.make()

    def batch(self) -> AbstractContextManager[None]:
        """Hold the lock over many edits; attachments follow at the end."""
        return self._editor.batch()

    def troubles(self) -> Sequence[Trouble]:
        """See the protocol."""
        return self._loaded.troubles if self._loaded else ()

    def follow_host(self) -> None:
        """Take over what changed around the tables: this host's addresses, devices and routes.

        Every edit does so for its own service; this is for whoever hears of such changes.
        """
        self._editor.follow_host()

    def add_service(self, service: VirtualService) -> None:
        """See the protocol."""
        self._editor.add_service(service)

    def edit_service(self, service: VirtualService) -> None:
        """See the protocol."""
        self._editor.edit_service(service)

    def delete_service(self, key: ServiceKey) -> None:
        """See the protocol."""
        self._editor.delete_service(key)

    def flush(self) -> None:
        """See the protocol."""
        self._editor.flush()

    def zero(self, key: ServiceKey | None = None) -> None:
        """See the protocol."""
        self._editor.zero(key)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """See the protocol."""
        self._editor.add_destination(key, destination)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """See the protocol."""
        self._editor.edit_destination(key, destination)

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        """See the protocol."""
        self._editor.delete_destination(key, destination)

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        """See the protocol."""
        return self._editor.change_mark_rules(change)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """See the protocol."""
        self._editor.set_timeouts(timeouts)

    def change_setting(self, name: str, value: int, drop: bool = False) -> None:
        """See the protocol; `drop` lets a new conn_max end the connections that live."""
        self._editor.change_setting(name, value, drop)

    # --- reading ---

    def services(self) -> list[ServiceRow]:
        """See the protocol."""
        self._bring_in()
        return self.reader.rows() if self.state.exists else []

    def service(self, key: ServiceKey) -> ServiceRow:
        """See the protocol."""
        self._bring_in()
        slot, _ = self._opened.known(key)
        return self.reader.row(slot)

    def connections(self) -> Iterator[Connection]:
        """See the protocol."""
        if self.state.exists:
            from pylvs.dataplane.connections import ConnectionReader  # late: other listings do without

            self._opened.renew()
            yield from ConnectionReader(self.tables).connections()

    def table_size(self) -> int:
        """See the protocol."""
        return TABLE_SIZE

    def packet_counts(self) -> PacketCounts:
        """What happened to packets beyond being forwarded; nothing while there are no tables."""
        from pylvs.model.rows import PacketCounts

        if not self.state.exists:
            return PacketCounts()
        self._opened.renew()
        capacity = self.tables.pool.get(0, "capacity")
        totals = self.reader.statistics.totals()
        return PacketCounts(reason_counts(self.tables), capacity, expiry(self.tables), totals)

    def mark_rules(self) -> list[MarkRule]:
        """See the protocol."""
        if not self.state.exists:
            return []
        from pylvs.dataplane import marks

        return self.reader.steadily(lambda live: marks.read(self.tables, self.reader.versions.facts(live)))

    def timeouts(self) -> Timeouts:
        """See the protocol."""
        from pylvs.model.service import Timeouts

        if not self.state.exists:
            return Timeouts()
        return Timeouts(*self.reader.versions.facts().get("timeouts_s"))

    def settings(self) -> Mapping[str, int]:
        """See the protocol."""
        from pylvs.model.settings import SETTINGS

        self._opened.renew()
        return {name: self._setting(name, setting.default) for name, setting in SETTINGS.items()}

    def _setting(self, name: str, default: int) -> int:
        if name == "conn_max":
            from pylvs.bpf import kernel

            return int(self.tables.pool.get(0, "capacity")) if self.state.exists else kernel.connection_limit()
        if not self.state.exists:
            return default
        return int(self.tables.root.get(0, f"settings.{name}"))


__all__ = ["BpfDirector", "open_director"]
