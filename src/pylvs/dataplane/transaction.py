"""One edit: written beside the live data, then put in force by one store.

    with Transaction(tables) as edit:
        edit.write_version(slot, {...})
        edit.commit()
        ...clean-up that may be lost...

An edit writes the halves that are not in force with the next generation, and then stores that generation. A writer that
dies before the store has changed nothing. After one that dies later, the next writer finishes the clean-up by
`recover`. The caller of an edit holds the state's lock.

An edit takes slots of services and destinations, and chunks of members for the lists of services. The size of a chunk
is a power of two of members. The map `books` has the free slots and chunks. All of it can be derived from the tables.

A packet on another CPU may still read what an edit released. So it is used again only after an RCU grace period, the
end of all programs that ran. An edit waits for one before it begins if many slots and chunks are released, or later if
it finds no space.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import compress, islice

from pylvs.bpf import abi, maps
from pylvs.dataplane.tables import (
    ALL_ONES,
    MASK32,
    Records,
    Tables,
    Tree,
    Versions,
    bitmap,
    key_of,
    service_key,
    tree_of,
    write_bitmap,
    written_name,
)
from pylvs.model.errors import NoSpace
from pylvs.model.service import ServiceKey, is_probe_mark

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from pylvs.bpf.maps import MmapArray
    from pylvs.dataplane.scheduler_tables import WinnerTrees

MANY_RELEASED = 128  # a grace period takes about 10 ms: most edits, each of which releases a list, do not wait for one
VISIT_S, GRACE_S = 60, 120  # of IPVS's trash
FTP_PORT = 21
_LINK, _OLDER = struct.Struct("<I"), struct.Struct("<Q")
_SERVER_KEY = struct.Struct("<16sHBx")  # struct nat_server
_ADDRESSED = ("address", "family", "used", "virtual_address", "mark", "virtual_family")  # of a destination


def list_class(count: int) -> int:
    """Return the class of the chunk that holds `count` members: the exponent of its size."""
    return max(count - 1, 0).bit_length()


def gaps(used: list[tuple[int, int]], classes: int) -> Iterator[tuple[int, int]]:
    """Yield chunks (first member, size) that fill the gaps between used ones, which are in order."""
    at = 0
    for start, size in used:
        while at < start:
            piece = min(1 << ((start - at).bit_length() - 1), 1 << (classes - 1))
            yield at, piece
            at += piece
        at = start + size


def list_of(tables: Tables, version: dict[str, Any]) -> list[int]:
    """Return the slots of a service's destinations, in list order."""
    members, count = tables.members, version["count"]
    words = members.elements(version["list"], count).cast("I")
    return list(words[:: members.stride // 4]) if count else []


def chunks(versions: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the chunks (first member, size) of these services' lists, in order."""
    return sorted((fields["list"], 1 << list_class(fields["count"])) for fields in versions if fields["count"])


class Book:
    """The allocator of slots and chunks. The caller holds the lock."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._book: Records = tables.book
        self.nothing = abi.constant("NOTHING")
        self._classes = abi.constant("LIST_CLASSES")
        self._taken: list[tuple[int, int]] = []  # chunks (first member, size) that this edit has taken
        # Chains: the next slot or chunk is in a field that packets do not read.
        self._links = {
            "services": abi.struct("service_version").offset("next"),  # of the first of a slot's two versions
            "members": abi.struct("member").offset("next"),
            "destinations": abi.struct("destination").offset("next"),
        }

    def _link(self, array: MmapArray, index: int) -> int:
        """Return the next slot or chunk of a chain."""
        return int(_LINK.unpack_from(array.upto(index), index * array.stride + self._links[array.name])[0])

    def _set_link(self, array: MmapArray, index: int, following: int) -> None:
        _LINK.pack_into(array.upto(index), index * array.stride + self._links[array.name], following)

    def take_service(self) -> int:
        """Take a free slot. Raises NoSpace."""
        book, full = self._book, self._tables.services.count
        if book.get(0, "service_free") == self.nothing and book.get(0, "service_top") >= full:
            self.settle()
        return self._take("service", self._tables.services, "virtual services")

    def _take(self, kind: str, records: Records, what: str) -> int:
        """Take the first free slot, or one that was never used. Raises NoSpace."""
        free, top = self._book.get(0, f"{kind}_free"), self._book.get(0, f"{kind}_top")
        if free != self.nothing:
            self._book.set(0, f"{kind}_free", self._link(records.array, free))
            return int(free)
        if top >= records.count:
            raise NoSpace(f"the table is full: it holds {records.count} {what}", what, records.count)
        self._book.set(0, f"{kind}_top", top + 1)
        return int(top)

    def let_service_go(self, slot: int) -> None:
        """Release a slot; it is free after a grace period."""
        self._set_link(self._tables.services.array, slot, self._book.get(0, "service_released"))
        self._book.set(0, "service_released", slot)

    def take_list(self, count: int) -> int:
        """Take a chunk for `count` members and return its first one; 0 for an empty list. Raises NoSpace."""
        if not count:
            return 0
        size = list_class(count)
        if size < self._classes:
            chunk = self._take_chunk(size)
            for find_space in self.settle, self._merge_gaps:
                if chunk is None:
                    find_space()
                    chunk = self._take_chunk(size)
            if chunk is not None:
                self._taken.append((chunk, 1 << size))
                return chunk
        most = self._tables.members.max_entries
        raise NoSpace(f"the table is full: its lists hold {most} real servers", "lists of real servers", most)

    def _take_chunk(self, size: int) -> int | None:
        """Take a free chunk of a class, one never used, or a part of a larger one."""
        free = list(self._book.get(0, "list_free"))
        if free[size] == self.nothing:
            top = self._book.get(0, "member_top")
            if top + (1 << size) <= self._tables.members.max_entries:
                self._book.set(0, "member_top", top + (1 << size))
                return int(top)
        for larger in range(size, self._classes):
            if free[larger] != self.nothing:
                chunk = int(free[larger])
                free[larger] = self._link(self._tables.members, chunk)
                for part in range(size, larger):  # the rest is one chunk of each smaller class
                    rest = chunk + (1 << part)
                    self._set_link(self._tables.members, rest, free[part])
                    free[part] = rest
                self._book.set(0, "list_free", *free)
                return chunk
        return None

    def _merge_gaps(self) -> None:
        """Rebuild the free chunks from the gaps between the lists in force and those of this edit.

        Nothing is released: no packet reads a former list.
        """
        versions = Versions(self._tables)
        live = versions.live
        found = (versions.version(slot, live) for slot in range(self._book.get(0, "service_top")))
        used = sorted([*chunks(fields for fields in found if fields["present"]), *self._taken])
        none = [self.nothing] * self._classes
        self._book.set(0, "list_free", *none)
        self._book.set(0, "member_top", max((start + size for start, size in used), default=0))
        for start, size in gaps(used, self._classes):
            self._let_go("list_free", start, size)

    def let_list_go(self, chunk: int, count: int) -> None:
        """Release a chunk; it is free after a grace period."""
        if count:
            self._let_go("list_released", chunk, count)

    def _let_go(self, to: str, chunk: int, count: int) -> None:
        size, chains = list_class(count), list(self._book.get(0, to))
        self._set_link(self._tables.members, chunk, chains[size])
        chains[size] = chunk
        self._book.set(0, to, *chains)

    def take_destination(self) -> int:
        """Take a free slot. Raises NoSpace."""
        return self._take("destination", self._tables.destinations, "real servers")

    def free_destination(self, slot: int) -> None:
        """Free a slot to which no connection refers."""
        self._tables.destinations.clear(slot)
        self._tables.conn_counts.clear(slot)
        self._tables.destinations.set(slot, "next", self._book.get(0, "destination_free"))
        self._book.set(0, "destination_free", slot)

    def has_released(self, count: int = 1) -> bool:
        """Return whether so many slots and chunks are released."""
        return any(True for _ in islice(self._released(), count - 1, count))

    def _released(self) -> Iterator[int]:
        yield from self._chain(self._tables.services.array, self._book.get(0, "service_released"))
        for first in self._book.get(0, "list_released"):
            yield from self._chain(self._tables.members, first)

    def _chain(self, array: MmapArray, first: int) -> Iterator[int]:
        """Yield the slots or chunks of a chain; the caller may put each into another chain."""
        while first != self.nothing:
            following = self._link(array, first)
            yield first
            first = following

    def settle(self) -> None:
        """Free what was released, once no packet can read it. Raises PylvsError."""
        if self.has_released():
            maps.grace_period()
            self.free_released()

    def free_released(self) -> None:
        """Free what was released. A grace period has passed since."""
        book, services, members = self._book, self._tables.services.array, self._tables.members
        freed = set[int]()
        for slot in self._chain(services, book.get(0, "service_released")):
            freed.add(slot)
            self._set_link(services, slot, book.get(0, "service_free"))
            book.set(0, "service_free", slot)
        if freed:
            self._forget_reasons(freed)
        book.set(0, "service_released", self.nothing)
        free = list(book.get(0, "list_free"))
        for size, first in enumerate(book.get(0, "list_released")):
            for chunk in self._chain(members, first):
                self._set_link(members, chunk, free[size])
                free[size] = chunk
        book.set(0, "list_free", *free)
        book.set(0, "list_released", *[self.nothing] * self._classes)

    def _forget_reasons(self, services: set[int]) -> None:
        """Remove the counts of reasons of these slots: listings know them by the birth of a service, too."""
        ours, counts = abi.struct("service_reason").view("service"), self._tables.service_reasons
        there = [key for key, _ in counts.items()]
        for key in there:
            if ours.unpack_from(key)[0] in services:
                counts.remove(key)

    def reset(self, service_top: int, destination_top: int, member_top: int) -> None:
        """Write an allocator with these tops and nothing free below them."""
        nothing, none = self.nothing, [self.nothing] * self._classes
        for name in "service_free", "service_released", "destination_free", "deleted":
            self._book.set(0, name, nothing)
        for name in "list_free", "list_released":
            self._book.set(0, name, *none)
        self._book.set(0, "service_top", service_top)
        self._book.set(0, "destination_top", destination_top)
        self._book.set(0, "member_top", member_top)


def now_s() -> int:
    """Return the clock of deletions: seconds since boot, suspend included."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def freed_at_s(began_s: int, idle_s: int) -> int:
    """Return when IPVS frees a destination without references since `idle_s`, in a trash that began at `began_s`."""
    stamped_s = began_s + ((idle_s - began_s) // VISIT_S + 1) * VISIT_S
    return stamped_s + GRACE_S


class Trash:
    """The chain of the deleted destinations, the latest first, and how long each can be revived (IPVS-SEMANTICS 1.8).

    IPVS visits its trash once a minute while there is something in it, from the first deletion on. A visit that finds
    no reference to a destination stamps it; the first visit two minutes later frees it. Nothing runs here: the times of
    the visits are computed from that deletion, and from the end of the last connection, which packets record. The
    caller holds the lock.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._nothing = abi.constant("NOTHING")
        self._destination = abi.struct("destination").view("cached", "deleted_s")
        self._counts = abi.struct("conn_counts").view("active", "inactive", "persistent", "idle_s")

    def slots(self) -> list[int]:
        """Return the slots of the deleted destinations."""
        return list(self._chain())

    def _chain(self) -> Iterator[int]:
        slot = self._tables.book.get(0, "deleted")
        while slot != self._nothing:
            yield int(slot)
            slot = self._tables.destinations.get(slot, "next")

    def put(self, slot: int) -> None:
        """Add a destination that left its service; it may be revived."""
        destinations, book = self._tables.destinations, self._tables.book
        now = max(now_s(), 1)
        if self._is_empty():
            book.set(0, "trash_began_s", now)
        destinations.set(slot, "deleted_s", now)
        destinations.set(slot, "next", book.get(0, "deleted"))
        book.set(0, "deleted", slot)

    def _is_empty(self) -> bool:
        """Return whether IPVS has freed all of them by now. The latest one tells mostly: many are deleted at once."""
        return all(map(self.has_freed, self._chain()))

    def keep(self, slots: list[int]) -> None:
        """Make these slots the chain."""
        destinations, following = self._tables.destinations, self._nothing
        for slot in reversed(slots):
            if destinations.get(slot, "next") != following:
                destinations.set(slot, "next", following)
            following = slot
        self._tables.book.set(0, "deleted", following)

    def revive(self, slots: set[int]) -> None:
        """Take these destinations from the chain: their services list them again."""
        if slots:
            for slot in slots:
                self._tables.destinations.set(slot, "deleted_s", 0)
            self.keep([slot for slot in self.slots() if slot not in slots])

    def has_freed(self, slot: int) -> bool:
        """Return whether IPVS would have freed a deleted destination by now."""
        array = self._tables.destinations.array
        cached, deleted_s = self._destination.unpack_from(array.upto(slot), slot * array.stride)
        *counts, idle_s = self._counted(slot)
        if cached or any(counts):
            return False
        return now_s() >= freed_at_s(self._tables.book.get(0, "trash_began_s"), max(deleted_s, idle_s))

    def is_counted(self, slot: int) -> bool:
        """Return whether connections or templates have this destination."""
        return any(self._counted(slot)[:-1])

    def _counted(self, slot: int) -> tuple[int, ...]:
        array = self._tables.conn_counts.array
        return self._counts.unpack_from(array.upto(slot), slot * array.stride)


class NatServers:
    """The index of NAT destinations by address and port. The caller holds the lock.

    By it, packets without a connection find their real server. `nat_servers` has the newest destination of each address
    and port, `nat_older` the next older one of each destination. A destination enters with its first use of NAT, and
    leaves when its slot is freed. Packets skip deleted ones and other methods, so an edit needs no generation here.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._form = abi.struct("destination").view("address", "port", "family", "used")

    def add(self, slot: int, address: bytes, port: int, family: int) -> None:
        """Add a destination as the newest of its address and port (network order)."""
        index, older = self._tables.nat_servers, self._tables.nat_older
        key, value = _SERVER_KEY.pack(address, port, family), _LINK.pack(slot)
        older.store(slot, 0, 0)
        self._tables.root.set(0, "nat", 1)
        if index.put(key, value, maps.NOEXIST):
            return
        newest = index.get(key)
        assert newest  # only this process edits
        older.store(slot, 0, _LINK.unpack(newest)[0] + 1)
        index.put(key, value)

    def chain(self, key: bytes) -> Iterator[int]:
        """Yield the destinations of an address and port, the newest first."""
        newest = self._tables.nat_servers.get(key)
        following = _LINK.unpack(newest)[0] + 1 if newest else 0
        while following:
            yield following - 1
            following = self._older(following - 1)

    def _older(self, slot: int) -> int:
        array = self._tables.nat_older
        return int(_OLDER.unpack_from(array.upto(slot), slot * array.stride)[0])

    def remove(self, slots: Collection[int]) -> None:
        """Remove destinations whose slots will be freed. A packet that visits one still finds the older ones."""
        gone = set(slots)
        for key in {key for slot in gone if (key := self._key(slot))}:
            self._write(key, [slot for slot in self.chain(key) if slot not in gone])
        self._note_whether_any()

    def _note_whether_any(self) -> None:
        """Tell the packet path whether there is any: connections by NAT have a share of the table."""
        self._tables.root.set(0, "nat", int(bool(next(self._tables.nat_servers.keys(), b""))))

    def _key(self, slot: int) -> bytes | None:
        """Return the key of a destination; None if it never used NAT."""
        fields = self._tables.destinations.array
        ((*name, used),) = self._form.iter_unpack(fields.elements(slot, 1))
        return _SERVER_KEY.pack(*name) if used == abi.constant("DESTINATION_USED_BY_NAT") else None

    def _write(self, key: bytes, chain: list[int]) -> None:
        """Store the destinations of an address and port, the newest first."""
        index, older = self._tables.nat_servers, self._tables.nat_older
        following = [slot + 1 for slot in chain[1:]] + [0]
        for slot, next_slot in zip(chain, following, strict=False):
            if self._older(slot) != next_slot:
                older.store(slot, 0, next_slot)
        if not chain:
            index.remove(key)
        elif index.get(key) != _LINK.pack(chain[0]):
            index.put(key, _LINK.pack(chain[0]))

    def rebuild(self) -> None:
        """Derive the index from the destinations. Those that it lacks become the newest, the highest slot first."""
        by_nat, top = abi.constant("DESTINATION_USED_BY_NAT"), self._tables.book.get(0, "destination_top")
        chains: dict[bytes, list[int]] = {key: [] for key, _ in self._tables.nat_servers.items()}
        rows = self._form.iter_unpack(self._tables.destinations.array.elements(0, top))
        for slot, (*name, used) in enumerate(rows):
            if used == by_nat:
                chains.setdefault(_SERVER_KEY.pack(*name), []).append(slot)
        for key, slots in chains.items():
            wanted = set(slots)
            known = [slot for slot in self.chain(key) if slot in wanted]
            self._write(key, sorted(wanted.difference(known), reverse=True) + known)
        self._note_whether_any()


class Transaction(Versions):
    """One edit, from its start to its clean-up."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.book = Book(tables)
        self.trash = Trash(tables)
        self._trees: list[tuple[Tree | None, Tree | None]] = []  # in force, and after the commit
        self.generation = 0
        self._live: int | None = None  # the value at the start: under the lock only this edit changes it
        self._committed = False

    @property
    def live(self) -> int:
        """The generation in force."""
        return super().live if self._live is None else self._live

    def __enter__(self) -> Transaction:
        if self.tables.book.get(0, "pending"):
            recover(self.tables)
        many = self.book.has_released(MANY_RELEASED)
        if many:
            maps.grace_period()  # first: a failure leaves nothing pending
        self.tables.book.set(0, "pending", 1)
        if many:
            self.book.free_released()
        self._live = self.live
        self.generation = self._live + 1 & MASK32
        self.new_facts = self.facts(self.generation)
        self.new_facts.copy_from(self.facts())
        return self

    def write_version(self, slot: int, generation: int, fields: dict[str, Any]) -> None:
        """Write the half that is not in force, and make the winner tree of its list, which is written."""
        former, new = self.tree_in_force(slot), tree_of(fields)
        if new != former:
            self._trees.append((former, new))
            if new:
                _winner_trees(self.tables).prepare(new)
        super().write_version(slot, generation, fields)

    def count_service(self, key: ServiceKey, version: Mapping[str, Any], by: int) -> None:
        """Count a service that is added (1) or deleted (-1), with the fields of its version."""
        facts = self.new_facts
        self.count_extras(version, by)
        services4, services6 = facts.get("services")
        is_ipv4 = key.address.version == 4
        facts.set("services", services4 + by * is_ipv4, services6 + by * (not is_ipv4))
        if key.mark:
            name = "" if is_probe_mark(key.mark) else "marks"
        else:
            name = {0: "zero_ports", FTP_PORT: "ftp"}.get(key.port, "")
        if name:
            facts.set(name, facts.get(name)[0] + by)

    def count_extras(self, version: Mapping[str, Any], by: int) -> None:
        """Count engine, MSS clamp and client rules of a version that begins (1) or ends (-1), if it has them."""
        for name in extras_of(version):
            self.new_facts.set(name, self.new_facts.get(name)[0] + by)

    def commit(self) -> None:
        """Put the edit in force by one store. Raises Unsupported."""
        self.tables.root.publish(0, "live", self.generation)
        self._live = self.generation
        if self._trees:
            _winner_trees(self.tables).settle(self._trees)
        self._committed = True

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None and self._committed:
            self.tables.book.set(0, "pending", 0)
            return
        recover(self.tables)


NO_RULES = {"client_rules": 0, "rule_bits": 0}  # fields of a service's version
EXTRAS = "engines", "mss_clamps", "client_rules"  # facts: how many services have each


def extras_of(version: Mapping[str, Any]) -> Iterator[str]:
    """Yield those of EXTRAS that count the service of a version."""
    has = any(version["engine"]), version["mss_clamp"] > 0, version["client_rules"] > 0
    return compress(EXTRAS, has)


def forget_rules(tables: Tables, sets: Collection[tuple[int, int]]) -> None:
    """Remove sets of client rules, each of a slot and with a number, that are no longer in force."""
    doomed = {each for each in sets if each[1]}
    if doomed:
        _remove_rules(tables, [key for key, of in rule_keys(tables) if of in doomed])


def rule_keys(tables: Tables) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield the keys of all client rules, each with the slot and the number of its set."""
    form = abi.struct("client_prefix").view("service", "set")
    for keys, _, count in tables.client_rules.chunks():
        packed = bytes(keys[: count * form.size])
        for at, (slot, number) in enumerate(form.iter_unpack(packed)):
            yield packed[at * form.size : (at + 1) * form.size], (slot, number)


def _remove_rules(tables: Tables, keys: list[bytes]) -> None:
    if keys:
        maps.grace_period()  # a packet may still read them
        tables.client_rules.remove_many(b"".join(keys), len(keys))


def write_bitmaps(tables: Tables, present: Collection[dict[str, Any]]) -> None:
    """Rebuild the bitmaps from the services in force and all destinations, deleted ones too."""
    by_nat, form = abi.constant("DESTINATION_USED_BY_NAT"), abi.struct("destination").view(*_ADDRESSED)
    virtual = {(fields["address"], fields["family"]) for fields in present}
    replies = {(address, 6 if any(address[4:]) else 4) for address in list(tables.locals.keys())}
    marked = any(fields["mark"] for fields in present)
    top = tables.book.get(0, "destination_top")
    for address, family, used, vip, mark, vip_family in form.iter_unpack(tables.destinations.array.elements(0, top)):
        if used:
            marked |= bool(mark)
            virtual.add((vip, vip_family))
            if used == by_nat:
                replies.add((address, family))
    everything, keys = [ALL_ONES] * abi.constant("BITMAP_WORDS"), tables.root.get(0, "address_keys")
    for name, addresses in (("vip_bits", virtual), ("reply_bits", virtual | replies)):
        write_bitmap(tables, name, everything if marked else bitmap(addresses, keys))


def _winner_trees(tables: Tables) -> WinnerTrees:
    from pylvs.dataplane.scheduler_tables import WinnerTrees  # late: few services have long lists

    return WinnerTrees(tables)


def recover(tables: Tables) -> None:
    """Restore the tables to the generation in force. The caller holds the lock."""
    from pylvs.dataplane.scheduler_tables import HashTables  # late: needed only after a writer died

    versions, book = Versions(tables), Book(tables)
    live = versions.live
    service_top, destination_top = tables.book.get(0, "service_top"), tables.book.get(0, "destination_top")
    present: dict[int, dict[str, Any]] = {}
    for slot in range(service_top):
        versions.withdraw_version(slot, live)
        version = versions.version(slot, live)
        if version["present"]:
            present[slot] = version
    _drop_stray_keys(tables, present)
    _drop_stray_names(tables)
    listed = {dest_slot for version in present.values() for dest_slot in list_of(tables, version)}
    for slot in range(destination_top):
        versions.withdraw_flags(slot, live)
    member_top = tables.book.get(0, "member_top")
    book.reset(service_top, destination_top, member_top)
    for slot in range(service_top):
        if slot not in present:
            book.let_service_go(slot)
    for start, size in gaps([*chunks(present.values()), (member_top, 0)], abi.constant("LIST_CLASSES")):
        book.let_list_go(start, size)
    _settle_destinations(book, Trash(tables), tables, destination_top, listed)
    _settle_members(tables, present)
    NatServers(tables).rebuild()
    _winner_trees(tables).rebuild()
    HashTables(tables).keep_only(present)
    named = {(slot, version["client_rules"]) for slot, version in present.items()}
    _remove_rules(tables, [key for key, of in rule_keys(tables) if of not in named])
    write_bitmaps(tables, present.values())
    tables.book.set(0, "pending", 0)


def _drop_stray_keys(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    for version in 4, 6:
        keys = tables.service_keys(version)
        for key, value in list(keys.items()):
            fields = present.get(struct.unpack("<I", value)[0])
            if fields is None or service_key(key_of(fields)) != key:
                keys.remove(key)


def _drop_stray_names(tables: Tables) -> None:
    """Drop the former or future name of a destination that was being renamed."""
    for name, value in list(tables.names.items()):
        fields = tables.destinations.read(struct.unpack("<I", value)[0])
        if written_name(fields) != name:
            tables.names.remove(name)


def _settle_destinations(book: Book, trash: Trash, tables: Tables, top: int, listed: set[int]) -> None:
    destinations, deleted, unnoted = tables.destinations, list[int](), list[int]()
    for slot in range(top):
        if not destinations.get(slot, "used"):
            book.free_destination(slot)
        elif slot in listed:
            destinations.set(slot, "deleted_s", 0)
        else:
            (deleted if destinations.get(slot, "deleted_s") else unnoted).append(slot)
    trash.keep(deleted)
    for slot in unnoted:  # the writer died after the commit
        trash.put(slot)


def _settle_members(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    """Set the fields of destinations that have no versions (thresholds, service) as the lists in force have them."""
    form = abi.struct("member").view("destination", "upper", "lower")
    destinations, counts, array = tables.destinations, tables.conn_counts, tables.members
    for slot, version in present.items():
        for dest_slot, upper, lower in form.iter_unpack(array.elements(version["list"], version["count"])):
            thresholds = {"upper": upper, "lower": lower}
            owner = {"service": slot, "service_added": version["added"]}
            for table, wanted in (counts, thresholds), (destinations, owner):
                for name, value in wanted.items():
                    if table.get(dest_slot, name) != value:
                        table.set(dest_slot, name, value)
