"""What the daemon can be asked: each module has a group of routes, made for one daemon by its `routes`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.web import AbstractRouteDef

    from pylvs.daemon.supervisor import Supervisor

Group = Callable[["Supervisor"], "Iterable[AbstractRouteDef]"]


def groups() -> tuple[Group, ...]:
    """All of them."""
    from pylvs.daemon.routes import reload

    return (reload.routes,)
