"""The receivers of advertisements: two sockets for each device, family and protocol, and their floods."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import VrrpInstance
from pylvs.system.sockets import DROP
from pylvs.vrrp import advert_filter
from pylvs.vrrp.advert_filter import Admission, Receiving, Relevant, Rules, rule_of
from pylvs.vrrp.flood_guard import Kind, UnverifiedGuard, VerifiedGuard
from pylvs.vrrp.loop import Call, Loop, Timer
from pylvs.vrrp.protocol.adverts import AH_BYTES, AH_PROTOCOL, Datagram
from pylvs.vrrp.sockets import AdvertReceiver, family_of, priority_of, protocol_of, vrid_of

AH_BUFFER_BYTES = 1 << 20  # forged packets with AH stay in the queue until this process has verified them

SocketKey = tuple[str, int, int]  # device, family, protocol
WhatMatters = Callable[[str, int, int], Relevant]  # to the routers of a device, family and VRID
OnAdvert = Callable[[str, int, Datagram], bool]  # device, VRID; returns whether it is valid, and from another router


@dataclass(slots=True)
class _Settings:
    """Of the instances that share a receiver."""

    groups: frozenset[Address] = frozenset()
    buffer_bytes: int = 0
    vrids: dict[int, Rules] = field(default_factory=dict)

    def add(self, instance: VrrpInstance) -> None:
        if not instance.peers:
            self.groups |= {instance.multicast}
        self.buffer_bytes += instance.receive_buffer
        known, rule = self.vrids.get(instance.vrid, ()), rule_of(instance)
        self.vrids[instance.vrid] = known if rule in known else (*known, rule)


class AdvertReceivers:
    """One Receiver for each device, family and protocol, shared by all virtual routers."""

    def __init__(self, loop: Loop, on_advert: OnAdvert, matters: WhatMatters = lambda *_: Relevant(0)) -> None:
        """`matters` returns what the kernel still passes while there is a flood."""
        self._loop = loop
        self._on_advert = on_advert
        self._matters = matters
        self._open: dict[SocketKey, Receiver] = {}

    def configure(self, instances: Iterable[tuple[VrrpInstance, str]]) -> list[str]:
        """Receive for these instances, each on its device; return error messages."""
        wanted: dict[SocketKey, _Settings] = {}
        for instance, device in instances:
            wanted.setdefault((device, family_of(instance), protocol_of(instance)), _Settings()).add(instance)
        for key, receiver in list(self._open.items()):
            if key not in wanted or not receiver.can_have(wanted[key]):
                self._open.pop(key).close()
        errors = []
        for key, settings in wanted.items():
            try:
                if key not in self._open:
                    self._open[key] = Receiver(self._loop, key, settings, self._on_advert, self._matters)
                self._open[key].set_rules(settings.vrids)
            except OSError as error:
                errors.append(f"advertisements cannot be received on {key[0]}: {error.strerror}")
        return errors

    def rejoin(self, device: str) -> None:
        """Join the groups again after a device was replaced or got another index."""
        for (name, _, _), receiver in self._open.items():
            if name == device:
                receiver.rejoin()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class Receiver:
    """A socket of advertisements that the kernel has verified, another one of the rest, and the guards of both."""

    def __init__(
        self, loop: Loop, key: SocketKey, settings: _Settings, on_advert: OnAdvert, matters: WhatMatters
    ) -> None:
        """Raises OSError."""
        self._loop = loop
        self._device, self._family, protocol = key
        self._offset = AH_BYTES if protocol == AH_PROTOCOL else 0
        self._settings = settings
        self._on_advert = on_advert
        self._matters = matters
        self._restricted: dict[int, Admission] = {}
        self._verified_guard, self._unverified_guard = VerifiedGuard(), UnverifiedGuard()
        self._timers: dict[Call, Timer] = {}
        buffer_bytes = max(settings.buffer_bytes, AH_BUFFER_BYTES if self._offset else 0)
        self._verified = AdvertReceiver(*key, settings.groups, buffer_bytes)
        try:
            self._unverified = AdvertReceiver(*key, settings.groups)
        except OSError:
            self._verified.close()
            raise
        loop.watch(self._verified.fileno(), self._read_verified)
        loop.watch(self._unverified.fileno(), self._read_unverified)

    def can_have(self, settings: _Settings) -> bool:
        """Return whether the sockets fit these settings."""
        known = self._settings
        return (known.groups, known.buffer_bytes) == (settings.groups, settings.buffer_bytes)

    def set_rules(self, vrids: dict[int, Rules]) -> None:
        """Receive these VRIDs. Raises OSError."""
        self._settings.vrids = vrids
        self._filter_verified()
        self._filter_unverified()

    def rejoin(self) -> None:
        """Join the groups again."""
        self._verified.rejoin()
        self._unverified.rejoin()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for receiver in (self._verified, self._unverified):
            self._loop.forget(receiver.fileno())
            receiver.close()

    def _receiving(self) -> Receiving:
        settings = self._settings  # IPv6 raw sockets receive multicast without membership
        return Receiving(self._family, self._offset, settings.vrids, bool(settings.groups))

    def _read_verified(self) -> None:
        now = self._loop.now
        for datagram in self._verified.receive():
            vrid = vrid_of(datagram)
            if not self._admits(vrid, datagram):  # it was in the queue before the filter was restricted
                continue
            kind = Kind.VOID
            if self._on_advert(self._device, vrid, datagram):
                kind = self._kind_of(vrid, datagram)
            if self._verified_guard.count(vrid, kind, now):
                self._filter_verified()

    def _kind_of(self, vrid: int, datagram: Datagram) -> Kind:
        relevant = self._matters(self._device, self._family, vrid)
        if relevant.includes(priority_of(datagram)):
            return Kind.PREVAILING
        return Kind.FOLLOWED if datagram.source in relevant.masters else Kind.LOWER

    def _admits(self, vrid: int, datagram: Datagram) -> bool:
        admission = self._restricted.get(vrid, True)
        if isinstance(admission, Relevant):
            return admission.includes(priority_of(datagram)) or datagram.source in admission.masters
        return admission

    def _filter_verified(self) -> None:
        guard = self._verified_guard
        self._restricted = {
            vrid: guard.admission(vrid, self._matters(self._device, self._family, vrid)) for vrid in guard.levels
        }
        receiving, restricted = self._receiving(), self._restricted
        self._verified.accept(lambda detail: advert_filter.verified(receiving, restricted, detail))
        self._call_at(guard.due, self._relax_verified)

    def _relax_verified(self) -> None:
        self._verified_guard.wake(self._loop.now)
        self._filter_verified()

    def _read_unverified(self) -> None:
        now, guard = self._loop.now, self._unverified_guard
        for datagram in self._unverified.receive():
            vrid = vrid_of(datagram)
            foreign = vrid not in self._settings.vrids
            if not guard.open or (foreign and not guard.foreign):  # it was in the queue before the guard closed
                continue
            self._on_advert(self._device, vrid, datagram)
            if guard.count(foreign, now):
                self._filter_unverified()

    def _filter_unverified(self) -> None:
        guard, receiving = self._unverified_guard, self._receiving()
        if guard.open:
            foreign = guard.foreign
            self._unverified.accept(lambda detail: advert_filter.unverified(receiving, foreign, detail))
        else:
            self._unverified.accept(lambda _: [DROP])
            self._unverified.drain()
        self._call_at(guard.due, self._relax_unverified)

    def _relax_unverified(self) -> None:
        self._unverified_guard.wake(self._loop.now)
        self._filter_unverified()

    def _call_at(self, due: float | None, call: Call) -> None:
        if timer := self._timers.pop(call, None):
            timer.cancel()
        if due is not None:
            self._timers[call] = self._loop.at(due, call)
