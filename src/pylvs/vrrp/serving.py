"""The packet path is told which virtual addresses it serves, until it has heard it."""

from __future__ import annotations

from collections.abc import Callable

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.roles import Roles
from pylvs.vrrp.loop import Call, Timer

AGAIN_S = 1.0  # after it could not be told

Log = Callable[[str, str], None]
Later = Callable[[float, Call], Timer]
Parts = tuple[frozenset[Address], frozenset[Address]]  # that stand by; whose master this host is


class Serving:
    """`parts` gives what holds at this moment, `log` takes a level and a line, `later` calls in so many seconds."""

    def __init__(self, roles: Roles, parts: Callable[[], Parts], log: Log, later: Later) -> None:
        self._roles = roles
        self._parts = parts
        self._log = log
        self._later = later
        self._told: Parts | None = None
        self._trouble = ""
        self._again: Timer | None = None
        self._over = False

    def tell(self) -> None:
        """What holds now, if that is news."""
        if not self._over:
            self._tell(self._parts())

    def leave(self) -> None:
        """The end: nothing stands by any more."""
        self._over = True
        self._tell((frozenset(), frozenset()))

    def _tell(self, parts: Parts) -> None:
        if parts == self._told:
            return
        try:
            self._roles.stand_by(*parts)
        except PylvsError as error:
            if str(error) != self._trouble:
                self._log("error", f"the packet path does not know what it serves: {error}")
            self._trouble = str(error)
            if self._again is None and not self._over:
                self._again = self._later(AGAIN_S, self._retry)
            return
        self._told, self._trouble = parts, ""

    def _retry(self) -> None:
        self._again = None
        self.tell()
