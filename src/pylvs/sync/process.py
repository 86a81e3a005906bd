"""The program of a sync daemon: `python -m pylvs.sync.process PARAMETERS ANNOUNCE OWNER`.

It ends when the daemon works, or with the reason on stderr that it does not. The daemon is two processes. The
supervisor has the lock. It starts the worker again if that ends, and kills one that hangs. A backup has a third
process, the receiver.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import select
import signal
import sys
import time
from typing import NoReturn

from pylvs.model.errors import PylvsError
from pylvs.model.sync.daemons import SyncDaemon
from pylvs.sync.files import DaemonFiles
from pylvs.system import lock, syscalls
from pylvs.system.lease import Lease
from pylvs.system.processes import import_asyncio

NAME = b"pylvs-sync"
RESTART_S, MAX_RESTART_S, STEADY_S = 0.5, 10.0, 60.0
PAUSE_S = 0.1
TICK_S = 1.0  # of the lease
# Without progress, after which a worker is killed. It waits 10 s for the lock of the tables, and loads a program.
LEASE_S = 60.0
FIRST_LEASE_S = 300.0  # until its first turn: it makes tables, for which a slow machine loads all programs for minutes
ABANDONED = 3  # exit status of a worker whose network namespace nothing else uses
_READY = b"\1"
_LONGEST_REASON = 1 << 16
_TURN = 8  # bytes of a number

# late: the supervisor stays small; each worker imports what it needs


class Supervisor:
    """Starts the worker, and starts it again when it ends."""

    def __init__(self, daemon: SyncDaemon, owner: str, files: DaemonFiles, report: int) -> None:
        self._daemon, self._owner, self._files = daemon, owner, files
        self._report = report  # to the process that started the daemon; the first worker has it
        self._worker = 0
        self._ending = False
        self._turns = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the worker, which changes it with each turn
        self._former = ""  # how the former worker ended

    def run(self, announce: bool) -> int:
        """Run until SIGTERM; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        parameters = self._files.parameters(self._daemon.role)  # the worker writes them as soon as it works
        with contextlib.suppress(FileNotFoundError):
            os.unlink(parameters)
        delay_s = RESTART_S
        while not self._over():
            began_s, before = time.monotonic(), self._progress()
            self._worker = self._fork(announce)
            if self._over():
                self._end()
            status = self._wait(before)
            self._worker = 0
            if self._over() or os.waitstatus_to_exitcode(status) == ABANDONED or not os.path.exists(parameters):
                self._files.forget(self._daemon.role)
                return 0
            if time.monotonic() - began_s >= STEADY_S:
                delay_s = RESTART_S
            self._pause(delay_s)
            delay_s = min(2 * delay_s, MAX_RESTART_S)
            announce = True
        self._files.forget(self._daemon.role)
        return 0

    def _wait(self, before: bytes) -> int:
        """Wait for the end of the worker, which is killed when it hangs; return its status.

        `before` is the progress before it started.
        """
        end = os.pidfd_open(self._worker)
        lease, starts, hangs = Lease(FIRST_LEASE_S, TICK_S), True, False
        while not select.select([end], [], [], TICK_S)[0]:
            progress = self._progress()
            if starts and progress != before:
                lease, starts = Lease(LEASE_S, TICK_S), False
            if lease.follow(progress):
                hangs = True
                os.kill(self._worker, signal.SIGKILL)
        os.close(end)
        _, status = os.waitpid(self._worker, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        self._former = f"hung for {lease.length_s:g} s, and was killed" if hangs else f"ended {how}"
        return status

    def _turn(self) -> None:
        """Show that the worker makes progress."""
        self._turns[:_TURN] = (int.from_bytes(self._progress()) + 1).to_bytes(_TURN)

    def _progress(self) -> bytes:
        return self._turns[:_TURN]

    def _over(self) -> bool:
        return self._ending

    def _pause(self, delay_s: float) -> None:
        until_s = time.monotonic() + delay_s
        while not self._over() and time.monotonic() < until_s:  # a handler of a signal does not end a sleep
            time.sleep(PAUSE_S)

    def _end(self, *_: object) -> None:
        self._ending = True
        if self._worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGTERM)

    def _fork(self, announce: bool) -> int:
        handled = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        child = os.fork()
        if not child:
            for number in handled:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
            self._work(announce)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        if self._report >= 0:
            os.close(self._report)
            self._report = -1
        return child

    def _work(self, announce: bool) -> NoReturn:
        status = 1
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            import_asyncio()
            from pylvs.sync.worker import Work, run

            work = Work(self._daemon, self._owner, self._files, announce, self._former, ABANDONED)
            status = run(work, lambda: self._tell(_READY), self._turn)
        except PylvsError as error:
            self._tell(str(error).encode())
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}: this is a bug".encode())
        finally:
            os._exit(status)

    def _tell(self, what: bytes) -> None:
        if self._report >= 0:
            with contextlib.suppress(OSError):
                os.write(self._report, what[:_LONGEST_REASON])
            os.close(self._report)
            self._report = -1


def _detached(daemon: SyncDaemon, announce: bool, owner: str, report: int, launcher: int) -> NoReturn:
    """Become the supervisor."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    files = DaemonFiles()
    status = 1
    try:
        files.make()
        lock.claim(files.pid(daemon.role))
        if os.getppid() != launcher:  # killed before `control.start` could find this process by the lock
            files.forget(daemon.role)
            os._exit(status)
        status = Supervisor(daemon, owner, files, report).run(announce)
    except lock.Held:
        os.write(report, b"\0")
    except OSError as error:
        os.write(report, f"{files.directory}: {error.strerror}".encode())
    os._exit(status)


def main(parameters: str, announce: str, owner: str) -> int:
    """Start the daemon, wait until it works, and return the exit status."""
    daemon = SyncDaemon.decoded(json.loads(parameters))
    results, report = os.pipe()
    launcher = os.getpid()
    if not os.fork():
        os.close(results)
        _detached(daemon, announce == "1", owner, report, launcher)
    os.close(report)
    with open(results, "rb") as file:
        result = file.read(_LONGEST_REASON)
    if result == _READY:
        return 0
    if result == b"\0":
        return errno.EEXIST
    print(result.decode(errors="replace") or "the daemon ended before it was ready", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
