"""Starting and stopping sync daemons."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from pylvs.model.errors import PylvsError
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.sync import control, files
from pylvs.sync.files import DaemonFiles
from pylvs.system import lock


def test_a_daemon_that_is_not_ready_in_time_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout kills the process that started it alone."""
    monkeypatch.setattr(files, "DIRECTORY", str(tmp_path))
    daemons = list[int]()

    def run(command: list[str], **_: object) -> NoReturn:
        ready, claimed = os.pipe()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            made = DaemonFiles()
            made.make()
            lock.claim(made.pid(MASTER))
            os.write(claimed, b"1")
            signal.pause()
            os._exit(0)
        daemons.append(child)
        os.read(ready, 1)
        for each in ready, claimed:
            os.close(each)
        raise subprocess.TimeoutExpired(command, control.START_S)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(PylvsError, match="the master sync daemon is not ready after"):
        control.start(SyncDaemon(MASTER, "eth0"))
    running = DaemonFiles().holder(MASTER)
    if running:
        os.kill(running, signal.SIGKILL)
    _, status = os.waitpid(daemons[0], 0)
    assert not running
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert not os.path.exists(DaemonFiles().directory)
