"""The operator's word about a server, which stands above checks and configuration until it is taken back."""

from __future__ import annotations

from enum import Enum

from pylvs.model.dataclass import dataclass


class Standing(Enum):
    """Whether the operator lets a server have connections."""

    ENABLED = "enabled"
    DRAINED = "drained"  # in the table with weight 0: what is connected stays, nothing new comes
    DISABLED = "disabled"  # not in the table


@dataclass(frozen=True, slots=True)
class Override:
    """What the operator said of one server of one service."""

    standing: Standing = Standing.ENABLED
    weight: int | None = None  # instead of the configured one and of what checks make of it

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return self != NOTHING_SAID


NOTHING_SAID = Override()
