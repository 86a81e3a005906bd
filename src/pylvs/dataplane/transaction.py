"""One edit: written beside what is in force, then put in force by one store.

    with Transaction(tables) as edit:
        edit.write_version(slot, {...})
        edit.commit()
        ...clean-up that may be lost...

A writer that dies before the store has changed nothing. After one that dies later, the next writer finishes the
clean-up by `recover`. The caller holds the state's lock.
"""

from __future__ import annotations

from types import TracebackType

from pylvs.dataplane.slot_allocator import Book
from pylvs.dataplane.tables import MASK32, Tables, Versions
from pylvs.model.service import ServiceKey, is_probe_mark

FTP_PORT = 21


class Transaction(Versions):
    """One edit, from its start to its clean-up."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.book = Book(tables)
        self.generation = 0
        self._live: int | None = None  # the value at the start: under the lock only this edit changes it
        self._committed = False

    @property
    def live(self) -> int:
        """The generation in force."""
        return super().live if self._live is None else self._live

    def __enter__(self) -> Transaction:
        if self.tables.book.get(0, "pending"):
            from pylvs.dataplane.recovery import recover  # late: needed only after a writer died

            recover(self.tables)
        self.tables.book.set(0, "pending", 1)
        self.book.settle()
        self._live = self.live
        self.generation = self._live + 1 & MASK32
        self.new_facts = self.facts(self.generation)
        self.new_facts.copy_from(self.facts())
        return self

    def change_fact(self, name: str, by: int, index: int = 0) -> None:
        """Add `by` to one of the new facts."""
        values = list(self.new_facts.get(name))
        values[index] += by
        self.new_facts.set(name, *values)

    def count_service(self, key: ServiceKey, by: int) -> None:
        """Count a service that is added (1) or deleted (-1)."""
        self.change_fact("services", by, 0 if key.address.version == 4 else 1)
        if key.mark:
            if not is_probe_mark(key.mark):
                self.change_fact("marks", by)
        elif key.port == 0:
            self.change_fact("zero_ports", by)
        elif key.port == FTP_PORT:
            self.change_fact("ftp", by)

    def commit(self) -> None:
        """Put the edit in force by one store. Raises Unsupported."""
        self.tables.root.publish(0, "live", self.generation)
        self._live = self.generation
        self._committed = True

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None and self._committed:
            self.tables.book.set(0, "pending", 0)
            return

        from pylvs.dataplane.recovery import recover  # late: needed only after a writer died

        recover(self.tables)
