"""What a checker must know beside its own specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pylvs.model.dataclass import dataclass

if TYPE_CHECKING:
    from pylvs.system.processes.scripts import Processes


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of one check: its real server's and its service's settings, and who runs scripts."""

    weight: int = 1  # configured for the real server; what a check calls "75%" or "5 more" counts from here
    virtualhost: str = ""  # of the real server, or else of the service; a check's own goes before
    processes: Processes | None = None  # knows whom scripts run as that name nobody; None: none are run
