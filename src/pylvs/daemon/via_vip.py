"""Checks that reach one real server through the virtual address, by the same packet path as clients.

Such a check shows that the server holds the virtual address, that its application listens there, and that it
decapsulates tunnelled packets. Each server gets a firewall mark (`PROBE_MARKS` of them) and a service of that mark with
this server only. The check's socket has the mark. Clients' services and their counters are not affected.

A rule of policy routing sends packets with a probe's mark to lo, where the packet path forwards them. It does so
whether this host holds the address or not. If it does, an answer has a source address of this host. IPv4 drops such a
packet as forged unless `accept_local` of the device is on; IPv6 has no such rule.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import cycle
from typing import Any, Protocol

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.probes import (
    CheckContext,
    Outcome,
    Probe,
    constant_probe,
    errno_text,
    is_local,
    is_shortage,
    probe_of,
)
from pylvs.model.addresses import Address, family_of
from pylvs.model.checks import Check, Target, goes_via_vip, targets_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import PylvsError
from pylvs.model.routing import NextHop, Route, RoutingRule
from pylvs.model.service import (
    FIRST_PROBE_MARK,
    PROBE_MARK_MASK,
    PROBE_MARKS,
    Destination,
    DestinationKey,
    Method,
    ServiceFlag,
    ServiceKey,
    VirtualService,
)
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService
from pylvs.netlink.changes import change
from pylvs.netlink.codec import CREATE, DELROUTE, DELRULE, EXCL, NEWROUTE, NEWRULE, REPLACE
from pylvs.netlink.links import Routes, local_addresses
from pylvs.netlink.routes import encoded, encoded_rule
from pylvs.system import proc
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread

DEVICES_FILE = "via_vip"  # the devices whose accept_local this daemon, or one before it, switched on
TABLE = FIRST_PROBE_MARK >> 16  # of policy routing: 20566
PRIORITY = 100
_DISCARD = 9  # a port to name in a question about routes; nothing is sent
_LOOPBACK = 1
_UNSPECIFIED, _STATIC = 0, 4  # RTPROT_*
_GONE = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT, errno.ENODEV)  # what is to be removed is gone


class ProbeMaker(Protocol):
    """Makes the probe of a check, as `pylvs.health.probes.probe_of` does."""

    def __call__(self, check: Check, context: CheckContext) -> Probe: ...


@dataclass(frozen=True, slots=True)
class ForwardingPath:
    """How packets to a virtual address of this family are forwarded to one real server."""

    family: int
    destination: Destination


class VipChecks:
    """The firewall marks of these checks, their services, and the host settings that they need."""

    def __init__(self) -> None:
        # For the table, besides the configured services; the same object while nothing changes.
        self.rows: tuple[WantedRow, ...] = ()
        self.error = ""  # of the last `adapt_host`
        self._marks: dict[ForwardingPath, int] = {}
        self._former_marks: dict[ForwardingPath, int] = {}  # before the last `configure`
        self._vips: frozenset[Address] = frozenset()
        # A mark is reused late: packets of an old check may still arrive.
        self._next_marks = cycle(range(FIRST_PROBE_MARK, FIRST_PROBE_MARK + PROBE_MARKS))
        self._log = get_logger()

    def configure(self, configuration: Configuration) -> None:
        """Allocate a mark for each path that this configuration checks; a path that stays keeps its mark.

        A path that only the last configuration lacked gets its former mark: after a refused reload, the probes of the
        old configuration continue with it.
        """
        paths = dict.fromkeys(_paths(configuration))
        marks = {path: mark for path, mark in self._marks.items() if path in paths}
        taken = set(marks.values())
        for path, mark in self._former_marks.items():
            if path in paths and mark not in taken:
                marks[path] = mark
                taken.add(mark)
        for path in paths:
            if path not in marks and len(taken) < PROBE_MARKS:
                marks[path] = next(mark for mark in self._next_marks if mark not in taken)
                taken.add(marks[path])
        self._former_marks = self._marks
        self._marks = marks  # replaced as a whole: the table thread may be reading it
        rows = tuple(_row(path, mark) for path, mark in marks.items())
        if rows != self.rows:
            self.rows = rows
        self._vips = frozenset(
            key.address for service in configuration.services for key in service.keys if not key.mark
        )

    def probe_of(
        self,
        check: Check,
        service: WantedService,
        server: WantedServer,
        context: CheckContext,
        make: ProbeMaker | None = None,
    ) -> Probe:
        """Return the probe of a check through the virtual address; `make` replaces `probe_of`."""
        vip = _vip(check, service)
        if vip is None:
            return constant_probe(Outcome(False, f"{service.name} has no virtual address to check through"))
        mark = self._marks.get(_path(vip, server))
        if mark is None:
            reason = f"all {PROBE_MARKS} marks of checks through virtual addresses are in use"
            return constant_probe(Outcome(False, reason, inconclusive=True))
        return self._through(
            check, vip, server.destination.key.address, mark, partial(make or probe_of, context=context)
        )

    def _through(self, check: Check, vip: Address, server: Address, mark: int, make: Callable[[Check], Probe]) -> Probe:
        made: tuple[Address, Probe] | None = None  # the probe, and the source address that it was made for
        configured = next((target.source for target in targets_of(check) if target.source is not None), None)

        async def ask() -> Outcome:
            nonlocal made
            try:
                source = configured or source_towards(server, vip.version, self._vips)
            except (PylvsError, OSError) as error:
                code = error.errno or 0
                reason = errno_text(code) if is_shortage(code) else str(error)
                return Outcome(False, reason, inconclusive=is_local(code))
            if made is None or made[0] != source:
                made = source, make(_redirected(check, vip, source, mark))
            outcome = await made[1]()
            return replace(outcome, reason=f"through {vip}: {outcome.reason}")

        return ask

    def adapt_host(self, state: StateDirectory) -> None:
        """Set routing rules and accept_local for these checks; called again after changes of the host.

        A change is saved before it is made, for `restore`. `error` is why that failed: then these checks may fail, and
        nothing else. In the table thread.
        """
        try:
            self._adapt(state)
        except (PylvsError, OSError) as error:
            text = f"checks through virtual addresses may fail: {error}"
            if text != self.error:
                self._log.error(text)
            self.error = text
        else:
            self.error = ""

    def _adapt(self, state: StateDirectory) -> None:
        saved = _saved_devices(state)
        if not self._marks and saved is None:
            return
        before = saved or set()
        v4 = [path.destination.key.address for path in self._marks if path.family == socket.AF_INET]
        v6 = len(self._marks) > len(v4)
        wanted = devices_towards(v4)
        added = {each for each in wanted if not accepts_own_sources(each)}
        devices = {"devices": sorted(before & wanted | added)} if self._marks else None
        if devices and (saved is None or devices["devices"] != sorted(before)):
            state.write(DEVICES_FILE, devices)  # a disk that blocks must not keep the table thread at each change
        route_marks({version for version, has in ((4, v4), (6, v6)) if has})
        for device in sorted(added):
            accept_own_sources(device, True)
            self._log.info("switched on accept_local for checks through virtual addresses", device=device)
        for device in sorted(before - wanted):
            accept_own_sources(device, False)
        if not devices:
            state.write(DEVICES_FILE, None)

    def restore(self, state: StateDirectory) -> None:
        """Revert `adapt_host`. In the table thread. Raises PylvsError."""
        self._marks, self.rows = {}, ()
        try:
            self._adapt(state)
        except (PylvsError, OSError) as error:
            raise PylvsError(f"settings of checks through virtual addresses are left on this host: {error}") from None


class HostSettings(Part):
    """The host settings of these checks. Their marks are configured before, with the other checks."""

    def __init__(self, checks: VipChecks, state: StateDirectory, thread: TableThread) -> None:
        self.reverted = False  # at the stop
        self._checks = checks
        self._state = state
        self._thread = thread

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self.prepare(configuration)

    async def prepare(self, configuration: Configuration) -> None:
        await self._thread.run(self._checks.adapt_host, self._state)

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        if not stopping:  # the stop reverts the settings, perhaps before this
            with contextlib.suppress(PylvsError):
                await self.prepare(configuration)

    async def stop(self, keep: bool) -> None:
        if keep:
            return
        try:
            await self._thread.run(self._checks.restore, self._state)
        except PylvsError as error:
            get_logger().error(str(error))
        else:
            self.reverted = True

    def problems(self) -> Iterator[Problem]:
        if self._checks.error:
            yield Problem("failed", "", self._checks.error)


def _saved_devices(state: StateDirectory) -> set[str] | None:
    """Return the devices that this daemon, or one before it, changed; None if none. Raises PylvsError."""
    with state.decoding(DEVICES_FILE) as saved:
        if saved is None:
            return None
        devices = saved.get("devices") if isinstance(saved, dict) else None
        if not isinstance(devices, list) or not all(isinstance(each, str) for each in devices):
            raise ValueError("no list of devices")
        return set(devices)


def _paths(configuration: Configuration) -> Iterator[ForwardingPath]:
    for service in configuration.services:
        for server in service.servers:
            for check in server.checks:
                vip = _vip(check, service) if goes_via_vip(check) else None
                if vip is not None:
                    yield _path(vip, server)


def _path(vip: Address, server: WantedServer) -> ForwardingPath:
    """Return the destination without weight and thresholds, which concern clients only.

    Except for NAT the port is left out, because the packet keeps it: one mark is enough for all services.
    """
    old = server.destination
    port = old.key.port if old.method is Method.MASQ else 0
    key = DestinationKey(old.key.address, port)
    return ForwardingPath(family_of(vip), Destination(key, old.method, tunnel=old.tunnel))


def _row(path: ForwardingPath, mark: int) -> WantedRow:
    """Return the service of a mark. It makes no connections, because checks of other servers reuse the ports."""
    key = ServiceKey.of_mark(mark, path.family)
    return WantedRow(VirtualService(key, "rr", ServiceFlag.ONE_PACKET), (path.destination,))


def _vip(check: Check, service: WantedService) -> Address | None:
    """Return the virtual address to check: the one that the check names, else the first of the service."""
    addresses = [key.address for key in service.keys if not key.mark]
    named = [target.address for target in targets_of(check) if target.address in addresses]
    return next(iter([*named, *addresses]), None)


def _redirected(check: Check, vip: Address, source: Address, mark: int) -> Check:
    """Return the check with the virtual address as target.

    Its packets are routed through lo, so it is bound to no device.
    """

    def redirected(target: Target) -> Target:
        return replace(target, address=vip, source=source, mark=mark, device="", via_vip=False)

    fields: dict[str, Any] = {}
    if hasattr(check, "targets"):
        fields["targets"] = tuple(map(redirected, check.targets))
    else:
        fields["target"] = redirected(targets_of(check)[0])
    return replace(check, **fields)


def route_marks(versions: Collection[int]) -> None:
    """Route packets with a probe's mark to lo, for these versions of IP and no other. Raises PylvsError."""
    to_lo = (NextHop(device=socket.if_indextoname(_LOOPBACK)),)
    for version, everything in ((4, "0.0.0.0/0"), (6, "::/0")):
        route = Route(destination=ip_network(everything), kind="local", next_hops=to_lo, table=TABLE, protocol=_STATIC)
        rule = RoutingRule(
            family=version,
            table=TABLE,
            preference=PRIORITY,
            mark=FIRST_PROBE_MARK,
            mark_mask=PROBE_MARK_MASK,
            protocol=_UNSPECIFIED,
        )
        if version in versions:
            change("the routes of checks", (NEWROUTE, encoded(route), CREATE | REPLACE))
            change("the rule of checks", (NEWRULE, encoded_rule(rule), CREATE | EXCL), (errno.EEXIST,))
        else:
            change("the routes of checks", (DELROUTE, encoded(route, going=True), 0), _GONE)
            change("the rule of checks", (DELRULE, encoded_rule(rule), 0), _GONE)


def devices_towards(servers: Iterable[Address]) -> set[str]:
    """Return the devices towards these real servers, by which their answers arrive."""
    found = set()
    with Routes() as routes:
        for server in servers:
            route = routes.to(server)
            if route is not None and not route.local:
                found.add(socket.if_indextoname(route.ifindex))
    return found


def accepts_own_sources(device: str) -> bool:
    """Return whether IPv4 accepts packets from this host's addresses on the device; True for a deleted device."""
    everywhere, there = (f"net/ipv4/conf/{name}/accept_local" for name in ("all", device))
    return not proc.exists(there) or bool(proc.read_number(everywhere) or proc.read_number(there))


def accept_own_sources(device: str, on: bool) -> None:
    """Set whether the device accepts them; ignore a deleted device. Raises PylvsError."""
    name = f"net/ipv4/conf/{device}/accept_local"
    if proc.exists(name):
        proc.write(name, "1" if on else "0")


def source_towards(server: Address, version: int, avoiding: Collection[Address]) -> Address:
    """Return the address of this host, of this version of IP, from which to probe the server.

    That is the address that the kernel would use, or else the nearest one. None of `avoiding` is used, because the
    server has those addresses too. Raises PylvsError, OSError.
    """
    if server.version == version:
        chosen = _chosen_by_kernel(server)
        if chosen not in avoiding:
            return chosen
    usable = [
        each
        for each in local_addresses()
        if each.version == version
        and each not in avoiding
        and not (each.is_loopback or each.is_link_local or each.is_unspecified)
    ]
    if not usable:
        raise PylvsError(f"this host has no IPv{version} address of its own to check {server} from")
    return max(usable, key=lambda each: (_bits_in_common(each, server), -int(each)))


def _chosen_by_kernel(server: Address) -> Address:
    with socket.socket(family_of(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect((str(server), _DISCARD))
        except OSError as error:
            failure = PylvsError(f"{server}: {os.strerror(error.errno or 0)}")
            failure.errno = error.errno or 0
            raise failure from None
        return ip_address(asking.getsockname()[0].partition("%")[0])


def _bits_in_common(one: Address, other: Address) -> int:
    """Return the length of the common prefix, 0 for two versions of IP (RFC 6724 5, rule 8)."""
    if one.version != other.version:
        return 0
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()
