"""The director's view of the network: its own addresses, next hops, link addresses."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class NextHop:
    """The result of a FIB lookup: device, link addresses, MTU."""

    device: str
    dmac: bytes
    smac: bytes
    mtu: int = 1500
    saddr4: bytes = b""  # the source address for this route
    saddr6: bytes = b""


@dataclass(slots=True)
class Network:
    """A host's view. `next_hops` has single addresses; the default routes serve all others."""

    macs: frozenset[bytes]  # the host's own link addresses
    local: frozenset[bytes]  # its own addresses
    next_hops: dict[bytes, NextHop] = field(default_factory=dict)
    default4: NextHop | None = None
    default6: NextHop | None = None
    forwards4: bool = True  # ip_forward
    forwards6: bool = True

    def next_hop(self, address: bytes) -> NextHop | None:
        """Return the next hop towards an address that is not the host's own; None: no route."""
        return self.next_hops.get(address) or (self.default4 if len(address) == 4 else self.default6)

    def forwards(self, family: int) -> bool:
        """Return whether the host routes packets of a family."""
        return self.forwards4 if family == 4 else self.forwards6
