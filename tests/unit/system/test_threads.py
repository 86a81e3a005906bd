"""Calls in threads: their results, on a machine without a free thread, and at the end of the process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

from pylvs.system.threads import DaemonThread, start, to_thread
from tests.waiting import PATIENCE_S


def without_thread(_: threading.Thread) -> NoReturn:
    raise RuntimeError("can't start new thread")


def test_results_and_errors_reach_the_caller() -> None:
    async def scenario() -> None:
        assert await to_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await to_thread(lambda: 1 // 0)
        with pytest.raises(RuntimeError, match="of the call"):
            await to_thread(fail)

    def fail() -> None:
        raise RuntimeError("of the call")

    asyncio.run(scenario())


def test_a_call_for_which_there_is_no_thread_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even later, by a thread that is busy now: its caller has given up."""
    seen: list[str] = []

    async def scenario() -> None:
        began, release = threading.Event(), threading.Event()

        def block() -> bool:
            began.set()
            return release.wait(PATIENCE_S)

        with ThreadPoolExecutor(2) as executor:
            asyncio.get_running_loop().set_default_executor(executor)
            busy = start(block)
            assert began.wait(PATIENCE_S)
            with monkeypatch.context() as limit:
                limit.setattr(threading.Thread, "start", without_thread)
                with pytest.raises(BlockingIOError, match="can't start new thread"):
                    await to_thread(seen.append, "refused")
            release.set()
            assert await busy
            await to_thread(seen.append, "later")

    asyncio.run(scenario())
    assert seen == ["later"]


def test_calls_of_a_daemon_thread_run_in_order_and_raise_in_their_caller() -> None:
    thread, seen = DaemonThread("t"), list[int]()
    calls = [thread.submit(seen.append, number) for number in range(3)]
    failed = thread.submit(lambda: 1 // 0)
    for call in calls:
        call.result(PATIENCE_S)
    assert seen == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        failed.result(PATIENCE_S)
    thread.shutdown()
    assert thread.submit(lambda: 7).result(PATIENCE_S) == 7
    thread.shutdown()


def test_a_daemon_thread_runs_no_call_for_which_there_was_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    thread, seen = DaemonThread("t"), list[str]()
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", without_thread)
        with pytest.raises(BlockingIOError):
            thread.submit(seen.append, "refused")
    thread.submit(seen.append, "later").result(PATIENCE_S)
    assert seen == ["later"]
    thread.shutdown()


def test_a_call_whose_caller_has_given_up_does_not_run() -> None:
    thread, seen, blocked = DaemonThread("t"), list[int](), threading.Event()
    first = thread.submit(blocked.wait, PATIENCE_S)
    second = thread.submit(seen.append, 2)
    assert second.cancel()
    blocked.set()
    assert first.result(PATIENCE_S)
    thread.submit(seen.append, 3).result(PATIENCE_S)
    assert seen == [3]
    thread.shutdown()


def test_a_blocked_call_does_not_delay_the_end_of_the_process() -> None:
    code = """
import asyncio, threading
from pylvs.system.threads import DaemonThread
async def main():
    begun = threading.Event()
    thread = DaemonThread("t")
    asyncio.get_running_loop().run_in_executor(thread, lambda: (begun.set(), threading.Event().wait()))
    begun.wait()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
