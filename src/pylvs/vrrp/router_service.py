"""The router process: one thread and one event loop run all virtual routers of a network namespace.

    NetlinkMonitor (links, addresses) ─┐                  ┌─ VipManager (advertisements, ARP, addresses, routes, rules)
    AdvertReceivers (advertisements) ──┼─ Router for each ┼─ RolePublisher (the data plane)
    Sessions (BFD) ────────────────────┤  vrrp_instance   └─ helper process (scripts, FIFOs, mail, log)
    ControlServer (pylvs run, CLI) ────┤
    helper process (tracked objects) ──┘

It reads no configuration file and starts no program but its helper process. `pylvs run` sends the configuration; the
router process outlives it.

Both report periodically: `pylvs run` the state of the data plane, the helper process that it lives, and which results
are late. What is late, or from a silent process, expires, which the log, events, status and tracks show.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pylvs.bfd.sessions import Sessions
from pylvs.model.addresses import Address
from pylvs.model.durations import checked_duration
from pylvs.model.errors import Busy, InvalidOperation, NoSuchRouter
from pylvs.model.vrrp import Roles, VrrpConfiguration, VrrpInstance, VrrpSettings
from pylvs.model.wanted import Configuration
from pylvs.system import lock, syscalls
from pylvs.system.lease import Lease
from pylvs.vrrp import PID_FILE
from pylvs.vrrp.advert_filter import Relevant
from pylvs.vrrp.control import requests, server
from pylvs.vrrp.control.server import ControlServer
from pylvs.vrrp.garp import GarpRateLimit
from pylvs.vrrp.helper.link import Configure, HelperLink, LogLine, LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.log_damper import LogDamper
from pylvs.vrrp.loop import Call, Loop, RateLimiter, RealtimeStatus, Timer, enable_realtime, freeze_gc
from pylvs.vrrp.protocol.adverts import Datagram, InvalidAdvert
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.receivers import AdvertReceivers
from pylvs.vrrp.roles import RolePublisher, RoleSets
from pylvs.vrrp.router import Router, SyncGroup
from pylvs.vrrp.sockets import family_of
from pylvs.vrrp.tracking import Key, TrackedObject, Tracking
from pylvs.vrrp.vip_manager import VipManager

# A reload that changes one of these ends the virtual router and starts another.
IDENTITY = ("interface", "vrf", "vrid", "family", "version", "vmac", "authentication", "multicast")
PROCESS_NAME = "pylvs-vrrp"  # shown by ps and top
CAPABILITIES = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_SYS_NICE", "CAP_IPC_LOCK", "CAP_SYS_RESOURCE")
MAX_NAME = 15  # TASK_COMM_LEN - 1
TICK_S = 0.5  # of leases
COPIED_LEASE_S = 5.0  # without a report on copies of connections
HELPER_SILENT = "the helper process has not reported it lately"


def run(
    state_dir: Path,
    log_format: str,
    roles: Roles,
    first: Configuration | None = None,
    prepare: Call = lambda: None,
    table_wait_s: float = 0.0,
) -> None:
    """Run until SIGTERM or a request to stop.

    The virtual routers of `first` run at once, with `table_wait_s` as in Configure.
    `prepare` is called before capabilities are dropped. The state directory must exist. Raises Busy, PylvsError.
    """
    os.chdir(state_dir)
    with single_instance(PID_FILE):
        RouterService(log_format, roles).run(first, prepare, table_wait_s)


@contextlib.contextmanager
def single_instance(path: str) -> Iterator[None]:
    """Hold the PID file. Raises Busy with the PID of the process that holds it."""
    try:
        descriptor = lock.claim(path)
    except lock.Held as other:
        raise Busy(f"virtual routers run here already, process {other}; stop it first") from None
    try:
        yield
        os.unlink(path)
    finally:
        os.close(descriptor)


class RouterService:
    """All virtual routers of a network namespace: their configuration, timers, events and requests."""

    def __init__(self, log_format: str, roles: Roles) -> None:
        self.loop = Loop(self._callback_failed)
        self.routers: dict[str, Router] = {}
        self.groups: list[SyncGroup] = []
        self.realtime_status = RealtimeStatus(0, False)
        self.unknown: Counter[tuple[str, int]] = Counter()  # advertisements of VRIDs that are not configured, by device
        self._by_vrid: dict[tuple[str, int], list[Router]] = {}
        self._roles = RolePublisher(roles, self.role_sets, self.loop, self.log)
        self._configuration = VrrpConfiguration()
        self._log_limiter = RateLimiter()
        self._damper = LogDamper(self.loop, self.log)
        self._stopping = False
        self._configured = False
        self._delayed_until = 0.0  # by vrrp_startup_delay
        self._table_by: float | None = None  # no router is master before this time, or the first table
        self.data_plane_expired = 0  # how often `pylvs run` was silent for too long
        self._lease = Lease(VrrpSettings().data_plane_lease_s, TICK_S)  # of its reports on the data plane
        self.copied = requests.Copied()  # its last report on copies of connections
        self._copied_lease = Lease(COPIED_LEASE_S, TICK_S)
        self.helper = HelperLink(self.loop, log_format, self._tracked, self._helper_lost, self._results_late)
        self.host = VipManager(self.loop, self.log, self._links_changed, self._resources_lost, self._conflict)
        self.sessions = Sessions(self.loop, self)
        self.tracking = Tracking(self.host.is_up, self.sessions.result, self.host.devices_tracked_by)
        self._receivers = AdvertReceivers(self.loop, self._receive, self._what_matters)
        self._limits = GarpRateLimit(())
        verbs: dict[str, server.Verb] = {
            "configure": self._configure,
            "status": lambda _: server.service_status(self),
            "why": lambda request: server.transitions_of(self, request.name),
            "yield": lambda request: self._yield(
                request.names, self.now + checked_duration("seconds", request.seconds)
            ),
            "unyield": lambda request: self._yield(request.names, None),
            "garp": self._send_garp,
            "data_plane": self._set_data_plane,
            "copied": self._set_copied,
            "ping": lambda _: {},
            "sessions": lambda _: self.sessions.results(),
            "stop": lambda request: self.stop(request.removed),
        }
        self._control = ControlServer(self.loop, verbs, self.log)

    def run(self, first: Configuration | None = None, prepare: Call = lambda: None, table_wait_s: float = 0.0) -> None:
        """Run the loop until `stop` has finished. `first` is run at once, with `table_wait_s` as in Configure."""
        readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.loop.watch(readable, lambda: self._on_signals(os.read(readable, 64)))
        self._control.open()  # first: the configuration comes over it, and starting a process takes milliseconds
        if first is not None:
            for warning in self._configure(requests.Configure(first.vrrp, first.settings, table_wait_s))["warnings"]:
                self.log("warning", warning)
        self.helper.start()
        prepare()
        self._drop_capabilities()
        try:
            self.loop.run()
        finally:
            self._control.close()
            self._receivers.close()
            self.host.close()

    def _drop_capabilities(self) -> None:
        """Keep those for netlink, sockets, the map of roles, the priority and locked memory."""
        from pylvs.system import sandbox  # late: the first advertisement does not wait for it

        try:
            sandbox.keep_only(*CAPABILITIES)
        except OSError as error:
            self.log("warning", f"pylvs-vrrp keeps all capabilities: {error.strerror}")

    def _callback_failed(self, error: Exception) -> None:
        """Log an unexpected exception; the virtual routers continue."""
        import traceback  # late: the first advertisement does not need it

        last = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{Path(last.filename).name}:{last.lineno}"
        if self._log_limiter.allow(line, self.now) is not None:
            self.log("error", f"{type(error).__name__}: {error} ({line}): this is a bug")

    def _try(self, name: str, call: Call) -> list[str]:
        """Call, and return error messages: a bug in one virtual router must not stop the others."""
        try:
            call()
        except Exception as error:
            self._callback_failed(error)
            return [f"{name}: {type(error).__name__}: {error}: this is a bug"]
        return []

    def _on_signals(self, numbers: bytes) -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(numbers):
            self.stop()

    def stop(self, removed: bool = False) -> dict[str, Any]:
        """Stop all virtual routers, restore the host, and end the loop once the helper process has ended.

        `removed`: a reload needs this process no more, and this host stays in service.
        """
        if not self._stopping:
            self._stopping = True
            for router in self.routers.values():
                self._try(router.name, router.stop)
            for call in (
                partial(self.sessions.stop, removed),
                self._receivers.close,
                self.host.reset,
                self._roles.reset,
            ):
                self._try("the end", call)
            self._damper.flush()
            self.helper.finish(self.loop.stop)
        return {}

    def _configure(self, request: requests.Configure) -> dict[str, Any]:
        """Apply a configuration; what is the same in the last one is not touched. Return error messages."""
        new = request.configuration
        if self._stopping:
            raise InvalidOperation("the virtual routers are stopping")
        first, self._configured = not self._configured, True
        self.helper.send(Configure(request.settings, new))
        before, self._configuration = self._configuration, new
        groups = {each.group.name: each.state for each in self.groups}
        routers = {each: each.state for each in self.routers.values()}
        if new.settings.process_name != before.settings.process_name:
            name = new.settings.process_name or PROCESS_NAME
            syscalls.prctl(syscalls.PR_SET_NAME, name.encode()[:MAX_NAME])
        if first or new.settings != before.settings:
            self.realtime_status = enable_realtime(new.settings)
            for warning in self.realtime_status.warnings:
                self.log("warning", warning)
        self.tracking.configure(new)
        self._set_lease(new.settings.data_plane_lease_s)
        if first:
            self.loop.at(self.now + TICK_S, self._tick)
        warnings = self._stop_removed()
        warnings += self._try("BFD", lambda: warnings.extend(self.sessions.configure(new.sessions)))
        warnings += self._configure_host(before)
        warnings += self._configure_routers()
        if not first:  # a reload may move an address of a backup to a master
            self._roles.publish()
        warnings += self._reconfigure_routers()
        if first:
            self._delay_masters(new.settings.startup_delay_s, request.table_wait_s)
        for router in self.routers.values():
            router.wait_for_copies(new.settings.copy_wait_s)
            warnings += self._try(router.name, partial(router.start, self._delayed_until, self._table_by))
        self._roles.publish()  # at first: opening the tables takes longer than the first advertisements
        if not first:
            self._report_groups()
            if new.settings.states_on_reload:
                self._report_states(groups, routers)
        if first:
            freeze_gc()
        return {"warnings": warnings}

    def _delay_masters(self, startup_delay_s: float, table_wait_s: float) -> None:
        if startup_delay_s:
            self._delayed_until = self.now + startup_delay_s
        if table_wait_s:
            self._table_by = self.now + table_wait_s
            self.loop.at(self._table_by, self._table_late)

    def _stop_removed(self) -> list[str]:
        """Stop the virtual routers that are not configured any more, or with another identity."""
        wanted = {each.name: each for each in self._configuration.instances}
        errors = []
        for name, router in list(self.routers.items()):
            new = wanted.get(name)
            if new is None or any(getattr(router.instance, field) != getattr(new, field) for field in IDENTITY):
                del self.routers[name]
                router.group = None  # the other members keep their state
                why = TransitionReason.STOP if new else TransitionReason.REMOVED
                errors += self._try(name, partial(router.stop, why))
        return errors

    def _configure_host(self, before: VrrpConfiguration) -> list[str]:
        """Apply VMACs, static resources and the limits, which belong to the devices below VMACs."""
        new = self._configuration
        bases = self.host.vmac_bases()
        warnings: list[str] = []
        warnings += self._try("devices", lambda: warnings.extend(self.host.configure(new)))
        if new.settings.limits != before.settings.limits or self.host.vmac_bases() != bases:
            self._limits = GarpRateLimit(new.settings.limits, self.host.vmac_bases())
            for router in self.routers.values():
                warnings += self._try(router.name, partial(router.set_limits, self._limits))
        return warnings

    def _configure_routers(self) -> list[str]:
        """Create virtual routers, and configure groups and sockets."""
        instances = self._configuration.instances
        for instance in instances:
            if instance.name not in self.routers:
                self.routers[instance.name] = Router(instance, self, self.host, self._limits)
        self._by_vrid = defaultdict(list)
        for router in self.routers.values():
            self._by_vrid[self.host.receive_device_of(router.instance), router.instance.vrid].append(router)
        self._create_groups()
        return self._receivers.configure((each, self.host.receive_device_of(each)) for each in instances)

    def _reconfigure_routers(self) -> list[str]:
        """Change virtual routers."""
        errors = []
        for each in self._configuration.instances:
            errors += self._try(each.name, partial(self._reconfigure, each))
        return errors

    def _reconfigure(self, instance: VrrpInstance) -> None:
        router = self.routers[instance.name]
        router.track(self.tracking.of(instance))
        if router.instance != instance:
            router.reconfigure(instance)

    def _report_groups(self) -> None:
        """Notify of groups that are new, or whose members are others: their state may be another one now."""
        for group in self.groups:
            if group.changed_at_reload():
                self.notify(StateChanged("GROUP", group.group.name, group.state.value, 0))

    def _report_states(self, groups: dict[str, State], routers: dict[Router, State]) -> None:
        """Report states that a reload kept: as in keepalived, of all groups, and of instances that are not master."""
        for group in self.groups:
            if group.state in (State.MASTER, groups.get(group.group.name)):
                self.notify(StateChanged("GROUP", group.group.name, group.state.value, 0, at_reload=True))
        for router in self.routers.values():
            if router.state is not State.MASTER and routers.get(router) is router.state:
                priority = router.machine.priority
                self.notify(StateChanged("INSTANCE", router.name, router.state.value, priority, at_reload=True))

    def _create_groups(self) -> None:
        reported = {each.group.name: each.reported for each in self.groups}
        for router in self.routers.values():
            router.group = None
        self.groups = []
        for group in self._configuration.groups:
            members = [self.routers[name] for name in group.members if name in self.routers]
            self.groups.append(SyncGroup(group, members, reported.get(group.name)))

    def _tracked(self, result: TrackedObject) -> None:
        self.tracking.update(result)
        self.publish("track", "", kind=result.kind, name=result.track.name, up=result.up, number=result.number)
        if result.kind == "link":
            self.host.set_link_beat(result.track.name, bool(result.up))
        else:
            self._track_all()

    def session_changed(self, name: str) -> None:
        """Apply another result of a BFD session, and send it to the health checks."""
        result = self.sessions.result(name)
        self._track_all()
        self.publish("session", "", session=name, up=result.up, reason=result.detail)

    def _track_all(self) -> None:
        for router in self.routers.values():
            router.track(self.tracking.of(router.instance))

    def _set_data_plane(self, request: requests.DataPlane) -> dict[str, Any]:
        """Store what `pylvs run` reports, with `up` None if it does not know; it repeats that within the lease."""
        self._lease.renew()
        if request.up:
            self._serve()
        self._enter_data_plane(request.up, request.reason)
        return {}

    def _serve(self) -> None:
        """Let virtual routers be master: this host has its first table."""
        waited, self._table_by = self._table_by, None
        for router in self.routers.values() if waited is not None else ():
            router.serve()

    def _table_late(self) -> None:
        if self._table_by is not None and not self._stopping:
            self.log("warning", "virtual routers may be master from now on, though the first table is not complete")
            self._serve()

    def _enter_data_plane(self, up: bool | None, detail: str) -> None:
        before, self.tracking.data_plane = self.tracking.data_plane, (up, detail)
        if before == (up, detail):
            return
        state = "unknown" if up is None else "up" if up else "down"
        texts = {
            "unknown": f"the state of the packet path is unknown: {detail}",
            "up": "the packet path works" if before[0] is None else "the packet path works again",
            "down": f"the packet path is lost: {detail}",
        }
        self.log("info" if up else "error", texts[state])
        self.publish("data_plane", "", up=up, state=state, reason=detail)
        self._track_all()

    def _set_copied(self, report: requests.Copied) -> dict[str, Any]:
        """Store what `pylvs run` reports of copies of connections; it repeats that each second."""
        self._copied_lease.renew()
        self.copied = report
        for router in self.routers.values():
            router.set_copied(report.current_at)
        return {}

    def _set_lease(self, length_s: float) -> None:
        if self._lease.length_s != length_s:
            self._lease = Lease(length_s, TICK_S)

    def _tick(self) -> None:
        """Count the silence of `pylvs run`, and let results of a lost helper process expire."""
        if self._stopping:
            return
        self.loop.at(self.now + TICK_S, self._tick)
        if self._lease.tick():
            self.data_plane_expired += 1
            self._enter_data_plane(None, f"no report from pylvs run for {self._lease.length_s:g} s")
        if self._copied_lease.tick():
            silent = requests.Copied(None, f"no report from pylvs run for {COPIED_LEASE_S:g} s")
            self.copied = silent
            for router in self.routers.values():
                router.set_copied(None)
        expired = self.tracking.expire(self.now, HELPER_SILENT)
        for tracked in expired:
            self.log("warning", tracked.description)
            self.publish(
                "track", "", kind=tracked.kind, name=tracked.track.name, state="unknown", reason=tracked.detail
            )
            if tracked.kind == "link":
                self.host.set_link_beat(tracked.track.name, False)
        if expired:
            self._track_all()

    def _helper_lost(self, reason: str) -> None:
        self.tracking.lose_source(self.now)
        self.publish("helper", "", reason=reason)

    def _results_late(self, late: Collection[Key]) -> None:
        self.tracking.lose_source(self.now, late)

    def named(self, names: Sequence[str]) -> list[Router]:
        """Return the named routers, all if there are no names. Raises NoSuchRouter."""
        for name in names:
            if name not in self.routers:
                known = ", ".join(sorted(self.routers)) or "none"
                raise NoSuchRouter(f"{name}: no such virtual router; there are: {known}")
        return [self.routers[name] for name in names or self.routers]

    def _with_groups(self, names: Sequence[str]) -> list[Router]:
        """Return the named routers with the other members of their groups."""
        found = {router.name: router for router in self.named(names)}
        for router in list(found.values()):
            if router.group is not None:
                found |= {member.name: self.routers[member.name] for member in router.group.members}
        return list(found.values())

    def _yield(self, names: Sequence[str], until: float | None) -> dict[str, Any]:
        """Make the named routers and their groups backup until then; None: revert that."""
        routers = self._with_groups(names)
        for router in routers:
            router.yield_until(until)
        return {"names": [router.name for router in routers]}

    def _send_garp(self, request: requests.Announce) -> dict[str, Any]:
        """Announce the addresses of a virtual router once."""
        for router in self.named([request.name]):
            router.announce()
        return {}

    def _receive(self, device: str, vrid: int, datagram: Datagram) -> bool:
        """Handle a datagram; return whether it is a valid advertisement of another router."""
        routers = [router for router in self._by_vrid.get((device, vrid), ()) if router.accepts(datagram)]
        if not routers:
            self._receive_unknown(device, vrid, datagram)
            return False
        router = routers[0] if len(routers) == 1 else max(routers, key=lambda each: each.match(datagram))
        try:
            return router.receive(datagram)
        except InvalidAdvert as invalid:
            self._report_invalid(router, invalid, datagram)
            return False

    def _what_matters(self, device: str, family: int, vrid: int) -> Relevant:
        """Return which advertisements of a VRID can still have an effect while there is a flood of them."""
        routers = [each for each in self._by_vrid.get((device, vrid), ()) if family_of(each.instance) == family]
        masters = {each.master for each in routers if each.master is not None and each.follows_lower}
        return Relevant(min((each.machine.priority for each in routers), default=0), tuple(masters))

    def _receive_unknown(self, device: str, vrid: int, datagram: Datagram) -> None:
        elsewhere = any(each == vrid and "" in (device, other) for other, each in self._by_vrid)
        if elsewhere and not datagram.destination.is_multicast:
            return  # the socket of that router receives it, too
        self.unknown[device, vrid] += 1
        enabled = self._configuration.settings.log_unknown_vrids
        if enabled and self._log_limiter.allow((device, vrid), self.now) is not None:
            sender = f"{device or 'unicast'}: {datagram.source}"
            self.log("info", f"{sender} advertises virtual router {vrid}, which is not configured here")

    def _report_invalid(self, router: Router, invalid: InvalidAdvert, datagram: Datagram) -> None:
        suppressed = self._log_limiter.allow((router.name, invalid.error), self.now)
        if suppressed is None:
            return
        more = f"; {suppressed} more like it since the last line" if suppressed else ""
        self.log("warning", f"{router.name}: an advertisement from {datagram.source} is dropped: {invalid}{more}")
        dropped = {"flaw": invalid.error.value, "source": str(datagram.source)}
        self.publish("dropped", router.name, **dropped)
        device = self.host.device_of(router.instance)
        self._control.publish_state({"kind": "DROPPED", "instance": router.name, "device": device, **dropped})

    def _resources_lost(self, name: str, lost: set[str]) -> None:
        text = ", ".join(sorted(lost))
        if not lost:
            self.log("info", f"{name}: a device returned without its virtual addresses; they are added again")
        elif self._log_limiter.allow((name, text), self.now) is not None:
            self.log("warning", f"{name}: another program removed {text}; it is added again")
        self.publish("restored", name, things=sorted(lost))
        self.routers[name].restore()

    def _conflict(self, address: Address, text: str, answer: bool) -> None:
        for router in self.routers.values():
            if router.holds(address):  # not after it became backup: the other host is the new master
                if text:
                    self.log("warning", f"{router.name}: {text}{'; it is announced again' if answer else ''}")
                    self.publish("address_conflict", router.name, address=str(address), reason=text)
                if answer:
                    router.defend(address)

    def _links_changed(self, replaced: set[str]) -> None:
        for device in replaced:
            self._receivers.rejoin(device)
        self._track_all()

    @property
    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return self.loop.now

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before `when`."""
        return self.loop.at(when, call)

    def roles_changed(self) -> None:
        """Publish the roles: before a new master adds its addresses, after a former one has removed them."""
        self._roles.publish()

    def role_sets(self) -> RoleSets:
        """Return the addresses of other masters, and those whose master is here."""
        standby: set[Address] = set()
        active: set[Address] = set()
        for instance in self._configuration.instances:  # a router may still have its former instance
            router = self.routers.get(instance.name)
            addresses = {each.interface.ip for each in (*instance.addresses, *instance.excluded)}
            (active if router and router.state is State.MASTER else standby).update(addresses)
        return frozenset(standby - active), frozenset(active)

    def log(self, level: str, text: str, about: str = "", **fields: Any) -> None:
        """Write a log line; `about` names the object that may change too often to log each of its changes."""
        if about:
            self._damper.log(about, (level, text, fields))
        else:
            self.helper.send(LogLine(level, text, {name: _plain(value) for name, value in fields.items()}))

    def publish(self, event: str, instance: str, **fields: Any) -> None:
        """Send an event to all subscribers."""
        self._control.publish({"event": event, "instance": instance, "time": time.time(), **fields})

    def notify(
        self, message: StateChanged | PriorityChanged | LowerPriorityReceived, router: Router | None = None
    ) -> None:
        """Run notify scripts, write to FIFOs, send mail and traps, and publish the state, with that of `router`."""
        self.helper.send(message)
        if isinstance(message, StateChanged) and not message.at_reload:
            self._control.publish_state(server.state_message(message.kind, message.name, message.state, router))


def _plain(value: Any) -> str | int | float | bool | None:
    """Return a value for the log."""
    return value if value is None or isinstance(value, str | int | float) else str(value)
