"""Programs that an operator's configuration names: run as a check, or told of an event."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """A program with its arguments and whom it runs as; an empty user is the configuration's script user."""

    arguments: tuple[str, ...]
    user: str = ""
    group: str = ""

    def __str__(self) -> str:
        return " ".join(self.arguments)
