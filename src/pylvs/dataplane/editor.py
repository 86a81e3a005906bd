"""Edit the tables under the lock: everything that `pylvs.model.director.Director` can change.

Reading is in `reader`: a listing imports half as much and starts sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pylvs.bpf import abi
from pylvs.dataplane import encode, load, role_notes, server_lists, upgrade
from pylvs.dataplane.destination_slots import DestinationSlots
from pylvs.dataplane.devices import attachments, loopback, policy
from pylvs.dataplane.reader import Opened, Reader
from pylvs.dataplane.slot_allocator import list_of
from pylvs.dataplane.state import State, StateExists
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.transaction import Transaction
from pylvs.model import rules
from pylvs.model.destination import Destination, DestinationKey, Method
from pylvs.model.errors import DestinationExists, InvalidOperation, NoSuchDestination, ServiceExists
from pylvs.model.rows import Trouble
from pylvs.model.service import SCHEDULERS, ServiceKey, VirtualService
from pylvs.netlink.links import Route, Routes

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.bulk_add import BulkAdd
    from pylvs.model.marks import MarkRule
    from pylvs.model.service import Timeouts


class Editor:
    """The part of a Director that edits; the first edit makes the state."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._lock: Any = None
        self._depth = 0
        self._routes = Routes()  # looked up in this batch
        self._bulk_add: BulkAdd | None = None  # the new services of this batch
        self._changed = attachments.Concerns()
        self._left_mh: set[int] = set()  # slots of services that no longer use mh
        self.problems: list[Trouble] = []  # devices that the last batch failed to attach

    @property
    def state(self) -> State:
        """The directory in which the tables are pinned."""
        return self._opened.state

    @property
    def tables(self) -> Tables:
        """The maps of the state."""
        return self._opened.tables

    @property
    def reader(self) -> Reader:
        """The reader of the tables."""
        return self._opened.reader

    @property
    def slots(self) -> DestinationSlots:
        """The editor of destination slots."""
        return DestinationSlots(self.reader)

    # --- locking ---

    def make(self) -> None:
        """Make the state if it does not exist. Raises NoRoom, Unsupported, NotPermitted."""
        if self._opened.settled:
            return
        if not self.state.exists:
            with suppress(StateExists), self.state.building() as fresh:  # another process may have made it first
                load.create(fresh)
            self._opened.again()
            loopback.forward(self.state)
        self._opened.renew()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold the lock over many edits; reconcile the attachments at the end."""
        self.make()
        if self._lock is None or self._lock.path != self.state.path:
            self._lock = self.state.lock()
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._opened.renew()
                    self._renew_programs()
                    self._opened.settled = True
                    if self.tables.book.get(0, "pending"):
                        from pylvs.dataplane.recovery import recover  # late: needed only after a writer died

                        recover(self.tables)
                    if role_notes.read(self.state.cookie) is not None:
                        from pylvs.dataplane import vip_roles  # late: most hosts have no virtual router

                        vip_roles.settle(self.tables)
                    policy.refresh_locals(self.tables)
                    policy.refresh_accept_local(self.tables)
                    policy.refresh_marks(self.reader)
                self.bring_in()
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._routes.close()
                    try:
                        self.bring_in()
                    finally:
                        self._opened.settled = False
                    left, self._left_mh = self._left_mh, set()
                    self._forget_tables(left)
                    changed, self._changed = self._changed, attachments.Concerns()
                    self.problems = attachments.reconcile(self.reader, changed)

    def _renew_programs(self) -> None:
        """Replace programs of an older pylvs, and finish a replacement that a killed process began."""
        begun = load.interrupted(self.state)
        if begun:
            policy.go_on(self.reader, begun)
        elif begun is not None or upgrade.is_due(self.state):
            policy.swap_programs(self.tables)
        else:
            return
        self._opened.forget_reader()

    def bring_in(self) -> None:
        """Put the new services of this batch in force, before a read or another edit."""
        if self._bulk_add:
            bulk_add, self._bulk_add = self._bulk_add, None
            bulk_add.bring_in()

    def follow_host(self) -> None:
        """Bring snapshots and attachments up to date with this host's addresses, devices and routes.

        Every edit does so for its own service. Call this after a change of the host.
        """
        if self.state.exists:
            self._changed.shrunk = True  # reconcile every device
            with self.batch():
                pass

    def _forget_tables(self, slots: set[int]) -> None:
        if not slots:
            return
        from pylvs.dataplane.scheduler_tables import MaglevTables

        maglev, versions = MaglevTables(self.tables), self.reader.versions
        done = [slot for slot in slots if not maglev.uses(versions.version(slot))]
        if done:
            maglev.forget(done)

    @contextmanager
    def _edit(self) -> Iterator[Transaction]:
        with self.batch(), Transaction(self.tables) as edit:
            yield edit

    @contextmanager
    def _existing(self, key: ServiceKey) -> Iterator[tuple[int, dict[str, Any]]]:
        """Hold the lock, and yield slot and version of a service. Raises NoSuchService before it locks."""
        if self._opened.settled:  # within a batch the lock is held already
            yield self._known(key)
            return
        self._known(key)
        with self.batch():
            yield self._known(key)

    def _known(self, key: ServiceKey) -> tuple[int, dict[str, Any]]:
        self.bring_in()
        return self._opened.known(key)

    # --- services ---

    def add_service(self, service: VirtualService) -> None:
        key = service.key
        if (self._bulk_add and key in self._bulk_add) or self._opened.slot(key) is not None:
            raise ServiceExists(f"{key}: there is such a virtual service already")
        rules.check_service(service, SCHEDULERS)
        if not self._opened.settled:
            with self.batch():
                self.add_service(service)
            return
        from pylvs.dataplane.bulk_add import BulkAdd  # late: edits of destinations do not need it

        if self._bulk_add and not self._bulk_add.whole:
            self.bring_in()
        self._bulk_add = self._bulk_add or BulkAdd(self.reader)
        self._bulk_add.add_service(service)
        self._changed.add_key(key)

    def edit_service(self, service: VirtualService) -> None:
        from pylvs.dataplane import scheduler_tables  # late: edits of destinations do not need it
        from pylvs.dataplane.scheduler_tables import MaglevTables

        self._known(service.key)
        rules.check_service(service, SCHEDULERS)
        maglev = MaglevTables(self.tables)
        with self._existing(service.key) as (slot, version):
            fields = version | encode.version_fields(service, load.ticks_per_second())
            changed = fields["scheduler"] != version["scheduler"]
            if changed and maglev.uses(fields) and not maglev.fits(fields):
                raise InvalidOperation(f"{service.key}: mh begins with 4093 real servers at most; others can be added")
            with Transaction(self.tables) as edit:
                if changed:
                    server_lists.change_scheduler(edit, slot, version, fields)
                edit.write_version(slot, edit.generation, fields)
                edit.commit()
            if maglev.uses(version):
                self._left_mh.add(slot)
            if changed and scheduler_tables.remembers(version):
                scheduler_tables.sweep(self.state)

    def delete_service(self, key: ServiceKey) -> None:
        self._known(key)
        with self._edit() as edit:
            slot, version = self._known(key)
            self._delete_services(edit, [(slot, version)])

    def flush(self) -> None:
        if not self.state.exists:
            return
        with self._edit() as edit:
            self._delete_services(edit, self.reader.service_slots(edit.live))

    def _delete_services(self, edit: Transaction, doomed: list[tuple[int, dict[str, Any]]]) -> None:
        from pylvs.dataplane import scheduler_tables  # late: edits of destinations do not need it
        from pylvs.dataplane.scheduler_tables import MaglevTables

        maglev = MaglevTables(self.tables)
        going = [(slot, version, list_of(self.tables, version)) for slot, version in doomed]
        for slot, version, listed in going:
            edit.write_version(slot, edit.generation, version | {"present": 0})
            for dest_slot in listed:
                edit.write_flags(dest_slot, edit.generation, 0)
            edit.count_service(encode.key_of(version), -1)
        edit.commit()
        self._changed.shrunk = True
        for slot, version, listed in going:
            self.tables.service_keys(version["family"]).remove(encode.service_key(encode.key_of(version)))
            for dest_slot in listed:
                edit.book.note_deleted(dest_slot)
            edit.book.let_list_go(version["list"], version["count"])
            edit.book.let_service_go(slot)
            if maglev.uses(version):
                self._left_mh.add(slot)
        if any(scheduler_tables.remembers(version) for _, version, _ in going):
            scheduler_tables.sweep(self.state)
        if any(listed for _, _, listed in going):
            self.slots.end_orphans(edit)
        self.slots.sweep(edit)

    def zero(self, key: ServiceKey | None = None) -> None:
        if key is None and not self.state.exists:
            return
        wanted = [self._known(key)] if key else None
        with self.batch():
            statistics = self.reader.statistics
            if wanted is None:
                statistics.zero_totals()
            for slot, version in wanted or self.reader.service_slots(self.reader.versions.live):
                counted = [statistics.counted(dest_slot) for dest_slot in self.reader.owned(slot, version)]
                total = tuple(map(sum, zip(*counted, strict=True))) or (0,) * 5
                statistics.set_base(self.tables.service_bases, slot, total)
                for dest_slot in list_of(self.tables, version):
                    statistics.begin(dest_slot, statistics.counted(dest_slot))

    # --- destinations ---

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        bulk_add = self._bulk_add
        service = bulk_add.that_takes(key) if bulk_add else None
        if bulk_add and service:
            self._check_destination(key, destination)
            route = self._routes.to(destination.key.address)
            bulk_add.add_destination(service, destination, route)
            self._note_destination(destination, route)
            return
        with self._existing(key) as (slot, version):
            self._check_destination(key, destination)
            slots, name = self.slots, encode.destination_name(key, destination.key)
            dest_slot = slots.named(name)
            if dest_slot is not None and not self.tables.destinations.get(dest_slot, "deleted_s"):
                raise DestinationExists(f"{key} -> {destination.key}: there is such a real server already")
            with Transaction(self.tables) as edit:
                if slots.sweep(edit):
                    dest_slot = slots.named(name)
                route, revived = self._routes.to(destination.key.address), dest_slot is not None
                expired = dest_slot is not None and slots.beyond_revival(dest_slot)
                if dest_slot is None:
                    dest_slot = slots.bring(edit, slot, version, name, destination, route)
                else:
                    slots.write(edit, dest_slot, destination, route)
                old = server_lists.members(self.tables, version)
                server_lists.write_list(
                    edit, slot, version, server_lists.packed(dest_slot, destination) + old, "LIST_ADD"
                )
                if revived:
                    slots.adopt(dest_slot, slot, version, expired)
                edit.commit()
                self._note_destination(destination, route)
                edit.book.revive({dest_slot} if revived else set())
                edit.book.let_list_go(version["list"], version["count"])

    def _check_destination(self, key: ServiceKey, destination: Destination) -> None:
        rules.check_destination(VirtualService(key), destination, self._routes.is_broadcast, policy.is_local)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        with self._existing(key) as (slot, version):
            rules.check_destination(VirtualService(key), destination)
            dest_slot = self._listed(key, destination.key)
            position = list_of(self.tables, version).index(dest_slot)
            stride, old = self.tables.members.stride, server_lists.members(self.tables, version)
            before, entry, after = (
                old[: position * stride],
                old[position * stride :][:stride],
                old[(position + 1) * stride :],
            )
            fresh = before + server_lists.packed(dest_slot, destination, server_lists.last_weight(entry)) + after
            with Transaction(self.tables) as edit:
                route = self._routes.to(destination.key.address)
                self.slots.write(edit, dest_slot, destination, route)
                server_lists.write_list(edit, slot, version, fresh, "LIST_UPDATE", position)
                edit.commit()
                self._note_destination(destination, route)
                edit.book.let_list_go(version["list"], version["count"])

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        with self._existing(key) as (slot, version):
            dest_slot = self._listed(key, destination)
            position = list_of(self.tables, version).index(dest_slot)
            stride, old = self.tables.members.stride, server_lists.members(self.tables, version)
            fresh = old[: position * stride] + old[(position + 1) * stride :]
            with Transaction(self.tables) as edit:
                edit.write_flags(dest_slot, edit.generation, 0)
                server_lists.write_list(edit, slot, version, fresh, "LIST_DELETE", position)
                edit.commit()
                by_nat = abi.constant("DESTINATION_USED_BY_NAT")
                self._changed.shrunk |= self.tables.destinations.get(dest_slot, "used") == by_nat
                route = self._routes.to(destination.address)
                self._changed.shrunk |= route is not None and route.local
                edit.book.note_deleted(dest_slot)
                self.slots.end_orphans(edit)
                edit.book.let_list_go(version["list"], version["count"])
                self.slots.sweep(edit)

    def _listed(self, key: ServiceKey, destination: DestinationKey) -> int:
        dest_slot = self.slots.listed(key, destination)
        if dest_slot is None:
            raise NoSuchDestination(f"{key} -> {destination}: no such real server")
        return dest_slot

    def _note_destination(self, destination: Destination, route: Route | None) -> None:
        if destination.method == Method.MASQ:
            self._changed.by_nat.add(destination.key.address)
        self._changed.own_server |= route is not None and route.local

    # --- firewall marks, timeouts, settings ---

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        from pylvs.dataplane import marks
        from pylvs.model.marks import checked as checked_rule

        with self.batch():
            fresh = [checked_rule(rule) for rule in change(marks.read(self.tables, self.reader.versions.facts()))]
            with Transaction(self.tables) as edit:
                marks.replace(edit, fresh)
                edit.commit()
            return fresh

    def set_timeouts(self, timeouts: Timeouts) -> None:
        with self._edit() as edit:
            load.set_timeouts(self.tables, edit.generation, timeouts)
            edit.commit()

    def change_setting(self, name: str, value: int, drop: bool = False) -> None:
        """Change a setting; with `drop`, a new conn_max may end live connections."""
        from pylvs.model.settings import checked, known_setting

        setting = known_setting(name)
        checked(setting, value)
        with self.batch():
            if setting.name != "conn_max":
                self.tables.root.set(0, f"settings.{setting.name}", value)
                return

            policy.resize(self.reader, value, drop)
            self._opened.renew()
