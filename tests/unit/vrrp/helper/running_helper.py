"""An aide as the router process has it: started, told, asked, ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pylvs
from pylvs.model.scripts import Script
from pylvs.model.vrrp import Track, Tracks, VrrpConfiguration, VrrpInstance, VrrpScript
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper.link import Configure
from pylvs.vrrp.ipc import ConnectionClosed, MessageSocket
from tests.waiting import PATIENCE_S, until

# What the aide gives others time for, as long as a busy machine may need; and pauses that no test has to wait for.
PATIENT = {
    "notify.fifos.FINISH_S": PATIENCE_S,
    "notify.fifos.READER_FINISH_S": PATIENCE_S,
    "notify.fifos.FIRST_S": 0.05,
    "notify.serial_scripts.FINISH_S": PATIENCE_S,
    "notify.mail.FINISH_S": PATIENCE_S,
    "vrrp.helper.files.POLL_S": 0.05,
}


@dataclass
class Started:
    """One aide."""

    process: subprocess.Popen[bytes]
    pipe: MessageSocket
    log: Path
    heard: list[Any] = field(default_factory=list)

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.pipe.send(message)
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_WRITE)
            while self.pipe.unsent:
                assert selector.select(PATIENCE_S)
                self.pipe.flush()

    def listen(self, patience_s: float = 0.05) -> None:
        """What it says, for a moment. Raises Closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            if selector.select(patience_s):
                self.heard += self.pipe.receive()

    def until(self, holds: Callable[[], bool]) -> None:
        """Listen until it is so."""

        def heard() -> bool:
            with contextlib.suppress(ConnectionClosed):
                self.listen()
            return holds()

        until(lambda: holds() or heard(), lambda: f"{self.heard}\n{self.log.read_text()}")

    def last(self, name: str) -> Any:
        """The last that it said of that name."""
        return next((each for each in reversed(self.heard) if each.name == name), None)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def run_helper(
    folder: Path, log_format: str = "text", stderr_closed: bool = False, constants: Mapping[str, float] | None = None
) -> Iterator[Started]:
    """It is killed at the end, if it still runs then. `constants` are pylvs's, by their names, that it runs with."""
    ours, its = socket.socketpair()
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
    started = Started(process, MessageSocket(ours), log)
    try:
        yield started
    finally:
        started.pipe.close()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()


def instance(name: str = "VI", **fields: Any) -> VrrpInstance:
    return VrrpInstance(name=name, vrid=1, **fields)


def shell(words: str) -> Script:
    return Script(("/bin/sh", "-c", words))


def tracked(name: str, words: str, **fields: Any) -> VrrpScript:
    return VrrpScript(name=name, script=shell(words), track=Track(name), **fields)


def scripts(*those: VrrpScript) -> Configure:
    """A configuration in which they are tracked."""
    tracks = Tracks(scripts=tuple(each.track for each in those))
    return Configure(GlobalSettings(), VrrpConfiguration(instances=(instance(tracks=tracks),), scripts=those))
