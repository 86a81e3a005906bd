"""A process that logs does not wait for the reader of its log."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading

import pytest

from pylvs.system import logs
from pylvs.system.log_writer import BackgroundWriter
from pylvs.system.sockets import write_without_waiting
from tests.waiting import PATIENCE_S, until

LOGS_MUCH = f"""
import sys
from pylvs.system import logs
logs.set_up("text", background=True)
for number in range(20_000):
    logs.get_logger().info("a line without a reader", number=number)
print("done", flush=True)
sys.stdin.read()
logs.FLUSH_S = {PATIENCE_S}
logs.flush()
"""


def test_a_reader_that_stops_delays_nothing_and_learns_what_it_missed() -> None:
    stopped, written = threading.Event(), list[str]()

    def write(line: str) -> None:
        stopped.wait(PATIENCE_S)
        written.append(line)

    writer = BackgroundWriter(write, most=3)
    writer.put("0")
    until(writer._queue.empty, "the thread waits with the first line")
    for number in range(1, 10):
        writer.put(str(number))
    stopped.set()
    writer.flush(PATIENCE_S)
    assert written == ["0", "pylvs: lost 6 log lines: stderr was not read", "1", "2", "3"]


def test_flush_waits_a_limited_time() -> None:
    never = threading.Event()

    def wait(_: str) -> None:
        never.wait()

    writer = BackgroundWriter(wait, most=1)
    writer.flush(0.01)
    for _ in range(3):
        writer.put("x")
    writer.flush(0.01)
    never.set()


def test_a_process_whose_stderr_is_a_full_pipe_continues() -> None:
    code = [sys.executable, "-c", LOGS_MUCH]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"done\n", "it has not waited for this reader"
        process.stdin.close()
        lines = process.stderr.read().splitlines()
    assert len(lines) > 10_000
    assert any(line.startswith(b"pylvs: lost ") for line in lines)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_write_without_waiting_fails_instead(kind: str) -> None:
    if kind == "pipe":
        read, write = os.pipe()
    else:
        ends = socket.socketpair()
        read, write = (end.detach() for end in ends)
    assert write_without_waiting(write, b"x" * 1000)
    while write_without_waiting(write, b"x" * 1000):
        pass
    assert os.get_blocking(write), "others share the descriptor"
    os.close(read)
    assert not write_without_waiting(write, b"x")
    os.close(write)


def test_a_line_has_the_time_of_its_event() -> None:
    out = io.StringIO()
    logs.set_up("json", out, {})
    logs.get_logger().info("late", **{logs.TIME: 86400.25})
    assert '"time": "1970-01-02T00:00:00.250000Z"' in out.getvalue()
    assert logs.TIME not in out.getvalue()
