"""The harness of `bpf/bench.bpf.c`: a program run many times over frames that are written anew before each round."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from bench import site
from bench.frames import Flows, Frame
from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap, PerCpuArray
from pylvs.cli.meter import OBJECT
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, Unsupported

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
_PATIENCE_S, _PAUSE_S = 60, 0.2
TC_PASS, TC_SHOT, TC_REDIRECT = 0xFFFFFFFF, 2, 7  # TC_ACT_UNSPEC: what follows decides


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a program runs, and the harness's programs for that hook."""

    empty: str
    swap: str
    targets: str  # the map that the harness jumps by
    passes: int  # the verdict that lets the stack decide


XDP = Hook("bench_empty", "bench_swap", "bench_program", XDP_PASS)
TC = Hook("bench_tc_empty", "bench_tc_swap", "bench_program_tc", TC_PASS)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """One of the harness's programs that write a frame and jump to what is measured."""

    name: str
    hook: Hook = XDP
    version: int = 4  # of IP
    varies: bool = False  # the flow; the plan then needs flows
    shrinks: bool = False  # what the program under test made longer


SAME, SAME6 = Wrapper("bench_same"), Wrapper("bench_same6", version=6)
FLOWS, FLOWS6 = Wrapper("bench_flows", varies=True), Wrapper("bench_flows6", version=6, varies=True)
SHRINK, SHRINK_FLOWS = Wrapper("bench_shrink", shrinks=True), Wrapper("bench_shrink_flows", varies=True, shrinks=True)
REPLIES, REPLIES6 = Wrapper("bench_replies", varies=True), Wrapper("bench_replies6", version=6, varies=True)
SAME_TC, SAME6_TC = Wrapper("bench_tc", TC), Wrapper("bench_tc6", TC, version=6)
WRAPPERS = (SAME, SAME6, SHRINK, FLOWS, FLOWS6, SHRINK_FLOWS, REPLIES, REPLIES6, SAME_TC, SAME6_TC)


class Sample(NamedTuple):
    """What a packet of a row cost in one round, in ns, the harness included."""

    name: str
    wrapper: Wrapper
    spent: float


class Harness:
    """The loaded harness and what it runs."""

    def __init__(self, opened: BpfObject) -> None:
        self._object = opened
        self._plans = PerCpuArray.duplicate(opened.map_fd("bench_plans"))
        self._targets = {hook: ArrayMap.duplicate(opened.map_fd(hook.targets)) for hook in (XDP, TC)}
        self._codec = abi.struct("bench_plan")
        self._frame = b""

    def own(self, name: str) -> int:
        """Return the descriptor of one of the harness's programs."""
        return self._object.program_fd(name)

    def table(self) -> ArrayMap:
        """Return the table of `bench_table_line`. The caller closes it."""
        return ArrayMap.duplicate(self._object.map_fd("bench_table"))

    def plan(self, frame: Frame, flows: Flows | None = None) -> None:
        """Set the frame of the next runs, and its flows."""
        self._frame = frame.packed()
        self._plans.fill(0, self._codec.pack(frame.plan(flows)))

    def plan_each(self, plans: Mapping[int, tuple[Frame, Flows]]) -> None:
        """Set the frame and the flows of each processor; all frames have one length."""
        packed = {cpu: self._codec.pack(frame.plan(flows)) for cpu, (frame, flows) in plans.items()}
        self._frame = next(iter(plans.values()))[0].packed()
        stride = self._plans.stride
        self._plans.put(0, b"".join(packed.get(cpu, b"").ljust(stride, b"\0") for cpu in range(self._plans.cpus)))

    def aim(self, wrapper: Wrapper, target: int) -> None:
        """Set the program that the harness jumps to."""
        self._targets[wrapper.hook].put_descriptor(0, target)

    def run(self, wrapper: Wrapper, target: int, repeat: int) -> tuple[float, kernel.Run]:
        """Return the ns of a round, the harness included, and the result of the last frame."""
        self.wait_uncounted()
        self.aim(wrapper, target)
        return self.go(wrapper, repeat)

    def go(self, wrapper: Wrapper, repeat: int) -> tuple[float, kernel.Run]:
        """Return the same for the program that `aim` set.

        Taken from this thread's processor time: the kernel's own figure has no fractions.
        """
        return self._timed(self.own(wrapper.name), wrapper.hook, repeat)

    def run_alone(self, name: str, hook: Hook, repeat: int) -> float:
        """Return the ns of a round of one of the harness's programs that does not jump."""
        self.wait_uncounted()
        return self._timed(self.own(name), hook, repeat)[0]

    def wait_uncounted(self) -> None:
        """Wait until the kernel times no runs of programs, which costs more than the floor. Raises Unsupported."""
        program = self.own(XDP.empty)
        for _ in range(int(_PATIENCE_S / _PAUSE_S)):
            before = kernel.program_runs(program)
            kernel.run_program(program, self._frame)
            if kernel.program_runs(program) == before:
                return
            time.sleep(_PAUSE_S)
        raise Unsupported(
            "the kernel times every run of an eBPF program, which would be in all figures: "
            "sysctl kernel.bpf_stats_enabled=0, and run no bpftool prog profile or pylvs bench --live"
        )

    def _timed(self, program: int, hook: Hook, repeat: int) -> tuple[float, kernel.Run]:
        device = socket.if_nametoindex(site.DEVICE)
        if hook is XDP:
            context = struct.pack("<6I", 0, len(self._frame), 0, device, 0, 0)
        else:
            context = struct.pack("<40xI148x", device)  # struct __sk_buff
        plans, attempts = self._plans.get(0), itertools.count()

        def attempt() -> tuple[float, kernel.Run]:
            if next(attempts) and plans:
                self._plans.put(0, plans)  # from the first of these flows again
            before = time.thread_time_ns()
            done = kernel.run_program(program, self._frame, context, repeat)
            return (time.thread_time_ns() - before) / repeat, done

        return kernel.uninterrupted(attempt)


@contextmanager
def loaded(table_lines: int = 1) -> Iterator[Harness]:
    """Load the harness, with so many cache lines in the table of `bench_table_line`. Raises what loading raises."""
    with BpfObject(abi.shipped().path(OBJECT)) as opened:
        opened.set_max_entries("bench_lines", abi.constant("BENCH_LINES"))
        opened.set_max_entries("bench_table", table_lines)
        abi.shipped().set_variables(opened, {"bench_table_size": table_lines})
        opened.load()
        yield Harness(opened)


class WrongPath(PylvsError):
    """A frame did not take the path that was to be measured."""
