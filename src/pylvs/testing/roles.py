"""Roles that live in memory: what virtual routers said, for tests of whoever tells roles."""

from __future__ import annotations

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError

_NONE: frozenset[Address] = frozenset()


class MemoryRoles:
    """`pylvs.model.roles.Roles` without a data plane: remembers every word, the latest last."""

    def __init__(self) -> None:
        self.said: list[tuple[frozenset[Address], frozenset[Address]]] = []  # standby and held
        self.trouble: PylvsError | None = None  # raised at every word while it is there

    @property
    def standby(self) -> frozenset[Address]:
        """The addresses that stand by now."""
        return self.said[-1][0] if self.said else _NONE

    @property
    def held(self) -> frozenset[Address]:
        """The other addresses of virtual routers."""
        return self.said[-1][1] if self.said else _NONE

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = _NONE) -> None:
        """See the protocol. Raises what `trouble` is."""
        if self.trouble is not None:
            raise self.trouble
        self.said.append((addresses, held - addresses))
