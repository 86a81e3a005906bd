"""What a checker must know beside its own specification."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of one check: its real server's and its service's settings, and whom scripts run as."""

    weight: int = 1  # configured for the real server; what a check calls "75%" or "5 more" counts from here
    virtualhost: str = ""  # of the real server, or else of the service; a check's own goes before
    script_user: str = ""  # for scripts that name none
    script_group: str = ""
    script_security: bool = False  # a script that others than root can write is not run as root
