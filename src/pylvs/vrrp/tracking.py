"""What was last said of everything that virtual routers track, and what of it each of them tracks: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import OWNER, Track, Tracks, VrrpConfiguration, VrrpInstance
from pylvs.vrrp.helper.link import FileValue, ProcessResult, ScriptResult

# --- priority --------------------------------------------------------------------------------------------------------
# What is tracked, and what it makes of a priority: pure.
#
# Each thing tracked is well, ill, or not known yet. With weight 0 it decides whether the virtual router may live at all;
# a positive weight counts while it is well, a negative one while it is ill, and `reverse` turns the sign round, as in
# keepalived. A file gives a number instead, which the weight multiplies.


MIN_PRIORITY, MAX_PRIORITY = 1, OWNER - 1
FILE_FAULT_POINTS = -254  # of a file's number times its weight: this, or less, is a fault


@dataclass(frozen=True, slots=True)
class TrackedObject:
    """One thing as it stands. `well` None: not known yet; `number` is a file's."""

    kind: str  # interface, script, file, process, data plane
    track: Track
    well: bool | None = None
    number: int | None = None
    words: str = ""

    @property
    def known(self) -> bool:
        """Whether anything was found out about it."""
        return self.number is not None if self.kind == "file" else self.well is not None

    @property
    def fault(self) -> str:
        """Why the virtual router must not live, "" if it may. What is not known yet keeps it from its start."""
        if self.kind == "file":
            return self._fault_of_file()
        if self.track.weight or (self.well is not None and self.well != self.track.reverse):
            return ""
        return self.stands

    @property
    def bad(self) -> bool:
        """Whether it is known, and not as it should be."""
        return bool(self.points) if self.kind == "file" else self.well is not None and self.well == self.track.reverse

    @property
    def stands(self) -> str:
        """How it is, in words."""
        if self.kind == "file" and self.number is not None:
            return f"{self} says {self.number}"
        return f"{self} is {self._state()}{f' ({self.words})' if self.words else ''}"

    def _fault_of_file(self) -> str:
        if self.number is None:
            return "" if self.track.weight else f"{self} is not read yet"
        bad = bool(self.number) != self.track.reverse if not self.track.weight else self.points <= FILE_FAULT_POINTS
        return self.stands if bad else ""

    @property
    def points(self) -> int:
        """What it adds to the priority."""
        weight = self.track.weight
        signed = -weight if self.track.reverse else weight
        if self.kind == "file":
            return (self.number or 0) * signed
        if self.well is None or not weight:
            return 0
        return signed if self.well == (weight > 0) else 0

    def _state(self) -> str:
        if self.well is None:
            return "not known yet"
        return "well" if self.well else "ill"

    def __str__(self) -> str:
        return f"{self.kind} {self.track.name}"


def effective_priority(base: int, watched: Iterable[TrackedObject]) -> int:
    """The priority with everything tracked taken into account; an owner's is its own."""
    if base == OWNER:
        return OWNER
    return max(MIN_PRIORITY, min(MAX_PRIORITY, base + sum(each.points for each in watched)))


def priority_reasons(watched: Iterable[TrackedObject]) -> str:
    """Why a priority is not what it is while all is well, in words; "" if it is."""
    return "; ".join(each.stands for each in watched if each.track.weight and each.bad)


def tracking_faults(watched: Iterable[TrackedObject]) -> list[str]:
    """Why a virtual router must not live, in words."""
    return [fault for each in watched if (fault := each.fault)]


# --- tracking --------------------------------------------------------------------------------------------------------

Key = tuple[str, str]  # kind and name


class Tracking:
    """`up` says whether a device can carry packets."""

    def __init__(self, up: Callable[[str], bool]) -> None:
        self.data_plane = True, ""  # well, and in words
        self._up = up
        self._configuration = VrrpConfiguration()
        self._known: dict[Key, TrackedObject] = {}  # the last that the aide said

    def configure(self, configuration: VrrpConfiguration) -> None:
        """What is not tracked any more is forgotten."""
        self._configuration = configuration
        names = {("script", each.name) for each in configuration.scripts}
        names |= {("file", each.name) for each in configuration.files}
        names |= {("process", each.name) for each in configuration.processes}
        self._known = {key: known for key, known in self._known.items() if key in names}

    def hear(self, message: Any) -> TrackedObject | None:
        """What the aide found; None if it speaks of something else."""
        if isinstance(message, ScriptResult):
            watched = TrackedObject("script", Track(message.name), message.well, None, message.words)
        elif isinstance(message, FileValue):
            watched = TrackedObject("file", Track(message.name), None, message.number)
        elif isinstance(message, ProcessResult):
            watched = TrackedObject("process", Track(message.name), message.well, None, f"{message.count} of them")
        else:
            return None
        self._known[watched.kind, watched.track.name] = watched
        return watched

    def of(self, instance: VrrpInstance) -> dict[Key, TrackedObject]:
        """Everything that an instance tracks, or its group, as it stands."""
        found: dict[Key, TrackedObject] = {}
        for tracks in self._tracks_of(instance):
            for kind, several in (("script", tracks.scripts), ("file", tracks.files), ("process", tracks.processes)):
                for track in several:
                    known = self._known.get((kind, track.name), TrackedObject(kind, track))
                    found[kind, track.name] = TrackedObject(kind, track, known.well, known.number, known.words)
            for track in tracks.interfaces:
                found["interface", track.name] = TrackedObject("interface", track, self._up(track.name))
        if instance.track_data_plane is not None:
            well, words = self.data_plane
            found["data plane", ""] = TrackedObject("data plane", instance.track_data_plane, well, None, words)
        return found

    def _tracks_of(self, instance: VrrpInstance) -> list[Tracks]:
        group = next((each for each in self._configuration.groups if instance.name in each.members), None)
        return [instance.tracks] + ([group.tracks] if group else [])
