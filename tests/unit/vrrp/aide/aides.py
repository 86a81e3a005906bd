"""An aide as the router process has it: started, told, asked, ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pylvs
from pylvs.model.scripts import Script
from pylvs.model.vrrp import Track, Tracks, VrrpConfiguration, VrrpInstance, VrrpScript
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.aide.messages import Configure
from pylvs.vrrp.pipe import Closed, Pipe

LONG_S = 60.0


@dataclass
class Started:
    """One aide."""

    process: subprocess.Popen[bytes]
    pipe: Pipe
    log: Path
    heard: list[Any] = field(default_factory=list)

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.pipe.send(message)
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_WRITE)
            while self.pipe.unsent:
                assert selector.select(LONG_S)
                self.pipe.flush()

    def listen(self, patience_s: float = 0.05) -> None:
        """What it says, for a moment. Raises Closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            if selector.select(patience_s):
                self.heard += self.pipe.receive()

    def until(self, holds: Callable[[], bool], patience_s: float = LONG_S) -> None:
        deadline = time.monotonic() + patience_s
        while not holds():
            assert time.monotonic() < deadline, f"{self.heard}\n{self.log.read_text()}"
            with contextlib.suppress(Closed):
                self.listen()

    def last(self, name: str) -> Any:
        """The last that it said of that name."""
        return next((each for each in reversed(self.heard) if each.name == name), None)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(LONG_S)


@contextlib.contextmanager
def aide(folder: Path, log_format: str = "text", stderr_closed: bool = False) -> Iterator[Started]:
    """It is killed at the end, if it still runs then."""
    ours, its = socket.socketpair()
    log = folder / "log"
    command = ["/bin/sh", "-c", 'exec "$0" "$@" 2>&-'] if stderr_closed else []
    with its, open(log, "wb") as out:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "pylvs.vrrp.aide", str(its.fileno()), log_format],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(Path(pylvs.__file__).parents[1])},
        )
    started = Started(process, Pipe(ours), log)
    try:
        yield started
    finally:
        started.pipe.close()
        try:
            process.wait(LONG_S)
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
