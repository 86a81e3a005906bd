"""Replace the programs of a state, alone, with its connection table or with all its maps, under live connections.

Maps do not grow: another `conn_max` needs another connection table and another copy of the programs. The new copy
reuses the maps that stay and makes the others. The connections are copied (`restore`). Then the new entry programs
replace those on the devices. Maps of another build with another layout are all made again, and their content is copied
(`migrate`).

A kill at any step leaves programs in force that are complete (`State.draft`): the old ones, the new ones, or both, on
different devices. Both are equally good over the same tables. Another connection table must be that of all devices and
hooks from one moment on: a packet's reply may come by another device. So a switch replaces the programs first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from functools import partial

from pylvs.bpf import kernel, libbpf, maps
from pylvs.bpf.maps import MMAPABLE, ArrayMap, MmapArray
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, attachments
from pylvs.dataplane.devices.loads import drop_others
from pylvs.dataplane.devices.selection import Concerns
from pylvs.dataplane.reader import table_use
from pylvs.dataplane.scheduler_tables import WinnerTrees
from pylvs.dataplane.state import (
    BARE,
    EGRESS,
    ENTRIES,
    FIXED_CAPACITY,
    LOADED,
    ON_DEMAND,
    RESTORE,
    SELECTED,
    TC,
    XDP,
    State,
)
from pylvs.dataplane.tables import MASK32, Tables
from pylvs.dataplane.upgrade.former import Former
from pylvs.dataplane.upgrade.restore import ConnectionCopy, Source
from pylvs.model.errors import Busy, NoSpace, Unsupported
from pylvs.model.settings import SETTINGS
from pylvs.netlink import links
from pylvs.system.lock import Lock

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.dataplane.upgrade.migrate import Migration

_ARRAY, _PROGRAM_ARRAY = 2, 3  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY
_NO_SWITCH = "programs"  # an unfinished load over the same connection table
COPY_HOLDS_SYN = 1  # bit of `copy_until`: packets that open a connection wait, too (bpf/conntrack/entry.h)
_SHARE = 8  # a table that grew by itself takes one eighth of memory at most
_NEARLY_FULL = 0.8
_MB = 1 << 20
_HOLD_S = 5  # how long packets without a connection wait for half-open ones to be copied, or after a kill


def _reload(
    state: State,
    opened_copies: contextlib.ExitStack,
    connections: int = 0,
    drop: bool = False,
    lock: Lock | None = None,
    migration: Migration | None = None,
) -> ConnectionCopy | None:
    """Load the object again over a state's maps; with `connections`, make those of connections again, in this size.

    With `migration`, make all maps again, and copy their content. Return the copy of the connections, which packets
    still change in the former table. The caller holds the lock, and then calls `finish`. Raises what `create` does;
    Unsupported for another layout; without `drop`, Busy if the new table refuses a connection.
    """
    tables = Tables(state)
    shape = (connections, load.new_seeds()) if connections else load.pool_shape(tables)
    anew = {*load.TAILCALLS, "scratches", "timer_runs"} | (set(load.CONNECTION_MAPS) if connections else set())
    entries = [name for name in ENTRIES if os.path.exists(state.loaded_path(name))]
    called = ON_DEMAND if migration else load.needed(tables)
    loaded = (*entries, *called, *((RESTORE,) if connections else ()))
    with load.open_object(*shape, loaded) as opened:
        if not migration:  # memory may have allowed for more destinations when the tables were made
            for name in "conn_counts", "winners":
                opened.set_max_entries(name, tables.destinations.count)
        kept = [] if migration else load.reuse_maps(opened, tables, anew)
        opened.load()
        load.fill_tailcalls(opened, (*entries, *called))
        draft, note, copy = state.draft(), _NO_SWITCH, None
        try:
            load.pin_load(opened, state, draft, kept, loaded)
            state.note_build(draft)
            if connections:
                fresh = Tables(state, draft)
                load.begin_pool(fresh, *shape)
                if migration:
                    migration.copy(fresh)
                former = Former(state)
                copy = opened_copies.enter_context(_copy(state, former, fresh))
                with _unlocked(state, draft, lock):
                    copy.run()
                _copy_thresholds(former, fresh)  # edits may have changed them
                refused = copy.refused
                copy.run()  # after a large table's first pass there is much to repeat
                refused += copy.refused
                if refused and not drop:
                    raise Busy(_too_many(connections, refused, "connections that the new table refuses"))
        except BaseException:
            state.remove_load(draft)  # no device runs it yet, and it may be large
            raise
        if connections:
            switch = state.draft()
            _switch_devices(state, switch, draft, entries)
            note = f"{switch} {draft}"  # the exchange gives the former load the draft's name
            if migration:
                migration.copy_latest(fresh)
        state.put_in_force(draft, note)
    return copy


@contextlib.contextmanager
def _unlocked(state: State, draft: str, lock: Lock | None) -> Iterator[None]:
    """Release the lock of the tables during the block, if it is given. Edits do not remove the draft.

    Raises Busy at the end if another process has loaded programs by then.
    """
    if lock is None:
        yield
        return
    before = _load_in_force(state)
    with Lock(state.pin_path(draft)), lock.released():
        yield
    if _load_in_force(state) != before:
        raise Busy("another process loaded programs during the copy of connections; try again later")


def _load_in_force(state: State) -> tuple[int, list[str]]:
    directory = state.pin_path(LOADED)
    return os.stat(directory).st_ino, sorted(os.listdir(directory))


def swap_programs(tables: Tables, connections: int = 0, drop: bool = False, lock: Lock | None = None) -> None:
    """Load the object again, with `connections` over another connection table, and replace the running programs.

    The caller holds the lock. It is released during the longest part of the copy if it is given. If this process is
    killed, the next edit undoes it or calls `finish`.
    """
    if tables.state.leftovers()[1]:  # of a process that was killed: devices may run its switch
        attachments.reconcile(tables, Concerns())
    with contextlib.ExitStack() as opened:
        finish(tables.state, _reload(tables.state, opened, connections, drop, lock))


def migrate(state: State) -> None:
    """Replace maps of another layout, with all they hold, and the programs.

    Raises what `create` does; Unsupported, before anything changes, for maps that this pylvs cannot copy.
    """
    from pylvs.dataplane.upgrade.migrate import Migration  # late: most processes find their own layout

    with state.lock():
        if state.has_own_layout():
            return  # another process did it
        try:
            migration = Migration.of(state)
        except Unsupported as error:
            error.tables_of = state.made_by()
            raise
        left = state.leftovers()[1]
        if left:  # of a process that was killed: devices may run its switch
            _attach_pinned(state)
            drop_others(state, left)
        with contextlib.ExitStack() as opened:
            capacity = migration.former.pool.get(0, "capacity")
            finish(state, _reload(state, opened, capacity, drop=True, migration=migration))


def _attach_pinned(state: State) -> None:
    """Let the devices run the pinned entry programs again."""
    bare = {device.index for device in links.devices() if device.bare}
    with contextlib.ExitStack() as opened:
        entries = {name: opened.enter_context(state.opened(f"{LOADED}/{name}")) for name in ENTRIES}
        for attached in attach.attached(state):
            running = (
                (attached.ingress, BARE if attached.ifindex in bare else TC),
                (attached.egress, EGRESS),
                (attached.xdp, XDP),
            )
            wanted = {number: entries[name] for number, name in running}
            attach.replace_programs(state, {number: fd for number, fd in wanted.items() if number and fd is not None})


def finish(state: State, copy: ConnectionCopy | None = None) -> None:
    """Adapt timers and devices to the load in force, after `_reload` in this process or in one that was killed.

    With another connection table, copy what packets changed in the former one since the last pass of `copy`. Until the
    new connections are there, packets that may belong to them are dropped, and are sent again. In a flood the half-open
    ones are too many to wait for all.

    Devices get the new programs one by one, without a gap: the old ones keep their tail calls until the last device has
    switched.
    """
    note = state.unfinished() or _NO_SWITCH
    load.start_timers(state)
    if note != _NO_SWITCH and os.path.exists(state.loaded_path(RESTORE)):  # else a killed process copied all
        switch, former = note.split()
        _finish_copy(state, switch, former, copy)
        libbpf.unpin(state.loaded_path(RESTORE))
    attachments.reconcile(Tables(state), Concerns(shrunk=True))
    state.note_finished()


def _finish_copy(state: State, switch: str, former: str, copy: ConnectionCopy | None) -> None:
    """Let packets use the new connection table, and copy the rest. Another process may have been killed in it."""
    fresh = Tables(state)
    with contextlib.ExitStack() as opened:
        if copy is None:
            copy = opened.enter_context(_copy(state, Former(state, former), fresh))
            if not _is_turned(state, switch):
                copy.clear(Source(Former(state)))
                copy.run()
        _hold(fresh)
        _turn_switch(state, switch)
        maps.grace_period()  # a packet may still be in a program that uses the former table
        copy.run(only_new=True, half_open=False, may_continue=partial(_hold, fresh))
        end = time.monotonic() + _HOLD_S
        copy.run(only_new=True, half_open=True, may_continue=lambda: time.monotonic() < end)
        fresh.pool.set(0, "copy_until", 0)
        copy.run(is_last=True)
    if not state.has_own_layout(former):
        from pylvs.dataplane.upgrade.migrate import carry_counts  # late: most copies are within one layout

        carry_counts(state, former, fresh)


def is_switching(state: State) -> bool:
    """Return whether devices run a switch between two connection tables, which `finish` has yet to remove."""
    return (state.unfinished() or _NO_SWITCH) != _NO_SWITCH


def _hold(fresh: Tables) -> bool:
    """Let packets without a connection wait from now on, also if this process is killed, for a limited time."""
    until = load.clock(fresh.state) + round(_HOLD_S * load.ticks_per_second())
    fresh.pool.set(0, "copy_until", until & MASK32 & ~COPY_HOLDS_SYN or 2)
    return True


def _copy(state: State, former: Former, fresh: Tables) -> ConnectionCopy:
    """Return a copy of the connections of one table into the other, whose thresholds are set."""
    _copy_thresholds(former, fresh)
    restore = libbpf.open_pin(fresh.path(RESTORE))
    if restore is None:
        raise Unsupported(f"{state.path}: the programs are not pinned")
    return ConnectionCopy(former, fresh, restore)


def _copy_thresholds(former: Former, fresh: Tables) -> None:
    counts = former.records("conn_counts")
    for slot in range(former.book.get(0, "destination_top")):
        for name in ("upper", "lower", "overloaded", "idle_s"):
            value = counts.get(slot, name)
            if value != fresh.conn_counts.get(slot, name):
                fresh.conn_counts.set(slot, name, value)
    WinnerTrees(fresh).rebuild()


# Another connection table. First a switch replaces the entry programs of all devices. It only tail-calls the old or the
# new ones, by the number in the map `selected`. One store then changes all devices and hooks.


def _switch_devices(state: State, switch: str, draft: str, entries: Collection[str]) -> None:
    """Let all devices run the switch, which runs their present programs, and then those of the draft."""
    with contextlib.ExitStack() as opened:

        def kept(descriptor: int | None) -> int:
            if descriptor is None:
                raise Unsupported(f"{state.path}: the programs are not pinned")
            opened.callback(os.close, descriptor)
            return descriptor

        selected = kept(libbpf.create_map(_ARRAY, SELECTED, 4, 8, 1, MMAPABLE))
        libbpf.pin(selected, state.pin_path(f"{switch}/{SELECTED}"))
        arrays = {}
        for name in load.TAILCALLS:
            arrays[name] = kept(libbpf.create_map(_PROGRAM_ARRAY, name, 4, 4, 2 * len(ENTRIES)))
            libbpf.pin(arrays[name], state.pin_path(f"{switch}/{name}"))
        instead = {}
        for name in entries:
            array, first = arrays[load.TAILCALLS[name != XDP]], 2 * ENTRIES.index(name)
            with ArrayMap.duplicate(array) as programs:
                for number, directory in enumerate((LOADED, draft)):
                    entry = kept(libbpf.open_pin(state.pin_path(f"{directory}/{name}")))
                    programs.put_descriptor(first + number, entry)
                    if directory == LOADED:
                        running = kernel.program_info(entry).id
            instead[running] = kept(kernel.load_switch(name == XDP, array, selected, first))
        attach.replace_programs(state, instead)


def _turn_switch(state: State, switch: str) -> None:
    """Let all devices use the new connection table."""
    with MmapArray.open(state.pin_path(f"{switch}/{SELECTED}")) as selected:
        selected.publish(0, 0, 1)


def _is_turned(state: State, switch: str) -> bool:
    """Return whether devices use the new connection table."""
    with MmapArray.open(state.pin_path(f"{switch}/{SELECTED}")) as selected:
        return bool(selected.words[0])


def resize(tables: Tables, connections: int, drop: bool = False, lock: Lock | None = None) -> None:
    """Change the size of the connection table, with its connections. Packets of all devices change to it at once.

    The caller holds the lock. It is released during the longest part of the copy if it is given. Raises Busy if there
    are more connections than fit, unless `drop` is set: then some end.
    """
    use = table_use(tables)
    if connections == use.capacity:
        return
    if not drop and use.used > connections:
        raise Busy(_too_many(connections, use.used, "connections live"))
    swap_programs(tables, connections, drop, lock)


def _too_many(connections: int, living: int, what: str) -> str:
    return f"net.ipv4.vs.conn_max={connections}: {living} {what}; wait until they end, or --drop those beyond it"


def fix_capacity(tables: Tables, fixed: bool) -> None:
    """Note whether an operator set the capacity, so that it does not change by itself."""
    tables.state.set_note(FIXED_CAPACITY, "yes" if fixed else None)


def larger_capacity(tables: Tables) -> int:
    """Return the capacity that the table should have; 0 if the present one is enough, or if an operator set it.

    Raises NoSpace if memory does not allow it.
    """
    use = table_use(tables)
    if use.fill < _NEARLY_FULL or tables.state.note(FIXED_CAPACITY):
        return 0
    capacity = min(2 * use.capacity, SETTINGS["conn_max"].highest)
    needed, limit, available = load.table_bytes(capacity), kernel.memory_limit() // _SHARE, kernel.memory_available()
    described = f"a capacity of {capacity} needs {needed // _MB} MB"
    if capacity == use.capacity:
        raise NoSpace(f"a capacity of {capacity} is the largest possible")
    if needed > limit:
        raise NoSpace(f"{described}; an eighth of memory is {limit // _MB} MB; net.ipv4.vs.conn_max may exceed that")
    if 2 * needed > available:  # while it is copied, both tables exist; and others need memory, too
        raise NoSpace(f"{described}; of the {available // _MB} MB that are available, half may be used")
    return capacity
