"""The daemon's life: start, reload, end.

    configuration ── engine (checks) ── wish ── keeper ── editor's thread ── Director
                        │ events
                        └── logs, scripts, mail, the API
                  ── routers ── the process of the virtual routers, which outlives this one

One event loop; whatever reads or edits the tables runs in the editor's thread. Killed at any moment, the daemon leaves
the table as it is, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from functools import partial

from pylvs.daemon import kept
from pylvs.daemon.api.control import Control
from pylvs.daemon.api.news import News
from pylvs.daemon.background import Background
from pylvs.daemon.data_plane import DataPlane
from pylvs.daemon.drains import Drains
from pylvs.daemon.dump import write_dump
from pylvs.daemon.loading import Loaded, Refused, Reloaded, accepted
from pylvs.daemon.needs import Outside
from pylvs.daemon.options import Options
from pylvs.daemon.ownership import Ownership
from pylvs.daemon.signals import handled
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.surroundings import Surroundings
from pylvs.daemon.table.editor import Editor
from pylvs.daemon.table.keeper import Keeper, Settled
from pylvs.daemon.table.known import Table, Wish
from pylvs.daemon.telling.lines import log_event, log_findings
from pylvs.daemon.virtual_routers import Told, VirtualRouters
from pylvs.dataplane.devices import watch
from pylvs.health.engine import Engine
from pylvs.health.events import Event, Overridden
from pylvs.model.errors import PylvsError
from pylvs.model.rows import unattached, warnings
from pylvs.model.wanted import Configuration
from pylvs.system import garbage
from pylvs.system.logs import get_logger

LOOK_AROUND_S = 30.0  # at devices and addresses, though the kernel told of no change
RETRY_S = 1.0  # of the first table and the last edits, where they cannot be made at once
LAST_EDITS_S = 15.0  # in which it must be possible to take the services out of the table at the end


class Supervisor:
    """One daemon. `engine`, `keeper`, `drains` and `loaded` are there from the moment at which it can be asked."""

    engine: Engine
    drains: Drains
    keeper: Keeper
    loaded: Loaded

    def __init__(self, options: Options, outside: Outside) -> None:
        self.options = options
        self.state = StateDirectory(options.state_dir)
        self.editor = Editor("pylvs-editor")
        self.news = News()
        self.started_at = 0.0  # wall clock, of the first complete table; 0 before
        self.loaded_at = 0.0  # of the configuration in force
        self.routers = VirtualRouters(
            self.state, self.news, partial(outside.start_routers, self.state, options.log_format)
        )
        self.reloads: Counter[str] = Counter()  # by result: done, refused
        self._outside = outside
        self._own = Ownership(self.state)
        self._unowned = asyncio.Event()  # the note of what is its own waits for a complete table
        self._flushing = False  # services of others go, too
        self._last_wish: Wish | None = None
        self._reload_waits = False  # that a signal asked for
        self._unfollowed = ""  # why addresses and devices could not be followed
        self._unattached: list[str] = []  # devices that were refused, in words
        self._unkept = False  # what the operator said just now
        self._ending = asyncio.Event()
        self._reloading = asyncio.Lock()  # held until the first table is there
        self._log = get_logger()

    # --- life ---

    async def run(self) -> None:
        """From the start to the end that a signal asks for. Raises PylvsError where it cannot start."""
        async with Background() as background:
            actions = {
                signal.SIGTERM: self.end,
                signal.SIGINT: self.end,
                signal.SIGHUP: lambda: background.start(self._reload_by_signal()),
                signal.SIGUSR1: lambda: background.start(self._write_down()),
                signal.SIGUSR2: lambda: background.start(self._write_down()),
            }
            with handled(actions):
                await self._run(background)

    def end(self) -> None:
        """Let `run` come to its end, in good order."""
        self._ending.set()

    async def _run(self, background: Background) -> None:
        await self._reloading.acquire()
        loaded = await asyncio.to_thread(self._outside.load, self.options)
        log_findings(loaded.findings)
        self.state.take()
        try:
            await self._prepare(loaded)
            try:
                await self._serve(background)
            finally:  # even when cancelled: a timetable that goes on would start tasks in a loop that is being closed
                await self.engine.close()
        finally:
            self.routers.close()
            await self._outside.close()
            self.editor.close()
            self.state.give_back()

    async def _serve(self, background: Background) -> None:
        """Check servers and keep the table until the end that a signal asks for."""
        self._control = Control(self)
        background.keep(self.routers.run, "running virtual routers")
        background.keep(DataPlane(self._no_forwarding, self.routers.data_plane).run, "watching the packet path")
        async with self._control.serving():
            there, _ = await asyncio.gather(self._first_table(), self.routers.configure(self.engine.configuration))
            if there:
                self._begin(background)
            self._reloading.release()
            await self._ending.wait()
            await self._end()
            background.cancel()

    async def _prepare(self, loaded: Loaded) -> None:
        """All that there is to know, before anything is changed."""
        own = self._own.former()
        said = kept.kept_overrides(self.state)
        configuration = accepted(loaded, self.options, allow_empty=not own)
        table = Table(await self.editor.do(self._outside.director))
        self.keeper = Keeper(table, self.editor, self._wish)
        self._outside.configure(configuration)
        await self._outside.begin(configuration)
        self.engine = Engine(configuration, self._outside.probe_of)
        self.engine.restore_overrides(said)
        self.drains = Drains(self.engine, partial(self.editor.do, table.rows), self.state, self.news)
        self.drains.resume()
        self.engine.adopt(kept.left_behind(await self.editor.do(table.rows), own, configuration))
        self.engine.on_event(self._heard)
        self.engine.on_event(self.news.tell_event)
        self.engine.on_change(self.keeper.wake)
        self.loaded, self.loaded_at = loaded, time.time()
        self._flushing = configuration.settings.lvs_flush
        await self._own.before(self._own_of(configuration))
        await self.editor.do(self._outside.adapt, self.state)

    async def _first_table(self) -> bool:
        """Until the table is as it should be, but for edits that are refused. False if the end comes first."""
        while (await self.keeper.settle()).trouble and not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), RETRY_S)
        self._flushing = False
        await self._owned(self.keeper.last)
        return not self._ending.is_set()

    def _begin(self, background: Background) -> None:
        self.started_at = time.time()
        garbage.settle()
        self.engine.start()
        background.keep(self.keeper.run, "keeping the table")
        background.keep(self.drains.run, "draining")
        background.keep(self._own_later, "noting its own services")
        background.keep(Surroundings(self._look_around).run, "following addresses and devices")
        if self._outside.manager.watchdog_s:
            background.keep(self._prove_alive, "telling the service manager")
        self._outside.manager.ready(self.status())
        self._log.info("ready", status=self.status())

    async def _end(self) -> None:
        self._outside.manager.stopping()
        self._log.info("stopping")
        async with self._reloading:
            await self.routers.stop()  # while services are still in the table: another director takes over now
            if self.started_at:
                self.engine.farewell()
            self.engine.stop()
            if not self.options.keep_table:
                await self._leave()
            await self.editor.do(self._outside.restore, self.state)

    async def _leave(self) -> None:
        """Take the services out of the table; all of them if the configuration says so."""
        flush = self.engine.configuration.settings.lvs_flush_on_stop == "all"
        self._last_wish = Wish((), self._own.keys, exclusive=flush)
        deadline = time.monotonic() + LAST_EDITS_S
        while (await self.keeper.settle()).trouble and time.monotonic() < deadline:
            await asyncio.sleep(RETRY_S)
        if self.keeper.last.complete:
            try:
                await self._own.after({})
            except PylvsError as error:  # the end goes on: the next daemon finds them gone
                self._log.error(str(error))

    # --- reload ---

    async def reload(self, dry_run: bool = False, allow_empty: bool = False, force: bool = False) -> Reloaded:
        """Read the file again and run it, as a whole or not at all. Raises Refused; then nothing has changed.

        Several at once are done one after the other.
        """
        async with self._reloading:
            return await self._reload(dry_run, allow_empty, force)

    async def _reload(self, dry_run: bool, allow_empty: bool, force: bool) -> Reloaded:
        if self._ending.is_set():
            raise Refused("pylvs run is stopping")
        loaded = await asyncio.to_thread(self._outside.load, self.options)
        try:
            configuration = accepted(loaded, self.options, allow_empty, force)
        except Refused as refused:
            if not dry_run:
                log_findings(refused.findings)
                self._tell_refused(refused)
            raise
        old = self.engine.configuration
        differences = tuple(await asyncio.to_thread(self._outside.differences, old, configuration))
        if dry_run:
            return Reloaded(loaded.findings, differences)
        log_findings(loaded.findings)
        self._outside.manager.reloading()
        try:
            settled, told = await self._change(loaded, configuration)
        except (PylvsError, OSError) as error:
            self._tell_refused(error)
            raise
        finally:
            self._outside.manager.ready(self.status())
        self.reloads["done"] += 1
        self._log.info("reloaded", edits=settled.edits, status=self.status())
        self.news.tell("reloaded", edits=settled.edits, differences=list(differences))
        return Reloaded(loaded.findings, differences, settled, told)

    def _tell_refused(self, why: Exception) -> None:
        self.reloads["refused"] += 1
        self._log.error(f"not reloaded: {why}")
        self.news.tell("reload_refused", reason=str(why))

    async def _change(self, loaded: Loaded, configuration: Configuration) -> tuple[Settled, Told]:
        old = self.engine.configuration
        self._outside.configure(configuration)
        try:
            await self._own.before(self._own_of(configuration))
            await self.editor.do(self._outside.adapt, self.state)
            told = await self.routers.configure(configuration)
            self.engine.replace(configuration)
        except BaseException:
            self._outside.configure(old)
            with contextlib.suppress(PylvsError):
                await self.routers.configure(old)
            raise
        self._keep_overrides()  # under the new names, before the edits, which may take long
        self.loaded, self.loaded_at = loaded, time.time()
        settled = await self.keeper.settle()
        await self._owned(settled)
        await self._control.follow(configuration.settings)
        garbage.settle()
        return settled, told

    async def _reload_by_signal(self) -> None:
        if self._reload_waits:  # and will read what the file says by then
            return
        self._reload_waits = True
        async with self._reloading:
            self._reload_waits = False
            with contextlib.suppress(PylvsError, OSError):  # which is in the log
                await self._reload(dry_run=False, allow_empty=False, force=False)

    # --- what goes on ---

    def _no_forwarding(self) -> str | None:
        """Why services may not be forwarded here, if so; None while nobody knows."""
        last = self.keeper.last
        unfollowed = self._unfollowed or "; ".join(unattached(self.keeper.table.director))
        trouble = unfollowed if last.waits else last.trouble or unfollowed
        return trouble if trouble or self.started_at else None

    def _own_of(self, configuration: Configuration) -> kept.Own:
        checks = {row.service.key: frozenset(each.key for each in row.destinations) for row in self._outside.rows()}
        return checks | dict(kept.own_of(configuration))

    async def _owned(self, settled: Settled) -> None:
        if not settled.complete:  # there is something left to be added or removed
            self._unowned.set()
            return
        self._unowned.clear()
        try:
            await self._own.after(self._own_of(self.engine.configuration))
        except PylvsError as error:  # what was noted before the edits holds, too
            self._log.error(str(error))

    async def _own_later(self) -> None:
        """Without the note the next daemon would take servers that are absent, being down, for new ones."""
        while True:
            await self._unowned.wait()
            async with self._reloading:
                await self._owned(self.keeper.last)
            await asyncio.sleep(RETRY_S)

    def status(self) -> str:
        """In a few words."""
        services, servers, down = self.engine.tally()
        routers = len(self.engine.configuration.vrrp.instances)
        more = f", {routers} virtual routers" if routers else ""
        return f"{services} services, {servers} real servers, {down} of them down{more}"

    def _wish(self) -> Wish:
        if self._last_wish is not None:
            return self._last_wish
        settings = self.engine.configuration.settings
        exclusive = settings.exclusive or self._flushing
        return Wish((*self.engine.wanted(), *self._outside.rows()), self._own.keys, exclusive, settings.lvs_timeouts)

    def _heard(self, event: Event) -> None:
        log_event(event)
        self._outside.heard(event)
        if isinstance(event, Overridden) and not self._unkept:  # one word may be about thousands of servers
            self._unkept = True
            asyncio.get_running_loop().call_soon(self._keep_overrides)

    def _keep_overrides(self) -> None:
        self._unkept = False
        try:
            kept.keep_overrides(self.state, self.engine.overrides())
        except PylvsError as error:
            self._log.error(str(error))

    async def _look_around(self) -> float:
        addresses = await self.editor.do(self._outside.addresses)
        await self.editor.do(self._outside.adapt, self.state)
        director = self.keeper.table.director
        try:
            await self.editor.do(director.follow_host)
        except Exception as error:
            self._unfollowed = str(error)
            raise
        self._unfollowed = ""
        self._tell_unattached(warnings(director))
        self.engine.addresses_here(frozenset(addresses))
        return watch.RETRY_S if director.troubles() else LOOK_AROUND_S

    def _tell_unattached(self, lines: list[str]) -> None:
        """Devices that are refused: told once, and again when it is over."""
        for line in lines:
            if line not in self._unattached:
                self._log.error(line)
        if self._unattached and not lines:
            self._log.info("all devices are attached again")
        self._unattached = lines

    async def _prove_alive(self) -> None:
        while True:
            self._outside.manager.alive()
            await asyncio.sleep(self._outside.manager.watchdog_s / 2)

    async def _write_down(self) -> None:
        """How everything stands, into a file beside the others: what SIGUSR1 and SIGUSR2 are for in keepalived."""
        async with self._reloading:
            rows = await self.editor.do(self.keeper.table.rows)
            path = await asyncio.to_thread(write_dump, self.state, self.engine.snapshot(), rows)
            self._log.info("written", file=str(path))
