"""What the API needs of the daemon; the supervisor is one."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from pylvs.daemon.api.news import News
from pylvs.daemon.drains import Drains
from pylvs.daemon.loading import Loaded, Reloaded
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.table.editor import Editor
from pylvs.daemon.table.keeper import Keeper
from pylvs.daemon.virtual_routers import VirtualRouters
from pylvs.health.engine import Engine


class Desk(Protocol):
    """Where questions and words go. Times: wall clock, seconds; 0 before."""

    state: StateDirectory
    engine: Engine
    keeper: Keeper
    editor: Editor
    drains: Drains
    routers: VirtualRouters
    news: News
    loaded: Loaded
    reloads: Counter[str]  # by result: done, refused
    started_at: float  # of the first complete table
    loaded_at: float  # of the configuration in force

    async def reload(self, dry_run: bool = False, allow_empty: bool = False, force: bool = False) -> Reloaded:
        """Read the file again and run it, as a whole or not at all. Raises Refused."""
