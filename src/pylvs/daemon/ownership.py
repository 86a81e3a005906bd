"""Which services are the daemon's: it may remove them, and so may the one after it, if it is killed."""

from __future__ import annotations

import asyncio

from pylvs.daemon import kept
from pylvs.daemon.state_dir import StateDirectory
from pylvs.model.destination import DestinationKey
from pylvs.model.service import ServiceKey


class Ownership:
    """Noted in the state directory before the first edit of a service, and until the last."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._own: kept.Own = {}
        self.keys: frozenset[ServiceKey] = frozenset()

    def former(self) -> kept.Own:
        """Those of the daemon before this one, with the servers that it knew. Raises Unsupported."""
        self._own = kept.kept_own(self._state)
        return self._own

    async def before(self, wanted: kept.Own) -> None:
        """Edits come that lead from the services there are to these, whose servers need not be there yet.

        Raises PylvsError where that cannot be noted.
        """
        fresh = {key: frozenset[DestinationKey]() for key in wanted}
        await self._note(fresh | dict(self._own))

    async def after(self, wanted: kept.Own) -> None:
        """The edits are done. Raises PylvsError."""
        await self._note(wanted)

    async def _note(self, own: kept.Own) -> None:
        await asyncio.to_thread(kept.keep_own, self._state, own)
        self._own, self.keys = own, frozenset(own)
