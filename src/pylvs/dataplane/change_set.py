"""Changes of many services and destinations as one edit: packets see all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pylvs.dataplane import load, scheduler_tables
from pylvs.dataplane.bulk_add import BulkAdd
from pylvs.dataplane.destinations import (
    DestinationSlots,
    Weights,
    cursor_after,
    fill_table,
    last_weight,
    list_fields,
    pack_member,
    packed_members,
)
from pylvs.dataplane.rules import client_rules
from pylvs.dataplane.scheduler_tables import HashTables
from pylvs.dataplane.tables import (
    ListStep,
    Tables,
    destination_name,
    key_of,
    service_key,
    tree_of,
    version_fields,
)
from pylvs.dataplane.transaction import Transaction, forget_rules, list_of
from pylvs.model.client_rules import checked
from pylvs.model.errors import DestinationExists, NoSuchDestination
from pylvs.model.service import Destination, DestinationKey, ServiceChange, ServiceKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.devices.selection import Concerns
    from pylvs.netlink.links import Routes

Version = tuple[int, "dict[str, Any]"]  # a slot, and the fields in force


class ChangeSet:
    """One edit. The caller holds the lock, and has checked all services and destinations."""

    def __init__(self, tables: Tables, routes: Routes) -> None:
        self._tables = tables
        self._routes = routes
        self._slots = DestinationSlots(tables)
        self._hash_tables = HashTables(tables)
        self._edit = Transaction(tables)
        self._new: BulkAdd | None = None
        self._revived: set[int] = set()
        self._deleted: list[int] = []  # slots of destinations
        self._cursors: list[tuple[int, int]] = []  # by slot of the service: to store with the commit
        self._released: list[Callable[[], None]] = []  # what is tidied after the commit
        self._sweeps_cache = False
        self._rule_sets: list[tuple[int, int]] = []  # of client rules, by slot: no longer in force after the commit
        self.left: set[int] = set()  # slots of services that may no longer use a table of mh or sh

    def commit(self, changes: Sequence[ServiceChange], known: Callable[[ServiceKey], Version], to: Concerns) -> None:
        """Write all changes, put them in force by one store, and tidy.

        `known` returns slot and version of a service. Raises NoSpace, InvalidOperation, NoSuchService,
        DestinationExists, NoSuchDestination.
        """
        with self._edit as edit:
            self._slots.sweep(edit)
            for change in changes:
                if change.service is None:
                    self._delete_service(*known(change.key))
                    to.shrunk = True
                elif change.is_new:
                    self._add_service(change)
                    to.add_key(change.key)
                else:
                    self._edit_service(change, *known(change.key))
                for destination in (*change.added, *change.edited):
                    to.add_destination(destination, self._routes.to(destination.key.address))
            if self._new:
                self._new.write()
                self._revived |= self._new.revived
            to.shrunk |= bool(self._deleted)
            for slot, cursor in self._cursors:
                self._tables.service_states.set(slot, "cursor", cursor)
            edit.commit()
            self._tidy()

    def delete(self, services: Sequence[Version]) -> None:
        """Delete these services by one store, and tidy."""
        with self._edit as edit:
            for slot, version in services:
                self._delete_service(slot, version)
            edit.commit()
            self._tidy()

    def _tidy(self) -> None:
        edit = self._edit
        edit.trash.revive(self._revived)
        for release in self._released:
            release()
        for dest_slot in self._deleted:
            edit.trash.put(dest_slot)
        forget_rules(self._tables, self._rule_sets)
        if self._sweeps_cache:
            scheduler_tables.sweep(self._tables.state)
        if self._deleted:
            self._slots.end_orphans(edit)
        self._slots.sweep(edit)

    def _delete_service(self, slot: int, version: dict[str, Any]) -> None:
        edit, key = self._edit, key_of(version)
        listed = list_of(self._tables, version)
        edit.write_version(slot, edit.generation, version | {"present": 0})
        for dest_slot in listed:
            edit.write_deleted(dest_slot, edit.generation, with_service=True)
        edit.count_service(key, version, -1)
        self._deleted += listed
        self._rule_sets.append((slot, version["client_rules"]))

        def release() -> None:
            self._tables.service_keys(version["family"]).remove(service_key(key))
            edit.book.let_list_go(version["list"], version["count"])
            edit.book.let_service_go(slot)

        self._released.append(release)
        self._leave_scheduler(slot, version)

    def _leave_scheduler(self, slot: int, version: dict[str, Any]) -> None:
        if self._hash_tables.uses(version):
            self.left.add(slot)
        self._sweeps_cache |= scheduler_tables.remembers(version)

    def _add_service(self, change: ServiceChange) -> None:
        assert change.service is not None
        self._new = self._new or BulkAdd(self._tables, self._edit)
        added = self._new.add_service(change.service)
        if len(change.added) > added.most:
            raise scheduler_tables.too_many(change.key, added.most)
        added.fields |= self._rules(change, added.slot, added.fields)
        for destination in change.added:
            self._new.add_destination(added, destination, self._routes.to(destination.key.address))

    def _edit_service(self, change: ServiceChange, slot: int, version: dict[str, Any]) -> None:
        edit, service = self._edit, change.service
        assert service is not None
        load.provide_for(service, self._tables.state)
        fields = version | version_fields(service, load.ticks_per_second())
        entries, steps = self._entries(change, slot, version)
        restarted = fields["scheduler"] != version["scheduler"]
        if steps or (restarted and tree_of(version) and tree_of(fields)):
            fields |= list_fields(edit, entries)
            released = version["list"], version["count"]
            self._released.append(lambda: edit.book.let_list_go(*released))
        if restarted:
            if fields["count"] > self._hash_tables.most(fields):
                raise scheduler_tables.too_many(change.key, self._hash_tables.most(fields))
            steps = [ListStep("LIST_INIT")]
            self._leave_scheduler(slot, version)
        if steps:
            cursor = self._tables.service_states.get(slot, "cursor")
            self._cursors.append((slot, cursor_after(cursor, version, fields, steps)))
            if restarted:
                fields |= scheduler_tables.began(edit.tables, edit.generation, fields)
            fill_table(edit, slot, version, fields, entries, steps)
        fields |= self._rules(change, slot, fields)
        edit.write_version(slot, edit.generation, fields)
        edit.count_extras(version, -1)
        edit.count_extras(fields, 1)

    def _rules(self, change: ServiceChange, slot: int, version: dict[str, Any]) -> dict[str, int]:
        """Write the client rules of a change; return the fields of the version about them, if they change."""
        if change.client_rules is None:
            return {}
        rules = checked(change.key, version["family"], change.client_rules)
        self._rule_sets.append((slot, version["client_rules"]))
        return client_rules.write(self._tables, self._edit.generation, slot, rules)

    def _entries(self, change: ServiceChange, slot: int, version: dict[str, Any]) -> tuple[bytes, list[ListStep]]:
        """Write the destinations; return the packed members of the new list, and the changes of the list."""
        edit, steps = self._edit, list[ListStep]()
        entries, stride = packed_members(self._tables, version), self._tables.members.stride
        weights = Weights(entries)
        order = list_of(self._tables, version)
        packed = {each: entries[at * stride : (at + 1) * stride] for at, each in enumerate(order)}

        def step(kind: str, position: int, before: bytes, after: bytes) -> None:
            weights.replace(before, after)
            steps.append(ListStep(kind, position, **weights.fields))

        for key in change.deleted:
            dest_slot = self._listed(change.key, key)
            position = order.index(dest_slot)
            del order[position]
            edit.write_deleted(dest_slot, edit.generation)
            self._deleted.append(dest_slot)
            step("LIST_DELETE", position, packed[dest_slot], b"")
        for destination in change.edited:
            dest_slot = self._listed(change.key, destination.key)
            self._slots.write(edit, dest_slot, destination, self._routes.to(destination.key.address))
            before = packed[dest_slot]
            packed[dest_slot] = pack_member(dest_slot, destination, last_weight(before))
            step("LIST_UPDATE", order.index(dest_slot), before, packed[dest_slot])
        newest = []
        for destination in change.added:
            dest_slot = self._add_destination(change.key, slot, version, destination)
            packed[dest_slot] = pack_member(dest_slot, destination)
            newest.append(dest_slot)
            step("LIST_ADD", 0, b"", packed[dest_slot])
        return b"".join(packed[each] for each in (*reversed(newest), *order)), steps

    def _listed(self, key: ServiceKey, destination: DestinationKey) -> int:
        dest_slot = self._slots.listed(key, destination)
        if dest_slot is None:
            raise NoSuchDestination(f"{key} -> {destination}: no such real server")
        return dest_slot

    def _add_destination(self, key: ServiceKey, slot: int, version: dict[str, Any], destination: Destination) -> int:
        edit, slots, name = self._edit, self._slots, destination_name(key, destination.key)
        route = self._routes.to(destination.key.address)
        dest_slot = slots.named(name)
        if dest_slot is None:
            return slots.bring(edit, slot, version, name, destination, route)
        if not self._tables.destinations.get(dest_slot, "deleted_s") or dest_slot in self._revived:
            raise DestinationExists(f"{key} -> {destination.key}: there is such a real server already")
        expired = edit.trash.has_freed(dest_slot)
        slots.write(edit, dest_slot, destination, route)
        slots.adopt(dest_slot, slot, version, expired)
        self._revived.add(dest_slot)
        return dest_slot
