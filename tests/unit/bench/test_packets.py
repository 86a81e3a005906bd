"""The connections of the measurements are established before anything is measured."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from bench.cases import QUICK, openings
from bench.frames import SYN, Flows, Frame
from bench.harness import WrongPath
from bench.packets import Bench
from pylvs.model.service import ServiceKey

LEFT_TO_THE_KERNEL = 8  # of the packets of a run: one for each real server


class FakePath:
    """A packet path that leaves the first ACKs of some runs to the kernel; it is the harness, too."""

    def __init__(self, incomplete_runs: int) -> None:
        self.harness = self
        self._incomplete_runs = incomplete_runs  # of each frame
        self._planned: tuple[Frame, Flows | None]
        self._runs: defaultdict[Frame, int] = defaultdict(int)
        self._opened: set[tuple[int, int]] = set()  # service port and flow
        self._confirmed: set[tuple[int, int]] = set()

    def plan(self, frame: Frame, flows: Flows | None) -> None:
        self._planned = frame, flows

    def run(self, wrapper: object, target: object, count: int) -> None:
        frame, flows = self._planned
        if flows is None:
            return
        sent = [(frame.target_port + flow % flows.services, flow) for flow in range(flows.first, flows.first + count)]
        if frame.flags == SYN:
            self._opened.update(sent)
            return
        self._runs[frame] += 1
        if self._runs[frame] <= self._incomplete_runs:
            del sent[:LEFT_TO_THE_KERNEL]
        self._confirmed |= self._opened.intersection(sent)

    def connections(self, service: ServiceKey) -> tuple[int, int]:
        opened = sum(port == service.port for port, _ in self._opened)
        return opened, opened

    def half_open_in_table(self) -> int:
        return len(self._opened - self._confirmed)

    def entry(self, wrapper: object) -> None: ...

    def forget_half_open(self) -> None: ...

    def reasons(self) -> str:
        return "none"


def connected(incomplete_runs: int) -> FakePath:
    path: Any = FakePath(incomplete_runs)
    Bench(QUICK, path).connect()
    assert isinstance(path, FakePath)
    return path


def test_an_ack_that_is_left_to_the_kernel_is_sent_again() -> None:
    path = connected(incomplete_runs=1)
    assert path.half_open_in_table() == 0
    for opening in openings(QUICK):
        if opening.flows is not None:
            assert sum(path.connections(key)[0] for key in opening.services) == opening.flows.number


def test_connections_that_stay_half_open_are_an_error() -> None:
    with pytest.raises(WrongPath, match=r"^port \d+: connections: 8192, half-open: 8, expected: 8192 and 0: none$"):
        connected(incomplete_runs=1000)
