"""Checks that go to the virtual address and are forwarded, by the same packet path as clients, to one real server each.

What such a check finds out no check of the real server's own address can: that the server holds the virtual address,
that its application listens there, and that tunnelled packets are unwrapped. Each server gets a firewall mark
(`model.probe_marks`) and a service of that mark with this server alone; the check's socket has the mark. None of it is
seen by clients, and their services' counts know nothing of it.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from pylvs.daemon.state_dir import StateDirectory
from pylvs.health.checkers.context import Context
from pylvs.health.checkers.registry import probe_of
from pylvs.health.outcome import Outcome, Probe
from pylvs.model import service as probe_marks
from pylvs.model.addresses import Address, family_of
from pylvs.model.checks import Check, Target, goes_via_vip, targets_of
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, DestinationKey, Method
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.model.service import ServiceFlag, ServiceKey, VirtualService
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService
from pylvs.system.logs import get_logger

KEPT = "via_vip"  # in the state directory, while the host is changed: the devices whose accept_local was off


@dataclass(frozen=True, slots=True)
class Way:
    """How a packet to a virtual address of this family is forwarded to one real server."""

    family: int
    destination: Destination


class ViaVip:
    """The marks of one daemon, their services, and what the host must allow for them."""

    def __init__(self) -> None:
        self.rows: tuple[WantedRow, ...] = ()  # that the table should have beside the configured ones
        self._marks: dict[Way, int] = {}
        self._vips: frozenset[Address] = frozenset()
        self._last = -1
        self._log = get_logger()

    def configure(self, configuration: Configuration) -> None:
        """Marks for what this configuration checks so; a server that stays keeps its own."""
        ways = dict.fromkeys(_ways(configuration))
        marks = {way: mark for way, mark in self._marks.items() if way in ways}
        for way in ways:
            if way not in marks and (mark := self._free(set(marks.values()))):
                marks[way] = mark
        self._marks = marks  # as a whole: the editor's thread may be reading them
        rows = tuple(_row(way, mark) for way, mark in marks.items())
        if rows != self.rows:
            self.rows = rows
        self._vips = frozenset(
            key.address for service in configuration.services for key in service.keys if not key.mark
        )

    def _free(self, taken: Collection[int]) -> int:
        """A mark that nobody has, not soon again one that somebody had: a check may still be on its way. 0: none."""
        for _ in range(probe_marks.COUNT):
            self._last = (self._last + 1) % probe_marks.COUNT
            if probe_marks.FIRST + self._last not in taken:
                return probe_marks.FIRST + self._last
        return 0

    def probe_of(self, check: Check, service: WantedService, server: WantedServer, context: Context) -> Probe:
        """What makes such a check."""
        vip = _vip(check, service)
        if vip is None:
            return _failing(f"{service.name} has no virtual address to check through")
        mark = self._marks.get(_way(vip, server))
        if mark is None:
            return _failing(f"more than {probe_marks.COUNT} servers are checked through virtual addresses")
        return self._through(check, vip, server.destination.key.address, mark, context)

    def _through(self, check: Check, vip: Address, server: Address, mark: int, context: Context) -> Probe:
        from pylvs.daemon.probe_routing import source_towards

        made: tuple[Address, Probe] | None = None

        async def ask() -> Outcome:
            nonlocal made
            try:
                source = _named_source(check) or source_towards(server, vip.version, self._vips)
            except (PylvsError, OSError) as error:
                return Outcome(False, str(error))
            if made is None or made[0] != source:
                made = source, probe_of(_aimed(check, vip, source, mark), context)
            outcome = await made[1]()
            return replace(outcome, reason=f"through {vip}: {outcome.reason}")

        return ask

    # --- the host, in the thread that edits the tables ---

    def allow(self, state: StateDirectory) -> None:
        """Let such checks pass on this host, as it is now; what changes is noted before, for `restore`."""
        from pylvs.daemon import probe_routing

        kept = _kept_devices(state)
        if not self._marks and kept is None:
            return
        before = kept or set()
        four = [way.destination.key.address for way in self._marks if way.family == socket.AF_INET]
        six = len(self._marks) > len(four)
        try:
            wanted = probe_routing.devices_towards(four)
            fresh = {each for each in wanted if not probe_routing.accepts_own_sources(each)}
            known = {"devices": sorted(before & wanted | fresh)} if self._marks else None
            if known:
                state.keep(KEPT, known)
            probe_routing.route_marks({version for version, has in ((4, four), (6, six)) if has})
            for device in sorted(fresh):
                self._log.info("answers to checks through virtual addresses come in", device=device, accept_local=1)
                probe_routing.accept_own_sources(device, True)
            for device in sorted(before - wanted):
                probe_routing.accept_own_sources(device, False)
            if not known:
                state.keep(KEPT, None)
        except (PylvsError, OSError) as error:
            self._log.error(f"checks through virtual addresses may fail: {error}")

    def restore(self, state: StateDirectory) -> None:
        """Put back what `allow` changed."""
        self._marks, self.rows = {}, ()
        self.allow(state)


def _kept_devices(state: StateDirectory) -> set[str] | None:
    """Those that this daemon, or one before it, changed; None where nothing was. Raises Unsupported."""
    kept = state.read(KEPT)
    if kept is None:
        return None
    devices = kept.get("devices") if isinstance(kept, dict) else None
    if not isinstance(devices, list) or not all(isinstance(each, str) for each in devices):
        raise Unsupported(f"{state.file(KEPT)}: damaged (no list of devices); remove it")
    return set(devices)


def _ways(configuration: Configuration) -> Iterator[Way]:
    for service in configuration.services:
        for server in service.servers:
            for check in server.checks:
                vip = _vip(check, service) if goes_via_vip(check) else None
                if vip is not None:
                    yield _way(vip, server)


def _way(vip: Address, server: WantedServer) -> Way:
    """Weight and thresholds are for clients; and where the port stays as it is, one mark does for all services."""
    old = server.destination
    port = old.key.port if old.method is Method.MASQ else 0
    key = DestinationKey(old.key.address, port)
    return Way(family_of(vip), Destination(key, old.method, tunnel=old.tunnel))


def _row(way: Way, mark: int) -> WantedRow:
    """One packet at a time where there are no connections: ports are used again, for other servers."""
    key = ServiceKey.of_mark(mark, way.family)
    return WantedRow(VirtualService(key, "rr", ServiceFlag.ONE_PACKET), (way.destination,))


def _vip(check: Check, service: WantedService) -> Address | None:
    """The service's address that the check goes to: the one that it names, or the first that can be reached so."""
    addresses = [key.address for key in service.keys if not key.mark]
    named = [target.address for target in targets_of(check) if target.address in addresses]
    return next(iter([*named, *addresses]), None)


def _named_source(check: Check) -> Address | None:
    return next((target.source for target in targets_of(check) if target.source is not None), None)


def _aimed(check: Check, vip: Address, source: Address, mark: int) -> Check:
    """The same check to the virtual address. Its packets come by lo, so no other device is theirs."""

    def aimed(target: Target) -> Target:
        return replace(target, address=vip, source=source, mark=mark, device="", via_vip=False)

    fields: dict[str, Any] = {}
    if hasattr(check, "targets"):
        fields["targets"] = tuple(map(aimed, check.targets))
    else:
        fields["target"] = aimed(targets_of(check)[0])
    return replace(check, **fields)


def _failing(reason: str) -> Probe:
    async def ask() -> Outcome:
        return Outcome(False, reason)

    return ask
