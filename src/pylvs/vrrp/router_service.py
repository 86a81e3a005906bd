"""The process of the virtual routers: one thread, one loop, nothing that waits.

    Place (links, addresses) ─┐                     ┌─ Place (advertisements, ARP, addresses, routes, rules)
    Ears (advertisements) ────┼─ Routers (machines) ┼─ Roles (the packet path's word)
    Control (pylvs run, CLI) ─┤                     └─ aide (scripts, pipes, mail, log)
    aide (what is tracked) ───┘

It reads no file and starts no program but its aide; its configuration comes from `pylvs run`, which it outlives.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.errors import InvalidOperation, PylvsError
from pylvs.model.roles import Roles
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.vrrp import control, realtime
from pylvs.vrrp.control import ControlServer
from pylvs.vrrp.garp import GarpRateLimit
from pylvs.vrrp.helper.link import (
    Configure,
    Finish,
    HelperLink,
    LogLine,
    LowerPriorityReceived,
    PriorityChanged,
    StateChanged,
)
from pylvs.vrrp.loop import Call, Loop, Timer
from pylvs.vrrp.protocol.adverts import LogRateLimiter
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.protocol.packet import InvalidAdvert
from pylvs.vrrp.realtime import RealtimeStatus
from pylvs.vrrp.router import Router
from pylvs.vrrp.sockets import AdvertReceivers, Datagram
from pylvs.vrrp.sync_group import SyncGroup
from pylvs.vrrp.tracking import Tracking
from pylvs.vrrp.vip_manager import VipManager

# What another word about makes another virtual router: the old one ends, the new one begins.
IDENTITY = ("interface", "vrid", "family", "version", "vmac", "authentication", "multicast")


def run(state_dir: Path, log_format: str, roles: Roles) -> None:
    """Until SIGTERM, or until it is told to stop. The state directory is there. Raises Busy, PylvsError."""
    os.chdir(state_dir)
    with realtime.single_instance("vrrp.pid"):
        RouterService(log_format, roles).run()


class RouterService:
    """All virtual routers of a network namespace."""

    def __init__(self, log_format: str, roles: Roles) -> None:
        self.loop = Loop(self._failed)
        self.routers: dict[str, Router] = {}
        self.groups: list[SyncGroup] = []
        self.punctuality = RealtimeStatus(0, False)
        self.unknown: Counter[tuple[str, int]] = Counter()  # VRIDs of nobody here, by device
        self._by_vrid: dict[tuple[str, int], list[Router]] = {}
        self._serving = RolePublisher(
            roles, self._parts, self.log, lambda seconds, call: self.at(self.now + seconds, call)
        )
        self._configuration = VrrpConfiguration()
        self._grumbler = LogRateLimiter()
        self._ending = False
        self._begun = False
        self._starts_at = 0.0  # no virtual router does before
        self.aide = HelperLink(self.loop, log_format, self._hear_aide)
        self.place = VipManager(self.loop, self.log, self._links_changed, self._lost, self._claimed)
        self._tracking = Tracking(self.place.up)
        self._ears = AdvertReceivers(self.loop, self._hear)
        self._limits = GarpRateLimit(())
        verbs = {
            "configure": self._configure,
            "status": lambda _: control.service_status(self),
            "why": lambda request: control.transitions_of(self, request.get("name")),
            "yield": self._yield,
            "unyield": self._unyield,
            "data_plane": self._data_plane,
            "stop": lambda _: self.stop(),
        }
        self._control = ControlServer(self.loop, verbs)

    # --- its life ---

    def run(self) -> None:
        """From the first word to the end."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.loop.watch(woken, lambda: self._signalled(os.read(woken, 64)))
        self.aide.start()
        self._control.open()
        try:
            self.loop.run()
        finally:
            self._control.close()
            self._ears.close()
            self.place.close()

    def _failed(self, error: Exception) -> None:
        """Something that nobody thought of: it is told, and the virtual routers live."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        if self._grumbler.may(place, self.now) is not None:
            self.log("error", f"{type(error).__name__}: {error} ({place}): this is a bug")

    def _try(self, name: str, call: Call) -> list[str]:
        """What goes wrong with one virtual router must not cost the others; in words."""
        try:
            call()
        except Exception as error:
            self._failed(error)
            return [f"{name}: {type(error).__name__}: {error}: this is a bug"]
        return []

    def _signalled(self, numbers: bytes) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(numbers):
            self.stop()

    def stop(self) -> dict[str, Any]:
        """Give up every mastership, tell everyone, end."""
        if not self._ending:
            self._ending = True
            for router in self.routers.values():
                self._try(router.name, router.stop)
            for what in (self._ears.close, self.place.leave, self._serving.leave):
                self._try("the end", what)
            self.aide.finish(Finish(), self.loop.stop)
        return {}

    # --- what is to be ---

    def _configure(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run this from now on; what did not change is not touched."""
        new: VrrpConfiguration = request["configuration"]
        if self._ending:
            raise InvalidOperation("the virtual routers are stopping")
        first, self._begun = not self._begun, True
        self.aide.say(Configure(request["settings"], new))
        if first or (new.settings != self._configuration.settings):
            self.punctuality = realtime.enable_realtime(new.settings)
            for trouble in self.punctuality.troubles:
                self.log("warning", trouble)
        before, self._configuration = self._configuration, new
        self._tracking.configure(new)
        wanted = {each.name: each for each in new.instances}
        warnings: list[str] = []
        self._end_those_gone(wanted, warnings)
        bases = self.place.bases()
        troubles = self._try("devices", lambda: warnings.extend(self.place.configure(new)))
        warnings += troubles
        if new.settings.limits != before.settings.limits or self.place.bases() != bases:
            self._limits = GarpRateLimit(new.settings.limits, self.place.bases())
            for router in self.routers.values():
                warnings += self._try(router.name, partial(router.limit, self._limits))
        for each in new.instances:
            if each.name not in self.routers:
                self.routers[each.name] = Router(each, self, self.place, self._limits)
        self._by_vrid = defaultdict(list)
        for router in self.routers.values():
            self._by_vrid[self.place.heard_on(router.instance), router.instance.vrid].append(router)
        self._make_groups()
        self._listen(warnings)
        self._serving.tell()
        for each in new.instances:
            warnings += self._try(each.name, partial(self._change, each))
        if first and new.settings.startup_delay_s:
            self._starts_at = self.now + new.settings.startup_delay_s
            self.loop.at(self._starts_at, self._start)
        self._start(warnings)
        if first:
            realtime.freeze_gc()
        return {"warnings": warnings}

    def _end_those_gone(self, wanted: dict[str, VrrpInstance], troubles: list[str]) -> None:
        for name in [name for name, router in self.routers.items() if not _same(router.instance, wanted.get(name))]:
            router = self.routers.pop(name)
            router.group = None  # which goes on without it
            troubles += self._try(
                name, partial(router.stop, TransitionReason.STOP if name in wanted else TransitionReason.REMOVED)
            )

    def _change(self, instance: VrrpInstance) -> None:
        router = self.routers[instance.name]
        router.track(self._tracking.of(instance))
        if router.instance != instance:
            router.change(instance)

    def _start(self, troubles: list[str] | None = None) -> None:
        """All that do not run yet."""
        for router in () if self._ending or self.now < self._starts_at else self.routers.values():
            failed = self._try(router.name, router.start)
            if troubles is not None:
                troubles += failed

    def _make_groups(self) -> None:
        self.groups = []
        for router in self.routers.values():
            router.group = None
        for each in self._configuration.groups:
            members = [self.routers[name] for name in each.members if name in self.routers]
            group = SyncGroup(each, members)
            self.groups.append(group)
            for member in members:
                member.group = group

    def _listen(self, troubles: list[str]) -> None:
        troubles += self._ears.listen((each, self.place.heard_on(each)) for each in self._configuration.instances)

    # --- what is tracked ---

    def _hear_aide(self, message: Any) -> None:
        watched = self._tracking.hear(message)
        if watched is not None:
            told = {"kind": watched.kind, "name": watched.track.name, "well": watched.well, "number": watched.number}
            self.tell("track", "", **told)
            self._track_again()

    def _track_again(self) -> None:
        for router in self.routers.values():
            router.track(self._tracking.of(router.instance))

    def _data_plane(self, request: dict[str, Any]) -> dict[str, Any]:
        before, self._tracking.data_plane = self.data_plane, (bool(request["well"]), str(request.get("words", "")))
        if before != self.data_plane:
            well, words = self.data_plane
            text = "the packet path is well again" if well else f"the packet path is lost: {words}"
            self.log("info" if well else "error", text)
            self.tell("data_plane", "", well=well, words=words)
            self._track_again()
        return {}

    @property
    def data_plane(self) -> tuple[bool, str]:
        """Whether the packet path is well, and in words."""
        return self._tracking.data_plane

    # --- the operator's words ---

    def _named(self, names: list[str]) -> list[Router]:
        for name in names:
            if name not in self.routers:
                there = ", ".join(sorted(self.routers)) or "none"
                raise InvalidOperation(f"{name}: no such virtual router; there are: {there}")
        found = {name: self.routers[name] for name in names or self.routers}
        for router in list(found.values()):
            if router.group is not None:
                found |= {member.name: self.routers[member.name] for member in router.group.members}
        return list(found.values())

    def _yield(self, request: dict[str, Any]) -> dict[str, Any]:
        several = self._named(request.get("names") or [])
        for router in several:
            router.yield_until(self.now + float(request["seconds"]))
        return {"names": [router.name for router in several]}

    def _unyield(self, request: dict[str, Any]) -> dict[str, Any]:
        several = self._named(request.get("names") or [])
        for router in several:
            router.take_part_again()
        return {"names": [router.name for router in several]}

    # --- what is heard ---

    def _hear(self, device: str, vrid: int, datagram: Datagram) -> None:
        found = [router for router in self._by_vrid.get((device, vrid), ()) if router.speaks(datagram)]
        if found:
            router = next((each for each in found if each.machine.address == datagram.destination), found[0])
            try:
                router.hear(datagram)
            except InvalidAdvert as dropped:
                self._grumble(router, dropped, datagram)
            return
        if device and not datagram.destination.is_multicast and ("", vrid) in self._by_vrid:
            return  # where unicast is heard, it was heard as well
        self.unknown[device, vrid] += 1
        wanted = self._configuration.settings.log_unknown_vrids
        if wanted and self._grumbler.may((device, vrid), self.now) is not None:
            source = datagram.source
            self.log(
                "info",
                f"{device or 'unicast'}: {source} advertises virtual router {vrid}, which is not configured here",
            )

    def _grumble(self, router: Router, dropped: InvalidAdvert, datagram: Datagram) -> None:
        before = self._grumbler.may((router.name, dropped.flaw), self.now)
        if before is None:
            return
        more = f"; {before} more like it since the last line" if before else ""
        self.log("warning", f"{router.name}: an advertisement from {datagram.source} is dropped: {dropped}{more}")
        self.tell("dropped", router.name, flaw=dropped.flaw.value, source=str(datagram.source))

    def _lost(self, name: str, things: set[str]) -> None:
        words = ", ".join(sorted(things))
        if not things:
            self.log("info", f"{name}: a device came back without what is held on it; it is put back")
        elif self._grumbler.may((name, words), self.now) is not None:
            self.log("warning", f"{name}: somebody removed {words}; it is put back")
        self.tell("restored", name, things=sorted(things))
        self.routers[name].restore()

    def _claimed(self, address: Address, words: str, again: bool) -> None:
        for router in self.routers.values():
            if router.holds(address):  # else it just went to another router, which says so as it should
                if words:
                    self.log("warning", f"{router.name}: {words}{'; it is announced again' if again else ''}")
                    self.tell("claim", router.name, address=str(address), words=words)
                if again:
                    router.claimed(words or f"{address} is still claimed by others")

    def _links_changed(self, renewed: set[str]) -> None:
        """Devices or addresses came or went; `renewed` devices are there anew."""
        for device in renewed:
            self._ears.again(device)
        self._track_again()

    # --- the world of a virtual router (`pylvs.vrrp.ports`) ---

    @property
    def now(self) -> float:
        """Seconds."""
        return self.loop.now

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before that time."""
        return self.loop.at(when, call)

    def roles_changed(self) -> None:
        """Somebody became master, or is one no more."""
        self._serving.tell()

    def _parts(self) -> RoleSets:
        """The addresses that stand by, and those whose master this host is."""
        here: set[Address] = set()
        elsewhere: set[Address] = set()
        for instance in self._configuration.instances:  # of which a virtual router may be told later
            router = self.routers.get(instance.name)  # None: it is about to be made
            held = {each.interface.ip for each in (*instance.addresses, *instance.excluded)}
            (here if router and router.state is State.MASTER else elsewhere).update(held)
        return frozenset(elsewhere - here), frozenset(here)

    def log(self, level: str, text: str, **fields: Any) -> None:
        """A line."""
        self.aide.say(LogLine(level, text, fields))

    def tell(self, event: str, instance: str, **fields: Any) -> None:
        """To those who follow events."""
        self._control.tell({"event": event, "instance": instance, "time": time.time(), **fields})

    def notify(self, kind: str, name: str, state: str, priority: int, before: str) -> None:
        """To the operator's scripts, pipes and mail."""
        self.aide.say(StateChanged(kind, name, state, priority, before))

    def priority_moved(self, name: str, state: str, priority: int) -> None:
        """To the operator's pipes."""
        self.aide.say(PriorityChanged(name, state, priority))

    def lower_heard(self, name: str, priority: int) -> None:
        """To the operator's script for masters that hear somebody worse."""
        self.aide.say(LowerPriorityReceived(name, priority))


def _same(old: VrrpInstance, new: VrrpInstance | None) -> bool:
    return new is not None and all(getattr(old, name) == getattr(new, name) for name in IDENTITY)


# --- serving ---------------------------------------------------------------------------------------------------------
# The packet path is told which virtual addresses it serves, until it has heard it.


PUBLISH_RETRY_S = 1.0  # after it could not be told

WriteLog = Callable[[str, str], None]
CallLater = Callable[[float, Call], Timer]
RoleSets = tuple[frozenset[Address], frozenset[Address]]  # that stand by; whose master this host is


class RolePublisher:
    """`parts` gives what holds at this moment, `log` takes a level and a line, `later` calls in so many seconds."""

    def __init__(self, roles: Roles, parts: Callable[[], RoleSets], log: WriteLog, later: CallLater) -> None:
        self._roles = roles
        self._parts = parts
        self._log = log
        self._later = later
        self._told: RoleSets | None = None
        self._trouble = ""
        self._again: Timer | None = None
        self._over = False

    def tell(self) -> None:
        """What holds now, if that is news."""
        if not self._over:
            self._tell(self._parts())

    def leave(self) -> None:
        """The end: nothing stands by any more."""
        self._over = True
        self._tell((frozenset(), frozenset()))

    def _tell(self, parts: RoleSets) -> None:
        if parts == self._told:
            return
        try:
            self._roles.stand_by(*parts)
        except PylvsError as error:
            if str(error) != self._trouble:
                self._log("error", f"the packet path does not know what it serves: {error}")
            self._trouble = str(error)
            if self._again is None and not self._over:
                self._again = self._later(PUBLISH_RETRY_S, self._retry)
            return
        self._told, self._trouble = parts, ""

    def _retry(self) -> None:
        self._again = None
        self.tell()
