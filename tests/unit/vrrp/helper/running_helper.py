"""A helper process under test: start it, send messages, wait for results."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pylvs
from pylvs.model.checks import Script
from pylvs.model.vrrp import Track, Tracks, VrrpConfiguration, VrrpInstance, VrrpScript
from pylvs.model.wanted import GlobalSettings
from pylvs.system.processes import channel
from pylvs.vrrp.helper.link import Configure, Finish, FromHelper, ToHelper, decoded, encoded
from pylvs.vrrp.tracking import TrackedObject
from tests.waiting import PATIENCE_S, until

# Timeouts that a busy machine needs, and short delays for tests.
PATIENT = {
    "notify.fifos.FINISH_S": PATIENCE_S,
    "notify.fifos.READER_FINISH_S": PATIENCE_S,
    "notify.fifos.FIRST_S": 0.05,
    "system.processes.notify_scripts.FINISH_S": PATIENCE_S,
    "system.processes.notify_scripts.ORDERED_S": PATIENCE_S,
    "system.processes.scripts.LEASE_S": PATIENCE_S,
    "notify.mail.FINISH_S": PATIENCE_S,
    "notify.mail.START_S": PATIENCE_S,
    "vrrp.helper.track_file.POLL_S": 0.05,
}


@dataclass
class Started:
    """A running helper process."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    log: Path
    received: list[TrackedObject] = field(default_factory=list)
    reports: list[Any] = field(default_factory=list)  # of late results and of notify scripts
    greeted: bool = False

    def send(self, *messages: Any) -> None:
        self.socket.settimeout(PATIENCE_S)
        for message in messages:
            self.socket.send(channel.encode(encoded(message, ToHelper)))
            if isinstance(message, Finish):
                self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> None:
        """Receive what was sent so far."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                message, _ = channel.receive(self.socket)
                if "hello" in message:
                    self.greeted = True
                else:
                    found = decoded(message, FromHelper)
                    (self.received if isinstance(found, TrackedObject) else self.reports).append(found)

    def until(self, holds: Callable[[], bool]) -> None:
        """Receive until `holds`, and then what was sent before it did."""

        def held() -> bool:
            self.receive()
            return holds()

        until(held, lambda: f"{self.received}\n{self.log.read_text()}")
        self.receive()

    def last(self, name: str) -> Any:
        """The last message about a name."""
        return next((each for each in reversed(self.received) if each.track.name == name), None)

    def ended(self) -> int:
        """Wait for its end and return the exit status. As the router process does, kill it if it closes its socket."""
        if self.socket.fileno() >= 0:
            self.socket.settimeout(PATIENCE_S)
            while self.socket.recv(channel.MAX_PACKET):
                pass
            self.process.kill()
        status = self.process.wait(PATIENCE_S)
        return 0 if status == -signal.SIGKILL else status


@contextlib.contextmanager
def run_helper(
    folder: Path,
    log_format: str = "text",
    stderr_closed: bool = False,
    constants: Mapping[str, float] | None = None,
) -> Iterator[Started]:
    """Run a helper process, and kill it at the end. Replace pylvs's constants."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = folder / "log"
    code = "from importlib import import_module; import runpy\n"
    for name, value in (PATIENT | dict(constants or {})).items():
        module, _, constant = name.rpartition(".")
        code += f"import_module('pylvs.{module}').{constant} = {value}\n"
    code += "runpy.run_module('pylvs.vrrp.helper', run_name='__main__', alter_sys=True)"
    command = ["/bin/sh", "-c", 'exec "$0" "$@" 2>&-'] if stderr_closed else []
    with its, open(log, "wb") as out:
        process = subprocess.Popen(
            [*command, sys.executable, "-c", code, str(its.fileno()), log_format],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(Path(pylvs.__file__).parents[1])},
        )
    started = Started(process, ours, log)
    try:
        yield started
    finally:
        started.socket.close()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()


def instance(name: str = "VI", **fields: Any) -> VrrpInstance:
    return VrrpInstance(name=name, vrid=1, **fields)


def shell(command_line: str) -> Script:
    return Script(("/bin/sh", "-c", command_line))


def tracked(name: str, command_line: str, **fields: Any) -> VrrpScript:
    return VrrpScript(name=name, script=shell(command_line), track=Track(name), **fields)


def scripts(*those: VrrpScript) -> Configure:
    """A configuration that tracks these scripts."""
    tracks = Tracks(scripts=tuple(each.track for each in those))
    return Configure(GlobalSettings(), VrrpConfiguration(instances=(instance(tracks=tracks),), scripts=those))
