"""Announce the addresses of services by the routing daemon of this host, as long as their services serve.

pylvs runs no BGP. An address that is announced is on a dummy device, and the routing daemon redistributes the addresses
of that device. BIRD and FRR do that; GoBGP gets them from a script. Three states of an address:

| state | address on | when |
|---|---|---|
| announced | UP_DEVICE | all services that announce it serve, and packets are forwarded |
| leaving | LEAVING_DEVICE | the daemon stops, or this director leaves: a lower preference (RFC 8326) |
| withdrawn | neither | otherwise |

In all of them a local route keeps the address here: packets that still arrive are forwarded, and health checks through
the address work. Routing daemons ignore local routes.

The addresses on both devices have a lifetime, the lease. This process extends it each third. If it dies, or hangs, the
kernel removes them at its end: then it is unknown whether services serve. The next daemon continues with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from pylvs.daemon.host.announced import DEVICES, HostAddresses
from pylvs.daemon.host.leave import Leave
from pylvs.daemon.notifications import EventBus
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.services import Services
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.daemon.virtual_routers.forwarding import monitor_forwarding
from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.errors import InvalidOperation
from pylvs.model.routing import Announcement, Left, State
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger

RENEWALS = 3  # in a lease
BY_STOP, BY_COMMAND = "pylvs stops", "pylvs director leave"


def announced_by(configuration: Configuration) -> dict[Address, list[str]]:
    """Return the names of the services that announce each address."""
    found: dict[Address, list[str]] = {}
    for service in configuration.services:
        for key in service.keys if service.announce else ():
            if not key.mark and service.name not in found.setdefault(key.address, []):
                found[key.address].append(service.name)
    return found


def decide(
    services: Mapping[Address, Sequence[str]], unserved: Callable[[str], str], unforwarded: str, best: State, why: str
) -> list[Announcement]:
    """Return the state of each address. `unserved` returns why a service does not serve, "" if it does.

    `best` is the state of an address whose services serve, and `why` its reason.
    """
    found = []
    for address, names in services.items():
        reasons = [unforwarded] if unforwarded else []
        reasons += [f"{name}: {text}" for name in names if (text := unserved(name))]
        found.append(Announcement(address, State.WITHDRAWN if reasons else best, "; ".join(reasons) or why))
    return found


class Announcer(Part):
    """Follows services and the packet path. `error` and `unknown` are those of `monitor_forwarding`."""

    def __init__(
        self,
        services: Services,
        events: EventBus,
        error: Callable[[], str | None],
        unknown: Callable[[], str],
        host: HostAddresses,
        leave: Leave,
        connections: Callable[[], Awaitable[None]],
    ) -> None:
        """`connections` returns when those of other directors are here, as far as they will be."""
        self._services = services
        self._events = events
        self._monitor = partial(monitor_forwarding, error, self._report, unknown)
        self._host = host
        self._leave = leave
        self._connections = connections
        self._configuration = Configuration()
        self._announced: dict[Address, list[str]] = {}
        self._states: dict[Address, Announcement] = {}
        self._unforwarded = "whether packets are forwarded is not known yet"
        self._stopping = False
        self._hurried = asyncio.Event()  # the stop waits no longer
        self._changed = asyncio.Event()
        self._errors: list[str] = []
        self._prepared = False
        self._begun = False
        self._log = get_logger()

    def announcements(self) -> list[Announcement]:
        """Return the state of each address, in the order of the configuration."""
        return [self._states[each] for each in self._announced if each in self._states]

    def left(self) -> Left | None:
        """Return the planned leave of this director, None if there is none."""
        return self._leave.left

    @property
    def withdrawn(self) -> bool:
        """Whether no address of this director is announced, with any preference."""
        return self._begun and not any(each.state in DEVICES for each in self._states.values())

    async def leave(self, now: bool) -> str:
        """Lower the preference, and withdraw after announce_leave seconds, or now. Stay so until `join`.

        Returns why a restart of the daemon would forget it, "" if it would not. Raises InvalidOperation if no service
        has an address that is announced.
        """
        if not self._announced:
            raise InvalidOperation("no service has announce: this director has nothing to leave")
        if not self._leave.left:
            self._log.warning("this director leaves, until pylvs director join")
        self._leave.begin(0 if now else self._configuration.settings.announce_leave_s)
        self._changed.set()
        return await self._leave.saved()

    async def join(self) -> str:
        """End a leave; addresses whose services serve are announced again. Returns what `leave` does."""
        if self._leave.left:
            self._log.info("this director joins again")
            self._leave.end()
            self._changed.set()
        return await self._leave.saved()

    def hurry(self) -> None:
        """Let the stop withdraw at once."""
        self._hurried.set()

    def problems(self) -> Iterator[Problem]:
        return (Problem("announce", "", each) for each in self._errors)

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Let addresses be local before the first table; what a former daemon announces, stays for its lease."""
        self._follow(configuration)
        self._leave.read(configuration.settings.announce_leave_s)
        self._services.engine.on_event(lambda _: self._changed.set())
        self._services.engine.on_change(self._changed.set)

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._monitor, "monitoring forwarding for announcements")

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "announcing addresses")

    async def apply(self, configuration: Configuration) -> None:
        self._follow(configuration)
        self._changed.set()

    async def stop(self, keep: bool) -> None:
        """Lower the preference, wait, and withdraw. With `keep`, leave the addresses for a lease."""
        if keep or not self._begun:
            return
        self._stopping = True
        self.step()
        left_s = float(self._configuration.settings.announce_leave_s)
        while left_s > 0 and not self._hurried.is_set() and self._in(State.LEAVING):
            pause_s = min(left_s, self._renewal_s)
            await _wait(self._hurried, pause_s)
            left_s -= pause_s
            self.step()
        self._withdraw(list(self._announced))
        self._errors = [each for each in self._host.give_up(list(self._announced)) if each]
        if self._prepared:
            self._host.clear()
        self._begun = False

    async def _report(self, forwards: bool | None, text: str) -> None:
        self._unforwarded = "" if forwards else text or "packets are not forwarded"
        self._changed.set()

    @property
    def _renewal_s(self) -> float:
        return self._configuration.settings.announce_lease_s / RENEWALS

    async def _run(self) -> None:
        await self._connections()
        self._begun = True
        while True:
            self._changed.clear()
            self.step()
            await _wait(self._changed, min(self._renewal_s, self._leave.wait_s or self._renewal_s))

    def _follow(self, configuration: Configuration) -> None:
        """Announce the addresses of this configuration; withdraw others at once."""
        former, self._announced = self._announced, announced_by(configuration)
        self._configuration = configuration
        gone = [each for each in former if each not in self._announced]
        self._withdraw(gone)
        self._note(self._host.give_up(gone))
        for each in gone:
            self._states.pop(each, None)
        if self._announced:
            self._note(self._host.keep_here(list(self._announced)))

    def step(self) -> None:
        """Decide, extend leases, and move the addresses whose state changes."""
        if not self._announced:
            return
        error = "" if self._prepared else self._host.prepare()
        self._prepared = not error
        unserved = self._services.engine.why_unserved
        found = decide(self._announced, unserved, error or self._unforwarded, *self._best())
        failed = self._put(found)
        found = [
            replace(each, state=State.WITHDRAWN, reason=failed[each.address]) if each.address in failed else each
            for each in found
        ]
        left: list[str] = []
        for state in DEVICES:
            left += self._host.take([each.address for each in found if each.state is not state], state)
        self._put([each for each in found if self._moves(each)])
        self._note([error, *failed.values(), *left])
        for each in found:
            self._publish(each)

    def _best(self) -> tuple[State, str]:
        """Return the state of an address whose services serve, and its reason."""
        if self._leave.left and not self._leave.wait_s:
            return State.WITHDRAWN, BY_COMMAND
        if self._stopping:
            return State.LEAVING, BY_STOP
        return (State.LEAVING, BY_COMMAND) if self._leave.left else (State.ANNOUNCED, "")

    def _put(self, found: Sequence[Announcement]) -> dict[Address, str]:
        """Put addresses on the devices of their states, or extend their leases. Return errors by address."""
        lease_s = self._configuration.settings.announce_lease_s
        failed: dict[Address, str] = {}
        for state in DEVICES:
            failed |= self._host.put([each.address for each in found if each.state is state], state, lease_s)
        return failed

    def _withdraw(self, gone: Sequence[Address]) -> None:
        for state in DEVICES:
            self._note(self._host.take(gone, state))

    def _moves(self, now: Announcement) -> bool:
        """Return whether an address has just moved from one device to another.

        It is on the new device before it leaves the former one, so that BIRD does not withdraw it between. FRR 8.4
        then keeps the former device until an address of the new one is reported again.
        """
        before = self._states.get(now.address)
        return now.state in DEVICES and before is not None and before.state in DEVICES and before.state is not now.state

    def _in(self, state: State) -> bool:
        return any(each.state is state for each in self._states.values())

    def _publish(self, now: Announcement) -> None:
        before = self._states.get(now.address)
        self._states[now.address] = now
        if before is not None and before.state is now.state:
            return
        if before is None and now.state is State.WITHDRAWN:
            return  # at the start, nothing was announced
        write = self._log.info if now.state is State.ANNOUNCED else self._log.warning
        write(f"{now.address} is {now.state}" + (f": {now.reason}" if now.reason else ""))
        self._events.publish("announcement", address=str(now.address), state=now.state.value, reason=now.reason)

    def _note(self, failed: Iterable[str]) -> None:
        found = [text for text in failed if text]
        for text in found:
            if text not in self._errors:
                self._log.error(text)
        self._errors = found


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for the event, at most so long."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        waiting.cancel()
