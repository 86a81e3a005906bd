"""`lvs_sync_daemon`: start, stop and switch the sync daemons with the state of a virtual router, as keepalived does.

The daemons are those of `ipvsadm --start-daemon`, so they outlive this process, and the next one takes them over. Each
is a Python process, which starts beside the first table: the daemon is ready, and announces addresses, when they run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.errors import NoDaemon, PylvsError
from pylvs.model.sync.daemons import BACKUP, MASTER, ROLES, RunningDaemon, SyncDaemon, SyncWanted
from pylvs.model.wanted import Configuration
from pylvs.sync import control
from pylvs.system.logs import get_logger
from pylvs.system.namespaces import inside_network
from pylvs.system.processes.child import Backoff
from pylvs.system.threads import to_thread

LOOK_S = 1.0  # between two looks whether the daemons run
RETRY_S, MAX_RETRY_S = 0.5, 5.0  # after one could not be started
READY_S = 30.0  # for the first attempt to start them, in which a backup gets whole tables (`pylvs.sync.request`)
OWNER = "pylvs run"
_MASTER_STATE = "MASTER"
_ENDED = ("STOP", "DELETED")  # states of a virtual router that ends; a reload or the stop of this part follows

Message = Mapping[str, Any]


class Daemons(Protocol):
    """What is needed of `pylvs.sync.control`."""

    def running(self) -> Iterable[RunningDaemon]: ...

    def start(self, daemon: SyncDaemon, announce: bool = False, owner: str = "") -> None: ...

    def stop(self, role: str) -> None: ...


class SyncControl:
    """Those of a network namespace, by its file; "": of this process's own. Called in threads."""

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace

    def _inside(self) -> contextlib.AbstractContextManager[None]:
        return inside_network(self._namespace) if self._namespace else contextlib.nullcontext()

    def running(self) -> list[RunningDaemon]:
        with self._inside():
            return list(control.running())

    def start(self, daemon: SyncDaemon, announce: bool = False, owner: str = "") -> None:
        with self._inside():
            control.start(daemon, announce, owner)

    def stop(self, role: str) -> None:
        with self._inside():
            control.stop(role)


class SyncPart(Part):
    """Keeps the daemons of the configuration running. `status` returns the states of the virtual routers."""

    def __init__(self, daemons: Daemons, status: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._daemons = daemons
        self._status = status
        self._wanted: SyncWanted | None = None
        self._state = ""  # of the virtual router; "" until it is known
        self._problem = ""
        self._wake = asyncio.Event()
        self._attempted = asyncio.Event()  # those of this configuration run, or could not be started
        self._launched = False
        self._working = asyncio.Lock()
        self._ended = False
        self._log = get_logger()

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        self._follow(configuration)

    def launch(self, tasks: BackgroundTasks) -> None:
        """Start them beside the first table: nothing can fail the start of the daemon any more."""
        self._launched = True
        tasks.keep_running(self._run, "running sync daemons")

    async def apply(self, configuration: Configuration) -> None:
        if self._follow(configuration):
            await self.attempted()

    def _follow(self, configuration: Configuration) -> bool:
        """Return whether the daemons of this configuration are others."""
        wanted, before = configuration.settings.sync, self._wanted
        if wanted is None or before is None or wanted.instance != before.instance:
            self._state = ""
        self._wanted = wanted
        if wanted != before:
            self._attempted.clear()
        self._wake.set()
        return wanted != before

    async def attempted(self) -> None:
        """Wait until the daemons run, with the connections of other directors, or could not be started."""
        if self._wanted is None or not self._launched:
            return
        try:
            async with asyncio.timeout(READY_S):
                await self._attempted.wait()
        except TimeoutError:
            self._log.warning(f"the sync daemons do not run after {READY_S:g} s; pylvs run continues without them")

    async def stop(self, keep: bool) -> None:
        """Stop the daemons of this one, as keepalived does."""
        self._ended = True
        if not keep:
            async with self._working:
                await self._stop_others(None, [], await self._running())

    def problems(self) -> Iterator[Problem]:
        if self._problem:
            yield Problem("sync", "", self._problem)

    def router_changed(self, message: Message) -> None:
        """Follow a transition that pylvs-vrrp published."""
        is_ours = self._wanted is not None and message.get("instance") == self._wanted.instance
        if is_ours and "interface" in message and message["state"] not in _ENDED:
            self._state = message["state"]
            self._wake.set()

    async def _run(self) -> None:
        backoff = Backoff(RETRY_S, MAX_RETRY_S)
        pause_s: float | None
        while not self._ended:
            self._wake.clear()
            wanted = self._wanted
            try:
                async with self._working:
                    await self.step()
                pause_s = None if self._wanted is None else LOOK_S
                backoff.begin_again()
            except PylvsError as error:
                self._report(str(error))
                pause_s = backoff.next_s()
            if wanted is self._wanted:
                self._attempted.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def step(self) -> None:
        """Compare the daemons that run with those of the configuration, once. Raises PylvsError."""
        wanted = self._wanted
        if wanted is not None and wanted.instance and not self._state:
            await self._read_state(wanted.instance)
        running = await self._running()
        is_unknown = wanted is not None and wanted.instance and not self._state
        if is_unknown and running:  # virtual routers of a former daemon may be master: that one's daemons stay
            return
        daemons = desired(wanted, self._state)
        await self._start_missing(daemons, running)
        if daemons != desired(self._wanted, self._state):  # a start takes seconds; `_wake` is set
            return
        await self._stop_others(wanted, daemons, running)
        self._report("")

    async def _read_state(self, instance: str) -> None:
        status = await self._status()
        if not self._state:  # a transition that was published since is newer
            found = (each["state"] for each in status.get("instances", ()) if each["name"] == instance)
            self._state = next(found, "")

    async def _running(self) -> Mapping[str, RunningDaemon]:
        """Return the daemons that run, by role. Raises PylvsError."""
        return {each.daemon.role: each for each in await to_thread(self._daemons.running)}

    async def _start_missing(self, daemons: list[SyncDaemon], running: Mapping[str, RunningDaemon]) -> None:
        """Start what shall run before others are stopped: messages of the other director may still arrive.

        Raises PylvsError.
        """
        roles = {each.role: each for each in daemons}
        changed = [role for role, each in running.items() if role in roles and each.daemon != roles[role]]
        for role in changed:  # its parameters
            await to_thread(self._stop, role)
        missing = [each for each in daemons if each.role not in running or each.role in changed]
        started = await asyncio.gather(*(to_thread(self._start, each) for each in missing), return_exceptions=True)
        for error in filter(None, started):
            raise error

    async def _stop_others(
        self, wanted: SyncWanted | None, daemons: list[SyncDaemon], running: Mapping[str, RunningDaemon]
    ) -> None:
        """Stop what shall not run; without lvs_sync_daemon, only what this program has started. Raises PylvsError."""
        roles = {each.role for each in daemons}
        for role, known in running.items():
            if role not in roles and (wanted is not None or known.owner == OWNER):
                await to_thread(self._stop, role)

    def _start(self, daemon: SyncDaemon) -> None:
        self._daemons.start(daemon, announce=True, owner=OWNER)
        self._log.info(f"the {daemon.role} sync daemon runs", interface=daemon.interface, syncid=daemon.syncid)

    def _stop(self, role: str) -> None:
        with contextlib.suppress(NoDaemon):
            self._daemons.stop(role)
            self._log.info(f"the {role} sync daemon is stopped")

    def _report(self, problem: str) -> None:
        problem = problem and f"lvs_sync_daemon: {problem}"
        if problem and problem != self._problem:
            self._log.error(problem)
        self._problem = problem


def desired(wanted: SyncWanted | None, state: str) -> list[SyncDaemon]:
    """Return the daemons of a configuration, while its virtual router is in this state.

    Without a virtual router both run. With one it is the backup, unless it is master.
    """
    if wanted is None:
        return []
    if not wanted.instance:
        return [wanted.daemon(role) for role in ROLES]
    return [wanted.daemon(MASTER if state == _MASTER_STATE else BACKUP)]
