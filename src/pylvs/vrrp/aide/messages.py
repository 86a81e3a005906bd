"""What the process of the virtual routers and its aide say to each other, over a `Pipe`."""

from __future__ import annotations

from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings

# --- to the aide ---


@dataclass(frozen=True, slots=True)
class Configure:
    """What holds from now on, first and after each reload; unchanged scripts keep their counts and their timing."""

    settings: GlobalSettings
    routers: VrrpConfiguration


@dataclass(frozen=True, slots=True)
class Moved:
    """An instance or a group changed its state: scripts, pipes and mail are told."""

    kind: str  # "INSTANCE" or "GROUP"
    name: str
    state: str  # "MASTER", "BACKUP", "FAULT", "STOP" or "DELETED"
    priority: int  # the effective one; of a group 0
    before: str = ""  # the state that it had
    at_reload: bool = False  # nothing changed: said once more, where the configuration wants that


@dataclass(frozen=True, slots=True)
class PriorityMoved:
    """An instance's effective priority changed: the pipes are told, where the configuration wants that."""

    name: str
    state: str  # "MASTER" or "BACKUP"
    priority: int


@dataclass(frozen=True, slots=True)
class LowerHeard:
    """A master heard an advertisement of lower priority."""

    name: str
    priority: int  # the master's own effective one


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log: `level` by its name in `pylvs.system.logs`, and fields."""

    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell what is not told yet, in bounded time, and end."""


# --- from the aide ---


@dataclass(frozen=True, slots=True)
class ScriptWell:
    """Whether a track_script is well, after its rise and fall; sent at its first result and at each change."""

    name: str
    well: bool
    words: str  # how its last run ended: "exit status 1", "timed out after 2 s"


@dataclass(frozen=True, slots=True)
class FileNumber:
    """A track_file's number, 0 where there is none; sent at first and at each change."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class ProcessesWell:
    """Whether a track_process finds as many processes as it should; sent at first and at each change."""

    name: str
    well: bool
    count: int
