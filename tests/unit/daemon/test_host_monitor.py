"""When virtual routers are told that services cannot be forwarded: in imagined time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.daemon.host_monitor import FAULT_AFTER_S, POLL_S, ForwardingMonitor
from tests.unit.health.clock import START_S, FakeTimeLoop


class Path:
    """The packet path as a test has it, and what was told of it, with the time."""

    def __init__(self, loop: FakeTimeLoop) -> None:
        self.loop = loop
        self.trouble: str | None = None
        self.told: list[tuple[float, bool, str]] = []
        loop.create_task(ForwardingMonitor(lambda: self.trouble, self._tell).run())

    async def _tell(self, well: bool, words: str) -> None:
        self.told.append((self.loop.time() - START_S, well, words))

    def is_for(self, seconds: float, trouble: str | None) -> None:
        self.trouble = trouble
        self.loop.pass_(seconds)


@pytest.fixture
def path() -> Iterator[Path]:
    loop = FakeTimeLoop()
    yield Path(loop)
    loop.close()


def test_nothing_is_told_while_nobody_knows(path: Path) -> None:
    path.is_for(100.2, None)
    path.is_for(10, "")
    assert path.told == [(100.5, True, "")]


def test_a_loss_is_told_once_it_has_lasted_and_its_end_at_once(path: Path) -> None:
    path.is_for(10.2, "")
    path.is_for(10, "no BPF here")
    path.is_for(10, "")
    assert path.told == [(0, True, ""), (10.5 + FAULT_AFTER_S, False, "no BPF here"), (20.5, True, "")]


@pytest.mark.parametrize("between", ["", None])
def test_what_is_over_sooner_is_no_loss(path: Path, between: str | None) -> None:
    path.is_for(10, "")
    for _ in range(5):
        path.is_for(FAULT_AFTER_S - POLL_S / 2, "for a moment")
        path.is_for(POLL_S, between)
    assert path.told == [(0, True, "")]


def test_a_loss_from_the_start_is_told(path: Path) -> None:
    path.is_for(10, "no BPF here")
    assert path.told == [(FAULT_AFTER_S, False, "no BPF here")]
