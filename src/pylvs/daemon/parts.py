"""A part of the daemon: what the supervisor calls at the start, at a reload and at the stop.

| when | calls |
|---|---|
| start | `read` of each part, `open` of each part, `start` of each part; with the first table `begin` of each part |
| reload | `prepare` of each part, then `apply` of each part. If one cannot prepare, `undo` of each part |
| stop | `stop` of each part, the last part first |
| end, also after a failed start | `close` of each part, the last part first |

The order is that of the list in `pylvs.daemon.supervisor`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylvs.daemon.problems import Problem
    from pylvs.daemon.tasks import BackgroundTasks
    from pylvs.model.wanted import Configuration


class Part:
    """By default a part does nothing, and has no problem."""

    def read(self) -> None:
        """Read what the last daemon left, and change nothing. Raises PylvsError."""

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Take what the part needs, before any change of the table. Raises PylvsError."""

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Work, as far as that does not need the first table. Raises PylvsError."""

    async def begin(self, tasks: BackgroundTasks) -> None:
        """Do the rest of the work: the first table is complete."""

    async def prepare(self, configuration: Configuration) -> None:
        """Take another configuration, as far as `undo` can revert that. Raises PylvsError, OSError."""

    async def apply(self, configuration: Configuration) -> None:
        """Follow this configuration, which is in force now: all parts have prepared it."""

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        """Return to this configuration, the one in force: some part could not prepare another one."""

    async def stop(self, keep: bool) -> None:
        """Revert what the part has changed on this host; with `keep`, the next daemon continues with that."""

    async def close(self) -> None:
        """End what runs, in bounded time. Errors are logged."""

    def problems(self) -> Iterable[Problem]:
        """Return what is wrong now."""
        return ()
