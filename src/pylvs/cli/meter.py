"""Measure what real packets cost, by the kernel's run statistics of the programs on a device.

The kernel reads its clock before and after each run, and every figure contains that cost. A program that does nothing
measures it, so that it can be subtracted.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple
from typing import NamedTuple

from pylvs.bpf import abi, kernel
from pylvs.bpf.kernel import Runs
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane.devices import attach
from pylvs.dataplane.devices.modes import Attachment
from pylvs.dataplane.reader import reason_counts
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.netlink import links
from pylvs.netlink.links import Traffic

OBJECT = "bench"  # bpf/bench.bpf.c
LINE_RATE = 10e9 / 8 / 84  # packets a second that a 10 Gbit/s line carries: 64 bytes, preamble and gap
_ROUNDS, _REPEAT = 8, 50_000  # the kernel prepares a tenth of a second for a round
_FRAME = bytes(64)


@dataclass(frozen=True, slots=True)
class Machine:
    """The least times of this machine, in ns a run."""

    counting: float  # as the kernel counts a run of a program that does nothing; subtracted from all others
    burden: float  # what the statistics add to every run of any program
    floor: float  # swapping the two MAC addresses
    far: float  # one read from a random place in 64 MB


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment."""

    moment: float  # seconds
    runs: Mapping[int, Runs]  # by the program's number
    traffic: Traffic
    reasons: Mapping[str, int]


class Used(NamedTuple):
    """Runs of one program, and their ns without the cost of counting."""

    runs: int
    ns: float

    @property
    def ns_a_run(self) -> float | None:
        """Return the mean; None if it did not run."""
        return self.ns / self.runs if self.runs else None


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened between two readings."""

    seconds: float
    packets: int  # counted by the program that sees them first
    programs: Mapping[str, Used]  # "xdp", "tc" and "tc egress", as far as they are attached
    traffic: Traffic  # of the device in this time
    reasons: Mapping[str, int] = field(default_factory=dict)  # those that happened

    @property
    def packets_a_second(self) -> float:
        """Return the rate that the programs counted."""
        return self.packets / self.seconds

    @property
    def ns_a_packet(self) -> float | None:
        """Return the time in all programs of the way in; None without packets."""
        spent = sum(used.ns for name, used in self.programs.items() if name != EGRESS)
        return spent / self.packets if self.packets else None

    @property
    def processor(self) -> float:
        """The share of one processor, in percent, that the programs took."""
        return sum(used.ns for used in self.programs.values()) / 1e7 / self.seconds

    @property
    def in_megabits(self) -> float:
        """Mbit/s that the device took in."""
        return self.traffic.in_bytes * 8 / 1e6 / self.seconds


XDP, TC, EGRESS = "xdp", "tc", "tc egress"


def programs_of(attachment: Attachment) -> dict[str, int]:
    """Return the programs of a device by their hook, in the order in which packets meet them."""
    found = {XDP: attachment.xdp, TC: attachment.ingress, EGRESS: attachment.egress}
    return {hook: number for hook, number in found.items() if number}


def cores_at_line_rate(ns_a_packet: float) -> float:
    """Return the number of such processors that a 10 Gbit/s line of smallest packets keeps busy."""
    return ns_a_packet * LINE_RATE / 1e9


def between(before: Reading, after: Reading, programs: Mapping[str, int], counting: float) -> Sample:
    """Return what happened from one reading to the other; `counting` is `Machine.counting`.

    A program that the first reading does not have was attached later: it counts from the next reading on.
    """
    used = {}
    for hook, number in programs.items():
        now = after.runs[number]
        then = before.runs.get(number, now)
        runs = now.runs - then.runs
        used[hook] = Used(runs, max(now.time_ns - then.time_ns - runs * counting, 0))
    reasons = {name: count - before.reasons.get(name, 0) for name, count in after.reasons.items()}
    return Sample(
        after.moment - before.moment,
        next(iter(used.values())).runs,
        used,
        Traffic(*(now - then for now, then in zip(astuple(after.traffic), astuple(before.traffic), strict=True))),
        {name: count for name, count in reasons.items() if count},
    )


def joined(samples: Sequence[Sample]) -> Sample:
    """Sum up successive samples, at least one; programs may have been replaced between them."""
    programs: dict[str, Used] = {}
    reasons = Counter[str]()
    for sample in samples:
        for hook, used in sample.programs.items():
            runs, ns = programs.get(hook, Used(0, 0))
            programs[hook] = Used(runs + used.runs, ns + used.ns)
        reasons.update(sample.reasons)
    return Sample(
        sum(sample.seconds for sample in samples),
        sum(sample.packets for sample in samples),
        programs,
        Traffic(*map(sum, zip(*(astuple(sample.traffic) for sample in samples), strict=True))),
        reasons,
    )


class Meter:
    """Reads the counters of one device; `metered` has turned the statistics on."""

    def __init__(self, state: State, device: str, machine: Machine) -> None:
        self.device = device
        self.machine = machine
        self._state = state
        self._tables = Tables(state)
        self._open: dict[int, int] = {}  # descriptors by number
        self._find()

    def _find(self) -> None:
        """Set what is attached to the device, its programs, and the devices that share these."""
        everything = attach.attached(self._state)
        found = next((each for each in everything if each.device == self.device), None)
        if found is None:
            raise nothing_attached(self.device)
        self.attachment, self.programs = found, programs_of(found)
        ours, others = set(self.programs.values()), [each for each in everything if each is not found]
        self.shared = [each.device for each in others if ours & set(programs_of(each).values())]

    def read(self) -> Reading:
        """Read all counters. Raises PylvsError if the packet path has been detached."""
        self._find()
        for number in self.programs.values():
            if number not in self._open:
                self._open[number] = kernel.program_by_id(number)
        return Reading(
            time.monotonic(),
            {number: kernel.program_runs(descriptor) for number, descriptor in self._open.items()},
            links.traffic(self.attachment.ifindex),
            reason_counts(self._tables),
        )

    def sample(self, before: Reading, after: Reading) -> Sample:
        """Return what happened between two readings of this meter."""
        return between(before, after, self.programs, self.machine.counting)

    def close(self) -> None:
        """Close the descriptors of the programs."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def nothing_attached(device: str) -> PylvsError:
    """Return the error for a device without the packet path."""
    return PylvsError(f"{device}: nothing of pylvs is attached here; pylvs show tells where it is")


@contextmanager
def metered(device: str) -> Iterator[Meter]:
    """Turn the statistics on and measure their cost; turn them off at the end.

    Raises NotPermitted, NoSuchDevice, Unsupported; PylvsError where nothing of pylvs is attached.
    """
    state = State.open()
    links.device(device)
    if not state.exists or device not in [each.device for each in attach.attached(state)]:
        raise nothing_attached(device)
    with ExitStack() as closing:
        machine = _measure_machine(closing)
        made = Meter(state, device, machine)
        closing.callback(made.close)
        yield made


@contextmanager
def on_cpus(cpus: Collection[int]) -> Iterator[None]:
    """Keep this thread on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def on_one_cpu() -> AbstractContextManager[None]:
    """Keep this thread on one processor: the path keeps next hops and free slots by processor."""
    return on_cpus({max(os.sched_getaffinity(0))})


def _measure_machine(closing: ExitStack) -> Machine:
    """Turn the statistics on, and measure what that costs and what the floor is."""
    with BpfObject(abi.shipped().path(OBJECT)) as harness, on_one_cpu():
        harness.set_max_entries("bench_lines", abi.constant("BENCH_LINES"))
        harness.load()
        empty, swap, far = (harness.program_fd(f"bench_{name}") for name in ("empty", "swap", "far"))
        without = _least_alone(empty)
        closing.callback(os.close, kernel.keep_run_statistics())
        burden = _least_alone(empty) - without
        counting = _least_counted(empty)
        floor, read = _least_counted(swap) - counting, _least_counted(far) - counting
    return Machine(counting, max(burden, 0), max(floor, 0), max(read, 0))


def _least_alone(program: int) -> float:
    """Return the ns of a run by this thread's own clock: the least, because live packets interrupt the others."""
    found = []
    for _ in range(_ROUNDS):
        before = time.thread_time_ns()
        _run(program)
        found.append((time.thread_time_ns() - before) / _REPEAT)
    return min(found)


def _run(program: int) -> None:
    kernel.uninterrupted(lambda: kernel.run_program(program, _FRAME, repeat=_REPEAT))


def _least_counted(program: int) -> float:
    """Return the ns of a run by the kernel's statistics."""
    found = []
    for _ in range(_ROUNDS):
        before = kernel.program_runs(program)
        _run(program)
        after = kernel.program_runs(program)
        runs = after.runs - before.runs
        if not runs:
            raise Unsupported(f"this kernel ({os.uname().release}) keeps no statistics of eBPF programs")
        found.append((after.time_ns - before.time_ns) / runs)
    return min(found)
