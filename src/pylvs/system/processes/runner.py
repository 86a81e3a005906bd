"""The process that runs scripts: it forks them for a daemon, enforces their timeouts, ends them and reaps them.

This process is small and has one thread, so fork(2) is cheap and safe. Neither holds for a daemon with an event loop,
thousands of checks and a resolver's threads. A ping is answered at once, so the daemon notices when this process hangs.
When the daemon closes its end, or dies, this process kills all running scripts.

Each script is a "child subreaper" (prctl(2)), and so is this process. A script's descendants stay below the script
until it ends. Background processes that it leaves then live on, and this process reaps them.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from pylvs.model.dataclass import dataclass, field
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.system import syscalls
from pylvs.system.processes import channel, child
from pylvs.system.processes.accounts import insecurities, located
from pylvs.system.processes.tree import Process, alive, process, send, stopped_tree

GRACE_S = 2.0  # between SIGTERM and SIGKILL, as keepalived has it
_STUBBORN_S = 2.0  # after SIGKILL, for processes that sleep uninterruptibly in the kernel
_TICK_S = 0.02  # interval of checks whether processes that got a signal have ended
_LONGEST_SLEEP_S = 3600.0  # a selector cannot wait for the infinite deadline of a FIFO's reader
KEPT_BYTES = 8192  # of a script's output; the rest is read and discarded
_MOST_FAILURE = 8192  # bytes of the reason why a script could not be started
# This machine has too few processes, memory or files: no fault of the script. A child marks such a failure.
_SHORTAGES = (errno.EAGAIN, *syscalls.SHORTAGES)
_SHORTAGE_MARK = b"\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A script to run; without `timeout_s` it may run for ever."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]  # besides that of this process
    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    secure: bool
    umask: int
    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The end of a script, or with `late` its timeout: the end follows when its processes have ended."""

    id: int
    late: bool = False
    status: int | None = None
    signal: int = 0
    timed_out: bool = False
    problem: str = ""
    unable: bool = False
    output: str = ""
    lost: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Running:
    """One script from its request to its result."""

    number: int
    pid: int
    started: float
    timeout_s: float
    deadline: float
    output: int | None  # read ends of pipes
    errors: int | None
    kept: bytearray = field(default_factory=bytearray)
    lost: int = 0
    failure: bytearray = field(default_factory=bytearray)  # why it could not be started
    status: int | None = None  # of waitpid(2)
    victims: list[Process] = field(default_factory=list)
    stage: str = "runs"  # then "asked" (SIGTERM), "killed" (SIGKILL)
    timed_out: bool = False


class Runner:
    """Runs the scripts of one daemon."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, Running] = {}  # by pid
        self._open = True

    def serve(self) -> None:
        """Run scripts until the other end of the channel closes."""
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)  # for the daemon; this process ends with it
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._selector.register(self._end, selectors.EVENT_READ, self._receive)
        self._selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, 4096))
        self._send(channel.greeting())
        while self._open:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            for each in list(self._running.values()):
                self._look_after(each)
        for each in list(self._running.values()):
            self._kill(each)

    def _patience(self) -> float | None:
        if any(each.stage != "runs" or each.status is not None for each in self._running.values()):
            return _TICK_S
        nearest = min((each.deadline for each in self._running.values()), default=None)
        return None if nearest is None else min(max(0.0, nearest - time.monotonic()), _LONGEST_SLEEP_S)

    def _receive(self) -> None:
        try:
            message, descriptors = channel.receive(self._end)
            channel.close_all(descriptors)
            if message == child.PING:
                self._send(child.PONG)
            elif "kill" in message:
                for script in list(self._running.values()):
                    if script.number == message["kill"]:
                        self._kill(script)
            else:
                self._start(int(message["id"]), from_plain(Run, message.get("run")))
        except (EOFError, ConnectionError):  # the daemon has ended, perhaps before it has read a result
            self._open = False
        except (channel.BadMessage, Malformed, KeyError, TypeError, ValueError) as error:
            print(f"an invalid request ({error})", file=sys.stderr)  # the daemon logs it
            self._open = False

    def _answer(self, script: Running) -> None:
        status = None if script.status is None else os.waitstatus_to_exitcode(script.status)  # negative: a signal
        result = Answer(
            id=script.number,
            status=None if status is None or status < 0 or script.failure else status,
            signal=0 if status is None else max(0, -status),
            timed_out=script.timed_out,
            problem=script.failure.removeprefix(_SHORTAGE_MARK).decode(errors="replace"),
            unable=script.failure.startswith(_SHORTAGE_MARK),
            output=script.kept.decode(errors="replace"),
            lost=script.lost,
            seconds=script.timeout_s if script.timed_out else round(time.monotonic() - script.started, 6),
        )
        self._send(to_plain(result))

    def _send(self, message: channel.Message) -> None:
        try:
            self._end.send(channel.encode(message))
        except OSError:
            self._open = False

    def _start(self, number: int, request: Run) -> None:
        pipes: list[int] = []
        try:
            pipes += os.pipe2(os.O_CLOEXEC)
            pipes += os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError as error:
            for descriptor in pipes:
                os.close(descriptor)
            failed = Running(number, 0, time.monotonic(), 0.0, 0.0, None, None)
            failed.failure += _SHORTAGE_MARK + f"cannot be started: {error.strerror}".encode()
            self._answer(failed)
            return
        output, its_output, errors, its_errors = pipes
        if pid == 0:
            _become(request, its_output, its_errors)
        os.close(its_output)
        os.close(its_errors)
        now, timeout_s = time.monotonic(), math.inf if request.timeout_s is None else request.timeout_s
        script = Running(number, pid, now, timeout_s, now + timeout_s, output, errors)
        self._running[pid] = script
        for descriptor in (output, errors):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, lambda fd=descriptor: self._read(script, fd))

    def _read(self, script: Running, descriptor: int) -> bool:
        """Read a pipe once; return whether there may be more."""
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if not chunk:
            self._close(script, descriptor)
            return False
        if descriptor == script.errors:
            script.failure += chunk[: _MOST_FAILURE - len(script.failure)]
        else:
            space = KEPT_BYTES - len(script.kept)
            script.kept += chunk[:space]
            script.lost += len(chunk) - min(space, len(chunk))
        return True

    def _close(self, script: Running, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        if descriptor == script.errors:
            script.errors = None
        else:
            script.output = None

    def _reap(self) -> None:
        """Reap every child that ended: scripts, and background processes that they left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                self._running[pid].status = status

    def _look_after(self, script: Running) -> None:
        now = time.monotonic()
        if script.stage == "runs":
            if script.status is not None:
                self._finish(script)
            elif now >= script.deadline:
                script.timed_out = True
                self._send(to_plain(Answer(id=script.number, late=True)))
                self._ask(script)
            return
        if script.status is not None and not any(map(alive, script.victims)):
            self._finish(script)
        elif now >= script.deadline:
            if script.stage == "asked":
                self._force(script)
            else:
                self._finish(script)

    def _ask(self, script: Running) -> None:
        """Send SIGTERM to the script and all its descendants."""
        root = process(script.pid)
        script.victims = stopped_tree(root) if root else []
        for number in (signal.SIGTERM, signal.SIGCONT):
            for victim in script.victims:
                send(victim, number)
        script.stage, script.deadline = "asked", time.monotonic() + GRACE_S

    def _force(self, script: Running) -> None:
        """Send SIGKILL to those that live, and to processes that they have forked since."""
        left: dict[Process, None] = {}
        for victim in [*script.victims, *([root] if (root := process(script.pid)) else [])]:
            if alive(victim) and victim not in left:
                left |= dict.fromkeys(stopped_tree(victim))
        for victim in left:
            send(victim, signal.SIGKILL)
        script.victims = list(left)
        script.stage, script.deadline = "killed", time.monotonic() + _STUBBORN_S

    def _kill(self, script: Running) -> None:
        """Send SIGKILL without SIGTERM first: the daemon has cancelled the script or closed its end."""
        if script.status is None:
            self._force(script)

    def _finish(self, script: Running) -> None:
        for descriptor in (script.errors, script.output):
            if descriptor is not None:
                # A background process may hold the pipe open and keep writing: stop after 16 reads.
                for _ in range(16):
                    if not self._read(script, descriptor):
                        break
        for descriptor in (script.errors, script.output):
            if descriptor is not None:
                self._close(script, descriptor)
        del self._running[script.pid]
        self._answer(script)


def _become(request: Run, output: int, errors: int) -> NoReturn:
    """In the child: drop all state of this process and execute the script. Errors are written to `errors`."""
    what = "cannot be started"
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        errors = os.dup2(errors, 3, inheritable=False) if errors != 3 else errors
        for number in map(int, os.listdir("/proc/self/fd")):  # not range(limit): RLIMIT_NOFILE may be very large
            if number > errors:
                with contextlib.suppress(OSError):
                    os.close(number)
        signal.set_wakeup_fd(-1)
        for known in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(known, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(request.umask)
        arguments, environment = request.arguments, {**os.environ, **request.environment}
        path = located(arguments[0])
        if request.secure and (found := insecurities(path, request.uid)):
            _give_up(errors, f"not run as root: {'; '.join(found)}")
        what = f"cannot become {request.user}"
        if os.geteuid() == 0:
            os.setgroups(request.groups)
        if (os.getgid(), os.getuid()) != (request.gid, request.uid):
            os.setresgid(request.gid, request.gid, request.gid)
            os.setresuid(request.uid, request.uid, request.uid)
        what = f"{path}: cannot be run as {request.user}"
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            os.execve(path, arguments, environment)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            os.execve("/bin/sh", ["/bin/sh", path, *arguments[1:]], environment)  # no "#!", as execvp(3) does
    except OSError as error:
        _give_up(errors, f"{what}: {error.strerror}", error.errno in _SHORTAGES)
    except BaseException as error:
        _give_up(errors, f"{what}: {error}")
    os._exit(127)


def _give_up(errors: int, text: str, shortage: bool = False) -> NoReturn:
    os.write(errors, (_SHORTAGE_MARK if shortage else b"") + text.encode(errors="replace"))
    os._exit(127)


def _be_killed_before_the_daemon() -> None:
    """Revert OOMScoreAdjust= of the daemon's unit: without memory the kernel must end a script, not the daemon."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def main(descriptor: int, folder: str) -> None:
    """Serve the daemon at the other end of this socket; scripts begin in its working directory."""
    syscalls.prctl(syscalls.PR_SET_NAME, b"pylvs-scripts")
    _be_killed_before_the_daemon()
    with contextlib.suppress(OSError):
        os.chdir(folder)
    with socket.socket(fileno=descriptor) as end:
        end.set_inheritable(False)
        Runner(end).serve()


if __name__ == "__main__":
    # Not this copy's main: `__main__` has no names of types, by which requests are converted.
    importlib.import_module("pylvs.system.processes.runner").main(int(sys.argv[1]), sys.argv[2])
