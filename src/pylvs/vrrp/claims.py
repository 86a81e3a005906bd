"""Who else claims an address that is held here: what is said of it, and whether it is answered. Pure.

However many claims come, little is said and less is answered: two hosts that answered each other at once would never
end (RFC 5227, 2.4).
"""

from __future__ import annotations

from collections.abc import Callable

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.vrrp.frames import Claim

TOLD_EVERY_S = 60.0  # of the same address and claimant
DEFEND_INTERVAL_S = 10.0  # between two answers for the same address (RFC 5227, 1.1)
MOST_TOLD = 10  # claimants in TOLD_EVERY_S
MOST_KEPT = 256  # addresses, and claimants: beyond it the oldest are forgotten


@dataclass(frozen=True, slots=True)
class Heard:
    """What follows from a claim."""

    words: str = ""  # for the log; "": nothing new
    answer: bool = False  # announce the address again


@dataclass(slots=True)
class _Claimant:
    told_at: float
    since: int = 0  # claims that were not told


class Claims:
    """All claims of addresses that are held here. `known_as` gives a claimant's own address, or ""."""

    def __init__(self, known_as: Callable[[bytes], str] = lambda mac: "") -> None:
        self._known_as = known_as
        self._claimants: dict[tuple[Address, bytes], _Claimant] = {}
        self._answered: dict[Address, float] = {}
        self._told: list[float] = []
        self._untold = 0  # claims of claimants who were one too many

    def hear(self, now: float, claim: Claim) -> Heard:
        """Somebody claimed an address that is held here at this time."""
        return Heard(self._words(now, claim), self._answer(now, claim.address))

    def _answer(self, now: float, address: Address) -> bool:
        if now < self._answered.get(address, float("-inf")) + DEFEND_INTERVAL_S:
            return False
        self._answered.pop(address, None)
        self._answered[address] = now
        if len(self._answered) > MOST_KEPT:
            del self._answered[next(iter(self._answered))]
        return True

    def _words(self, now: float, claim: Claim) -> str:
        who = (claim.address, claim.mac)
        known = self._claimants.get(who)
        if known and now < known.told_at + TOLD_EVERY_S:
            known.since += 1
            return ""
        self._told = [at for at in self._told if now < at + TOLD_EVERY_S]
        if len(self._told) >= MOST_TOLD:
            self._untold += 1
            return ""
        self._told.append(now)
        self._claimants.pop(who, None)
        self._claimants[who] = _Claimant(now)
        if len(self._claimants) > MOST_KEPT:
            del self._claimants[next(iter(self._claimants))]
        address = self._known_as(claim.mac)
        name = claim.mac.hex(":") + (f" ({address})" if address and address != str(claim.address) else "")
        words = f"{claim.address} is claimed by {name}" + (f" on {claim.device}" if claim.device else "")
        if known and known.since:
            words += f", and was {known.since} times since it was last told"
        if self._untold:
            words += f"; {self._untold} claims of others were not told"
            self._untold = 0
        return words
