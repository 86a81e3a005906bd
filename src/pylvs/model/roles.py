"""Which virtual addresses another director serves: the word that the packet path obeys."""

from __future__ import annotations

from pylvs.model.addresses import Address

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Roles(Protocol):
    """Who tells the packet path."""

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """Packets to exactly these addresses pass untouched from now on. At one stroke; twice is harmless.

        `held` are the other addresses of this host's virtual routers, whose master it is: they are served from now on,
        even a moment before a device has them. Raises PylvsError; what could be done is done.
        """
