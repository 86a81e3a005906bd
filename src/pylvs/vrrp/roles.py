"""Publish to the packet path which addresses are standby and which are active; retry after errors."""

from __future__ import annotations

from collections.abc import Callable

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Roles
from pylvs.vrrp.loop import Loop, Timer

RETRY_S = 1.0
RoleSets = tuple[frozenset[Address], frozenset[Address]]  # standby, active


class RolePublisher:
    """`role_sets` returns the current roles; `log` takes a level and a text."""

    def __init__(
        self, roles: Roles, role_sets: Callable[[], RoleSets], loop: Loop, log: Callable[[str, str], None]
    ) -> None:
        self._roles = roles
        self._role_sets = role_sets
        self._loop = loop
        self._log = log
        self._published: RoleSets | None = None
        self._last_error = ""
        self._retry_timer: Timer | None = None
        self._closed = False

    def reset(self) -> None:
        """Publish that no address is standby, and publish nothing else."""
        self._closed = True
        self.publish()

    def publish(self) -> None:
        """Publish the current roles if they differ from the last published ones."""
        role_sets = (frozenset(), frozenset()) if self._closed else self._role_sets()
        if role_sets == self._published:
            return
        try:
            self._roles.set_standby(*role_sets)
        except PylvsError as error:
            if str(error) != self._last_error:
                self._log("error", f"the roles of virtual addresses are not published to the packet path: {error}")
            self._last_error = str(error)
            if self._retry_timer is None and not self._closed:
                self._retry_timer = self._loop.at(self._loop.now + RETRY_S, self._retry)
            return
        self._published, self._last_error = role_sets, ""

    def _retry(self) -> None:
        self._retry_timer = None
        self.publish()
