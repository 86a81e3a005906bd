"""What `pylvs stop` and the next daemon need if this one is killed, besides the services that it owns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from pylvs.daemon import Options, leftovers, units
from pylvs.daemon.leftovers import ADDRESSES_FILE, Namespaces
from pylvs.daemon.limits import TABLES_S
from pylvs.daemon.parts import Part
from pylvs.daemon.state.directory import NAMESPACES_FILE, StateDirectory
from pylvs.daemon.state.overrides import NotSaved, StateWriter
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration
from pylvs.system.namespaces import network_cookie
from pylvs.system.table_thread import TableThread
from pylvs.system.threads import to_thread


class UnitNote(Part):
    """The state directory of this unit's daemon. What the last one left in another directory is ended."""

    def __init__(self, state: StateDirectory, thread: TableThread, heirs: Sequence[Part]) -> None:
        """`heirs` read the state directory again if it gets what was in the other one."""
        self._state = state
        self._thread = thread
        self._heirs = heirs

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Come before the virtual routers: those of the last daemon may have the same addresses."""
        if units.former(self._state.path) is None:
            units.note(self._state.path)
            return
        await to_thread(leftovers.end_former, self._state, await self._thread.run(network_cookie))
        for each in self._heirs:
            each.read()


class Notes(Part):
    """The network namespaces, and the addresses of virtual routers.

    A start waits for a slow disk, and continues if the disk refuses them. `reverted` returns whether the stop has left
    neither services nor settings.
    """

    def __init__(
        self,
        options: Options,
        state: StateDirectory,
        writer: StateWriter,
        thread: TableThread,
        reverted: Callable[[], bool],
    ) -> None:
        self._options = options
        self._state = state
        self._writer = writer
        self._thread = thread
        self._reverted = reverted

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        namespaces = Namespaces.of(self._options, network_cookie(), await self._thread.run(network_cookie))
        with contextlib.suppress(NotSaved):
            await self._writer.write(NAMESPACES_FILE, partial(namespaces.save, self._state), TABLES_S)
        await self._save_addresses(configuration.vrrp, TABLES_S)

    async def prepare(self, configuration: Configuration) -> None:
        await self._save_addresses(configuration.vrrp)

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        self._put_addresses(configuration.vrrp)

    async def stop(self, keep: bool) -> None:
        if keep:
            return
        if self._reverted():  # else `pylvs stop` needs it
            self._writer.put(NAMESPACES_FILE, lambda: partial(self._state.write, NAMESPACES_FILE, None))
        self._put_addresses(VrrpConfiguration())

    async def _save_addresses(self, routers: VrrpConfiguration, patience_s: float | None = None) -> None:
        with contextlib.suppress(NotSaved):
            write = partial(leftovers.save_addresses, self._state, routers)
            await self._writer.write(ADDRESSES_FILE, write, patience_s)

    def _put_addresses(self, routers: VrrpConfiguration) -> None:
        self._writer.put(ADDRESSES_FILE, lambda: partial(leftovers.save_addresses, self._state, routers))
