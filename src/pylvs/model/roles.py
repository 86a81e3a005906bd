"""Which virtual addresses another director serves: the word that the packet path obeys."""

from __future__ import annotations

from typing import Protocol

from pylvs.model.addresses import Address


class Roles(Protocol):
    """Who tells the packet path."""

    def stand_by(self, addresses: frozenset[Address]) -> None:
        """Packets to exactly these addresses pass untouched from now on. Raises PylvsError."""
