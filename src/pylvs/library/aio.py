"""The director for programs with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextvars import ContextVar
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from typing import ParamSpec, Self, TypeVar

from pylvs.library.client_rules import ClientRule, Prefix, ServiceRules
from pylvs.library.difference import Difference
from pylvs.library.director import KEEP, Director, Keep, Watcher, interval
from pylvs.library.errors import Closed
from pylvs.library.keys import ServerKey, ServiceKey, boolean
from pylvs.library.statistics import Statistics
from pylvs.library.values import Flag, Forwarding, Persistence, Server, Service, Tunnel
from pylvs.model.addresses import Address
from pylvs.model.director import Connection
from pylvs.model.rows import DeviceProblem, TableUse
from pylvs.model.service import LONGEST_S, Protocol, Timeouts
from pylvs.system.table_thread import TableThread

TYPE_CHECKING = False  # as in the other modules of the library
if TYPE_CHECKING:
    from pylvs.library.keys import ProtocolName
    from pylvs.library.values import ForwardingName

AT_ONCE = 2048  # connections that the thread reads before the event loop runs again

# The blocks of `locked` around the running code, also in tasks that a block starts.
_blocks: ContextVar[frozenset[object]] = ContextVar("blocks", default=frozenset())

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class AsyncDirector:
    """A `Director` whose methods run in a thread of their own, one after another: the event loop never waits.

    Open it by `async with`. A cancelled call either has not begun, and never does, or runs to its end: no edit is
    half made. Each method is that of `Director`, with its arguments, its result and its errors.
    """

    def __init__(self, namespace: str | os.PathLike[str] | None = None, *, ignore_daemon: bool = False) -> None:
        self._namespace = namespace
        self._ignore_daemon = ignore_daemon
        self._thread: TableThread | None = None
        self._director: Director | None = None
        self._turn = asyncio.Lock()  # of the blocks of `locked`
        self._block: object = None  # the open one
        self._entered = contextlib.ExitStack()  # what that block has to undo; the thread alone uses it

    async def __aenter__(self) -> Self:
        self._thread = TableThread("pylvs-director")
        try:
            await self._thread.run(self._open)
        except BaseException:
            await self.close()
            raise
        return self

    def _open(self) -> None:
        self._director = Director(self._namespace, ignore_daemon=self._ignore_daemon)

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the tables after the calls that run or wait. The services stay in force.

        An open block of `locked` lets others edit from then on, and its own calls raise Closed.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.shield(asyncio.ensure_future(self._close(thread)))

    async def _close(self, thread: TableThread) -> None:
        def close() -> None:
            self._entered.close()
            if self._director is not None:
                self._director.close()

        await thread.run(close)
        thread.close()

    async def _run(
        self, method: Callable[Arguments, Result], /, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        if self._block is not None and self._block not in _blocks.get():
            async with self._turn:
                pass  # from here to the submission no other task runs
        if self._thread is None:
            raise Closed("the director is not open: use `async with`")
        return await self._thread.run(method, *arguments, **named)

    @property
    def _sync(self) -> Director:
        if self._thread is None or self._director is None:
            raise Closed("the director is not open: use `async with`")
        return self._director

    # --- reading ---

    async def services(self) -> tuple[Service, ...]:
        """Return all services with their servers."""
        return await self._run(self._sync.services)

    async def service(self, service: Service | ServiceKey | str) -> Service:
        """Return one service with its servers."""
        return await self._run(self._sync.service, service)

    async def client_rules(self) -> Mapping[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of the services that have any."""
        return await self._run(self._sync.client_rules)

    async def client_rules_of(self, service: Service | ServiceKey | str) -> tuple[ClientRule, ...]:
        """Return the client rules of one service."""
        return await self._run(self._sync.client_rules_of, service)

    async def statistics(self) -> Statistics:
        """Return counters, rates and numbers of connections."""
        return await self._run(self._sync.statistics)

    async def connections(
        self,
        *,
        protocol: Protocol | ProtocolName | None = None,
        client: Address | IPv4Network | IPv6Network | str | None = None,
        service: Service | ServiceKey | str | None = None,
        server: Server | ServerKey | str | None = None,
        state: str | None = None,
    ) -> AsyncGenerator[Connection, None]:
        """Yield the connections that meet all conditions; other calls run in between."""
        found = await self._run(
            self._sync.connections, protocol=protocol, client=client, service=service, server=server, state=state
        )

        def some() -> list[Connection]:
            return list(islice(found, AT_ONCE))

        while block := await self._run(some):
            for each in block:
                yield each

    async def watch(
        self, *, interval_s: float = 1.0, since: Iterable[Service] | None = None
    ) -> AsyncGenerator[Difference, None]:
        """Yield what each change of the table made of services and servers, from the first iteration on."""
        pause_s = interval(interval_s)
        watcher: Watcher = await self._run(self._sync.watcher, since)
        while True:
            if found := await self._run(watcher.look):
                yield found
            else:
                await asyncio.sleep(pause_s)

    async def timeouts(self) -> Timeouts:
        """Return the timeouts of connections."""
        return await self._run(self._sync.timeouts)

    async def settings(self) -> Mapping[str, int]:
        """Return the settings by name."""
        return await self._run(self._sync.settings)

    async def table_use(self) -> TableUse:
        """Return how full the connection table is."""
        return await self._run(self._sync.table_use)

    async def edition(self) -> int:
        """Return a number that changes at every edit."""
        return await self._run(self._sync.edition)

    async def device_problems(self) -> tuple[DeviceProblem, ...]:
        """Return the devices that the last edit could not attach."""
        return await self._run(self._sync.device_problems)

    # --- edits ---

    async def apply(
        self,
        desired: Iterable[Service],
        *,
        prune: bool = True,
        scope: Iterable[Service | ServiceKey | str] | Callable[[ServiceKey], bool] | None = None,
        dry_run: bool = False,
        client_rules: ServiceRules | None = None,
    ) -> Difference:
        """Make the services be `desired`."""
        return await self._run(
            self._sync.apply, desired, prune=prune, scope=scope, dry_run=dry_run, client_rules=client_rules
        )

    async def add_service(self, service: Service, *, client_rules: Iterable[ClientRule | str] = ()) -> None:
        """Add a service with its servers and client rules."""
        await self._run(self._sync.add_service, service, client_rules=client_rules)

    async def edit_service(
        self,
        service: Service | ServiceKey | str,
        *,
        scheduler: str | None = None,
        flags: Flag | None = None,
        persistence: Persistence | Keep | None = KEEP,
        mss_clamp: int | None = None,
    ) -> Service:
        """Change these settings of a service."""
        edit = self._sync.edit_service
        return await self._run(
            edit, service, scheduler=scheduler, flags=flags, persistence=persistence, mss_clamp=mss_clamp
        )

    async def delete_service(self, service: Service | ServiceKey | str) -> None:
        """Delete a service with its servers."""
        await self._run(self._sync.delete_service, service)

    async def add_client_rules(self, service: Service | ServiceKey | str, rules: Iterable[ClientRule | str]) -> None:
        """Add client rules to a service that exists."""
        await self._run(self._sync.add_client_rules, service, rules)

    async def delete_client_rules(self, service: Service | ServiceKey | str, prefixes: Iterable[Prefix | str]) -> None:
        """Delete the client rules of these prefixes."""
        await self._run(self._sync.delete_client_rules, service, prefixes)

    async def replace_client_rules(
        self, service: Service | ServiceKey | str, rules: Iterable[ClientRule | str]
    ) -> None:
        """Give a service these client rules alone."""
        await self._run(self._sync.replace_client_rules, service, rules)

    async def add_server(self, service: Service | ServiceKey | str, server: Server) -> None:
        """Add a server to a service that exists."""
        await self._run(self._sync.add_server, service, server)

    async def edit_server(
        self,
        service: Service | ServiceKey | str,
        server: Server | ServerKey | str,
        *,
        weight: int | None = None,
        forwarding: Forwarding | ForwardingName | None = None,
        upper: int | None = None,
        lower: int | None = None,
        tunnel: Tunnel | None = None,
    ) -> Server:
        """Change these settings of a server."""
        return await self._run(
            self._sync.edit_server,
            service,
            server,
            weight=weight,
            forwarding=forwarding,
            upper=upper,
            lower=lower,
            tunnel=tunnel,
        )

    async def delete_server(self, service: Service | ServiceKey | str, server: Server | ServerKey | str) -> None:
        """Delete a server; its connections end as in IPVS."""
        await self._run(self._sync.delete_server, service, server)

    async def drain(
        self,
        service: Service | ServiceKey | str,
        server: Server | ServerKey | str,
        *,
        timeout_s: float | None = None,
        active_only: bool = False,
        interval_s: float = 1.0,
    ) -> bool:
        """Give a server weight 0, and wait until its connections have ended; return whether they have."""
        pause_s = interval(interval_s)
        boolean("active_only", active_only)
        end = time.monotonic() + (LONGEST_S if timeout_s is None else interval(timeout_s, "timeout_s"))
        await self.edit_server(service, server, weight=0)
        while await self.connections_left(service, server, active_only=active_only):
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(pause_s)
        return True

    async def connections_left(
        self, service: Service | ServiceKey | str, server: Server | ServerKey | str, *, active_only: bool = False
    ) -> int:
        """Return how many connections a server has now, or how many active ones."""
        return await self._run(self._sync.connections_left, service, server, active_only=active_only)

    async def clear(self) -> Difference:
        """Delete all services."""
        return await self._run(self._sync.clear)

    async def zero(self, service: Service | ServiceKey | str | None = None) -> None:
        """Set counters to 0."""
        await self._run(self._sync.zero, service)

    async def set_timeouts(
        self, *, tcp_s: int | None = None, tcp_fin_s: int | None = None, udp_s: int | None = None
    ) -> Timeouts:
        """Change these timeouts."""
        return await self._run(self._sync.set_timeouts, tcp_s=tcp_s, tcp_fin_s=tcp_fin_s, udp_s=udp_s)

    async def change_setting(self, name: str, value: int) -> None:
        """Change a setting `net.ipv4.vs.NAME`."""
        await self._run(self._sync.change_setting, name, value)

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncGenerator[None, None]:
        """Keep all other processes and all other tasks of this director from editing during the block.

        They wait, other processes up to ten seconds, so be quick. Tasks that the block starts are part of it. Each edit
        of the block is in force by itself.
        """
        around = _blocks.get()
        if self._block in around:
            yield
            return
        async with self._turn:
            self._block = object()
            outside = _blocks.set(around | {self._block})
            try:
                await self._run(lambda: self._entered.enter_context(self._sync.locked()))
                yield
            finally:
                leaving = asyncio.ensure_future(self._leave())
                _blocks.reset(outside)
                try:
                    await asyncio.shield(leaving)  # a second cancellation must not leave the lock
                finally:
                    self._block = None

    async def _leave(self) -> None:
        if self._thread is not None:  # else `close` has done it
            await self._run(self._entered.close)
