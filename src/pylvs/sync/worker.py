"""The worker of a sync daemon: its sockets, its loop, its tables."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

from pylvs.dataplane.sync.missing import NoTables
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.sync import sockets
from pylvs.sync.backup import Backup
from pylvs.sync.director import DirectorTables
from pylvs.sync.files import DaemonFiles
from pylvs.sync.master import Master
from pylvs.sync.tables import Tables
from pylvs.system import sandbox
from pylvs.system.logs import get_logger, set_up
from pylvs.system.processes.asyncio_loop import AsyncioLoop

POLL_S = 0.02  # a master reads the feed so often, as IPVS's thread wakes up
LOOK_S = 1.0  # a backup shows so often that it runs
COUNTS_S = 1.0
USE_S = 10.0  # between two looks whether anything else uses the network namespace
LEASES_S = 6.0  # of former workers
START_S = 30.0  # until the receiver works
LOG = "syslog:daemon:"
_OWN_NAME = "pylvs-sync"  # of the supervisor, the worker and the receiver


# Programs and maps are loaded, and the tables found again through process 1 when others have replaced them. A backup
# ends its receiver, which is another user's.
CAPABILITIES = ("CAP_BPF", "CAP_KILL", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_PTRACE")


@dataclass(frozen=True, slots=True)
class Work:
    """What the supervisor wants of a worker.

    With `announce` a master sends all connections first, and a backup works when it has those of the masters.
    `former` is how the former worker ended, "" for the first one. `abandoned` is the exit status if nothing else uses
    the network namespace.
    """

    daemon: SyncDaemon
    owner: str
    files: DaemonFiles
    announce: bool
    former: str
    abandoned: int


class Worker:
    """Runs one daemon until SIGTERM. `longest` is the length of its longest message.

    `turn` is called each time that it makes progress.
    """

    def __init__(self, work: Work, tables: Tables, turn: Callable[[], None]) -> None:
        daemon = work.daemon
        settings = tables.settings()
        self.longest = daemon.longest(sockets.mtu_of(daemon.interface))
        self._wanted, self._daemon, self._files = work, daemon, work.files
        self._turn = turn
        self._opened = sockets.opened(daemon, settings["sync_ports"], settings["sync_sock_size"])
        asks = daemon.role == MASTER or work.announce  # a backup of ipvsadm sends nothing, as in IPVS
        self._for_requests = sockets.for_requests(daemon) if asks else None
        if daemon.role == MASTER:
            self._part: Master | Backup = Master(daemon, tables, self._opened, self.longest, self._for_requests)
        else:
            self._part = Backup(AsyncioLoop(), daemon, tables, self._opened, self.longest, self._for_requests)
        self._over = asyncio.Event()
        self._status = 0
        self._no_tables = False
        self._written: dict[str, int] | None = None

    async def run(self, ready: Callable[[], None]) -> int:
        """Run; `ready` is called as soon as the daemon works. Return the exit status. Raises PylvsError before that."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        await self._begin()
        self._turn()
        if isinstance(self._part, Backup):
            self._part.start()
            async with asyncio.timeout(START_S):
                while not self._part.up:
                    await asyncio.sleep(0.01)
            await self._request_tables(self._part)
        elif self._wanted.announce:
            self._part.announce_all()
        content = {"daemon": self._daemon.encoded(), "longest": self.longest, "owner": self._wanted.owner}
        self._files.write(self._files.parameters(self._daemon.role), content)
        self._drop_capabilities()
        ready()
        await self._work()
        self._part.close(loop.time())
        self._write_counts()
        return self._status

    async def _begin(self) -> None:
        """Work for the first time; a killed worker may have a lease for some seconds. Raises PylvsError.

        A worker that follows another one waits for tables in `_work`: they were removed on purpose.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + LEASES_S
        while True:
            self._turn()
            try:
                self._part.work(loop.time())
                return
            except Busy:
                if loop.time() >= until:
                    raise
            except NoTables as error:
                if not self._wanted.former:
                    raise
                self._report(error)
                return
            await asyncio.sleep(0.2)

    async def _request_tables(self, backup: Backup) -> None:
        """With `announce`, request the whole tables of masters, and wait for them."""
        loop = asyncio.get_running_loop()
        backup.ask(loop.time())
        while not backup.has_tables(loop.time()) and not self._over.is_set():
            self._turn()
            with contextlib.suppress(PylvsError):  # `_work` reports that there are no tables
                backup.work(loop.time())
            await asyncio.sleep(POLL_S)

    def _drop_capabilities(self) -> None:
        try:
            sandbox.keep_only(*CAPABILITIES)
        except OSError as error:
            get_logger().warning(f"{self._daemon.role} sync daemon keeps all capabilities: {error.strerror}")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        counts_s = use_s = loop.time()
        pause_s = POLL_S if isinstance(self._part, Master) else LOOK_S
        while not self._over.is_set():
            now = loop.time()
            self._turn()
            try:
                self._part.work(now)
                self._no_tables = False
            except PylvsError as error:
                self._report(error)
            if now - counts_s >= COUNTS_S:
                counts_s = now
                self._write_counts()
            if now - use_s >= USE_S:
                use_s = now
                if not namespace_in_use():
                    self._status = self._wanted.abandoned
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._over.wait()

    def _report(self, error: PylvsError) -> None:
        """Log once that there are no tables; they may be made again."""
        if not self._no_tables:
            self._no_tables = True
            get_logger().warning(f"{self._daemon.role} sync daemon: {error}; it waits")

    def _write_counts(self) -> None:
        now = dict(self._part.counts)
        if now != self._written:
            self._written = now
            with contextlib.suppress(OSError):
                self._files.write(self._files.counts(self._daemon.role), now)


def run(work: Work, ready: Callable[[], None], turn: Callable[[], None]) -> int:
    """Run the worker in this process; return its exit status. Raises PylvsError before it is ready."""
    set_up(LOG, process="sync")
    if work.former:
        get_logger().warning(f"{work.daemon.role} sync daemon: the worker {work.former}; another one starts")

    async def run_worker() -> int:
        tables = DirectorTables(make=not work.former)
        turn()  # making tables took the longer lease of the first turn
        return await Worker(work, tables, turn).run(ready)

    with asyncio.Runner() as runner:
        return runner.run(run_worker())


def namespace_in_use(proc: Path = Path("/proc")) -> bool:
    """Return whether a process besides sync daemons is in this network namespace, or sees a name of it.

    IPVS's daemons end with their namespace. A process keeps it alive, so this one must end by itself.
    """
    own = (proc / "self/ns/net").stat().st_ino
    seen = set[int]()  # mount namespaces
    for path in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            if (path / "comm").read_text().startswith(_OWN_NAME):
                continue
            if (path / "ns/net").stat().st_ino == own:
                return True
            mounts = (path / "ns/mnt").stat().st_ino
            if mounts not in seen:
                seen.add(mounts)
                if f"net:[{own}]" in (path / "mountinfo").read_text():
                    return True
    return False
