"""When virtual routers get a report that services are not forwarded; in simulated time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.daemon.virtual_routers.forwarding import FAULT_AFTER_S, POLL_S, monitor_forwarding
from tests.unit.health.clock import START_S, FakeTimeLoop


class Path:
    """A packet path with an error set by the test, and the reports about it with their times."""

    def __init__(self, loop: FakeTimeLoop) -> None:
        self.loop = loop
        self.error: str | None = None
        self.silent = ""  # a part of the daemon
        self.reported: list[tuple[float, bool | None, str]] = []
        loop.create_task(monitor_forwarding(lambda: self.error, self._report, lambda: self.silent))

    async def _report(self, up: bool | None, error: str) -> None:
        self.reported.append((self.loop.time() - START_S, up, error))

    def is_for(self, seconds: float, error: str | None) -> None:
        self.error = error
        self.loop.pass_(seconds)


@pytest.fixture
def path() -> Iterator[Path]:
    loop = FakeTimeLoop()
    yield Path(loop)
    loop.close()


def test_nothing_is_reported_while_the_state_is_unknown(path: Path) -> None:
    path.is_for(100.2, None)
    path.is_for(10, "")
    assert path.reported == [(100.5, True, "")]


def test_a_loss_is_reported_after_a_while_and_its_end_at_once(path: Path) -> None:
    path.is_for(10.2, "")
    path.is_for(10, "no BPF here")
    path.is_for(10, "")
    assert path.reported == [(0, True, ""), (10.5 + FAULT_AFTER_S, False, "no BPF here"), (20.5, True, "")]


@pytest.mark.parametrize("between", ["", None])
def test_a_short_fault_is_no_loss(path: Path, between: str | None) -> None:
    path.is_for(10, "")
    for _ in range(5):
        path.is_for(FAULT_AFTER_S - POLL_S / 2, "for a moment")
        path.is_for(POLL_S, between)
    assert path.reported == [(0, True, "")]


def test_a_loss_from_the_start_is_reported(path: Path) -> None:
    path.is_for(10, "no BPF here")
    assert path.reported == [(FAULT_AFTER_S, False, "no BPF here")]


def test_while_a_part_of_the_daemon_is_silent_the_state_is_reported_as_unknown(path: Path) -> None:
    path.is_for(10.2, "")
    path.silent = "the prober process has made no progress"
    path.is_for(10, "")
    path.silent = ""
    path.is_for(10, "")
    unknown = (10.5, None, "the prober process has made no progress")
    assert path.reported == [(0, True, ""), unknown, (20.5, True, "")]
