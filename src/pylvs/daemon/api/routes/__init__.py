"""What the daemon can be asked: each module has a group of operations, made for one daemon by its `operations`."""

from __future__ import annotations

from pylvs.daemon.api.operations import Operation
from pylvs.daemon.ports import ApiContext


def all_operations(desk: ApiContext) -> tuple[Operation, ...]:
    """Every one, the description of them all among them."""
    from pylvs.daemon.api import control_routes, status_routes

    groups = (status_routes, control_routes, control_routes, status_routes, control_routes, status_routes)
    made = [operation for group in groups for operation in group.operations(desk)]
    return (*made, status_routes.openapi_operation(made))
