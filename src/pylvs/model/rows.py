"""What a Director tells: services with their destinations and counts, and devices in trouble."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination
from pylvs.model.service import VirtualService
from pylvs.model.statistics import Counters, Rates

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.model.director import Director


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A destination and its counts."""

    destination: Destination
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    counters: Counters = Counters()
    rates: Rates = Rates()


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service with its destinations in list order, the newest first (IPVS-SEMANTICS 1.6)."""

    service: VirtualService
    destinations: tuple[DestinationRow, ...] = ()
    counters: Counters = Counters()
    rates: Rates = Rates()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A device that should run the packet path and does not, and why. `needed`: services or servers depend on it.

    `attached`: it runs the packet path, but lacks something else.
    """

    device: str
    reason: str
    needed: bool
    attached: bool = False

    def __str__(self) -> str:
        return f"{self.device}{'' if self.attached else ' is not attached'}: {self.reason}"


def unattached(director: Director) -> list[str]:
    """Describe the devices that services or real servers need and that the last edit could not attach."""
    return [str(each) for each in director.troubles() if each.needed]


def warnings(director: Director) -> list[str]:
    """Describe what the last edit could not do for devices, as far as an operator may miss it."""
    return [str(each) for each in director.troubles() if each.needed or each.attached]
