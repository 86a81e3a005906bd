"""Settings of BFD sessions (RFC 5880): over one hop (RFC 5881) or several (RFC 5883). Times are in microseconds.

Omitted settings already have keepalived's defaults.
"""

from __future__ import annotations

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass

SINGLE_HOP_PORT, MULTIHOP_PORT = 3784, 4784  # RFC 5881 section 4, RFC 5883 section 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdSession:
    """One `bfd_instance`."""

    name: str
    neighbor: Address
    source: Address | None = None  # of this host; None: the route's
    min_rx_us: int = 10_000  # the shortest interval of received packets
    min_tx_us: int = 10_000  # the shortest interval of sent packets
    idle_tx_us: int = 1_000_000  # the same, while the session is not up
    multiplier: int = 5  # missing packets after which the neighbor takes the session for down
    passive: bool = False  # send nothing before the neighbor does
    ttl: int = 255  # of sent packets
    min_ttl: int = 255  # of received packets
    multihop: bool = False  # RFC 5883's port

    @property
    def port(self) -> int:
        """Return the UDP port that packets are sent to and received at."""
        return MULTIHOP_PORT if self.multihop else SINGLE_HOP_PORT


@dataclass(frozen=True, slots=True)
class Result:
    """What a session means to those who track it."""

    up: bool | None
    detail: str
