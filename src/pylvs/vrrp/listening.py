"""Every socket that advertisements are heard on: one of each device, family and protocol, whoever shares it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import Authentication, VrrpInstance
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.packet import PROTOCOL
from pylvs.vrrp.seal import AH_BYTES, AH_PROTOCOL
from pylvs.vrrp.sockets import Datagram, Ear

Place = tuple[str, int, int]  # device, family, protocol
Hear = Callable[[str, int, Datagram], None]  # where it was heard, VRID


def family_of(instance: VrrpInstance) -> int:
    """That it speaks."""
    return (instance.peers[0].address if instance.peers else instance.multicast).version


def protocol_of(instance: VrrpInstance) -> int:
    """Of its packets."""
    return AH_PROTOCOL if instance.authentication is Authentication.AH else PROTOCOL


def vrid_of(datagram: Datagram) -> int:
    """Whose it is, -1 for nobody's."""
    at = 1 + (AH_BYTES if datagram.protocol == AH_PROTOCOL else 0)
    return datagram.payload[at] if len(datagram.payload) > at else -1


@dataclass(slots=True)
class Wanted:
    """What a socket must hear."""

    groups: set[Address] = field(default_factory=set)
    buffer: int = 0


class Ears:
    """All of them."""

    def __init__(self, loop: Loop, hear: Hear) -> None:
        self._loop = loop
        self._hear = hear
        self._open: dict[Place, tuple[Ear, Wanted]] = {}

    def listen(self, instances: Iterable[tuple[VrrpInstance, str]]) -> list[str]:
        """To these, each on its device, and nobody else; what cannot be opened now, in words."""
        wanted: dict[Place, Wanted] = defaultdict(Wanted)
        for instance, device in instances:
            each = wanted[device, family_of(instance), protocol_of(instance)]
            each.buffer = max(each.buffer, instance.receive_buffer)
            if not instance.peers:
                each.groups.add(instance.multicast)
        for place in [place for place, (_, known) in self._open.items() if wanted.get(place) != known]:
            self._close(place)
        troubles = []
        for place, each in wanted.items():
            if place not in self._open:
                try:
                    self._start(place, each)
                except OSError as error:
                    troubles.append(f"advertisements cannot be heard on {place[0]}: {error.strerror}")
        return troubles

    def again(self, device: str) -> None:
        """The device went away and came, or has another index: memberships are made anew."""
        for (name, _, _), (ear, _) in self._open.items():
            if name == device:
                ear.rejoin()

    def close(self) -> None:
        """All of them."""
        for place in list(self._open):
            self._close(place)

    def _start(self, place: Place, wanted: Wanted) -> None:
        device, family, protocol = place
        # Those of nobody here are heard, too: they are counted.
        ear = Ear(device, family, protocol, wanted.groups, None, wanted.buffer)
        self._open[place] = ear, wanted
        self._loop.watch(ear.fileno(), lambda: self._read(device, ear))

    def _close(self, place: Place) -> None:
        ear, _ = self._open.pop(place)
        self._loop.forget(ear.fileno())
        ear.close()

    def _read(self, device: str, ear: Ear) -> None:
        for datagram in ear.receive():
            self._hear(device, vrid_of(datagram), datagram)
