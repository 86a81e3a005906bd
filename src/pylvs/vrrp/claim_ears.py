"""Who else says that an address which is held here is his: one ear on each device that holds any."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from pylvs.model.addresses import Address
from pylvs.vrrp.claims import Claims
from pylvs.vrrp.link_socket import ClaimEar, known_as
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.watching import Watch
from pylvs.vrrp.world import Target

LATER_S = 0.005  # announcements leave first

Held = Callable[[], Iterable[Target]]
Say = Callable[[str, str], None]  # about which device, and what
Claimed = Callable[[Address, str, bool], None]  # an address, in words if there is news, whether to announce it again


class ClaimEars:
    """All of them. `held` says what is held at this moment, `claimed` is told of claims."""

    def __init__(self, loop: Loop, links: Watch, held: Held, claimed: Claimed, trouble: Say) -> None:
        self._loop = loop
        self._links = links
        self._held = held
        self._claimed = claimed
        self._trouble = trouble
        self._ears: dict[str, ClaimEar] = {}
        self._claims = Claims(known_as)
        self._later: Timer | None = None

    def listen_soon(self) -> None:
        """To claims of what is held then."""
        if self._later is None or self._later.call is None:
            self._later = self._loop.at(self._loop.now + LATER_S, self._listen)

    def forget(self, device: str) -> None:
        """It has gone, or is another one now."""
        ear = self._ears.pop(device, None)
        if ear is not None:
            self._loop.forget(ear.fileno())
            ear.close()

    def close(self) -> None:
        """All of them."""
        for device in list(self._ears):
            self.forget(device)

    def _listen(self) -> None:
        wanted: dict[str, set[Address]] = {}
        for device, address in self._held():
            wanted.setdefault(device, set()).add(address)
        for device in [device for device in self._ears if device not in wanted]:
            self.forget(device)
        for device, addresses in wanted.items():
            link = self._links.links.get(device)
            if link is None:
                continue
            try:
                self._ear(device).watch(addresses, {link.mac, *self._macs_above(link.index)})
            except OSError as error:
                self._trouble(device, f"claims of others are not heard on {device}: {error.strerror}")

    def _ear(self, device: str) -> ClaimEar:
        if device not in self._ears:
            ear = self._ears[device] = ClaimEar(device)
            self._loop.watch(ear.fileno(), partial(self._hear, ear))
        return self._ears[device]

    def _macs_above(self, index: int) -> set[bytes]:
        return {link.mac for link in self._links.links.values() if link.below == index}

    def _hear(self, ear: ClaimEar) -> None:
        for claim in ear.receive():
            heard = self._claims.hear(self._loop.now, claim)
            if heard.words or heard.answer:
                self._claimed(claim.address, heard.words, heard.answer)
