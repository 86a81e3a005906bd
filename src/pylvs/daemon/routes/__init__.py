"""What the daemon can be asked: each module has a group of operations, made for one daemon by its `operations`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylvs.daemon.operations import Operation
    from pylvs.daemon.supervisor import Supervisor


def all_operations(supervisor: Supervisor) -> tuple[Operation, ...]:
    """Every one, the description of them all among them."""
    from pylvs.daemon.routes import events, metrics, openapi, reload, servers, status

    groups = (status, servers, events, reload, metrics)
    made = [operation for group in groups for operation in group.operations(supervisor)]
    return (*made, openapi.operation(made))
