"""VRRP roles in memory, for tests of code that publishes roles."""

from __future__ import annotations

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError

_NONE: frozenset[Address] = frozenset()


class MemoryRoles:
    """`pylvs.model.roles.Roles` without a data plane; records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[frozenset[Address], frozenset[Address]]] = []  # standby and held of each call
        self.error: PylvsError | None = None  # every call raises it, if set

    @property
    def standby(self) -> frozenset[Address]:
        """Return the standby addresses."""
        return self.calls[-1][0] if self.calls else _NONE

    @property
    def held(self) -> frozenset[Address]:
        """Return the addresses whose master is this host."""
        return self.calls[-1][1] if self.calls else _NONE

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = _NONE) -> None:
        """Record the call, or raise `error`."""
        if self.error is not None:
            raise self.error
        self.calls.append((addresses, held - addresses))
