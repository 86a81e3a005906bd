"""A thread for calls that may block: without a thread, and at the end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pylvs.system.daemon_thread import DaemonThread
from tests.waiting import PATIENCE_S


def test_calls_run_in_order_and_raise_in_their_caller() -> None:
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


def test_a_call_for_which_there_is_no_thread_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread, seen = DaemonThread("t"), list[str]()
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refused)
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
from pylvs.system.daemon_thread import DaemonThread
async def main():
    begun = threading.Event()
    thread = DaemonThread("t")
    asyncio.get_running_loop().run_in_executor(thread, lambda: (begun.set(), threading.Event().wait()))
    begun.wait()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
