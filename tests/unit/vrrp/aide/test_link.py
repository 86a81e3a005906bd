"""The virtual routers' end of the pipe to their aide, when that hangs or ends again and again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pylvs.host import own_python
from pylvs.vrrp.aide import link
from pylvs.vrrp.aide.link import AideLink
from pylvs.vrrp.aide.messages import Finish
from pylvs.vrrp.loop import Loop

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(8)"
LEAVES_A_CHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HANGS!r}], close_fds=False); {HANGS}"
)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(lambda error: pytest.fail(repr(error)))
    yield made
    made.close()


@pytest.fixture
def run_as_aide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program instead of the aide."""

    def run(program: str) -> None:
        monkeypatch.setattr(own_python, "command", lambda *_: [sys.executable, "-c", program])

    return run


@pytest.mark.parametrize("program", [HANGS, LEAVES_A_CHILD])
def test_the_end_comes_although_the_aide_or_what_it_started_hangs(
    loop: Loop, run_as_aide: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    run_as_aide(program)
    monkeypatch.setattr(link, "FINISH_S", 0.5)
    made = AideLink(loop, "text", lambda message: None)
    made.start()
    loop.at(loop.now + 5, loop.stop)
    begin = time.monotonic()
    time.sleep(0.3)
    made.finish(Finish(), loop.stop)
    loop.run()
    assert time.monotonic() - begin < 4
    assert not made.lives


def test_one_that_ends_again_and_again_is_started_ever_more_seldom(
    loop: Loop, run_as_aide: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_aide("")
    monkeypatch.setattr(link, "AGAIN_S", 0.1)
    started: list[float] = []
    popen = subprocess.Popen

    def counted(*given: Any, **more: Any) -> Any:
        started.append(time.monotonic())
        return popen(*given, **more)

    monkeypatch.setattr(subprocess, "Popen", counted)
    made = AideLink(loop, "text", lambda message: None)
    made.start()
    loop.at(loop.now + 3, loop.stop)
    loop.run()
    assert 3 <= len(started) <= 6
