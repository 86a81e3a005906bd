"""`lvs_sync_daemon`: start, stop and switch the sync daemons with the state of a virtual router, as keepalived does.

The daemons are those of `ipvsadm --start-daemon`, so they outlive this process, and the next one takes them over.
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
from pylvs.system.threads import to_thread

LOOK_S = 1.0  # between two looks whether the daemons run
RETRY_S = 5.0  # after one could not be started
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
        self._working = asyncio.Lock()
        self._ended = False
        self._log = get_logger()

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "running sync daemons")

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self.apply(configuration)

    async def apply(self, configuration: Configuration) -> None:
        wanted = configuration.settings.sync
        if wanted is None or self._wanted is None or wanted.instance != self._wanted.instance:
            self._state = ""
        self._wanted = wanted
        self._wake.set()

    async def stop(self, keep: bool) -> None:
        """Stop the daemons of this one, as keepalived does."""
        self._ended = True
        if not keep:
            async with self._working:
                await to_thread(self._reconcile, None, [])

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
        pause_s: float | None
        while not self._ended:
            self._wake.clear()
            try:
                async with self._working:
                    await self.step()
                pause_s = None if self._wanted is None else LOOK_S
            except PylvsError as error:
                self._report(str(error))
                pause_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def step(self) -> None:
        """Compare the daemons that run with those of the configuration, once. Raises PylvsError."""
        wanted = self._wanted
        if wanted is not None and wanted.instance and not self._state:
            self._state = await self._read_state(wanted.instance)
        await to_thread(self._reconcile, wanted, desired(wanted, self._state))
        self._report("")

    async def _read_state(self, instance: str) -> str:
        status = await self._status()
        return next((each["state"] for each in status.get("instances", ()) if each["name"] == instance), "")

    def _reconcile(self, wanted: SyncWanted | None, daemons: list[SyncDaemon]) -> None:
        """Start what shall run before anything is stopped: messages of the other director may still arrive.

        Without lvs_sync_daemon only those are stopped that this program has started. Raises PylvsError.
        """
        running = {each.daemon.role: each for each in self._daemons.running()}
        roles = {each.role: each for each in daemons}
        changed = [role for role, each in running.items() if role in roles and each.daemon != roles[role]]
        for role in changed:  # its parameters
            self._stop(role)
        for daemon in daemons:
            if daemon.role not in running or daemon.role in changed:
                self._daemons.start(daemon, announce=True, owner=OWNER)
                self._log.info(f"the {daemon.role} sync daemon runs", interface=daemon.interface, syncid=daemon.syncid)
        for role, known in running.items():
            if role not in roles and (wanted is not None or known.owner == OWNER):
                self._stop(role)

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
