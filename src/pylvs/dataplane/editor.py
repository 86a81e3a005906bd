"""Edit the tables under the lock: everything that `pylvs.model.director.Director` can change.

Reading is in `reader`: a listing imports half as much and starts sooner.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from pylvs.bpf import abi, kernel
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane.destinations import (
    DestinationSlots,
    change_scheduler,
    last_weight,
    method_of,
    pack_member,
    packed_members,
    split_list,
    write_list,
)
from pylvs.dataplane.devices import attachments, lo, own_addresses, rp_filter
from pylvs.dataplane.devices.selection import Concerns
from pylvs.dataplane.state import BYPASS, StateExists, roles_directory
from pylvs.dataplane.tables import (
    Tables,
    Versions,
    destination_name,
    replace_keys,
    version_fields,
)
from pylvs.dataplane.transaction import Transaction, list_of, recover
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.errors import (
    Busy,
    DestinationExists,
    InvalidOperation,
    NoSuchDestination,
    PylvsError,
    ServiceExists,
)
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    ServiceChange,
    ServiceKey,
    VirtualService,
    check_destination,
    check_service,
)
from pylvs.netlink import links
from pylvs.netlink.links import Routes

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pylvs.dataplane.bulk_add import BulkAdd
    from pylvs.dataplane.change_set import ChangeSet
    from pylvs.dataplane.reader import Reader
    from pylvs.dataplane.rules.client_rules import ClientRules
    from pylvs.dataplane.state import State
    from pylvs.model.client_rules import ClientRule, Network
    from pylvs.model.marks import MarkRule
    from pylvs.model.rows import DeviceProblem
    from pylvs.model.service import Timeouts
    from pylvs.system.lock import Lock

    class Opened(Protocol):
        """The part of the director, which imports this module, that has opened the tables."""

        state: State
        settled: bool
        adopting: bool
        shadowing: bool

        @property
        def tables(self) -> Tables: ...
        @property
        def versions(self) -> Versions: ...
        @property
        def reader(self) -> Reader: ...
        def renew(self) -> None: ...
        def open_again(self) -> None: ...
        def slot(self, key: ServiceKey) -> int | None: ...
        def known(self, key: ServiceKey) -> tuple[int, dict[str, Any]]: ...

# late: each edit imports what it needs: scripts call ipvsadm for each change


_DEVICE_SETTINGS = "/proc/sys/net/ipv4/conf"
_RESERVED = 8  # descriptors


class Editor:
    """The part of a Director that edits; the first edit makes the state."""

    def __init__(self, director: Opened) -> None:
        self._director = director
        self._lock: Any = None
        self._depth = 0
        self._reserved: list[int] = []
        self._routes = Routes()  # looked up in this batch
        self._bulk_add: BulkAdd | None = None  # the new services of this batch
        self._changed = Concerns()
        self._failed_resize = False  # of this batch, in the middle
        self._left: set[int] = set()  # slots of services that may no longer use a table of mh or sh
        self.problems: Sequence[DeviceProblem] = ()  # devices that the last batch failed to attach
        self._restored: dict[str, None] = {}  # since the last `follow_host`, in this order

    @property
    def _tables(self) -> Tables:
        return self._director.tables

    @property
    def slots(self) -> DestinationSlots:
        """The editor of destination slots."""
        return DestinationSlots(self._tables)

    def make(self, connections: int = 0) -> None:
        """Make the state if it does not exist. Raises NoSpace, Unsupported, NotPermitted."""
        if self._director.settled:
            return
        if not self._director.state.exists:
            from pylvs.dataplane import load  # late: most edits find a state

            with suppress(StateExists), self._director.state.building() as fresh:  # by another process before this one
                load.create(fresh, connections)
            self._director.open_again()
            lo.forward_lo(self._director.state)
        self._director.renew()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold the lock over many edits; reconcile the attachments at the end."""
        self.make()
        if self._lock is None or self._lock.path != self._director.state.path:
            self._lock = self._director.state.lock()
        with ExitStack() as until:
            try:
                until.enter_context(self._lock)
            except FileNotFoundError:
                self._director.settled = False
                raise Busy("`pylvs down` has just removed the tables; try again") from None
            self._depth += 1
            try:
                if self._depth == 1:
                    self._begin()
                    self._reserve_descriptors()
                elif self._failed_resize:
                    self._begin()
                self.bring_in()
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._end()

    def _begin(self) -> None:
        """Bring everything up to date under the lock: the programs, the table after a writer died, snapshots."""
        director = self._director
        director.renew()
        if director.state.has_gate and not director.adopting:
            raise Busy(
                "pylvs adopt runs in this network namespace, or was interrupted: wait until it ends, or run it again;"
                " pylvs adopt --abort gives up"
            )
        unfinished, outdated = director.state.unfinished() is not None, director.state.is_outdated()
        if unfinished or outdated:
            from pylvs.dataplane.upgrade import upgrade  # late: most edits replace no program

            if unfinished:
                upgrade.finish(director.state)
            if outdated:
                upgrade.swap_programs(self._tables)
            director.open_again()
            director.renew()
        director.settled, self._failed_resize = True, False
        if self._tables.book.get(0, "pending"):
            recover(self._tables)
        if os.path.isdir(roles_directory(director.state.cookie)):
            from pylvs.dataplane import vip_roles  # late: most hosts have no virtual router

            vip_roles.settle(self._tables)
        _refresh_snapshots(director.versions)

    def _reserve_descriptors(self) -> None:
        """Hold the descriptors that `_end` needs, so that a limit refuses an edit before it takes effect."""
        for _ in range(_RESERVED):
            self._reserved.append(os.open("/", os.O_PATH | os.O_CLOEXEC))

    def _end(self) -> None:
        """Put new services in force, tidy, and reconcile the attachments."""
        self._routes.close()
        try:
            self.bring_in()
        finally:
            self._director.settled = False
            while self._reserved:
                os.close(self._reserved.pop())
        self._forget_hash_tables()
        changed, self._changed = self._changed, Concerns()
        if (
            not self._director.shadowing and not self._is_switching()
        ):  # else the next edit finishes that first; both tables must stay until then
            done = attachments.reconcile(self._tables, changed)
            self.problems = done.problems
            self._restored |= dict.fromkeys(done.restored)

    def _is_switching(self) -> bool:
        """Return whether a change of the connection table has failed in the middle, in this edit or in `_begin`."""
        if self._director.state.unfinished() is None:
            return False
        from pylvs.dataplane.upgrade import upgrade  # late: most edits replace no program

        return upgrade.is_switching(self._director.state)

    def bring_in(self) -> None:
        """Put the new services of this batch in force, before a read or another edit."""
        if self._bulk_add:
            bulk_add, self._bulk_add = self._bulk_add, None
            bulk_add.bring_in()

    def follow_host(self) -> list[str]:
        """Bring snapshots, attachments and destinations up to date with this host's addresses, devices and routes.

        Every edit does so for its own service. Call this after a change of the host. Return what other programs had
        changed, and this call or an edit since the last one has put right.
        """
        if not self._director.state.exists:
            return []
        self._changed.shrunk = True  # reconcile every device
        try:
            self._routes.ask(self.slots.addresses())  # before it holds the lock: 100,000 addresses take seconds
            with self.batch():
                self.slots.follow_routes(self._routes)
        finally:
            self._routes.close()
        restored, self._restored = self._restored, {}
        return list(restored)

    def _forget_hash_tables(self) -> None:
        slots, self._left = self._left, set()
        if slots:
            from pylvs.dataplane.scheduler_tables import HashTables  # late: most edits leave no such service

            HashTables(self._tables).forget({slot: self._director.versions.version(slot) for slot in slots})

    @contextmanager
    def _existing(self, key: ServiceKey) -> Iterator[tuple[int, dict[str, Any]]]:
        """Hold the lock, and yield slot and version of a service. Raises NoSuchService before it locks."""
        if self._director.settled:  # within a batch the lock is held already
            yield self._known(key)
            return
        self._known(key)
        with self.batch():
            yield self._known(key)

    def _known(self, key: ServiceKey) -> tuple[int, dict[str, Any]]:
        self.bring_in()
        return self._director.known(key)

    def add_service(self, service: VirtualService) -> None:
        key = service.key
        if (self._bulk_add and key in self._bulk_add) or self._director.slot(key) is not None:
            raise ServiceExists(f"{key}: there is such a virtual service already")
        check_service(service, SCHEDULERS)
        if not self._director.settled:
            with self.batch():
                self.add_service(service)
            return
        from pylvs.dataplane.bulk_add import BulkAdd  # late: edits of destinations do not need it

        if self._bulk_add and not self._bulk_add.whole:
            self.bring_in()
        self._bulk_add = self._bulk_add or BulkAdd(self._tables)
        self._bulk_add.add_service(service)
        self._changed.add_key(key)

    def edit_service(self, service: VirtualService) -> None:
        from pylvs.dataplane import load, scheduler_tables  # late: edits of destinations do not need them

        self._known(service.key)
        check_service(service, SCHEDULERS)
        hash_tables = scheduler_tables.HashTables(self._tables)
        with self._existing(service.key) as (slot, version):
            load.provide_for(service, self._tables.state)
            fields = version | version_fields(service, load.ticks_per_second())
            changed = fields["scheduler"] != version["scheduler"]
            if changed and fields["count"] > hash_tables.most(fields):
                raise scheduler_tables.too_many(service.key, hash_tables.most(fields))
            with Transaction(self._tables) as edit:
                if changed:
                    change_scheduler(edit, slot, version, fields)
                edit.write_version(slot, edit.generation, fields)
                edit.count_extras(version, -1)
                edit.count_extras(fields, 1)
                edit.commit()
                if fields["list"] != version["list"]:
                    edit.book.let_list_go(version["list"], version["count"])
            if changed and hash_tables.uses(version):
                self._left.add(slot)
            if changed and scheduler_tables.remembers(version):
                scheduler_tables.sweep(self._director.state)

    @property
    def client_rules(self) -> ClientRules:
        """The client rules of the services."""
        from pylvs.dataplane.rules.client_rules import ClientRules

        return ClientRules(self._director.reader)

    def change_client_rules(self, key: ServiceKey, change: Callable[[list[ClientRule]], Sequence[ClientRule]]) -> None:
        """Replace the client rules of a service; those of a new one take effect with it.

        Raises NoSuchService, InvalidOperation, NoSpace.
        """
        if self._bulk_add and self.client_rules.begin(self._bulk_add, key, change):
            return
        with self._existing(key) as (slot, version):
            self.client_rules.change(slot, version, change)

    def edit_client_rules(self, key: ServiceKey, added: Sequence[ClientRule], doomed: Collection[Network]) -> None:
        with self._existing(key) as (slot, version):
            self.client_rules.edit(slot, version, added, doomed)

    def delete_service(self, key: ServiceKey) -> None:
        with self._existing(key) as service:
            self._delete_services([service])

    def flush(self) -> None:
        if not self._director.state.exists:
            return
        with self.batch():
            versions = self._director.versions
            self._delete_services(versions.services(versions.live))

    def _delete_services(self, doomed: list[tuple[int, dict[str, Any]]]) -> None:
        changes = self._change_set()
        changes.delete(doomed)
        self._changed.shrunk = True
        self._left |= changes.left

    def _change_set(self) -> ChangeSet:
        from pylvs.dataplane.change_set import ChangeSet  # late: edits of destinations do not need it

        return ChangeSet(self._tables, self._routes)

    def check(self, changes: Sequence[ServiceChange]) -> None:
        """Check services and destinations of changes. Raises what single edits raise, with its subject."""
        with Routes() as routes:
            for change in changes:
                subject: tuple[ServiceKey, DestinationKey | None] = change.key, None
                try:
                    if change.is_new and self._director.slot(change.key) is not None:
                        raise ServiceExists(f"{change.key}: there is such a virtual service already")
                    if change.service is not None:
                        check_service(change.service, SCHEDULERS)
                    for destination in change.added:
                        subject = change.key, destination.key
                        check_destination(VirtualService(change.key), destination, routes.is_broadcast, _is_local)
                    for destination in change.edited:
                        subject = change.key, destination.key
                        check_destination(VirtualService(change.key), destination)
                except PylvsError as error:
                    error.subject = subject
                    raise

    def apply(self, changes: Sequence[ServiceChange]) -> None:
        """Make all changes as one edit: packets see all of them, or none. Raises as `check`, and NoSpace."""
        self.check(changes)
        with self.batch():
            self.check(changes)  # again: others may have edited until now
            change_set, noted = self._change_set(), Concerns()
            change_set.commit(changes, self._director.known, noted)
            self._changed.update(noted)
            self._left |= change_set.left

    def zero(self, key: ServiceKey | None = None) -> None:
        if key is None and not self._director.state.exists:
            return
        if key:
            self._known(key)
        with self.batch():
            reader = self._director.reader
            statistics, versions = reader.statistics, reader.versions
            wanted = [self._known(key)] if key else versions.services(versions.live)  # others may have edited until now
            if key is None:
                statistics.zero_totals()
            owned = reader.owned_by_service()
            for slot, version in wanted:
                statistics.zero_service(slot, owned.get((slot, version["added"]), []))
                for dest_slot in list_of(self._tables, version):
                    statistics.zero_destination(dest_slot)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        bulk_add = self._bulk_add
        service = bulk_add.that_takes(key) if bulk_add else None
        if bulk_add and service:
            self._check_destination(key, destination)
            route = self._routes.to(destination.key.address)
            bulk_add.add_destination(service, destination, route)
            self._changed.add_destination(destination, route)
            return
        with self._existing(key) as (slot, version):
            self._check_destination(key, destination)
            slots, name = self.slots, destination_name(key, destination.key)
            dest_slot = slots.named(name)
            if dest_slot is not None and not self._tables.destinations.get(dest_slot, "deleted_s"):
                raise DestinationExists(f"{key} -> {destination.key}: there is such a real server already")
            with Transaction(self._tables) as edit:
                if slots.sweep(edit):
                    dest_slot = slots.named(name)
                route, revived = self._routes.to(destination.key.address), dest_slot is not None
                expired = dest_slot is not None and edit.trash.has_freed(dest_slot)
                if dest_slot is None:
                    dest_slot = slots.bring(edit, slot, version, name, destination, route)
                else:
                    slots.write(edit, dest_slot, destination, route)
                entries = pack_member(dest_slot, destination) + packed_members(self._tables, version)
                write_list(edit, slot, version, entries, "LIST_ADD")
                if revived:
                    slots.adopt(dest_slot, slot, version, expired)
                edit.commit()
                self._changed.add_destination(destination, route)
                edit.trash.revive({dest_slot} if revived else set())
                edit.book.let_list_go(version["list"], version["count"])

    def _check_destination(self, key: ServiceKey, destination: Destination) -> None:
        check_destination(VirtualService(key), destination, self._routes.is_broadcast, _is_local)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        with self._existing(key) as (slot, version):
            check_destination(VirtualService(key), destination)
            dest_slot = self._listed(key, destination.key)
            position, before, entry, after = split_list(self._tables, version, dest_slot)
            fresh = before + pack_member(dest_slot, destination, last_weight(entry)) + after
            with Transaction(self._tables) as edit:
                route = self._routes.to(destination.key.address)
                self.slots.write(edit, dest_slot, destination, route)
                write_list(edit, slot, version, fresh, "LIST_UPDATE", position)
                edit.commit()
                self._changed.add_destination(destination, route)
                edit.book.let_list_go(version["list"], version["count"])

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        """Give a destination of DR or TUN another port: packets are the same with any. Raises as `edit_destination`.

        It may be killed at any step. Then `recover` drops the name that is not the slot's.
        """
        with self._existing(key) as (slot, version):
            dest_slot, slots = self._listed(key, former), self.slots
            position, before, entry, after = split_list(self._tables, version, dest_slot)
            if name.address != former.address or method_of(entry) is Method.MASQ:
                raise InvalidOperation(f"{key} -> {former}: only DR and TUN take another port, not {name}", "port")
            if slots.listed(key, name) is not None:
                raise DestinationExists(f"{key} -> {name}: there is such a real server already")
            with Transaction(self._tables) as edit:
                slots.rename(dest_slot, key, former, name)
                write_list(edit, slot, version, before + entry + after, "LIST_UPDATE", position)
                edit.commit()
                edit.book.let_list_go(version["list"], version["count"])

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        with self._existing(key) as (slot, version):
            dest_slot = self._listed(key, destination)
            position, before, _, after = split_list(self._tables, version, dest_slot)
            with Transaction(self._tables) as edit:
                edit.write_deleted(dest_slot, edit.generation)
                write_list(edit, slot, version, before + after, "LIST_DELETE", position)
                edit.commit()
                by_nat = abi.constant("DESTINATION_USED_BY_NAT")
                self._changed.shrunk |= self._tables.destinations.get(dest_slot, "used") == by_nat
                route = self._routes.to(destination.address)
                self._changed.shrunk |= route is not None and route.local
                edit.trash.put(dest_slot)
                self.slots.end_orphans(edit)
                edit.book.let_list_go(version["list"], version["count"])
                self.slots.sweep(edit)

    def _listed(self, key: ServiceKey, destination: DestinationKey) -> int:
        dest_slot = self.slots.listed(key, destination)
        if dest_slot is None:
            raise NoSuchDestination(f"{key} -> {destination}: no such real server")
        return dest_slot

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        from pylvs.dataplane.rules import marks

        with self.batch():
            return marks.change(self._tables, self._director.versions.facts(), change)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        from pylvs.dataplane import load

        with self.batch(), Transaction(self._tables) as edit:
            load.set_timeouts(self._tables, edit.generation, timeouts)
            edit.commit()

    def change_setting(self, name: str, value: int, drop: bool = False) -> None:
        """Change a setting; with `drop`, a smaller conn_max may end live connections."""
        from pylvs.model.settings import checked, known_setting

        setting = known_setting(name)
        checked(setting, value)
        if setting.name == "conn_max":
            self._change_capacity(value, drop)
            return
        with self.batch():
            if setting.name == "cache_bypass" and value:
                from pylvs.dataplane import load

                load.provide(self._tables.state, BYPASS)
            self._tables.root.set(0, f"settings.{setting.name}", value)

    def _change_capacity(self, connections: int, drop: bool) -> None:
        """Fix the capacity of the connection table. With 0 it follows memory again, and does not shrink."""
        from pylvs.dataplane.upgrade import upgrade

        self.make(connections)
        with self.batch():
            least = max(kernel.connection_limit(), self._tables.pool.get(0, "capacity"))
            self._resize(connections or least, drop)
            upgrade.fix_capacity(self._tables, bool(connections))

    def grow(self) -> tuple[int, int] | None:
        """Double the capacity of the connection table if it is nearly full; return the former and the new one.

        Other processes can edit during most of the copy.
        """
        from pylvs.dataplane.upgrade import upgrade

        if not upgrade.larger_capacity(self._tables):
            return None
        with self.batch():
            former, capacity = self._tables.pool.get(0, "capacity"), upgrade.larger_capacity(self._tables)
            if capacity:
                self._resize(capacity, lock=self._lock)
        return (former, capacity) if capacity else None

    def _resize(self, connections: int, drop: bool = False, lock: Lock | None = None) -> None:
        """Change the capacity, and open the tables that are in force then: the rest of the batch edits those."""
        from pylvs.dataplane.upgrade import upgrade

        director = self._director
        try:
            upgrade.resize(self._tables, connections, drop, lock)
        finally:
            if director.state.unfinished() is None:
                director.settled = False
                director.open_again()
                director.renew()
                director.settled = True
            else:  # the next edit finishes it first, also in this batch
                self._failed_resize = True


# What the packet path reads of this host.


def _is_local(address: Address) -> bool:
    """Return whether a device of this host has the address."""
    return address in links.local_addresses()


def _refresh_snapshots(versions: Versions) -> None:
    """Update the snapshots of this host's addresses, devices and marks. The caller holds the lock."""
    tables = versions.tables
    own_addresses.refresh(tables)
    replace_keys(tables.accept_locals, _accept_local_devices())
    rp_filter.refresh(tables)
    above_default = kernel.first_unprivileged_port() - abi.constant("FIRST_UNPRIVILEGED")
    tables.root.set(0, "unprivileged_port", above_default)
    facts = versions.facts()
    (rules,), (services,) = facts.get("mark_rules"), facts.get("marks")
    if rules or services or len(tables.routed_marks):
        from pylvs.dataplane.rules import marks  # late: most tables have none

        marks.refresh_devices(tables, facts)
        marks.refresh_routed(versions)


def _accept_local_devices() -> set[bytes]:
    """Return the devices on which the kernel accepts packets with a local saddr, as keys of `accept_locals`."""
    found = set()
    for name in os.listdir(_DEVICE_SETTINGS):
        with suppress(OSError), open(f"{_DEVICE_SETTINGS}/{name}/accept_local", "rb") as file:
            if file.read().strip() != b"0":
                found.add(struct.pack("<I", 0 if name == "all" else socket.if_nametoindex(name)))
    return found
