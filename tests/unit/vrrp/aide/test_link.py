"""The virtual routers' end of the pipe to their aide, when that hangs or ends again and again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.system import self_exec
from pylvs.vrrp.aide.link import AGAIN_S, FINISH_S, LONGEST_S, STEADY_S, AideLink
from pylvs.vrrp.aide.messages import Finish
from tests.unit.vrrp.loops import FakeTimeLoop
from tests.waiting import until

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
LEAVES_A_CHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HANGS!r}], close_fds=False); {HANGS}"
)


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    made = FakeTimeLoop()
    yield made
    made.close()


@pytest.mark.parametrize(("program", "processes"), [(HANGS, 1), (LEAVES_A_CHILD, 2)])
def test_the_end_comes_although_the_aide_or_what_it_started_hangs(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, processes: int
) -> None:
    started = tmp_path / "started"  # a line of each process that hangs
    ended: list[bool] = []
    with open(started, "wb") as out:
        code = f"import os; os.dup2({out.fileno()}, 1); {program}"
        monkeypatch.setattr(self_exec, "command", lambda *_: [sys.executable, "-c", code])
        children = _children(monkeypatch, pass_fds=[out.fileno()])
        made = AideLink(loop, "text", lambda message: None)
        made.start()
    (child,) = children
    try:
        until(lambda: len(started.read_bytes()) == processes)
        made.finish(Finish(), lambda: ended.append(True))
        loop.pass_(FINISH_S - 0.1)
        assert (ended, made.lives, child.poll()) == ([], True, None)
        loop.pass_(0.2)
        assert (ended, made.lives, child.poll()) == ([True], False, -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _children(monkeypatch: pytest.MonkeyPatch, pass_fds: list[int]) -> list[subprocess.Popen[bytes]]:
    """The processes that are started from here on, with these descriptors, too."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*given: Any, **more: Any) -> Any:
        more["pass_fds"] = [*more["pass_fds"], *pass_fds]
        found.append(popen(*given, **more))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


class Aides:
    """Takes the place of processes: each lives so long, its end of the pipe being all that there is of it."""

    def __init__(self, loop: FakeTimeLoop, *lives_s: float) -> None:
        self.loop = loop
        self.lives_s = list(lives_s)
        self.started: list[float] = []  # when, since the first

    def __call__(self, command: list[str], *, pass_fds: list[int], **_: object) -> Aides:
        self.started.append(self.loop.now - 1000.0)
        end = os.dup(pass_fds[0])
        self.loop.at(self.loop.now + (self.lives_s.pop(0) if self.lives_s else 0.0), lambda: os.close(end))
        return self

    def kill(self) -> None:
        """It has ended."""

    def wait(self) -> None:
        """It has been waited for."""


def test_one_that_ends_again_and_again_is_started_ever_more_seldom(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    aides = Aides(loop)
    monkeypatch.setattr(subprocess, "Popen", aides)
    AideLink(loop, "text", lambda message: None).start()
    loop.pass_(300)
    assert (AGAIN_S, LONGEST_S) == (1, 60)
    assert aides.started == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_one_that_lived_long_is_started_again_as_soon_as_at_first(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    aides = Aides(loop, 0, 0, STEADY_S, STEADY_S / 2, 1e6)
    monkeypatch.setattr(subprocess, "Popen", aides)
    made = AideLink(loop, "text", lambda message: None)
    made.start()
    loop.pass_(300)
    assert aides.started == [0, 1, 3, 3 + 60 + 1, 64 + 30 + 2]
    made.finish(Finish(), lambda: None)
    loop.pass_(FINISH_S)
    loop.pass_(1e6)  # the last one closes its end
