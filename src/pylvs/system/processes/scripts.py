"""Running an operator's scripts from asyncio: unprivileged, with limits of time, output and number.

A script gets a session of its own, /dev/null as standard input and no other open file. No signal is blocked or ignored,
and the umask is 077 or the configured one. Its environment is this process's without the variables by which systemd
addresses this process. At its timeout, the script and all its descendants get SIGTERM, and two seconds later SIGKILL.
All this happens in the process that runs scripts, `pylvs.system.processes.runner`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial

from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, counted
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.system.processes.accounts import SCRIPT_USER, Account, script_account
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from pylvs.system.processes.channel import BadMessage, Message
from pylvs.system.processes.child import Child
from pylvs.system.processes.runner import Answer, Run
from pylvs.system.threads import DaemonThread

AT_ONCE = 200  # scripts that run at the same time; two pipes of each fit below 1024 open files
_NOT_FOR_SCRIPTS = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
    "PYLVS_UNIT",  # a script's `pylvs run`, or its commands, are not those of this unit
)
_ACCOUNT_S = 60.0
_REFRESH_S = 0.2  # to look up a known account again, before the script runs as the one found before
WHAT = "the process that runs scripts"
LEASE_S = 10  # of its silence, after which it is killed, and all its scripts with it
END_S = 5.0  # at the end, for it to kill its scripts and to exit; then it is killed
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
class _Running:
    """A script: its request, what waits for its end, and what to call at its timeout."""

    request: Run
    ended: asyncio.Future[Ended]
    on_timeout: Callable[[], None]
    owner: object


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_SCRIPTS}


class ScriptRunner:
    """The process that runs scripts. It is started for the first one; several `Processes` may share it."""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._last = 0
        self._closed = False
        self._child = Child(
            AsyncioLoop(),
            WHAT,
            "pylvs.system.processes.runner",
            self._receive,
            self._up,
            self._down,
            equal=True,
            lease_s=LEASE_S,
            environment=_environment,
        )

    @property
    def pid(self) -> int:
        """The process that was started last."""
        return self._child.pid

    async def run(self, request: Run, on_timeout: Callable[[], None], owner: object) -> Ended:
        """Run a script to its end. CancelledError kills it. After `close` none runs."""
        if self._closed:
            return Ended(None, problem=f"{WHAT} has ended", unable=True)
        self._last += 1
        number = self._last
        made = _Running(request, asyncio.get_running_loop().create_future(), on_timeout, owner)
        self._running[number] = made
        try:
            if self._child.up:
                self._send(number)
            elif not self._child.started:
                self._child.start(os.getcwd())
            return await made.ended
        except asyncio.CancelledError:
            self._child.send({"kill": number})
            raise
        finally:
            del self._running[number]

    async def end_scripts(self, owner: object) -> None:
        """Kill the scripts of one owner."""
        mine = {number: each for number, each in self._running.items() if each.owner is owner}
        for number, script in mine.items():
            self._child.send({"kill": number})
            if not self._child.up:
                script.ended.cancel()
        if mine:
            await asyncio.wait([each.ended for each in mine.values()], timeout=END_S)

    async def close(self) -> None:
        """End the process; it kills all scripts before. One that hangs is killed."""
        self._closed = True
        if self._child.started:
            await closed(self._child, END_S)
        self._end_all(f"{WHAT} has ended")

    def _up(self) -> None:
        for number in self._running:
            self._send(number)

    def _send(self, number: int) -> None:
        self._child.send({"id": number, "run": to_plain(self._running[number].request)})

    def _receive(self, message: Message) -> None:
        """Take the timeout of a script, or its end."""
        try:
            answer: Answer = from_plain(Answer, message)
        except Malformed as error:
            raise BadMessage(str(error)) from None
        made = self._running.get(answer.id)
        if made is None or made.ended.done():
            return
        if answer.late:
            made.on_timeout()
            return
        made.ended.set_result(
            Ended(
                answer.status,
                answer.signal,
                answer.timed_out,
                answer.problem,
                answer.unable,
                answer.output,
                answer.lost,
                answer.seconds,
            )
        )

    def _down(self) -> None:
        """Its scripts are not to blame."""
        self._end_all(self._child.problem)

    def _end_all(self, problem: str) -> None:
        for script in self._running.values():
            if not script.ended.done():
                script.ended.set_result(Ended(None, problem=problem, unable=True))


class Processes:
    """Runs scripts, `at_once` at the same time. A script without a user runs as the given one.

    With `security`, a script that other users can change does not run as root. Without a `runner` it has its own.
    """

    def __init__(
        self,
        user: str = "",
        group: str = "",
        security: bool = False,
        at_once: int = AT_ONCE,
        runner: ScriptRunner | None = None,
    ) -> None:
        self.counts = ScriptCounts()
        self._user, self._group, self._security, self._umask = user, group, security, UMASK
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._quiet_until = -math.inf  # no warning about waits before
        self._owns_runner = runner is None
        self._runner = runner or ScriptRunner()
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
        if self._owns_runner:
            await self._runner.close()
        else:
            await self._runner.end_scripts(self)

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
        request = Run(
            arguments=script.arguments,
            environment=environment,
            user=who.name,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            secure=self._security,
            umask=self._umask,
            timeout_s=None if math.isinf(timeout_s) else timeout_s,
        )
        return await self._runner.run(request, on_timeout, self)
