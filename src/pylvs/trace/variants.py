"""The programs of a session: a filter, a copy of the packet path that records, and entry programs without the filter.

| program | |
|---|---|
| entry program of a device | calls element 0 of the array `tracers_xdp` or `tracers_tc`, while `root.trace` is not 0 |
| filter | calls the copy for a packet that matches, else the plain entry program |
| copy of the packet path | works on the same maps, and records what it does |
| plain entry program | the entry program without the call of the filter |

The copy has tail calls and scratch areas of its own. This process has the only descriptors of the arrays, which have no
pins. So the kernel empties them when the process ends, and packets take their usual way (bpf/trace/entry.h).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping

from pylvs.bpf import abi, kernel, maps
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane import load
from pylvs.dataplane.state import BARE, EGRESS, ENTRIES, ON_DEMAND, TC, XDP, State, own_build
from pylvs.dataplane.tables import Tables
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, InvalidOperation, Unsupported
from pylvs.trace import ebpf
from pylvs.trace.filters import Filter

# The kernel closes the descriptors of a process that ends in their order. Those of the copy come last: a packet that is
# in the filter still finds it.
_LAST = 384
_INGRESS, _EGRESS = abi.constant("TRACER_INGRESS"), abi.constant("TRACER_EGRESS")
_XDP_DROP, _TC_ACT_SHOT = 1, 2
# linux/bpf.h: instructions, and how one of them names a map; the register in which `ebpf.translate` keeps the context
_MOVE_REGISTER, _MOVE_NUMBER, _LOAD_64, _CALL, _BY_DESCRIPTOR, _TAIL_CALL, _CONTEXT = 0xBF, 0xB4, 0x18, 0x85, 1, 12, 6
_XDP_KIND = (kernel.PROG_TYPE_XDP, 37, 1 << 5)  # BPF_XDP, BPF_F_XDP_HAS_FRAGS: as libbpf loads "xdp.frags"
_TC_KIND = (kernel.PROG_TYPE_SCHED_CLS, 0, 0)


@dataclass(frozen=True, slots=True)
class Way:
    """How an entry program calls a session: its element of `tracers`, and the programs that the filter calls."""

    is_xdp: bool
    tracer: int
    traced: str
    plain: str

    @property
    def hook(self) -> ebpf.Hook:
        """Return what the filter reads there. At TC the frame has its link header by then, on each device."""
        return ebpf.XDP if self.is_xdp else ebpf.TC_EGRESS if self.tracer == _EGRESS else ebpf.TC

    @property
    def name(self) -> str:
        """Return the name of the array by which the entry program calls the session."""
        return abi.TRACERS[0] if self.is_xdp else abi.TRACERS[1]


TRACE_TC = "tc_trace"
# Maps that a dry copy has for itself: what each CPU keeps, and its ring buffer. Some of them need a few elements only.
_DRY_OWN = (
    *("scratches", "copies", "reasons", "service_reasons", "limiters", "peer_windows"),
    "recent_services",
    *("half_open_queues", "percpu_credits"),
)
_DRY_SIZES = {
    "percpu_destinations": 1,
    "device_packets": 1,
    "client_hops": 2,
    "client_routes": 1,
    "client_routes6": 1,
    "trace_records": 1 << 16,
}
_INGRESS_WAY = Way(False, _INGRESS, "tc_trace", "tc_plain")
WAYS = {
    XDP: Way(True, _INGRESS, "xdp_trace", "xdp_plain"),
    TC: _INGRESS_WAY,
    BARE: _INGRESS_WAY,
    EGRESS: Way(False, _EGRESS, "tc_trace_egress", "tc_plain_egress"),
}


def entries_of(state: State) -> dict[str, int]:
    """Return the entry programs in force with their ids; more than one session may not call them."""
    found = {}
    for name in (*ENTRIES, *ON_DEMAND):
        with state.opened(f"maps/{name}") as program:
            if program is not None:
                found[name] = kernel.program_info(program).id
    return found


def check(state: State) -> None:
    """Raise InvalidOperation without tables, Unsupported if the running programs are not of this pylvs."""
    if not state.exists:
        raise InvalidOperation("nothing to trace: this network namespace has no virtual service; ipvsadm -A adds one")
    running = state.build()
    if running is None or running.digest != own_build().digest:
        raise Unsupported(
            f"the running programs are those of {running or 'another pylvs'}, which this pylvs cannot trace;"
            " the next edit of the table replaces them: run ipvsadm -A or -e, then pylvs trace",
            state.made_by(),
        )


class DryCopy:
    """The programs of TC in a copy that writes to no map of the director. Only `kernel.run_program` runs it."""

    def __init__(self, state: State) -> None:
        """Load. Raises what `load.create` does."""
        tables = Tables(state)
        groups = (*(name for name in entries_of(state) if name in (TC, *ON_DEMAND)), TRACE_TC)
        numbers = {name: abi.constant(name) for name in ("VARIANT_DRY", "HOPS", "ROUTE_SETS")}
        with contextlib.ExitStack() as opened:
            loaded = opened.enter_context(load.open_object(*load.pool_shape(tables), groups))
            for name in (*ENTRIES, *load.RUN):
                loaded.skip_program(name)
            for name in abi.TRACERS:
                loaded.skip_map(name)
            for name, size in _DRY_SIZES.items():
                loaded.set_max_entries(name, size)
            variables = {"variant": numbers["VARIANT_DRY"], "trace_per_tick": 0xFFFFFFFF}
            variables |= {"hop_slots": numbers["HOPS"], "route_sets": numbers["ROUTE_SETS"]}
            abi.shipped().set_variables(loaded, variables)
            load.reuse_maps(loaded, tables, (*load.TAILCALLS, *_DRY_OWN, *_DRY_SIZES))
            loaded.load()
            load.fill_tailcalls(loaded, groups)
            self.program, self.records = loaded.program_fd(TRACE_TC), loaded.map_fd("trace_records")
            self._open = opened.pop_all()

    def close(self) -> None:
        """Unload."""
        self._open.close()


class Copy:
    """The loaded programs of a session, which no packet enters before `enter`."""

    def __init__(
        self, state: State, entries: Mapping[str, int], given: Filter | None, variables: Mapping[str, int], ring: int
    ) -> None:
        """Load. `variables` are those of bpf/abi/trace.h, `ring` the bytes of the ring buffer.

        Raises what `load.create` does, BadFilter, and Busy if the tables are being replaced.
        """
        self._state, self._entries = state, entries
        self._ways = [WAYS[name] for name in entries if name in WAYS]
        self._open = contextlib.ExitStack()
        self._entered = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            opened.callback(self._open.close)
            self._load(variables, ring)
            self._filters = {way: self._own(self._filter(given, way)) for way in dict.fromkeys(self._ways)}
            opened.pop_all()

    def close(self) -> None:
        """Let packets take their usual way, and unload the programs once none is in them."""
        try:
            self.leave()
        finally:
            self._open.close()

    def _own(self, descriptor: int) -> int:
        self._open.callback(os.close, descriptor)
        return descriptor

    def _kept(self, descriptor: int) -> int:
        """Return a duplicate that the kernel closes last."""
        return self._own(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LAST))

    def _load(self, variables: Mapping[str, int], ring: int) -> None:
        tables = Tables(self._state)
        shape = load.pool_shape(tables)
        traced, plain = ({getattr(way, kind) for way in self._ways} for kind in ("traced", "plain"))
        groups = (*self._entries, *traced)
        with load.open_object(*shape, groups) as opened:
            for name in (*ENTRIES, *load.RUN):
                opened.skip_program(name)
            for name in abi.TRACERS:
                opened.skip_map(name)
            opened.set_max_entries("trace_records", ring)
            abi.shipped().set_variables(opened, {"variant": abi.constant("VARIANT_TRACE"), **variables})
            load.reuse_maps(opened, tables, (*load.TAILCALLS, "scratches"))
            opened.load()
            load.fill_tailcalls(opened, groups)
            self.arrays = {name: self._kept(opened.map_fd(name)) for name in load.TAILCALLS}
            self.records = self._kept(opened.map_fd("trace_records"))
            self.counts = self._kept(opened.map_fd("trace_counts"))
        with load.open_object(*shape, tuple(plain)) as opened:
            for name in abi.TRACERS:
                opened.skip_map(name)
            load.reuse_maps(opened, tables)
            opened.load()
            self._add_plain(opened, plain)

    def _add_plain(self, opened: BpfObject, programs: Collection[str]) -> None:
        numbers = abi.shipped().enum("prog")
        for name in programs:
            hook, _, rest = name.partition("_")
            with ArrayMap.duplicate(self.arrays[f"tailcalls_{hook}"]) as array:
                array.put_descriptor(numbers[f"PROG_{rest.upper()}"], opened.program_fd(name))

    def _filter(self, given: Filter | None, way: Way) -> int:
        programs = self.arrays[load.TAILCALLS[not way.is_xdp]]
        numbers = abi.shipped().enum("prog")
        traced, plain = (numbers[f"PROG_{name.partition('_')[2].upper()}"] for name in (way.traced, way.plain))
        drop = ebpf.returning(_XDP_DROP if way.is_xdp else _TC_ACT_SHOT)  # in the moment in which a session is killed
        others = [*_calling(programs, plain), *drop]
        code = ebpf.translate(given or Filter("", ()), way.hook, [*_calling(programs, traced), *others], others)
        kind, attach_type, flags = _XDP_KIND if way.is_xdp else _TC_KIND
        return ebpf.load(code, kind, f"trace_{os.getpid()}", attach_type, flags)

    def enter(self) -> None:
        """Let entry programs call the filter. The caller holds the lock of the tables. Raises Busy."""
        if entries_of(self._state) != self._entries:
            raise Busy("the programs of this director have just been replaced; run pylvs trace again")
        for name in self._entries:
            if name in WAYS:
                self._enter(name, WAYS[name])

    def _enter(self, name: str, way: Way) -> None:
        for array in _tracers(self._state, name, way):
            self._entered.callback(array.close)
            _refuse_another(array.get(way.tracer))
            array.put_descriptor(way.tracer, self._filters[way])
            self._entered.callback(array.remove, way.tracer)

    def leave(self) -> None:
        """Let entry programs call the filter no longer, and wait until no packet is in the programs of the session."""
        self._entered.pop_all().close()
        maps.grace_period()


def _calling(programs: int, number: int) -> list[ebpf.Parts]:
    """Return instructions that tail-call a program of an array by its descriptor; they continue if it is missing."""
    return [
        (_MOVE_REGISTER, 1, _CONTEXT, 0, 0),
        (_LOAD_64, 2, _BY_DESCRIPTOR, 0, programs),
        (0, 0, 0, 0, 0),
        (_MOVE_NUMBER, 3, 0, 0, number),
        (_CALL, 0, 0, 0, _TAIL_CALL),
    ]


def _tracers(state: State, name: str, way: Way) -> Iterator[ArrayMap]:
    """Yield the arrays by which an entry program calls a session. The caller closes them."""
    with state.opened(f"maps/{name}") as program:
        numbers = kernel.program_info(program).map_ids if program is not None else ()
    for number in numbers:
        array = ArrayMap(kernel.map_by_id(number))
        if array.name == way.name:
            yield array
        else:
            array.close()


def refuse_another(state: State) -> None:
    """Raise Busy if another session is open. `Copy.enter` does so, too; this is before anything is loaded."""
    for name, way in WAYS.items():
        for array in _tracers(state, name, way):
            with array:
                _refuse_another(array.get(way.tracer))


def _refuse_another(found: bytes | None) -> None:
    number = int.from_bytes(found or b"", "little")
    if number:
        name = kernel.describe_program(number).name
        raise Busy(f"another trace is running (process {name.rpartition('_')[2]}): end it first; one at a time can run")
