"""The log of the router process, which its helper process writes."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from pylvs.vrrp.helper.link import Finish, LogLine
from tests.unit.vrrp.helper.running_helper import run_helper
from tests.waiting import PATIENCE_S


def test_the_last_line_is_written_before_the_connection_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(reader, bytes(1 << 16))
        with run_helper(tmp_path, constants={"system.logs.FLUSH_S": PATIENCE_S}) as helper:
            helper.until(lambda: helper.greeted)
            helper.send(LogLine("info", "the last line"), Finish())
            ended = select.poll()
            ended.register(helper.socket, select.POLLHUP)
            closed = ended.poll(1000)  # a second without a sign of the defect suffices
            if not closed:
                os.read(reader, 1 << 20)
                assert ended.poll(PATIENCE_S * 1000)
            helper.process.kill()  # as the router process does
        assert b"the last line" in os.read(reader, 1 << 20)
    finally:
        os.close(reader)
