"""Supervision of a helper process that hangs or exits repeatedly."""

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

from pylvs.system import processes as programs
from pylvs.vrrp.helper.link import FINISH_S, MAX_RESTART_S, RESTART_S, STEADY_S, HelperLink
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.waiting import until

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
LEAVES_A_CHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HANGS!r}], close_fds=False); {HANGS}"
)


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    loop = FakeTimeLoop()
    yield loop
    loop._selector.close()


@pytest.mark.parametrize(("program", "processes"), [(HANGS, 1), (LEAVES_A_CHILD, 2)])
def test_finish_ends_although_the_helper_or_its_child_hangs(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, processes: int
) -> None:
    started = tmp_path / "started"  # one line of each process
    finished: list[bool] = []
    with open(started, "wb") as out:
        code = f"import os; os.dup2({out.fileno()}, 1); {program}"
        monkeypatch.setattr(programs, "command", lambda *_: [sys.executable, "-c", code])
        children = _children(monkeypatch, pass_fds=[out.fileno()])
        link = HelperLink(loop, "text", lambda message: None)
        link.start()
    (child,) = children
    try:
        until(lambda: len(started.read_bytes()) == processes)
        link.finish(lambda: finished.append(True))
        loop.pass_(FINISH_S - 0.1)
        assert (finished, link.connected, child.poll()) == ([], True, None)
        loop.pass_(0.2)
        assert (finished, link.connected, child.poll()) == ([True], False, -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _children(monkeypatch: pytest.MonkeyPatch, pass_fds: list[int]) -> list[subprocess.Popen[bytes]]:
    """Record the processes that are started, and pass them more descriptors."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def recorded(*given: Any, **more: Any) -> Any:
        more["pass_fds"] = [*more["pass_fds"], *pass_fds]
        found.append(popen(*given, **more))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return found


class FakeChildren:
    """Replaces subprocess.Popen: each process lives for a time, during which it keeps its socket open."""

    def __init__(self, loop: FakeTimeLoop, *lives_s: float) -> None:
        self.loop = loop
        self.lives_s = list(lives_s)
        self.started: list[float] = []  # seconds since the first

    def __call__(self, command: list[str], *, pass_fds: list[int], **_: object) -> FakeChildren:
        self.started.append(self.loop.now - 1000.0)
        end = os.dup(pass_fds[0])
        self.loop.at(self.loop.now + (self.lives_s.pop(0) if self.lives_s else 0.0), lambda: os.close(end))
        return self

    def kill(self) -> None:
        pass

    def wait(self) -> None:
        pass


def test_repeated_exits_double_the_delay_of_the_restart(loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren(loop)
    monkeypatch.setattr(subprocess, "Popen", children)
    HelperLink(loop, "text", lambda message: None).start()
    loop.pass_(300)
    assert (RESTART_S, MAX_RESTART_S) == (1, 60)
    assert children.started == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_long_run_resets_the_delay(loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren(loop, 0, 0, STEADY_S, STEADY_S / 2, 1e6)
    monkeypatch.setattr(subprocess, "Popen", children)
    link = HelperLink(loop, "text", lambda message: None)
    link.start()
    loop.pass_(300)
    assert children.started == [0, 1, 3, 3 + 60 + 1, 64 + 30 + 2]
    link.finish(lambda: None)
    loop.pass_(FINISH_S)
    loop.pass_(1e6)  # the last one closes its end
