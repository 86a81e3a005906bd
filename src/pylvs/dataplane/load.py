"""Load the object file: size, create and pin its maps, load its programs, start the expiry timer; and take it all down.

A new state, another size of the connection table and the program of a newer pylvs are all loaded here. Maps do not
grow: another `conn_max` needs another connection table and another copy of the programs. The new copy reuses the maps
that stay and makes the others. The connections are copied (`dataplane.restore`). Then its entry programs replace those
on the devices, under live connections.

A kill at any step leaves programs in force that are complete (`State.draft`): the old ones, the new ones, or both, on
different devices. Both are equally good over the same tables. Another connection table must be that of all devices and
hooks from one moment on: a packet's reply may come by another device. So a switch replaces the programs first.

The verifier takes about 1 µs of CPU for each instruction that it checks. So a state begins with the programs of TC
ingress alone. The entry programs for XDP, TC egress and devices without link addresses are loaded at first need, each
with the programs that it tail-calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Collection, Iterator

from pylvs.bpf import abi, kernel, libbpf
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import MMAPABLE, ArrayMap, MmapArray
from pylvs.dataplane.state import (
    CACHE_SWEEP,
    CLOCK,
    ENTRIES,
    LOADED,
    OBJECT,
    ORPHANS,
    RESTORE,
    TC,
    XDP,
    State,
    own_build,
)
from pylvs.dataplane.tables import Facts, Tables
from pylvs.dataplane.transaction import WAIT_MS, Book
from pylvs.model import sockets as socket
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.service import Timeouts
from pylvs.system import syscalls

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.dataplane.restore import ConnectionCopy

STAGES = ("stages_xdp", "stages_tc")  # program arrays of the tail calls
STARTERS = ("start_expiry", "start_estimator", "start_cache_sweep")  # programs that start the timers
_RUN = (CLOCK, ORPHANS, CACHE_SWEEP, *STARTERS)  # programs that commands run
CONNECTION_MAPS = (
    "connections4",
    "index4",
    "marks4",
    "connections6",
    "replies6",
    "words6",
    "conn_counts",
    "controls",
    "registry6",
    "half_opens",
    "half_open_queues",
    "looks",
    "pools",
    "magazines",
    "commands_magazine",
    "free_slots4",
    "free_slots6",
    "sweepers",
)
SERVICES = 16384
_ARRAY, _PROGRAM_ARRAY = 2, 3  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY
_SELECTED = "selected"  # a map: 0 or 1, added to the number of the program that a switch calls
_NO_SWITCH = "programs"  # an unfinished load over the same connection table
_DESCRIPTORS = 512  # open files while the object is loaded: each map and program, and the process's own
_VARIABLE = ".data."  # a map that is a variable in the program, but pinned like the others
_TIMER_TRIALS, _TIMER_PAUSE_S = 50, 0.01
ICMP_PER_SECOND = 1000  # ICMP errors that one CPU sends at most
_PER_CPU_BYTES, _SHARED_BYTES = 180, 500  # memory of one destination
_CACHED = 131072  # entries of lblc and lblcr; while it is empty only the queue of their keys takes memory
_LARGE = 1 << 20  # connections
_FEWEST_HALF_OPEN = 64
_HOLD_S = 5  # how long packets without a connection wait for the end of a copy, at most
_MOST_DESTINATIONS, _LEAST_DESTINATIONS = 131072, 4096
# seconds in each state of TCP and SCTP (IPVS-SEMANTICS 4.4, 4.6); the three that --set changes come from Timeouts
_STATE_SECONDS = {
    "STATE_NONE": 2,
    "STATE_SYN_SENT": 120,
    "STATE_SYN_RECV": 60,
    "STATE_TIME_WAIT": 120,
    "STATE_CLOSE": 10,
    "STATE_CLOSE_WAIT": 60,
    "STATE_LAST_ACK": 30,
    "STATE_LISTEN": 120,
    "STATE_SYNACK": 120,
    "STATE_SCTP_INIT1": 4,
    "STATE_SCTP_INIT": 61,
    "STATE_SCTP_COOKIE_SENT": 61,
    "STATE_SCTP_COOKIE_REPLIED": 61,
    "STATE_SCTP_COOKIE_WAIT": 61,
    "STATE_SCTP_COOKIE": 61,
    "STATE_SCTP_COOKIE_ECHOED": 61,
    "STATE_SCTP_ESTABLISHED": 900,
    "STATE_SCTP_SHUTDOWN_SENT": 61,
    "STATE_SCTP_SHUTDOWN_RECEIVED": 61,
    "STATE_SCTP_SHUTDOWN_ACK_SENT": 61,
    "STATE_SCTP_REJECTED": 4,
    "STATE_SCTP_CLOSED": 61,
}


def tick_shift() -> int:
    """Return the shift: a tick of the packet path is 2^shift jiffies, an eighth of a second at most."""
    return max((kernel.ticks_per_second() // 8).bit_length() - 1, 0)


def ticks_per_second() -> float:
    """Return the ticks in a second, not an integer for every HZ."""
    return kernel.ticks_per_second() / (1 << tick_shift())


def clock(state: State) -> int:
    """Return the packet path's clock, in ticks; 0 without a state."""
    return state.run_program(CLOCK) & 0xFFFFFFFF


def timeout_ticks(timeouts: Timeouts) -> list[int]:
    """Return the timeouts of all connection states, in ticks, as in `facts`."""
    seconds = dict(_STATE_SECONDS)
    seconds |= {"STATE_ESTABLISHED": timeouts.tcp_s, "STATE_FIN_WAIT": timeouts.tcp_fin_s, "STATE_UDP": timeouts.udp_s}
    ticks = [0] * abi.constant("STATES")
    for name, value in seconds.items():
        ticks[abi.constant(name)] = round(value * ticks_per_second())
    return ticks


def destination_limit() -> int:
    """Return the most destinations of the tables: what a 64th of memory holds, within bounds."""
    each = _PER_CPU_BYTES * libbpf.possible_cpus() + _SHARED_BYTES
    fitting = kernel.memory_limit() // 64 // each
    return max(_LEAST_DESTINATIONS, min(_MOST_DESTINATIONS, 1 << max(fitting.bit_length() - 1, 0)))


def _slots(connections: int) -> int:
    """Return the slots for so many connections of a family, in whole bundles; those in magazines come on top."""
    bundle, magazines = abi.constant("BUNDLE"), libbpf.possible_cpus() + 1
    return -(-(connections + abi.constant("MAGAZINE") * magazines) // bundle) * bundle


def first_slot6(connections: int) -> int:
    """Return the first slot of IPv6: after those of IPv4, at the start of an element of `looks`."""
    line = abi.constant("LOOKS")
    return -(-(1 + _slots(connections)) // line) * line


def buckets4(connections: int) -> int:
    """Return the buckets of each half of the index of IPv4 connections, which is then half full at most.

    A connection finds its bucket and the four others full less than once in 10^9; at two thirds full, once in 10^7.
    """
    return -(-2 * connections // abi.constant("ENTRIES"))


def half_opens_each(connections: int) -> int:
    """Return the half-open connections that the ring of a CPU remembers, a power of two; of all, the whole table."""
    return 1 << max(connections // _online_cpus(), _FEWEST_HALF_OPEN).bit_length() - 1


def _online_cpus() -> int:
    return os.cpu_count() or 1


def share6(connections: int) -> int:
    """Return the IPv6 connections of a table: all of a small one.

    A large one has a power of two, because the kernel rounds the size of its hash maps up to one.
    """
    return connections if connections <= _LARGE else 1 << connections.bit_length() - 1


def _sizes(connections: int) -> dict[str, int]:
    destinations, six, first6 = destination_limit(), share6(connections), first_slot6(connections)
    slots6, index = _slots(six), 2 * (buckets4(connections) + abi.constant("OTHER_BUCKETS"))
    sizes = {"connections4": 1 + _slots(connections), "index4": index, "marks4": -(-index // abi.constant("ENTRIES"))}
    sizes |= dict.fromkeys(("connections6", "replies6"), six) | dict.fromkeys(("words6", "registry6"), slots6)
    sizes |= {"controls": first6 + slots6, "looks": -(-(first6 + slots6) // abi.constant("LOOKS"))}
    bundle = abi.constant("BUNDLE")
    sizes |= {"free_slots4": _slots(connections) // bundle, "free_slots6": slots6 // bundle}
    sizes |= dict.fromkeys(("destinations", "conn_counts", "destination_bases", "estimates", "names"), destinations)
    sizes["half_opens"] = half_opens_each(connections) * _online_cpus()
    sizes["lanes"] = -(-destinations // abi.constant("LANES"))
    sizes |= dict.fromkeys(
        ("services", "services4", "services6", "service_states", "service_bases", "service_syns"), SERVICES
    )
    sizes["members"] = 2 * destinations
    sizes |= dict.fromkeys(("cache", "cache_queue"), _CACHED)
    sizes["maglev_tables"] = 2 * SERVICES  # an element takes no memory before it is filled
    sizes["supers"] = libbpf.possible_cpus()
    return sizes


def _new_seeds() -> tuple[int, int]:
    """Return new seeds, both with bit 0 set, for the hash of IPv4 connections."""
    first, second = struct.unpack("<2Q", os.urandom(16))
    return first | 1, second | 1


def _entry_of(program: str) -> str:
    """Return the entry program with which a program is loaded: tail calls stay within XDP or TC."""
    return XDP if program.startswith("xdp_") else program if program in (*ENTRIES, RESTORE) else TC


def _tunnel_secret(seeds: tuple[int, int]) -> int:
    """Return the secret of a state's programs: XDP and TC derive a connection's outer sport from it, the same one."""
    import hashlib  # late: most edits load nothing

    return int.from_bytes(hashlib.blake2s(struct.pack("<2Q", *seeds), digest_size=4).digest(), "little")


def _allow_descriptors() -> None:
    """Raise the limit of open files if all maps and programs need more. Raises KernelRefused."""
    import resource  # late: only loading needs it

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < _DESCRIPTORS:
        if most < _DESCRIPTORS:
            raise syscalls.failure(errno.EMFILE, f"loading {OBJECT}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, most))


def _open_object(connections: int, seeds: tuple[int, int], entries: Collection[str]) -> BpfObject:
    """Open the object without loading it; it will load only the programs of these entries."""
    kernel.require()
    _allow_descriptors()
    opened = BpfObject(abi.shipped().path(OBJECT))
    for name in opened.programs():
        if _entry_of(name) not in entries:
            opened.skip_program(name)
    for name, size in _sizes(connections).items():
        opened.set_max_entries(name, size)
    abi.shipped().set_variables(
        opened,
        {
            "tick_shift": tick_shift(),
            "ticks_per_second": round(ticks_per_second()),
            "minute": round(60 * ticks_per_second()),
            "slots4": _slots(connections),
            "first_slot6": first_slot6(connections),
            "slots6": _slots(share6(connections)),
            "table_key4": {
                "seeds": seeds,
                "buckets": buckets4(connections),
                "slots_mask": (1 << _slots(connections).bit_length()) - 1,
            },
            "half_opens_each": half_opens_each(connections),
            "half_open_rings": _online_cpus(),
            "loopback": socket.if_nametoindex("lo"),
            "tunnel_secret": _tunnel_secret(seeds),
            "fib_gives_saddr": int(kernel.release() >= (6, 7)),
            "fib_takes_mark": int(kernel.release() >= (6, 10)),
        },
    )
    return opened


def _fill_stages(opened: BpfObject, entries: Collection[str]) -> None:
    """Put the programs into the program arrays of the tail calls."""
    programs = abi.shipped().enum("prog")
    schedule = programs["PROG_SCHEDULE"]
    wanted = {
        name.removeprefix("PROG_").lower(): number
        for name, number in programs.items()
        if name not in ("PROG_SCHEDULE", "PROGS")
    }
    for name, number in abi.shipped().enum("scheduler").items():
        if name not in ("SCHED_NONE", "SCHEDULERS"):
            wanted[f"schedule_{name.removeprefix('SCHED_').lower()}"] = schedule + number
    there = {name for name in opened.programs() if _entry_of(name) in entries}
    for hook in "xdp", "tc":
        with ArrayMap.duplicate(opened.map_fd(f"stages_{hook}")) as stage_map:
            for name, number in wanted.items():
                if f"{hook}_{name}" in there:
                    stage_map.put_descriptor(number, opened.program_fd(f"{hook}_{name}"))


def _pinned_maps(opened: BpfObject) -> Iterator[tuple[str, str]]:
    """Yield the names of all maps but those of plain data, each with the name of its pin."""
    for name in opened.maps():
        pinned = name.removeprefix(_VARIABLE)
        if not (pinned.startswith((".", OBJECT)) or "rodata" in pinned):
            yield name, pinned


def _reuse_maps(opened: BpfObject, tables: Tables, anew: Collection[str] = ()) -> list[str]:
    """Let an open object reuse a state's maps, all but those of `anew`; return their names. Raises Unsupported."""
    kept = []
    for name, pinned in _pinned_maps(opened):
        if name in anew:
            continue
        problem = f"they lack {pinned}"
        with tables.state.opened(f"{LOADED}/{pinned}") as descriptor:
            try:
                if descriptor is not None:
                    opened.reuse_map(name, descriptor)
                    problem = ""
            except PylvsError:
                problem = f"{pinned} differs"
        if problem:
            raise Unsupported(f"the tables are of another pylvs: {problem}; run pylvs down, then ipvsadm")
        kept.append(pinned)
    return kept


def _pin(opened: BpfObject, state: State, directory: str, kept: Collection[str], entries: Collection[str]) -> None:
    """Pin a load into its directory: links to the maps that it reuses, its other maps, its programs."""
    for pinned in kept:
        os.link(state.loaded_path(pinned), state.pin_path(f"{directory}/{pinned}"))
    for name, pinned in _pinned_maps(opened):
        if pinned not in kept:
            libbpf.pin(opened.map_fd(name), state.pin_path(f"{directory}/{pinned}"))
    for name in (*entries, *_RUN):
        libbpf.pin(opened.program_fd(name), state.pin_path(f"{directory}/{name}"))


def _start_timers(state: State) -> None:
    """Start the timers. Recent kernels allocate a timer without waiting for memory and may fail: retry."""
    for name in STARTERS:
        for _ in range(_TIMER_TRIALS):
            verdict = state.run_program(name)
            if not verdict:
                break
            time.sleep(_TIMER_PAUSE_S)
        else:
            raise Unsupported(f"this kernel refuses a timer ({name}, step {verdict}); 6.1 or newer is needed")


def create(state: State) -> None:
    """Make the maps and programs of a state and pin them into it. Raises NoRoom, Unsupported, NotPermitted."""
    connections, seeds = kernel.connection_limit(), _new_seeds()
    with _open_object(connections, seeds, (TC,)) as opened:
        opened.load()
        os.mkdir(state.pin_path(LOADED), 0o700)
        _pin(opened, state, LOADED, (), (TC,))
        _fill_stages(opened, (TC,))
        tables = Tables(state)
        _begin_pool(tables, connections, seeds)
        Book(tables).reset(0, 0, 0)
        set_timeouts(tables, 1, Timeouts())
        from pylvs.model.settings import SETTINGS

        for setting in SETTINGS.values():
            if setting.name != "conn_max":
                tables.root.set(0, f"settings.{setting.name}", setting.default)
        tables.root.set(0, "settings.icmp_per_second", ICMP_PER_SECOND)
        tables.root.publish(0, "live", 1)
    _start_timers(state)
    state.note_build()


def _begin_pool(tables: Tables, connections: int, seeds: tuple[int, int]) -> None:
    tables.pool.set(0, "capacity", connections)
    tables.pool.set(0, "seeds", *seeds)


def set_timeouts(tables: Tables, generation: int, timeouts: Timeouts) -> None:
    """Write the timeouts into the facts of a generation."""
    facts = Facts(tables, generation)
    facts.set("timeouts", *timeout_ticks(timeouts))
    facts.set("timeouts_s", timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s)


def _reload(state: State, connections: int = 0) -> ConnectionCopy | None:
    """Load the object again over a state's maps; with `connections`, make those of connections again, in this size.

    Return the copy of the connections, which packets still change in the former table. The caller holds the lock, and
    then calls `finish`. Raises what `create` does; Unsupported for another layout.
    """
    from pylvs.dataplane.devices import attachments  # late: it imports this module to attach

    if state.leftovers()[1]:  # of a process that was killed: devices may run its switch
        attachments.reconcile(Tables(state), attachments.Concerns())
    tables = Tables(state)
    capacity = connections or int(tables.pool.get(0, "capacity"))
    anew = {*STAGES, "works", "paces"} | (set(CONNECTION_MAPS) if connections else set())
    entries = [name for name in ENTRIES if os.path.exists(state.loaded_path(name))]
    seeds = _new_seeds() if connections else tables.pool.get(0, "seeds")
    loaded = (*entries, RESTORE) if connections else entries
    with _open_object(capacity, seeds, loaded) as opened:
        kept = _reuse_maps(opened, tables, anew)
        opened.load()
        _fill_stages(opened, entries)
        draft, note, copy = state.draft(), _NO_SWITCH, None
        _pin(opened, state, draft, kept, loaded)
        state.note_build(draft)
        if connections:
            fresh = Tables(state, draft)
            _begin_pool(fresh, connections, seeds)
            copy = _copy(state, tables, fresh)
            copy.run()
            copy.run()  # after a large table's first pass there is much to repeat
            switch = state.draft()
            _switch_devices(state, switch, draft, entries)
            note = f"{switch} {draft}"  # the exchange gives the former load the draft's name
        state.put_in_force(draft, note)
    return copy


def swap_programs(tables: Tables, connections: int = 0) -> None:
    """Load the object again, with `connections` over another connection table, and replace the running programs.

    The caller holds the lock. If this process is killed, the next edit undoes it or calls `finish`.
    """
    finish(tables.state, _reload(tables.state, connections))


def finish(state: State, copy: ConnectionCopy | None = None) -> None:
    """Adapt timers and devices to the load in force, after `_reload` in this process or in one that was killed.

    With another connection table, copy what packets changed in the former one since the last pass of `copy`. Until then
    packets that may belong to such connections are dropped, and are sent again.

    Devices get the new programs one by one, without a gap: the old ones keep their tail calls until the last device has
    switched.
    """
    from pylvs.dataplane.devices import attachments  # late: it imports this module to attach

    note = state.unfinished() or _NO_SWITCH
    _start_timers(state)
    if note != _NO_SWITCH and os.path.exists(state.loaded_path(RESTORE)):  # else a killed process copied all
        switch, former = note.split()
        fresh = Tables(state)
        fresh.pool.set(0, "hold_until", clock(state) + round(_HOLD_S * ticks_per_second()) & 0xFFFFFFFF or 1)
        _turn_switch(state, switch)
        time.sleep(WAIT_MS / 1000)  # a packet may still be in a program that uses the former table
        with copy or _copy(state, Tables(state, former), fresh) as copied:
            copied.run(only_new=True)
            fresh.pool.set(0, "hold_until", 0)
            copied.run()
        libbpf.unpin(state.loaded_path(RESTORE))
    attachments.reconcile(Tables(state), attachments.Concerns(shrunk=True))
    state.note_finished()


def _copy(state: State, former: Tables, fresh: Tables) -> ConnectionCopy:
    """Return a copy of the connections of one table into the other, whose thresholds are set."""
    from pylvs.dataplane.restore import ConnectionCopy  # late: it imports this module

    for slot in range(former.book.get(0, "destination_top")):
        for name in "upper", "lower", "overloaded":
            if value := former.conn_counts.get(slot, name):
                fresh.conn_counts.set(slot, name, value)
    restore = libbpf.open_pin(fresh.path(RESTORE))
    if restore is None:
        raise Unsupported(f"{state.path}: the programs are not pinned")
    return ConnectionCopy(former, fresh, restore)


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

        selected = kept(libbpf.create_map(_ARRAY, _SELECTED, 4, 8, 1, MMAPABLE))
        libbpf.pin(selected, state.pin_path(f"{switch}/{_SELECTED}"))
        arrays = {}
        for name in STAGES:
            arrays[name] = kept(libbpf.create_map(_PROGRAM_ARRAY, name, 4, 4, 2 * len(ENTRIES)))
            libbpf.pin(arrays[name], state.pin_path(f"{switch}/{name}"))
        instead = {}
        for name in entries:
            array, first = arrays[STAGES[name != XDP]], 2 * ENTRIES.index(name)
            with ArrayMap.duplicate(array) as programs:
                for number, directory in enumerate((LOADED, draft)):
                    entry = kept(libbpf.open_pin(state.pin_path(f"{directory}/{name}")))
                    programs.put_descriptor(first + number, entry)
                    if directory == LOADED:
                        running = kernel.program_info(entry).id
            instead[running] = kept(kernel.load_switch(name == XDP, array, selected, first))
        from pylvs.dataplane.devices import attach  # late: it is needed for devices only

        attach.replace_programs(state, instead)


def _turn_switch(state: State, switch: str) -> None:
    """Let all devices use the new connection table."""
    path = state.pin_path(f"{switch}/{_SELECTED}")
    if os.path.exists(path):  # else a process that was killed did it, and attached the programs
        with MmapArray.open(path) as selected:
            selected.publish(0, 0, 1)


def resize(tables: Tables, connections: int, drop: bool) -> None:
    """Change the size of the connection table, with its connections. Packets of all devices change to it at once.

    The caller holds the lock. Raises Busy if there are more connections than fit, unless `drop` is set: then some end.
    """
    if connections == tables.pool.get(0, "capacity"):
        return
    if not drop and tables.pool.get(0, "used") > connections:
        raise Busy(_too_many(connections, tables.pool.get(0, "used"), "connections"))
    of_ipv6 = len(tables.connections6) if not drop and share6(connections) < connections else 0
    if of_ipv6 > share6(connections):
        raise Busy(_too_many(connections, of_ipv6, "IPv6 connections"))
    swap_programs(tables, connections)


def _too_many(connections: int, living: int, what: str) -> str:
    return f"net.ipv4.vs.conn_max={connections}: {living} {what} live; wait until they end, or --drop those beyond it"


def open_entry(state: State, name: str) -> int:
    """Return a descriptor of an entry program, which is loaded at the first call. The caller closes it.

    The caller holds the lock. Raises what `create` does; Unsupported if another pylvs loaded the running programs.
    """
    program = libbpf.open_pin(state.loaded_path(name))
    if program is None and name != TC:
        _load_entry(state, name)
        program = libbpf.open_pin(state.loaded_path(name))
    if program is None:
        raise Unsupported(f"{state.path}: the programs are not pinned; save the table, run pylvs down and restore it")
    return program


def _load_entry(state: State, name: str) -> None:
    running = state.build()
    if running is None or running.digest != own_build().digest:
        raise Unsupported(
            f"the running programs are those of {running or 'another pylvs'}, which alone can add {name};"
            " attach with that one, or save the table, run pylvs down and restore it"
        )
    tables = Tables(state)
    with _open_object(int(tables.pool.get(0, "capacity")), tables.pool.get(0, "seeds"), (name,)) as opened:
        _reuse_maps(opened, tables)
        opened.load()
        _fill_stages(opened, (name,))  # before the pin: a pinned program has its tail calls
        libbpf.pin(opened.program_fd(name), state.loaded_path(name))


def drop_half_loaded(state: State) -> None:
    """Empty the program array of XDP if its entry program is not pinned: the process that loaded them was killed."""
    if os.path.exists(state.loaded_path(XDP)):
        return
    with ArrayMap.open(state.loaded_path(STAGES[0])) as programs:
        for number in range(programs.max_entries):
            programs.remove(number)


def drop_other_loads(state: State, names: Collection[str]) -> None:
    """Remove these loads if no device runs their programs: drafts of killed processes, and former loads."""
    from pylvs.dataplane.devices import attach  # late: most edits find no other load

    running = {number for each in attach.attached(state) for number in (each.xdp, each.ingress, each.egress) if number}
    used: set[int] = set()
    for program in running:
        with contextlib.suppress(PylvsError):  # it is gone, with its device
            used.update(kernel.describe_program(program).map_ids)
    kept = [name for name in names if used & set(_program_arrays(state, name))]
    if any(os.path.exists(state.pin_path(f"{name}/{_SELECTED}")) for name in kept):
        return  # a device runs a switch, which calls programs of other loads
    time.sleep(WAIT_MS / 1000)  # a packet may still be in a program that a device ran a moment ago
    for name in set(names) - set(kept):
        state.remove_load(name)


def _program_arrays(state: State, load: str) -> Iterator[int]:
    """Yield the ids of the program arrays in the directory of a load."""
    for name in STAGES:
        with state.opened(f"{load}/{name}") as array:
            if array is not None:
                yield kernel.map_info(array).id


def take_down(state: State) -> list[str]:
    """Detach everything, restore settings, remove the tables, for `pylvs down`; return the names of the devices."""
    from pylvs.dataplane import vip_roles
    from pylvs.dataplane.devices import attach

    if not state.exists:
        return []
    with state.lock():
        gone = [each.device for each in attach.detach_all(state)]
        attach.restore_lo(state)
    state.remove()
    vip_roles.forget(state.cookie)
    return gone
