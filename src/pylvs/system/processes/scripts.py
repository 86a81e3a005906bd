"""Running an operator's scripts from asyncio: unprivileged, with limits of time, output and number.

A script gets a session of its own, /dev/null as standard input and no other open file. No signal is blocked or ignored,
and the umask is 077 or the configured one. Its environment is this process's without the variables by which systemd
addresses this process. At its timeout, the script and all its descendants get SIGTERM, and two seconds later SIGKILL.
All this happens in the helper process, `pylvs.system.processes.runner`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, counted
from pylvs.system.lease import Lease
from pylvs.system.processes import command
from pylvs.system.processes.accounts import SCRIPT_USER, Account, script_account
from pylvs.system.processes.runner import GREETING
from pylvs.system.sockets import closed_on_error
from pylvs.system.threads import DaemonThread

AT_ONCE = 200  # scripts that run at the same time; two pipes of each fit below 1024 open files
_NOT_FOR_SCRIPTS = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
    "PYLVS_UNIT",  # a script's `pylvs run`, or its commands, are not those of this unit
)
_LONGEST_ANSWER = 1 << 20
_ACCOUNT_S = 60.0
_REFRESH_S = 0.2  # to look up a known account again, before the script runs as the one found before
_HANGS = "the process that runs scripts hangs"
PING_S = 1.0  # between two pings to the process that runs scripts
_START_S = 60.0  # until it answers the first one
LEASE_S = 10.0  # of silence, after which it is killed, and all its scripts with it
END_S = 5.0  # at the end, for it to kill its scripts and to exit; then it is killed
KILLED_S = 10.0  # until a process that was killed has ended
_LONG_WAIT_S = 1.0  # for one of `at_once`; it delays a check
_WARN_EVERY_S = 60.0  # of long waits
UMASK = 0o077  # unless the configuration has one
_ERROR = re.compile(
    r"error|fail|fatal|refused|denied|invalid|unknown|not found|no such|cannot|can't|could not|couldn't|unable|unreach"
    r"|time[d -]*out|\(\d+\)|exception|critical|warning|no route|reset",
    re.IGNORECASE,
)
_LINES, _LINE_LENGTH = 20, 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a script: its exit status, the signal that ended it, or in `problem` why it could not start."""

    status: int | None
    signal: int = 0
    timed_out: bool = False
    problem: str = ""
    unable: bool = False  # this machine could not make a process or find its user: no fault of the script
    output: str = ""  # its beginning
    lost_bytes: int = 0  # of the output, beyond that
    seconds: float = 0.0  # after a timeout: that timeout

    def __str__(self) -> str:
        """Return a short text for a history: "exit status 1: no route to host".

        Of the output it has the last line about an error, else the last line. Headers and progress come before.
        """
        lines = [] if self.problem or self.timed_out or self.status == 0 else self._printed()
        found = next(filter(_ERROR.search, reversed(lines)), lines[-1] if lines else "")
        return f"{self.how}: {found}" if found else self.how

    @property
    def how(self) -> str:
        """How it ended, without its output: "exit status 1"."""
        if self.problem:
            return self.problem
        if self.timed_out:
            return f"timed out after {self.seconds:g} s"
        return f"exit status {self.status}" if self.status is not None else f"ended by {_signal_name(self.signal)}"

    def lines(self) -> list[str]:
        """Return the output for a log: few short lines without control characters."""
        found = self._printed()
        more = len(found) - _LINES
        found = found[:_LINES] + ([f"(and {counted(more, 'more line')})"] if more > 0 else [])
        return found + ([f"(and {counted(self.lost_bytes, 'more byte')})"] if self.lost_bytes else [])

    def _printed(self) -> list[str]:
        """Return the lines of the output, shortened and without control characters."""
        found = ["".join(c if c.isprintable() else " " for c in line).strip() for line in self.output.splitlines()]
        return [line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 1] + "…" for line in found if line]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(slots=True)
class ScriptCounts:
    """How many scripts run and wait now, and how many had to wait for others, for how long."""

    running: int = 0
    waiting: int = 0
    waited: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0


@dataclass(slots=True)
class _Run:
    """What waits for the end of a script, and what to call at its timeout."""

    ended: asyncio.Future[Ended]
    on_timeout: Callable[[], None]


class Processes:
    """Runs scripts; one object for a daemon. A script without a user runs as the given one.

    With `security`, a script that other users can change does not run as root.
    """

    def __init__(self, user: str = "", group: str = "", security: bool = False, at_once: int = AT_ONCE) -> None:
        self.counts = ScriptCounts()
        self._user, self._group, self._security, self._umask = user, group, security, UMASK
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._quiet_until = -math.inf  # no warning about waits before
        self._runs: dict[int, _Run] = {}
        self._last = 0
        self._runner: _Channel | None = None
        self._lease = Lease(_START_S, PING_S)  # of the runner
        self._watching: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[None]] = set()  # from each process, also from killed ones, to its end
        self._starting = asyncio.Lock()
        self._warned = False
        self._accounts: dict[tuple[str, str], tuple[Account, float]] = {}
        self._lookups: dict[tuple[str, str], asyncio.Task[Account]] = {}  # of accounts; they may block for ever
        self._thread = DaemonThread("pylvs-accounts")

    def configure(self, user: str, group: str, security: bool, umask: int | None = None) -> None:
        """Replace the settings after a reload; running scripts continue."""
        self._user, self._group, self._security = user, group, security
        self._umask = UMASK if umask is None else umask

    async def run(
        self,
        script: Script,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        on_timeout: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Run a script to its end. CancelledError kills it; it raises nothing else. The timeout begins at its start.

        At the timeout `on_timeout` is called, while the processes of the script may live for some seconds. The lookup
        of its account ends at the timeout, too.
        """
        try:
            who = await self._account(script, timeout_s)
        except PylvsError as error:
            return Ended(None, problem=str(error), unable=True)
        await self._wait_for_slot(script)
        self.counts.running += 1
        try:
            return await self._run(script, who, timeout_s, environment or {}, on_timeout)
        finally:
            self.counts.running -= 1
            self._slots.release()

    async def _wait_for_slot(self, script: Script) -> None:
        """Wait while `at_once` scripts run; count and log that."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        begin = time.monotonic()
        self.counts.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.counts.waiting -= 1
        now = time.monotonic()
        self.counts.waited += 1
        self.counts.waited_s += now - begin
        self.counts.longest_wait_s = max(self.counts.longest_wait_s, now - begin)
        if now - begin >= _LONG_WAIT_S and now >= self._quiet_until:
            self._quiet_until = now + _WARN_EVERY_S
            log.warning(
                "%s waited %.1f s because the limit of %d running scripts was reached; %d wait: checks are late",
                script,
                now - begin,
                self._at_once,
                self.counts.waiting,
            )

    async def close(self) -> None:
        """Kill all running scripts."""
        for lookup in self._lookups.values():
            lookup.cancel()
        self._thread.shutdown()
        if self._watching is not None:
            self._watching.cancel()
        if self._runner is not None:
            await self._runner.close()
            self._runner = None
        if self._reading:
            await asyncio.wait(self._reading, timeout=KILLED_S)

    async def _account(self, script: Script, timeout_s: float) -> Account:
        """Return the account of a script; cached for a minute, as NSS may ask another machine.

        If that does not answer, the account found before remains. Raises PylvsError.
        """
        wanted = (script.user, script.group) if script.user else (self._user, self._group)
        known, until = self._accounts.get(wanted, (None, 0.0))
        if known is None or time.monotonic() > until:
            patience_s = timeout_s if known is None else min(timeout_s, _REFRESH_S)
            try:
                known = await self._look_up(wanted, patience_s)
            except PylvsError as error:
                if known is None:
                    raise
                log.warning("%s; scripts run as the account found before, %s", error, known.uid)
                self._accounts[wanted] = known, time.monotonic() + _ACCOUNT_S
        if known.uid == 0 and not wanted[0] and not self._warned:
            self._warned = True
            log.warning("scripts run as root: name a script_user, or make the user %s", SCRIPT_USER)
        return known

    async def _look_up(self, wanted: tuple[str, str], patience_s: float) -> Account:
        """Look an account up, or join a lookup that runs. Raises PylvsError, also after this time."""
        lookup = self._lookups.get(wanted)
        if lookup is None:
            lookup = self._lookups[wanted] = asyncio.create_task(self._find_account(wanted))
            lookup.add_done_callback(partial(self._looked_up, wanted))
        await asyncio.wait({lookup}, timeout=patience_s)
        if not lookup.done() or lookup.cancelled():
            raise PylvsError(f"user {wanted[0] or SCRIPT_USER}: the user database does not answer")
        return lookup.result()

    async def _find_account(self, wanted: tuple[str, str]) -> Account:
        """Look an account up and store it, also for later scripts. Raises PylvsError."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, script_account, *wanted)
        except OSError as error:
            raise PylvsError(f"user {wanted[0] or SCRIPT_USER}: cannot be looked up: {error.strerror}") from None
        self._accounts[wanted] = found, time.monotonic() + _ACCOUNT_S
        return found

    def _looked_up(self, wanted: tuple[str, str], lookup: asyncio.Task[Account]) -> None:
        del self._lookups[wanted]
        if not lookup.cancelled():
            lookup.exception()  # perhaps no script waits for it any more

    async def _run(
        self,
        script: Script,
        who: Account,
        timeout_s: float,
        environment: Mapping[str, str],
        on_timeout: Callable[[], None],
    ) -> Ended:
        self._last += 1
        number = self._last
        request = {
            "id": number,
            "arguments": script.arguments,
            "environment": dict(environment),
            "user": who.name,
            "uid": who.uid,
            "gid": who.gid,
            "groups": who.groups,
            "secure": self._security,
            "umask": self._umask,
            "timeout_s": timeout_s,
        }
        made = self._runs[number] = _Run(asyncio.get_running_loop().create_future(), on_timeout)
        try:
            runner = await self._started()
            await runner.send(request)
            return await made.ended
        except (OSError, RuntimeError) as error:  # without a free thread, asyncio raises RuntimeError
            return Ended(None, problem=f"cannot be started: {getattr(error, 'strerror', '') or error}", unable=True)
        except asyncio.CancelledError:
            if self._runner is not None:
                self._runner.send_soon({"kill": number})
            raise
        finally:
            del self._runs[number]

    async def _started(self) -> _Channel:
        async with self._starting:
            if self._runner is None or self._runner.over:
                self._runner = await _Channel.open(self._receive, self._end_runs)
                self._reading.add(self._runner.reading)
                self._runner.reading.add_done_callback(self._reading.discard)
                self._lease = Lease(_START_S, PING_S)
                if self._watching is not None:
                    self._watching.cancel()  # of the process that has ended
                self._watching = asyncio.create_task(self._watch(self._runner))
            return self._runner

    async def _watch(self, runner: _Channel) -> None:
        """Kill the process if it does not answer. Its scripts are not to blame, and the next one starts another."""
        while True:
            runner.send_soon({"ping": True})
            await asyncio.sleep(PING_S)
            if runner.over:
                return
            if self._lease.tick():
                log.error("%s; it is killed, and the next script starts another one", _HANGS)
                runner.kill()

    def _receive(self, message: dict[str, Any]) -> None:
        """Take a message: the answer to a ping, the timeout of a script, or its result."""
        self._lease = Lease(LEASE_S, PING_S)
        if "pong" in message:
            return
        if "late" in message:
            if late := self._runs.get(message["late"]):
                late.on_timeout()
            return
        made = self._runs.get(message.pop("id"))
        if made and not made.ended.done():
            made.ended.set_result(Ended(lost_bytes=message.pop("lost"), **message))

    def _end_runs(self, problem: str) -> None:
        for each in self._runs.values():
            if not each.ended.done():
                each.ended.set_result(Ended(None, problem=problem, unable=True))


class _Channel:
    """The helper process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        receive: Callable[[dict[str, Any]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._on_end = on_end
        self.over = False
        self.reading = asyncio.create_task(self._read(receive))  # ends when the process is gone

    @classmethod
    async def open(cls, receive: Callable[[dict[str, Any]], None], on_end: Callable[[str], None]) -> _Channel:
        """Start the process. `receive` gets each message, and `on_end` the reason of its end. Raises OSError."""
        ours, its = socket.socketpair()
        with closed_on_error(ours):  # also if this task is cancelled
            with its:
                environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_SCRIPTS}
                process = await asyncio.create_subprocess_exec(
                    *command("pylvs.system.processes.runner", str(its.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                    env=environment,
                )
            try:
                reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_ANSWER)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
        return cls(process, reader, writer, receive, on_end)

    async def send(self, request: dict[str, Any]) -> None:
        """Raises OSError if the process has ended."""
        self.send_soon(request)
        await self._writer.drain()

    def send_soon(self, request: dict[str, Any]) -> None:
        """Write without waiting for space in the socket."""
        if not self.over:
            self._writer.write(json.dumps(request).encode() + b"\n")

    def kill(self) -> None:
        """End the process at once, and with it all scripts (PR_SET_PDEATHSIG)."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._end(_HANGS)

    def _end(self, problem: str) -> None:
        if not self.over:
            self.over = True
            self._on_end(problem)

    async def close(self) -> None:
        """Close the socket; the process kills all scripts and exits. One that hangs is killed."""
        self._writer.close()
        ended = asyncio.create_task(self._ended())
        try:
            _, late = await asyncio.wait({ended}, timeout=END_S)
            if late:
                log.error("%s; it is killed", _HANGS)
                self.kill()
                await asyncio.wait({ended}, timeout=KILLED_S)
        finally:
            ended.cancel()

    async def _ended(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()  # it first sends what the process has not read
        await self.reading

    async def _read(self, receive: Callable[[dict[str, Any]], None]) -> None:
        problem = "the process that runs scripts has ended"
        try:
            first = await self._reader.readline()
            if first and not _is_greeting(first):
                problem = "scripts are not run: another version of pylvs was installed; restart pylvs run"
                log.error("%s", problem)
                return
            while line := await self._reader.readline():
                receive(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self._end(problem)
            self._writer.close()
            await self._process.wait()


def _is_greeting(line: bytes) -> bool:
    """Return whether the process speaks this version's protocol: pip may have replaced the code on disk."""
    try:
        return bool(json.loads(line) == GREETING)
    except ValueError:
        return False
