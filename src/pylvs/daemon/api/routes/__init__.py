"""What the daemon can be asked: each module has a group of operations, made for one daemon by its `operations`."""

from __future__ import annotations

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.operations import Operation


def all_operations(desk: Desk) -> tuple[Operation, ...]:
    """Every one, the description of them all among them."""
    from pylvs.daemon.api.routes import events, metrics, openapi, reload, servers, status, virtual_routers

    groups = (status, servers, virtual_routers, events, reload, metrics)
    made = [operation for group in groups for operation in group.operations(desk)]
    return (*made, openapi.operation(made))
