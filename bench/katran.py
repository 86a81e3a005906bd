"""Katran beside pylvs: built from a source tree, and run through the same harness.

Numbers and layouts are those of Katran's `balancer_consts.h` and `balancer_structs.h`. Its own counters prove which way
its packets took.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import hatch_build
from bench import site
from bench.cases import DR, MANY_CLIENTS, NEW_CLIENTS, NEW_WALK, Size, request, unserved
from bench.frames import IN_ORDER, SCATTERED, SYN, Flows, Frame, link_address
from bench.harness import SAME, SHRINK, SHRINK_FLOWS, XDP_PASS, XDP_TX, Harness, Sample, Wrapper, WrongPath
from bench.program import Progress
from pylvs.bpf import kernel, libbpf
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap, HashMap, PerCpuArray
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported

SOURCE = "katran/lib/bpf/balancer.bpf.c"
_PROGRAM = "balancer_ingress"
_UNLIMITED = "-DMAX_CONN_RATE=0xffffffff"  # new connections per second and CPU that are stored; else 125,000
_RING = 65537  # elements of a VIP's consistent-hash ring
_VIPS = 512  # the common counters follow those of the VIPs
_TABLE, _MISSES, _RATE, _FALLBACK, _SENT, _PASSED = (_VIPS + number for number in (0, 1, 2, 3, 17, 19))
_BEYOND_LIMIT = 1 << 32  # new connections in this second: more than any limit
_TRIALS = 20  # of a run that must end within a second
_TCP, _IPIP = 6, 4
_SIZES = {"vip_map": (20, 8), "reals": (4, 20), "stats": (4, 16), "ctl_array": (4, 8), "fallback_cache": (40, 16)}


# --- build ---


def _headers() -> list[str]:
    """Return the options for the headers of C that Katran includes; those of pylvs's own sources lack them."""
    library = hatch_build.toolchain() / "lib"
    of_musl = (library / "libc" / "include" / name for name in ("x86_64-linux-musl", "generic-musl"))
    return [word for each in (library / "include", *of_musl) for word in ("-isystem", str(each))]


def compiled(tree: Path, target: Path, *options: str) -> Path:
    """Compile Katran with the compiler and the optimization of pylvs. Return the object. Raises Unsupported."""
    if not (tree / SOURCE).is_file():
        raise Unsupported(f"--katran {tree}: {SOURCE} is missing; give the top directory of Katran's sources")
    builtins = [f"-D{name}=__builtin_{name}" for name in ("memcpy", "memset")]  # a program of eBPF has no library
    section = '-DPROG_SEC_NAME="xdp.frags"'  # the harness jumps only to programs for frames with fragments
    try:
        command = [*hatch_build.compiler(tree), "-w", *_headers(), "-I", str(tree), *builtins, section, *options]
        errors = hatch_build.run_compiler([*command, "-c", SOURCE, "-o", str(target)], tree)
    except hatch_build.BuildError as error:
        raise Unsupported(f"--katran {tree}: {error}") from None
    if errors:
        lines = errors.splitlines()
        reason = next((line for line in lines if "error:" in line), lines[0])
        raise Unsupported(f"--katran {tree}: it does not compile: {reason.strip()}")
    return target


@dataclass(frozen=True, slots=True)
class Objects:
    """Katran compiled twice."""

    storing: Path  # stores each new connection
    limited: Path  # with its default limit


@contextmanager
def built(tree: Path) -> Iterator[Objects]:
    """Compile Katran into a directory that is removed at the end. Raises Unsupported."""
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-katran-") as name:
        made = Path(name)
        tree = tree.resolve()
        storing = compiled(tree, made / "katran.bpf.o", _UNLIMITED)
        yield Objects(storing, compiled(tree, made / "katran-limited.bpf.o"))


# --- tables ---


class Program:
    """A loaded build with its tables: one VIP, eight real servers, a connection table for this CPU."""

    def __init__(self, opened: BpfObject, flows: int) -> None:
        self.descriptor = opened.program_fd(_PROGRAM)
        for name, expected in _SIZES.items():
            info = kernel.map_info(opened.map_fd(name))
            if (info.key_size, info.value_size) != expected:
                raise Unsupported(f"--katran: map {name} has another layout than the Katran that bench/katran.py knows")
        self._stats = PerCpuArray.duplicate(opened.map_fd("stats"))
        self._fill(opened)
        pattern = kernel.map_info(opened.map_fd("fallback_cache"))
        fresh = libbpf.create_map(pattern.type, "bench_flows", pattern.key_size, pattern.value_size, flows)
        self._flows = HashMap(fresh)
        with ArrayMap.duplicate(opened.map_fd("lru_mapping")) as of_cpus:
            (cpu,) = os.sched_getaffinity(0)
            of_cpus.put_descriptor(cpu, fresh)

    def _fill(self, opened: BpfObject) -> None:
        vip = struct.pack("!4s12xHBx", ip_address(site.VIP).packed, DR, _TCP)
        with HashMap.duplicate(opened.map_fd("vip_map")) as vips:
            vips.put(vip, struct.pack("<II", 0, 0))  # flags, number
        with ArrayMap.duplicate(opened.map_fd("reals")) as reals:
            for number in range(1, site.SERVERS + 1):
                reals.put(number, ip_address(site.server(number)).packed.ljust(20, b"\0"))
        with HashMap.duplicate(opened.map_fd("ch_rings")) as rings:
            positions = struct.pack(f"<{_RING}I", *range(_RING))
            rings.put_many(positions, struct.pack(f"<{_RING}I", *(1 + at % site.SERVERS for at in range(_RING))), _RING)
        with ArrayMap.duplicate(opened.map_fd("ctl_array")) as control:
            control.put(0, link_address(site.ROUTER_MAC).ljust(8, b"\0"))

    def counted(self) -> dict[str, int]:
        """Return Katran's counters that tell the way of a packet."""
        packets, misses = self._stats.sums(_TABLE)
        opening, lost = self._stats.sums(_MISSES)
        single = {name: self._stats.sums(at)[0] for name, at in _SINGLE.items()}
        return {"of the VIP": packets, "misses": misses, "of a SYN": opening, "of others": lost} | single

    def exceed_limit(self) -> None:
        """Let Katran take this second for one with too many new connections."""
        self._stats.fill(_RATE, struct.pack("<QQ", _BEYOND_LIMIT, time.monotonic_ns()))

    def beyond_limit(self) -> int:
        """Return how many new connections exceeded the limit since then, in one second."""
        most = max(int(number) for number, _ in struct.iter_unpack("<QQ", self._stats.get(_RATE) or b""))
        return max(0, most - _BEYOND_LIMIT)

    def stores(self, frame: Frame, flows: Flows, flow: int) -> bool:
        """Return whether the connection table has this flow."""
        client, port = flows.client(frame.sender, flow)
        addresses = client.packed.ljust(16, b"\0") + ip_address(frame.target).packed.ljust(16, b"\0")
        return self._flows.get(addresses + struct.pack("!HHB3x", port, frame.target_port, _TCP)) is not None


_SINGLE = {"without a table": _FALLBACK, "sent": _SENT, "passed": _PASSED}


def is_tunnelled(data: bytes, frame: Frame) -> bool:
    """Return whether these bytes are a frame of such a packet, in IPv4 to one of the real servers by the router."""
    servers = [ip_address(site.server(number)).packed for number in range(1, site.SERVERS + 1)]
    links = link_address(site.ROUTER_MAC) + link_address(site.MAC) + b"\x08\0"
    outer, inner = data[14:34], data[34:]
    right_outer = data[:14] == links and outer[:1] == b"\x45" and outer[9] == _IPIP and outer[16:] in servers
    return right_outer and len(inner) == 40 and inner[16:20] == ip_address(frame.target).packed


# --- measure ---


class Katran:
    """Both builds, and what packets cost them."""

    def __init__(self, harness: Harness, size: Size, storing: Program, limited: Program) -> None:
        self._harness = harness
        self._size = size
        self._storing, self._limited = storing, limited
        self._new = 0  # flows made so far

    def connect(self) -> None:
        """Store the flows whose packets are measured."""
        self._sent("katran: one SYN", self._storing, SHRINK, request(DR, SYN), None, 1)
        many = Flows(self._size.flows, 0, IN_ORDER)
        self._sent("katran: SYNs", self._storing, SHRINK_FLOWS, request(DR, SYN, MANY_CLIENTS), many, many.number)

    def measure(self) -> Iterator[Sample]:
        """Measure another round. Raises WrongPath."""
        repeat, many = self._size.repeat, Flows(self._size.flows, 0, SCATTERED)
        yield self._passed("katran_no_service", repeat)
        yield self._sent("katran_one", self._storing, SHRINK, request(DR), None, repeat)
        frame = request(DR, source=MANY_CLIENTS)
        yield self._sent("katran_many", self._storing, SHRINK_FLOWS, frame, many, repeat)
        yield self._stored("katran_new")
        yield self._not_stored("katran_new_limited")
        self._new += self._size.new

    def _run(
        self, program: Program, wrapper: Wrapper, frame: Frame, flows: Flows | None, repeat: int
    ) -> tuple[float, kernel.Run, dict[str, int]]:
        """Return the ns of a packet, the last result, and what Katran counted."""
        before = program.counted()
        self._harness.plan(frame, flows)
        spent, last = self._harness.run(wrapper, program.descriptor, repeat)
        return spent, last, {name: number - before[name] for name, number in program.counted().items()}

    def _passed(self, name: str, repeat: int) -> Sample:
        spent, last, counted = self._run(self._storing, SAME, unserved(), None, repeat)
        if last.verdict != XDP_PASS or counted != dict.fromkeys(counted, 0) | {"passed": repeat}:
            raise WrongPath(f"{name}: verdict {last.verdict}, packets sent: {repeat}, Katran counted {counted}")
        return Sample(name, SAME, spent)

    def _sent(
        self, name: str, program: Program, wrapper: Wrapper, frame: Frame, flows: Flows | None, repeat: int
    ) -> Sample:
        spent, last, counted = self._run(program, wrapper, frame, flows, repeat)
        missed = repeat if frame.flags & SYN else 0
        expected = {"of the VIP": repeat, "sent": repeat, "misses": missed, "of a SYN": missed}
        if last.verdict != XDP_TX or counted != dict.fromkeys(counted, 0) | expected:
            raise WrongPath(f"{name}: verdict {last.verdict}, packets sent: {repeat}, Katran counted {counted}")
        if not is_tunnelled(last.data, frame):
            raise WrongPath(f"{name}: Katran sent another frame than the packet in a tunnel: {last.data.hex()}")
        return Sample(name, wrapper, spent)

    def _opened(self, name: str, program: Program, number: int) -> tuple[Sample, int]:
        """Measure new connections; return also how many of the first and the last one Katran stored."""
        frame, flows = request(DR, SYN, NEW_CLIENTS), Flows(NEW_WALK, self._new, IN_ORDER)
        sample = self._sent(name, program, SHRINK_FLOWS, frame, flows, number)
        ends = (self._new, self._new + number - 1)
        return sample, sum(program.stores(frame, flows, flow % NEW_WALK) for flow in ends)

    def _stored(self, name: str) -> Sample:
        sample, stored = self._opened(name, self._storing, self._size.new)
        if stored != 2:
            raise WrongPath(f"{name}: Katran did not store new connections")
        return sample

    def _not_stored(self, name: str) -> Sample:
        """Measure new connections beyond the limit. It holds for a second: a slower run is repeated."""
        number = self._size.repeat
        for _ in range(_TRIALS):
            self._limited.exceed_limit()
            sample, stored = self._opened(name, self._limited, number)
            if self._limited.beyond_limit() == number:
                break
        else:
            raise WrongPath(f"{name}: a run of {number:,} took over a second: this machine is too busy")
        if stored:
            raise WrongPath(f"{name}: Katran stored new connections beyond its limit")
        return sample


@contextmanager
def loaded(objects: Objects, harness: Harness, size: Size, progress: Progress) -> Iterator[Katran]:
    """Load both builds for this CPU, and store the flows. Raises what loading raises."""
    progress("packets: Katran's tables")
    with ExitStack() as closing:
        programs = []
        for path in objects.storing, objects.limited:
            opened = closing.enter_context(BpfObject(path))
            opened.load()
            programs.append(Program(opened, size.katran_flows))
        katran = Katran(harness, size, *programs)
        katran.connect()
        yield katran
