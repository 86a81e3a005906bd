"""Run pylvs-vrrp, the process of the virtual routers: start it, configure it, restart it, stop it.

pylvs-vrrp outlives the daemon. The next daemon connects to its socket in the state directory and continues with it. A
process of another version is stopped, and a new one started.

The daemon repeats every second whether services are forwarded. So pylvs-vrrp notices that the daemon is silent, and the
daemon that pylvs-vrrp hangs. A process that hangs is killed: it may hold addresses, which its successor removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.virtual_routers import connection
from pylvs.daemon.virtual_routers.connection import Hung, NoReply, VrrpClient
from pylvs.daemon.virtual_routers.first import STOP_TIMEOUT_S, TABLE_WAIT_S, FirstRouters
from pylvs.health.sessions import SessionResult, SessionTable
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.vrrp import VrrpSettings
from pylvs.model.wanted import Configuration
from pylvs.system import lock
from pylvs.system.lease import Lease
from pylvs.system.logs import get_logger
from pylvs.system.processes.child import Backoff
from pylvs.system.threads import to_thread
from pylvs.vrrp import PID_FILE
from pylvs.vrrp.control.requests import SessionEvent, StateReport
from pylvs.vrrp.ipc import Message, NoRouters, NotAccepting, OtherVersion

START_TIMEOUT_S = 15.0  # until a process that was started replies
STATUS_TIMEOUT_S = 2.0  # a client of the API waits for it
START_POLL_S = 0.005  # while the process starts
SESSIONS_POLL_S, SESSIONS_TIMEOUT_S = 1.0, 2.0  # of the results of BFD sessions
STEADY_S = 10.0  # a process that ran this long is restarted at once
RESTART_S, MAX_RESTART_S = 0.5, 30.0  # before the restart of a process that keeps ending
HEARTBEAT_S = 1.0  # between two reports to pylvs-vrrp
KILL_TIMEOUT_S = 5.0  # until a process that was killed has ended
# For `stop` at most: a start that is under way, the end, and another process that removes the remains of one that hung.
STOP_S = 2 * (START_TIMEOUT_S + 2 * connection.REPLY_TIMEOUT_S + STOP_TIMEOUT_S) + KILL_TIMEOUT_S

StartProcess = Callable[[], "subprocess.Popen[bytes]"]


class Child(Protocol):
    """The process as a child of this one: what is needed of subprocess.Popen."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""

    def wait(self, timeout: float) -> object:
        """Wait for its end. Raises subprocess.TimeoutExpired."""


class _RetryLater(PylvsError):
    """The process could not be started or configured; the next attempt may succeed."""


@contextlib.contextmanager
def _retried(errors: tuple[type[Exception], ...] = (PylvsError, OSError)) -> Iterator[None]:
    """Raise such an error of the block as _RetryLater."""
    try:
        yield
    except errors as cause:
        raise _RetryLater(str(cause)) from None


@dataclass(frozen=True, slots=True)
class ConfigureResult:
    """The reply of pylvs-vrrp to a configuration, or in `error` why it does not have it yet."""

    warnings: tuple[str, ...] = ()
    error: str = ""


class VirtualRouters:
    """Keeps pylvs-vrrp running while the configuration has virtual routers."""

    def __init__(
        self,
        state: StateDirectory,
        events: EventBus,
        start: StartProcess,
        sessions: SessionTable | None = None,
        first: FirstRouters | None = None,
    ) -> None:
        """`first` is the process that was started before the daemon's own imports."""
        self._state = state
        self._events = events
        self._start = start
        self._sessions = SessionTable() if sessions is None else sessions
        self._sessions_known = False
        self._sessions_lost = False  # they were known before
        self._wanted: Configuration | None = None
        self._last: Configuration | None = None  # the last that had virtual routers
        self._client: VrrpClient | None = None
        self.on_process: list[Callable[[int], None]] = []  # called with its PID, and with 0 at its end
        self.on_state: Callable[[Message], None] = lambda message: None  # called with states of instances and groups
        self._process: Child | None = first.process if first else None  # where it is this daemon's child
        self._first = first  # until it is connected
        self._connected_at = 0.0  # monotonic
        self._forwarding: tuple[bool | None, str] | None = None
        self._beat = asyncio.Event()  # report at once
        self._over = False
        self._stopped = False  # no process runs: none was started or adopted since the last stop
        self._error = ""  # why the process does not run as configured
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._log = get_logger()

    async def configure(self, configuration: Configuration) -> ConfigureResult:
        """Run these virtual routers from now on. If the process cannot be reached, `run` tries again.

        Raises PylvsError if the process refuses the configuration; it keeps the old one.
        """
        async with self._lock:
            if self._over:
                return ConfigureResult(error="pylvs run is stopping")
            before = self._wanted
            self._wanted = configuration if configuration.vrrp.needs_process else None
            self._last = self._wanted or self._last
            try:
                warnings = await self._settle()
            except PylvsError as error:
                if before is not None and not isinstance(error, _RetryLater):
                    self._wanted = before
                    raise
                self._retry(str(error))
                return ConfigureResult(error=str(error))
        for warning in warnings:
            self._log.warning(warning)
        return ConfigureResult(warnings)

    async def report_forwarding(self, up: bool | None, reason: str) -> None:
        """Report whether services are forwarded here (None: unknown). `heartbeat` sends and repeats it."""
        self._forwarding = (up, reason)
        self._beat.set()

    async def heartbeat(self) -> None:
        """Until cancelled: repeat the last report, and end a process that does not answer."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):  # in Python 3.11 wait_for may lose a cancellation
                    await self._beat.wait()
            self._beat.clear()
            client = self._client
            if client is not None and not client.closed.is_set() and not self._over:
                with contextlib.suppress(PylvsError):  # `run` handles the end of the connection
                    await self._beat_once(client)

    async def _beat_once(self, client: VrrpClient) -> None:
        lease = Lease(self._lease_s, HEARTBEAT_S)
        answer = asyncio.create_task(self._report(client, timeout_s=2 * lease.length_s + connection.REPLY_TIMEOUT_S))
        try:
            while not answer.done() and not client.closed.is_set():
                await asyncio.wait([answer], timeout=HEARTBEAT_S)
                if not answer.done() and lease.tick():
                    text = f"the virtual routers' process {client.pid} has not answered for {lease.length_s:g} s"
                    self._report_error(f"{text}; it is killed, and another is started")
                    try:
                        await self._end_hung(client)
                    except (PylvsError, OSError) as error:
                        self._retry(str(error))
                    return
            await answer
        finally:
            answer.cancel()

    async def _report(self, client: VrrpClient, timeout_s: float | None = None) -> None:
        if self._forwarding is None:
            await client.request("ping", timeout_s)
        else:
            up, reason = self._forwarding
            await client.request("data_plane", timeout_s, up=up, reason=reason)

    @property
    def _lease_s(self) -> float:
        return (self._wanted.vrrp.settings if self._wanted else VrrpSettings()).data_plane_lease_s

    async def _end_hung(self, client: VrrpClient) -> None:
        """Kill a process that does not answer, and close the connection. Raises PylvsError if it does not end."""
        try:
            await to_thread(_kill, client.listener)
        finally:
            client.close()

    async def stop(self) -> None:
        """Give up mastership and stop the process, in bounded time."""
        async with self._lock:
            self._wanted, self._over = None, True
            try:
                await self._settle()
            except (PylvsError, OSError) as error:
                self._log.error(str(error))

    async def undo(self) -> None:
        """After a failed start: stop the process if this daemon started it. One that was adopted continues."""
        if self._process is not None:
            await self.stop()

    async def request(self, verb: str, **fields: Any) -> Any:
        """Return the process's reply to a request. Raises PylvsError."""
        if self._client is None or self._client.closed.is_set():
            none = "no virtual routers run here: the configuration has no vrrp_instance"
            wanted = "the process of the virtual routers does not run yet"
            raise NoRouters(self._error or (none if self._wanted is None else wanted))
        return await self._client.request(verb, **fields)

    async def status(self) -> Mapping[str, Any]:
        """Return the process's status. `problem` is the reason if there is none, "" without virtual routers."""
        none: Mapping[str, Any] = {"instances": [], "groups": [], "sessions": [], "problem": ""}
        if self._wanted is None:
            return none
        try:
            found: Mapping[str, Any] = await self.request("status", timeout_s=STATUS_TIMEOUT_S)
        except PylvsError as error:
            return {**none, "problem": str(error)}
        return {**none, **found, "problem": self._error}

    def close(self) -> None:
        """End the connection, and make no other; the process continues."""
        self._over = True
        if self._client is not None:
            self._client.close()

    async def follow_sessions(self) -> None:
        """Until cancelled, take the results of BFD sessions for unknown while the process does not answer.

        It sends changes by itself. The requests show that it runs: one that is stopped sends nothing.
        """
        while True:
            if self._wanted is not None and self._wanted.vrrp.sessions:
                await self._read_sessions()
            await asyncio.sleep(SESSIONS_POLL_S)

    async def _read_sessions(self) -> None:
        try:
            await self.request("sessions", timeout_s=SESSIONS_TIMEOUT_S, on_reply=self._take_sessions)
        except PylvsError as error:
            self._sessions.lose(str(error))
            if self._sessions_known:
                self._sessions_known, self._sessions_lost = False, True
                self._log.error(f"the BFD sessions are unknown: {error}")
                self._events.publish("bfd_unknown", reason=str(error))

    def _take_sessions(self, results: Any) -> None:
        """Store the results. Raises Malformed."""
        self._sessions.replace(from_plain(dict[str, SessionResult], results))
        self._sessions_known = True
        if self._sessions_lost:
            self._sessions_lost = False
            self._log.info("the BFD sessions are known again")
            self._events.publish("bfd_known")

    async def run(self) -> None:
        """Until cancelled: restart a process that ended, and configure one that could not be configured."""
        backoff = Backoff(RESTART_S, MAX_RESTART_S, at_once=True)
        while not self._over:
            await self._wake.wait()
            if self._wanted is not None and self._client is not None and self._client.closed.is_set():
                await self._log_end(self._client)
                self._client = None
                if time.monotonic() - self._connected_at > STEADY_S:
                    backoff.begin_again()
            await asyncio.sleep(backoff.next_s())
            async with self._lock:
                self._wake.clear()
                if not self._over:
                    try:
                        await self._settle()
                    except PylvsError as error:
                        self._retry(str(error))
                    except BaseException:
                        self._wake.set()  # for the next call of `run`, after a bug
                        raise
        await asyncio.Event().wait()  # after `stop`: a return would be taken for a failure

    async def _settle(self) -> tuple[str, ...]:
        """Run and configure the process, or stop it, as wanted; return its warnings. Raises _RetryLater, PylvsError."""
        if self._wanted is None:
            if not self._stopped:
                with _retried():
                    await self._stop_any()
            self._stopped, self._error = True, ""
            return ()
        self._stopped = False
        client = await self._connect()
        with _retried((NoReply,)):
            reply = await self._configure_process(client, self._wanted)
            await self._report(client)
            if self._wanted.vrrp.sessions:
                await client.request("sessions", on_reply=self._take_sessions)
        if self._error:
            self._log.info("the virtual routers are as configured again")
        self._error = ""
        return tuple(map(str, reply.get("warnings", ())))

    async def _configure_process(self, client: VrrpClient, wanted: Configuration) -> Mapping[str, Any]:
        first, self._first = self._first, None
        if first and first.process.pid == client.pid and first.has(wanted):
            return {}  # to it, the same configuration would be a reload
        wait_s = TABLE_WAIT_S if wanted.services and self._forwarding is None else 0.0  # before the first table
        fields = {**_configuration(wanted), "table_wait_s": wait_s}
        return await client.request("configure", **fields)  # type: ignore[no-any-return]

    async def _connect(self) -> VrrpClient:
        if self._client is not None and not self._client.closed.is_set():
            return self._client
        with _retried():
            try:
                client = await self._open()
                what = "started the" if self._process and self._process.pid == client.pid else "adopted the running"
                self._log.info(f"{what} process of the virtual routers", process=client.pid)
            except NoRouters:
                client = await self._start_process()
                self._log.info("started the process of the virtual routers", process=client.pid)
            try:
                await client.request("subscribe", states=True)
            except BaseException:
                client.close()  # the next attempt subscribes again
                raise
            # Only now, so that the caller's `configure` precedes the requests of others: a process that was started
            # would reply that it has no sessions.
            self._client, self._connected_at = client, time.monotonic()
            self._tell_process(client.pid)
            return client

    async def _open(self) -> VrrpClient:
        """Connect to a running process; end one of another version, or one that hangs. Raises NoRouters, PylvsError."""
        try:
            client, other = await self._open_patiently()
        except Hung as hung:
            self._report_error(f"{hung}; it is killed, and another is started")
            await to_thread(_kill, hung.process)
            raise NoRouters("it has ended") from None
        if other is None:
            return client
        self._log.warning("the virtual routers' process is of another version; it is replaced", reason=str(other))
        await self._stop_process(client)
        raise NoRouters("it has ended")

    async def _open_patiently(self) -> tuple[VrrpClient, OtherVersion | None]:
        """Connect. Raises Hung if the process accepts no connection for REPLY_TIMEOUT_S, or does not answer."""
        silence = Lease(connection.REPLY_TIMEOUT_S, connection.REPLY_TIMEOUT_S / 10)
        while True:
            try:
                return await VrrpClient.open(self._state.routers_path, self._on_event, self._wake.set)
            except NotAccepting as full:
                if silence.tick():
                    process = lock.holder(self._state.path / PID_FILE)
                    raise Hung(f"{full} for {connection.REPLY_TIMEOUT_S:g} s: process {process}", process) from None
            await asyncio.sleep(silence.tick_s)

    async def _start_process(self) -> VrrpClient:
        if self._first is None or self._process is None or self._process.poll() is not None:
            try:
                self._process = await to_thread(self._start)
            except OSError as error:
                raise _RetryLater(f"no process could be made for the virtual routers: {error.strerror}") from None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(NoRouters):
                return await self._open()
            if self._process.poll() is not None:
                raise _RetryLater(f"the virtual routers' process {_exit_text(self._process)} at its start")
            if time.monotonic() > deadline:
                raise _RetryLater(f"the virtual routers' process {self._process.pid} does not answer")
            await asyncio.sleep(START_POLL_S)

    async def _stop_any(self) -> None:
        """Stop the process that runs, if any: this daemon's child, or one that another daemon left."""
        client = self._client
        if client is None or client.closed.is_set():
            try:
                client, _ = await self._open_patiently()
            except NoRouters:
                await self._end_child()
                return
            except Hung as hung:
                self._log.error(f"{hung}; it is killed")
                await to_thread(_kill, hung.process)
                await self._remove_remains()
                return
        self._log.info("the virtual routers give up their addresses", process=client.pid)
        await self._stop_process(client)

    async def _end_child(self) -> None:
        """End a child that does not listen yet: it would become master later. Raises PylvsError."""
        if self._process is None or self._process.poll() is not None:
            return
        os.kill(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await to_thread(self._process.wait, STOP_TIMEOUT_S)
        if self._process.poll() is None:
            await to_thread(_kill, self._process.pid)
            await self._remove_remains()

    async def _stop_process(self, client: VrrpClient) -> None:
        """Request `stop`. The reply comes at once; the end of the connection is the end. Raises PylvsError."""
        who = f"the virtual routers' process {client.pid or ''}".rstrip()
        try:
            await client.request("stop", removed=not self._over)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await client.closed.wait()
        except NoReply:
            if not client.closed.is_set():
                self._log.error(f"{who} does not answer: it is killed")
                await self._end_hung(client)
                await self._remove_remains()
        except TimeoutError:
            text = f"{who} does not end within {STOP_TIMEOUT_S:g} s: its scripts still run, or kill it"
            raise PylvsError(text) from None
        finally:
            client.close()
        self._tell_process(0)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await to_thread(self._process.wait, 1.0)

    async def _remove_remains(self) -> None:
        """Remove the addresses of a process that was killed: another one does so at its start. Raises PylvsError."""
        if self._last is None:
            raise PylvsError("the addresses of the virtual routers may be left on this host")
        client = await self._start_process()
        await client.request("configure", **_configuration(self._last))
        await client.request("stop")
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await client.closed.wait()
        except TimeoutError:
            text = f"the virtual routers' process {client.pid} does not end within {STOP_TIMEOUT_S:g} s"
            raise PylvsError(f"{text}: kill it; their addresses may be left on this host") from None

    async def _log_end(self, client: VrrpClient) -> None:
        self._tell_process(0)
        ended = ""
        if self._process is not None and self._process.pid == client.pid:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await to_thread(self._process.wait, 1.0)
            ended = f" ({_exit_text(self._process)})"
        self._retry(f"the virtual routers' process {client.pid} has gone{ended}; another is started")

    def _tell_process(self, pid: int) -> None:
        for each in self.on_process:
            each(pid)

    def _retry(self, error: str) -> None:
        """Let `run` try again; log and publish each error once."""
        self._report_error(error)
        self._wake.set()

    def _report_error(self, error: str) -> None:
        if error != self._error:
            self._log.error(error)
            self._events.publish("vrrp_problem", reason=error)
        self._error = error

    def _on_event(self, message: Message) -> None:
        """Raises Malformed."""
        match message.get("event"):
            case None:
                from_plain(StateReport, message)
                self.on_state(message)
            case "session":
                session: SessionEvent = from_plain(SessionEvent, message)
                self._sessions.update(session.session, session.up, session.reason)
            case "bfd":
                self._events.publish("bfd", **_event_fields(message))
            case event:
                self._events.publish(f"vrrp_{event}", **_event_fields(message))


def _configuration(wanted: Configuration) -> Mapping[str, Any]:
    return {"configuration": to_plain(wanted.vrrp), "settings": to_plain(wanted.settings)}


def _event_fields(event: Message) -> dict[str, Any]:
    """Return the fields as in other events: the texts joined as `reason`, and nothing that is empty."""
    texts = [str(event[name]) for name in ("reason", "why", "detail") if event.get(name)]
    fields = {name: value for name, value in event.items() if value not in ("", None)}
    for name in ("event", "time", "reason", "why", "detail"):
        fields.pop(name, None)
    return fields | ({"reason": ": ".join(texts)} if texts else {})


def _kill(process: int) -> None:
    """Kill a process and wait for its end. Raises PylvsError if it does not end."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    except (OSError, ValueError):
        raise PylvsError(f"the virtual routers' process {process} hangs, and cannot be killed from here") from None
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        if not ended.poll(KILL_TIMEOUT_S * 1000):
            raise PylvsError(f"the virtual routers' process {process} hangs, and does not end by SIGKILL")
    finally:
        os.close(descriptor)


def _exit_text(process: Child) -> str:
    status = process.poll()
    if status is None:
        return "runs on"
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
