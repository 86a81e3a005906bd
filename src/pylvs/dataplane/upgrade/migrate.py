"""Copy the tables of another build, whose maps have another layout, into the maps of a new load.

The kernel keeps the BTF of each pinned map: the names, offsets and sizes of its fields. So fields are copied by name.
Elements keep their slots. `dataplane.upgrade.restore` copies the connections.

Migration refuses what it cannot copy, before anything changes:
- fields that the other build lacks, or has in another size;
- fields in use that this pylvs does not know. So a new field must be 0 while its function is not used.
It ignores maps that are not listed here, so they may hold only what can be lost.

The counters of packets begin at 0 in the new load. Packets change them at once, so the former counts cannot be added.
Instead, the bases that listings subtract (`destination_bases`, ...) are lowered by them, modulo 2^64.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pylvs.bpf import abi
from pylvs.bpf.maps import ArrayMap, HashMap, MmapArray, PerCpuArray, QueueMap
from pylvs.dataplane import load, vip_roles
from pylvs.dataplane.devices import own_addresses
from pylvs.dataplane.reader import ZEROED, Reader, summed
from pylvs.dataplane.scheduler_tables import HashTables
from pylvs.dataplane.state import CLOCK, LOADED, State
from pylvs.dataplane.tables import ALL_ONES, Records, Tables, Versions
from pylvs.dataplane.transaction import EXTRAS, extras_of, recover
from pylvs.dataplane.upgrade.former import COUNTERS, Former
from pylvs.dataplane.upgrade.restore import Source
from pylvs.model.errors import NoSpace, Unsupported
from pylvs.model.service import UNCHANGED

# Arrays, each with the field of `books` that is the number of elements in use; None: all of them.
_ARRAYS = {
    "books": None,
    "roots": None,
    "services": "service_top",
    "service_states": "service_top",
    "members": "member_top",
    "destinations": "destination_top",
    "mark_rules": None,
}
_DEVICES = "devices"  # by ifindex modulo their number
_HASHES = (
    *("services4", "services6", "names", "maglev_tables", "cache", "standby", "path_mtus"),
    *("locals", "accept_locals", "routed_marks"),
)
_ADDED = ("client_rules",)  # maps that an earlier release lacks: they begin empty
_LATEST = ("service_states", "path_mtus")  # what packets change is copied once more, at the end
_FRAGMENTS = "frag_queues"
_LONES = ("lone_sets", "lones")  # packets of which one fragment has come
_CACHE = "cache"
_UNFINISHED = "unfinished"  # the note of a load


class Migration:
    """One migration: the former load, and the plans for its maps."""

    def __init__(self, former: Former) -> None:
        """Match all fields. Raises Unsupported if this pylvs cannot copy these maps; nothing has changed."""
        self.former = former
        if former.state.note(f"{former.directory}/{_UNFINISHED}"):
            raise Unsupported(f"{former.what}: its last upgrade is not finished; finish it by an edit with that pylvs")
        self._hashes = [*_HASHES, *(name for name in _ADDED if former.has(name))]
        self._plans = {name: former.plans(name) for name in (*_ARRAYS, *self._hashes, _DEVICES, _FRAGMENTS, *_LONES)}
        former.check_numbers()
        former.counter_words()
        Source(former)
        for name in (*_ARRAYS, *self._hashes):
            plans = self._plans[name]
            if any(plan and plan.unknown for plan in plans):
                for pair in self._elements(name):
                    for plan, element in zip(plans, pair, strict=True):
                        if plan:
                            plan.check(element)

    def _elements(self, name: str) -> Iterator[tuple[bytes | memoryview, bytes | memoryview]]:
        """Yield keys and values of the elements in use; of an array, the values, with empty keys."""
        if name in self._hashes:
            with HashMap.open(self.former.path(name)) as found:
                yield from list(found.items())
            return
        with MmapArray.open(self.former.path(name)) as array:
            top = _ARRAYS[name]
            for index in range(array.max_entries if top is None else self.former.book.get(0, top)):
                yield b"", array.elements(index, 1)

    @classmethod
    def of(cls, state: State) -> Migration:
        """Return the migration of the load in force. Raises as the constructor."""
        return cls(Former(state))

    def copy(self, fresh: Tables) -> None:
        """Copy everything but connections and counters into the maps of a load that no device runs yet.

        Raises NoSpace; Unsupported for a build with another clock.
        """
        self._compare_clocks(fresh)
        load.begin_settings(fresh)
        for name in _ARRAYS:
            self._copy_array(name, fresh)
        for name in self._hashes:
            if name != _CACHE:
                self._copy_hash(name, fresh)
        own_addresses.refresh(fresh)
        self._copy_devices(fresh)
        versions = Versions(fresh)
        facts = versions.facts()
        present = [version for _, version in versions.services(versions.live)]
        counts = Counter(name for version in present for name in extras_of(version))
        for name in EXTRAS:
            facts.set(name, counts[name])
        load.set_timeouts(fresh, versions.live, UNCHANGED)  # the copied ones, in ticks
        roles = vip_roles.in_force(fresh)
        if roles.all:
            vip_roles.write(fresh, roles)
        recover(fresh)
        hash_tables = HashTables(fresh)
        for slot, version in versions.services(versions.live):
            hash_tables.fill_buckets(slot, version)

    def copy_latest(self, fresh: Tables) -> None:
        """Copy what packets change, just before they use the new maps. The caller holds the lock."""
        for name in _LATEST:
            (self._copy_array if name in _ARRAYS else self._copy_hash)(name, fresh)
        self._copy_hash(_CACHE, fresh)
        self._reference_cached(fresh)
        self._copy_fragments(fresh)
        self._copy_lones(fresh)
        self._copy_reasons(fresh)
        self._copy_forwarded(fresh)
        state = self.former.state
        state.set_note(f"{LOADED}/{ZEROED}", state.note(ZEROED))

    def _compare_clocks(self, fresh: Tables) -> None:
        """Raise Unsupported if a tick of the other build has another length: ticks are copied."""
        loads = LOADED, fresh.directory, LOADED
        before, ours, after = (self.former.state.run_program(CLOCK, each) for each in loads)
        if (ours - before | after - ours) & 1 << 31:
            raise Unsupported(f"{self.former.what} have another clock")

    def _copy_array(self, name: str, fresh: Tables) -> None:
        plan = self._plans[name][1]
        with fresh.open_array(name) as array:
            for index, (_, element) in enumerate(self._elements(name)):
                if index >= array.max_entries:
                    most = array.max_entries
                    raise NoSpace(f"the map {name} of {self.former.what} has more than {most} elements", name, most)
                if plan:
                    plan.write(element, array.value(index))

    def _copy_devices(self, fresh: Tables) -> None:
        plan = self._plans[_DEVICES][1]
        assert plan
        with ArrayMap.open(self.former.path(_DEVICES)) as former:
            for index in range(former.max_entries):
                fields = abi.struct("device").unpack_from(plan.convert(former.get(index) or b""), whole=True)
                if ifindex := fields["ifindex"]:
                    fresh.devices.write(ifindex % abi.constant("DEVICES"), fields)

    def _copy_hash(self, name: str, fresh: Tables) -> None:
        by_key, by_value = self._plans[name]
        with HashMap.open(fresh.path(name)) as found:
            for key, value in self._elements(name):
                ours = by_key.convert(key) if by_key else bytes(key)
                found.put(ours, by_value.convert(value) if by_value else bytes(value))

    @staticmethod
    def _reference_cached(fresh: Tables) -> None:
        """Count the references of the copied entries of lblc and lblcr, and queue the entries for the sweep."""
        form, parts, counts = abi.struct("cached").view("members"), 0, Counter[int]()
        with QueueMap.open(fresh.path("cache_queue")) as queue, ArrayMap.open(fresh.path("cache_sweepers")) as sweepers:
            for key, value in fresh.cache.items():
                queue.push(key)
                parts += 1
                counts.update(form.unpack(value))
            codec = abi.struct("cache_sweeper")
            sweepers.put(0, codec.pack(parts=parts))
        counts.pop(abi.constant("NOTHING"), None)
        for slot, count in counts.items():
            fresh.destinations.set(slot, "cached", count)

    def _copy_fragments(self, fresh: Tables) -> None:
        """Copy incomplete packets. Each belongs to a set that its hash selects."""
        plan, seeds = self._plans[_FRAGMENTS][1], fresh.pool.get(0, "seeds")
        assert plan
        codec, used = abi.struct("frag_queue"), Counter[int]()
        with (
            ArrayMap.open(self.former.path(_FRAGMENTS)) as former,
            ArrayMap.open(fresh.path(_FRAGMENTS)) as ours,
            ArrayMap.open(fresh.path("frag_locks")) as locks,
        ):
            ways = ours.max_entries // locks.max_entries
            for index in range(former.max_entries):
                before, now = b"", former.get(index)
                while now != before:  # a packet is writing it
                    before, now = now or b"", former.get(index)
                found = plan.convert(now or b"")
                fields = codec.unpack_from(found, whole=True)
                if not fields["kind"]:
                    continue
                words = struct.unpack("<8I", fields["saddr"] + fields["daddr"])
                chosen = _set_number(_packet_hash(fields["id"], fields["kind"], words, seeds), seeds, locks.max_entries)
                if used[chosen] < ways:
                    ours.put(chosen * ways + used[chosen], found)
                    used[chosen] += 1

    def _copy_lones(self, fresh: Tables) -> None:
        """Copy lone fragments, each to the set and with the tag of its hash. A full set keeps those it has."""
        by_set, by_lone = (self._plans[name][1] for name in _LONES)
        assert by_set
        assert by_lone
        seeds, of_set, of_lone = fresh.pool.get(0, "seeds"), abi.struct("lone_set"), abi.struct("lone")
        filled: dict[int, list[tuple[int, int, int]]] = {}  # by set: tag, tick and moment of each way
        with (
            ArrayMap.open(self.former.path(_LONES[0])) as former_sets,
            ArrayMap.open(self.former.path(_LONES[1])) as former,
            ArrayMap.open(fresh.path(_LONES[0])) as sets,
            ArrayMap.open(fresh.path(_LONES[1])) as ours,
        ):
            ways = ours.max_entries // sets.max_entries
            for number in range(former_sets.max_entries):
                there = of_set.unpack_from(by_set.convert(former_sets.get(number) or b""))
                for way, (tag, *times) in enumerate(zip(there["tags"], there["created"], there["moment"], strict=True)):
                    if not tag:
                        continue
                    lone = by_lone.convert(former.get(number * ways + way) or b"")
                    fields = of_lone.unpack_from(lone)
                    words = fields["fragment.saddr.word"] + fields["fragment.daddr.word"]
                    hashed = _packet_hash(fields["fragment.id"], fields["fragment.kind"], words, seeds)
                    chosen = _set_number(hashed, seeds, sets.max_entries)
                    members = filled.setdefault(chosen, [])
                    if len(members) < ways:
                        ours.put(chosen * ways + len(members), lone)
                        members.append((hashed & 0xFFFFFFFF | 1, *times))
            for number, members in filled.items():
                members += [(0, 0, 0)] * (ways - len(members))
                tags, created, moment = zip(*members, strict=True)
                sets.put(number, of_set.pack(tags=tags, created=created, moment=moment))

    def _copy_reasons(self, fresh: Tables) -> None:
        """Copy the packet counts by drop reason, to the first CPU."""
        numbers, denied = self.former.layout.enum("reason"), sum(each.count for each in self.former.denied())
        with PerCpuArray.open(self.former.path("reasons")) as former:
            for name, number in abi.shipped().enum("reason").items():
                if name in numbers and name != "REASONS":
                    count = former.sums(numbers[name])[0] + (denied if name == "REASON_CLIENT_DENIED" else 0)
                    fresh.reasons.put(number, struct.pack("<Q", count).ljust(8 * fresh.reasons.cpus, b"\0"))

    def _copy_forwarded(self, fresh: Tables) -> None:
        """Copy the packets by ingress device, to the first CPU."""
        codec, into = abi.struct("device_packets"), fresh.device_packets
        forwarded, ends = self.former.forwarded(), self.former.ends()
        for ifindex in forwarded.keys() | ends.keys():
            packets = [each & ALL_ONES for each in forwarded.get(ifindex, (0, 0))]
            ended, plain = ends.get(ifindex, ([0] * 3, [0] * abi.constant("PLAINS")))
            counted = codec.pack(ifindex=ifindex, forwarded=packets, ended=ended, plain=plain)
            into.put(ifindex % into.max_entries, counted.ljust(into.stride * into.cpus, b"\0"))


def _packet_hash(ident: int, kind: int, words: Sequence[int], seeds: Sequence[int]) -> int:
    """Return `packet_hash` of bpf/frag/queue.h; `words` are those of saddr, then of daddr."""
    mixed = ident | kind << 32
    for saddr, daddr in zip(words[:4], words[4:], strict=True):
        mixed = (mixed ^ (saddr | daddr << 32)) * seeds[0] & ALL_ONES
        mixed ^= mixed >> 32
    return mixed


def _set_number(hashed: int, seeds: Sequence[int], sets: int) -> int:
    """Return `set_number` of bpf/frag/queue.h."""
    return (hashed * seeds[1] & ALL_ONES) >> 32 & sets - 1


def carry_counts(state: State, directory: str, fresh: Tables) -> None:
    """Lower the counts at which counters are 0 by the counts of the former load. It may be repeated.

    The caller holds the lock.
    """
    former = Former(state, directory)
    counted = former.counted()
    bases, services, estimates, of_services = map(
        former.records, ("destination_bases", "service_bases", "estimates", "service_estimates")
    )

    def less(base: Iterable[int], counts: Iterable[int]) -> list[int]:
        return [one - other & ALL_ONES for one, other in zip(base, counts, strict=True)]

    def base_of(table: Records, slot: int) -> list[int]:
        return [table.get(slot, name) for name in COUNTERS]

    reader = Reader(fresh)
    statistics = reader.statistics
    for slot, counts in enumerate(counted):
        statistics.set_base(fresh.destination_bases, slot, tuple(less(base_of(bases, slot), counts)))
        fresh.estimates.set(slot, "averages", *estimates.get(slot, "averages"))
        for name in "last", "passed":
            fresh.estimates.set(slot, name, *less(estimates.get(slot, name), counts))
    owners = reader.owned_by_service()
    for slot, version in reader.versions.services(reader.versions.live):
        owned = owners.get((slot, version["added"]), [])
        counts = summed(counted[each] for each in owned)
        statistics.set_base(fresh.service_bases, slot, tuple(less(base_of(services, slot), counts)))
        fresh.service_estimates.set(slot, "averages", *of_services.get(slot, "averages"))
    zeroed = (state.note(f"{directory}/{ZEROED}") or "0 0 0 0 0").split()
    totals = less(map(int, zeroed), summed(counted))
    state.set_note(ZEROED, " ".join(map(str, totals)))
