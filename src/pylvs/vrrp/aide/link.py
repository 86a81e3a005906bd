"""The virtual routers' end of the pipe to their aide: started when needed, and again whenever it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from pylvs.model.printing import one_line
from pylvs.system import self_exec
from pylvs.vrrp.aide.messages import Configure, Log
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.pipe import Closed, Pipe

AGAIN_S, LONGEST_S = 1.0, 60.0  # after it ended by itself; twice as long each time
STEADY_S = 60.0  # whoever lived so long is started again as soon as at first
FINISH_S = 19.0  # for what it tells at the end, which it bounds itself; `pylvs run` waits a little longer


class AideLink:
    """The aide, or its absence; what is said while there is none is lost, except the configuration."""

    def __init__(self, loop: Loop, log_format: str, hear: Callable[[Any], None]) -> None:
        self._loop = loop
        self._format = log_format
        self._hear = hear
        self._pipe: Pipe | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._configuration: Configure | None = None
        self._ended: Callable[[], None] | None = None
        self._began = 0.0
        self._pause_s = 0.0  # before the next is started

    @property
    def lives(self) -> bool:
        """Whether there is one."""
        return self._pipe is not None

    def start(self) -> None:
        """Make it; it takes over the log, too."""
        self._began = self._loop.now
        ours, its = socket.socketpair()
        with its:
            command = self_exec.command("pylvs.vrrp.aide", str(its.fileno()), self._format)
            try:
                self._child = subprocess.Popen(
                    command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                ours.close()
                os.write(2, f"pylvs: the aide of the virtual routers cannot be started: {error.strerror}\n".encode())
                self._loop.at(self._loop.now + LONGEST_S, self.start)
                return
        self._pipe = Pipe(ours)
        self._loop.watch(ours.fileno(), self._read)
        if self._configuration is not None:
            self.say(self._configuration)

    def say(self, message: Any) -> None:
        """Tell it."""
        if isinstance(message, Configure):
            self._configuration = message
        if self._pipe is None:
            if isinstance(message, Log):  # which is not lost then
                with contextlib.suppress(OSError):
                    os.write(2, f"pylvs: {one_line(message.text)}\n".encode())
            return
        try:
            self._pipe.send(message)
        except Closed:
            self._lost()
            return
        self._expect(self._pipe)

    def finish(self, message: Any, ended: Callable[[], None]) -> None:
        """Say the last word; `ended` is called when it has gone, in bounded time."""
        self._ended = ended
        if self._pipe is None:
            ended()
            return
        self.say(message)
        self._loop.at(self._loop.now + FINISH_S, self._give_up)

    def _give_up(self) -> None:
        if self._pipe is not None:  # which what it started may hold open
            self._lost()

    def _read(self) -> None:
        assert self._pipe is not None
        try:
            messages = self._pipe.receive()
        except Closed:
            self._lost()
            return
        for message in messages:
            self._hear(message)

    def _expect(self, pipe: Pipe) -> None:
        self._loop.watch(pipe.fileno(), self._read, (lambda: self._flush(pipe)) if pipe.unsent else None)

    def _flush(self, pipe: Pipe) -> None:
        try:
            pipe.flush()
        except Closed:
            self._lost()
            return
        self._expect(pipe)

    def _lost(self) -> None:
        pipe, child = self._pipe, self._child
        self._pipe = self._child = None
        if pipe is not None:
            self._loop.forget(pipe.fileno())
            pipe.close()
        if child is not None:
            child.kill()
            child.wait()
        if self._ended is not None:
            self._ended()
            return
        steady = self._loop.now - self._began >= STEADY_S
        self._pause_s = AGAIN_S if steady or not self._pause_s else min(2 * self._pause_s, LONGEST_S)
        self._loop.at(self._loop.now + self._pause_s, self._again)

    def _again(self) -> None:
        self.start()
        self.say(Log("error", "the aide of the virtual routers ended by itself and was started again"))
