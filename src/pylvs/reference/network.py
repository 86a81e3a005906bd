"""What the director knows of the network around it: its own addresses, next hops, link addresses."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Hop:
    """Where packets to an address leave: by which device, to whom on its link; how long they may be."""

    device: str
    target_mac: bytes
    source_mac: bytes
    mtu: int = 1500
    source4: bytes = b""  # the address that this host would use there
    source6: bytes = b""


@dataclass(slots=True)
class Network:
    """A host's view. `hops` holds single addresses; the rest goes by the default routes, if there are any."""

    macs: frozenset[bytes]  # the host's own link addresses
    local: frozenset[bytes]  # its own addresses
    hops: dict[bytes, Hop] = field(default_factory=dict)
    default4: Hop | None = None
    default6: Hop | None = None
    forwards4: bool = True  # ip_forward
    forwards6: bool = True

    def hop(self, address: bytes) -> Hop | None:
        """The next hop towards an address that is not the host's own; None: no route."""
        return self.hops.get(address) or (self.default4 if len(address) == 4 else self.default6)

    def forwards(self, family: int) -> bool:
        """Whether it routes packets of a family for others."""
        return self.forwards4 if family == 4 else self.forwards6
