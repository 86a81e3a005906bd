"""Load the object file: size, create and pin its maps, load its programs, start the expiry timer; and take it all down.

The verifier takes about 1 µs of CPU for each instruction that it checks. So a state begins with the programs of TC
ingress alone. The entry programs for XDP, TC egress and devices without link addresses are loaded at first need, each
with the programs that it tail-calls. So are programs of TC that few services need.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Collection, Iterator

from pylvs.bpf import abi, kernel, libbpf
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap
from pylvs.bpf.schedulers import NUMBERS, SCHEDULERS
from pylvs.dataplane.state import (
    BYPASS,
    CACHE_SWEEP,
    CLOCK,
    EGRESS,
    ENTRIES,
    INDEX,
    LOADED,
    OBJECT,
    ON_DEMAND,
    ORPHANS,
    RESTORE,
    SIP,
    STORE,
    TC,
    TRANSFER,
    XDP,
    State,
    own_build,
)
from pylvs.dataplane.tables import Facts, Tables, Versions
from pylvs.dataplane.transaction import Book
from pylvs.model import sockets as socket
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.service import Timeouts, VirtualService
from pylvs.system import syscalls

try:  # without OpenSSL, which hashlib loads: about a megabyte in a daemon
    from _blake2 import blake2s
except ImportError:  # a Python that has it elsewhere
    from hashlib import blake2s

_USED_BY = {SIP: "persistence engine sip", BYPASS: "cache_bypass"}
TAILCALLS = ("tailcalls_xdp", "tailcalls_tc")  # program arrays of the tail calls
TRACE_ENTRIES = ("xdp_trace", "tc_trace", "tc_trace_egress")  # of a session of `pylvs trace` (bpf/trace/entry.h)
PLAIN_ENTRIES = ("xdp_plain", "tc_plain", "tc_plain_egress")  # likewise
STARTERS = ("start_expiry", "start_estimator", "start_cache_sweep")  # programs that start the timers
RUN = (CLOCK, ORPHANS, CACHE_SWEEP, INDEX, *STARTERS)  # programs that commands run
CONNECTION_MAPS = (
    "connections",
    "overflow_index",
    "calls",
    "synced_sequences",
    "sync_counts",
    "sync_rings",
    "conn_counts",
    "winners",
    "controls",
    "half_opens",
    "half_open_rings",
    "half_open_queues",
    "commands_half_opens",
    "half_open_counts",
    "expiry_ticks",
    "pools",
    "percpu_credits",
    "commands_credits",
    "sweepers",
)
SERVICES = 16384
_DESCRIPTORS = 512  # open files while the object is loaded: each map and program, and the process's own
_VARIABLE = ".data."  # a map that is a variable in the program, but pinned like the others
_TIMER_TRIALS, _TIMER_PAUSE_S = 50, 0.01
ICMP_PER_SECOND = 1000  # ICMP errors that one CPU sends at most
_PER_CPU_BYTES, _SHARED_BYTES = 192, 600  # memory of one destination
_CACHED = 131072  # entries of lblc and lblcr; while it is empty only the queue of their keys takes memory
_FEWEST_HALF_OPEN = 64
_CONFIRM_S = 16  # the period of `confirm_ticks`
_HALF_OPEN_BATCHES, _LARGEST_BATCH = 4096, 64  # of the ring of half-open connections, and of positions in a batch
# Connections whose clients use one port for very many services: a part of all, and at least so many.
_OVERFLOW_INDEX, _LEAST_OVERFLOW_INDEX = 16, 1024
_CALLS = 16  # templates of SIP calls: a part of all connections
_ON_DEMAND = ("calls", "synced_sequences")  # maps whose elements take memory only while they are used
_ROUTE_SETS, _LEAST_ROUTE_SETS = 131072, 4096
_HOP_SLOTS, _LEAST_HOP_SLOTS = 65536, 2048
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
    "STATE_SCTP_FIRST": 900,
}


def tick_shift() -> int:
    """Return the shift: a tick of the packet path is 2^shift jiffies, an eighth of a second at most."""
    return max((kernel.ticks_per_second() // 8).bit_length() - 1, 0)


def ticks_per_second() -> float:
    """Return the ticks in a second, not an integer for every HZ."""
    return kernel.ticks_per_second() / (1 << tick_shift())


def confirm_ticks() -> int:
    """Return the period, in ticks, in which XDP lets the kernel send one packet to each neighbour."""
    return round(_CONFIRM_S * ticks_per_second())


def clock(state: State) -> int:
    """Return the packet path's clock, in ticks; 0 without a state."""
    return state.run_program(CLOCK) & 0xFFFFFFFF


def timeout_ticks(timeouts: Timeouts) -> list[int]:
    """Return the timeouts of all connection states, in ticks, as in `facts`."""
    seconds = dict(_STATE_SECONDS)
    seconds |= dict.fromkeys(("STATE_ESTABLISHED", "STATE_TCP_FIRST"), timeouts.tcp_s)
    seconds |= dict.fromkeys(("STATE_UDP", "STATE_UDP_FIRST"), timeouts.udp_s)
    seconds["STATE_FIN_WAIT"] = timeouts.tcp_fin_s
    ticks = [0] * abi.constant("STATES")
    for name, value in seconds.items():
        ticks[abi.constant(name)] = round(value * ticks_per_second())
    return ticks


def destination_limit() -> int:
    """Return the most destinations of the tables: what a 64th of memory holds, within bounds."""
    per_destination = _PER_CPU_BYTES * libbpf.possible_cpus() + _SHARED_BYTES
    fitting = kernel.memory_limit() // 64 // per_destination
    return max(_LEAST_DESTINATIONS, min(_MOST_DESTINATIONS, 1 << max(fitting.bit_length() - 1, 0)))


def slots(connections: int) -> int:
    """Return the slots of the connection table, with those of the unused first group."""
    return (abi.constant("GROUP") + buckets(connections)) * abi.constant("ENTRIES")


def buckets(connections: int) -> int:
    """Return the buckets of the connection table, whole groups: five for four connections.

    A bucket has one connection of IPv6, or two of IPv4. A table full of IPv4 has two fifths of its entries in use. Then
    one connection of 12 overflows from its bucket, and one of 12,000 from its group. A table full of IPv6 has four
    fifths of its buckets in use, and two connections of five overflow; half full, a fifth of them.
    """
    group = abi.constant("GROUP")
    return -(-5 * connections // (4 * group)) * group


def half_opens(connections: int) -> int:
    """Return the positions of the ring of half-open connections, a power of two; at least half of the table."""
    return 1 << max(connections, _FEWEST_HALF_OPEN).bit_length() - 1


def half_opens_batch(connections: int) -> int:
    """Return how many positions of that ring a CPU takes at once, a power of two."""
    return max(min(half_opens(connections) // _HALF_OPEN_BATCHES, _LARGEST_BATCH), 1)


def route_sets() -> int:
    """Return the sets of NAT clients' routes of a CPU: 8 MB of each family for all CPUs, or 256 KB for each."""
    return max(_ROUTE_SETS >> (libbpf.possible_cpus() - 1).bit_length(), _LEAST_ROUTE_SETS)


def hop_slots() -> int:
    """Return the next hops to NAT clients of a CPU: 8 MB for all CPUs, or 256 KB for each."""
    return max(_HOP_SLOTS >> (libbpf.possible_cpus() - 1).bit_length(), _LEAST_HOP_SLOTS)


def _sizes(connections: int) -> dict[str, int]:
    destinations, all_slots = destination_limit(), slots(connections)
    sizes = {"connections": all_slots // abi.constant("ENTRIES"), "controls": all_slots, "transfer_sent": all_slots}
    sizes["overflow_index"] = max(connections // _OVERFLOW_INDEX, _LEAST_OVERFLOW_INDEX)
    sizes["calls"] = max(connections // _CALLS, _LEAST_OVERFLOW_INDEX)
    sizes["synced_sequences"] = sizes["calls"]
    sizes["expiry_ticks"] = all_slots // (abi.constant("LINE_TICKS") * abi.constant("TICK_SLOTS")) + 1
    sizes |= dict.fromkeys(("destinations", "conn_counts", "destination_bases", "estimates", "names"), destinations)
    sizes |= dict.fromkeys(("nat_servers", "nat_older"), destinations)
    sizes["half_opens"] = half_opens(connections)
    sizes["client_hops"] = hop_slots() // abi.constant("HOPS") + 1
    sizes |= dict.fromkeys(("client_routes", "client_routes6"), route_sets() // abi.constant("ROUTE_SETS"))
    sizes["percpu_destinations"] = -(-destinations // abi.constant("PERCPU_DESTINATIONS"))
    sizes |= dict.fromkeys(("services", "services4", "services6", "service_states", "routed_marks"), SERVICES)
    sizes |= dict.fromkeys(("service_bases", "service_estimates"), SERVICES)
    sizes["members"] = 2 * destinations
    sizes["winners"] = destinations  # winner_at of bpf/lb/winners.h
    sizes |= dict.fromkeys(("cache", "cache_queue"), _CACHED)
    sizes |= dict.fromkeys(
        ("maglev_tables", "sh_tables"), 2 * SERVICES
    )  # an element takes no memory before it is filled
    sizes["gso_packets"] = libbpf.possible_cpus()
    return sizes


def table_bytes(connections: int) -> int:
    """Return the memory that a table takes at once, without `overflow_index`, `calls` and `synced_sequences`."""
    maps, sizes = abi.shipped().objects[OBJECT]["maps"], _sizes(connections)
    at_once = (name for name in CONNECTION_MAPS if name not in _ON_DEMAND)
    return sum(sizes.get(name, 1) * int(maps[name]["value_size"]) for name in at_once)


def new_seeds() -> tuple[int, ...]:
    """Return new seeds for the hashes of connections. The first two have bit 0 set."""
    first, second, *others = struct.unpack(f"<{abi.constant('SEEDS')}Q", os.urandom(8 * abi.constant("SEEDS")))
    return first | 1, second | 1, *others


def _entry_of(program: str) -> str:
    """Return the program with which a program is loaded: tail calls stay within XDP, TC or TC egress."""
    if program in (*ENTRIES, RESTORE, STORE, *TRANSFER, BYPASS, *TRACE_ENTRIES, *PLAIN_ENTRIES):
        return program
    if program.startswith(SIP):
        return SIP
    return XDP if program.startswith("xdp_") else EGRESS if program.startswith("tc_egress_") else TC


def _secret(seeds: tuple[int, ...], use: bytes) -> int:
    """Return a secret of a state's programs, the same one for XDP and TC."""
    return int.from_bytes(blake2s(struct.pack("<2Q", *seeds[:2]), digest_size=4, person=use).digest(), "little")


def _allow_descriptors() -> None:
    """Raise the limit of open files if all maps and programs need more. Raises KernelRefused."""
    import resource  # late: only loading needs it

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < _DESCRIPTORS:
        if most < _DESCRIPTORS:
            raise syscalls.failure(errno.EMFILE, f"loading {OBJECT}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, most))


def open_object(connections: int, seeds: tuple[int, ...], entries: Collection[str]) -> BpfObject:
    """Open the object without loading it; it will load only the programs of these entries.

    The first two are those of the connection table (`begin_pool`).
    """
    kernel.require()
    _allow_descriptors()
    opened = BpfObject(abi.shipped().path(OBJECT))
    for name in opened.programs():
        if _entry_of(name) not in entries:
            opened.skip_program(name)
    for name in () if set(TRACE_ENTRIES).intersection(entries) else abi.TRACED:
        opened.skip_map(name)
    for name in () if set(TRANSFER).intersection(entries) else abi.TRANSFERRED:
        opened.skip_map(name)
    for name, size in _sizes(connections).items():
        opened.set_max_entries(name, size)
    abi.shipped().set_variables(
        opened,
        {
            "tick_shift": tick_shift(),
            "ticks_per_second": round(ticks_per_second()),
            "minute": round(60 * ticks_per_second()),
            "confirm_ticks": confirm_ticks(),
            "hop_slots": hop_slots(),
            "route_sets": route_sets(),
            "table_key": {"seeds": seeds, "buckets": buckets(connections)},
            "half_opens_shift": half_opens(connections).bit_length() - 1,
            "half_opens_batch": half_opens_batch(connections),
            "loopback": socket.if_nametoindex("lo"),
            "decided_word": _secret(seeds, b"decided"),
            "tunnel_secret": _secret(seeds, b"tunnel"),
            "fib_gives_saddr": int(kernel.release() >= (6, 7)),
            "fib_takes_mark": int(kernel.release() >= (6, 10)),
        },
    )
    return opened


def fill_tailcalls(opened: BpfObject, entries: Collection[str]) -> None:
    """Put the programs into the program arrays of the tail calls."""
    programs = abi.shipped().enum("prog")
    schedule = programs["PROG_SCHEDULE"]
    wanted = {
        name.removeprefix("PROG_").lower(): number
        for name, number in programs.items()
        if name not in ("PROG_SCHEDULE", "PROGS")
    }
    wanted |= {f"schedule_{name}": schedule + NUMBERS[name] for name in SCHEDULERS}
    there = {name for name in opened.programs() if _entry_of(name) in entries}
    for hook in "xdp", "tc":
        with ArrayMap.duplicate(opened.map_fd(f"tailcalls_{hook}")) as stage_map:
            for name, number in wanted.items():
                if f"{hook}_{name}" in there:
                    stage_map.put_descriptor(number, opened.program_fd(f"{hook}_{name}"))


def _pinned_maps(opened: BpfObject) -> Iterator[tuple[str, str]]:
    """Yield the names of all maps but those of plain data, each with the name of its pin."""
    for name in opened.maps():
        pinned = name.removeprefix(_VARIABLE)
        if not (pinned.startswith((".", OBJECT)) or "rodata" in pinned or name in abi.UNPINNED):
            yield name, pinned


def reuse_maps(opened: BpfObject, tables: Tables, anew: Collection[str] = ()) -> list[str]:
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
            raise Unsupported(
                f"the tables are of another pylvs: {problem}; run pylvs down, then ipvsadm", tables.state.made_by()
            )
        kept.append(pinned)
    return kept


def pin_load(opened: BpfObject, state: State, directory: str, kept: Collection[str], entries: Collection[str]) -> None:
    """Pin a load into its directory: links to the maps that it reuses, its other maps, its programs."""
    for pinned in kept:
        os.link(state.loaded_path(pinned), state.pin_path(f"{directory}/{pinned}"))
    for name, pinned in _pinned_maps(opened):
        if pinned not in kept:
            libbpf.pin(opened.map_fd(name), state.pin_path(f"{directory}/{pinned}"))
    for name in (*entries, *RUN):
        libbpf.pin(opened.program_fd(name), state.pin_path(f"{directory}/{name}"))


def start_timers(state: State) -> None:
    """Start the timers. Recent kernels allocate a timer without waiting for memory and may fail: retry."""
    for name in STARTERS:
        for _ in range(_TIMER_TRIALS):
            verdict = state.run_program(name)
            if not verdict:
                break
            time.sleep(_TIMER_PAUSE_S)
        else:
            raise Unsupported(f"this kernel refuses a timer ({name}, step {verdict}); 6.1 or newer is needed")


def create(state: State, connections: int = 0) -> None:
    """Make the maps and programs of a state and pin them into it, by default for as many connections as memory allows.

    Raises NoSpace, Unsupported, NotPermitted.
    """
    connections = connections or kernel.connection_limit()
    seeds = new_seeds()
    with open_object(connections, seeds, (TC,)) as opened:
        opened.load()
        os.mkdir(state.pin_path(LOADED), 0o700)
        pin_load(opened, state, LOADED, (), (TC,))
        fill_tailcalls(opened, (TC,))
        begin(state, connections, seeds)


def begin(state: State, connections: int, seeds: tuple[int, ...]) -> None:
    """Write the first generation into the pinned maps of a new load, and start the timers. Raises Unsupported."""
    tables = Tables(state)
    begin_pool(tables, connections, seeds)
    Book(tables).reset(0, 0, 0)
    set_timeouts(tables, 1, Timeouts())
    begin_settings(tables)
    tables.root.publish(0, "live", 1)
    start_timers(state)
    state.note_build()


def begin_pool(tables: Tables, connections: int, seeds: tuple[int, ...]) -> None:
    """Write what packets read of an empty connection table."""
    tables.pool.set(0, "capacity", connections)
    first_lap = half_opens(connections)  # not 0: a position of zeros has never been filled
    tables.half_open_ring.write(0, {"first": first_lap, "end": first_lap})
    tables.pool.set(0, "seeds", *seeds)


def pool_shape(tables: Tables) -> tuple[int, tuple[int, ...]]:
    """Return what `begin_pool` set: every load over the same table needs the same."""
    pool = tables.pool
    return pool.get(0, "capacity"), pool.get(0, "seeds")


def begin_settings(tables: Tables) -> None:
    """Write the defaults of all settings, and the keys of the hash fallback and of the bitmaps of addresses."""
    from pylvs.model.settings import SETTINGS  # late: most processes make no tables

    for setting in SETTINGS.values():
        if setting.name != "conn_max":
            tables.root.set(0, f"settings.{setting.name}", setting.default)
    tables.root.set(0, "settings.icmp_per_second", ICMP_PER_SECOND)
    tables.root.set(0, "fallback_key", *struct.unpack("<2Q", os.urandom(16)))
    first, *others = struct.unpack("<3Q", os.urandom(24))
    tables.root.set(0, "address_keys", first | 1, *others)


def set_timeouts(tables: Tables, generation: int, timeouts: Timeouts) -> None:
    """Write the timeouts into the facts of a generation. One of 0 keeps the timeout that is there (`Timeouts.over`)."""
    facts = Facts(tables, generation)
    timeouts = timeouts.over(Timeouts(*facts.get("timeouts_s")))
    facts.set("timeouts", *timeout_ticks(timeouts))
    facts.set("timeouts_s", *timeouts)


def open_entry(state: State, name: str) -> int:
    """Return a descriptor of an entry program or one of ON_DEMAND, loaded at the first call. The caller closes it.

    The caller holds the lock. Raises what `create` does; Unsupported if another pylvs loaded the running programs.
    """
    program = libbpf.open_pin(state.loaded_path(name))
    if program is None and name != TC:
        _load_entry(state, name)
        program = libbpf.open_pin(state.loaded_path(name))
    if program is None:
        raise Unsupported(f"{state.path}: the programs are not pinned; save the table, run pylvs down and restore it")
    return program


def provide(state: State, name: str) -> None:
    """Load one of ON_DEMAND, before packets can need it, unless it is loaded. The caller holds the lock.

    Raises what `open_entry` does; Busy if a device runs other programs, which would never call this one.
    """
    from pylvs.dataplane.devices import attach  # late: most edits do not load a program

    if os.path.exists(state.loaded_path(name)):
        return
    others = attach.with_other_programs(state)
    if others:
        raise Busy(
            f"{', '.join(others)}: runs programs of another load, which lack {_USED_BY[name]};"
            f" pylvs attach {others[0]} attaches it again, or says why not"
        )
    os.close(open_entry(state, name))


def provide_for(service: VirtualService, state: State) -> None:
    """Load the programs that the packets of this service need beyond others, as in `provide`; raises what that does."""
    if service.engine:
        provide(state, SIP)


def needed(tables: Tables) -> list[str]:
    """Return those of ON_DEMAND that packets may need now."""
    use = {SIP: Versions(tables).facts().get("engines")[0], BYPASS: tables.root.get(0, "settings.cache_bypass")}
    return [name for name in ON_DEMAND if use[name] or os.path.exists(tables.state.loaded_path(name))]


def _load_entry(state: State, name: str) -> None:
    running = state.build()
    if running is None or running.digest != own_build().digest:
        raise Unsupported(
            f"the running programs are those of {running or 'another pylvs'}, which alone can add"
            f" {_USED_BY.get(name, name)}; use that one, or save the table, run pylvs down and restore it",
            state.made_by(),
        )
    tables = Tables(state)
    with open_object(*pool_shape(tables), (name,)) as opened:
        reuse_maps(opened, tables)
        opened.load()
        fill_tailcalls(opened, (name,))  # before the pin: a pinned program has its tail calls
        libbpf.pin(opened.program_fd(name), state.loaded_path(name))


def take_down(state: State) -> list[str]:
    """Detach everything, restore settings, remove the tables, for `pylvs down`; return the names of the devices."""
    from pylvs.dataplane import vip_roles  # late: few processes take tables down
    from pylvs.dataplane.devices import attach, lo

    if not state.exists:
        return []
    with state.lock():
        gone = [each.device for each in attach.detach_all(state)]
        lo.restore_lo(state)
        state.remove()  # with the lock: a waiting edit would attach devices again
    vip_roles.forget(state.cookie)
    return gone
