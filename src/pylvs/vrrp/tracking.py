"""Tracked objects: their last results, and what these make of a virtual router's priority. Pure.

An object is up, down, or has no result yet. With weight 0 it decides whether the virtual router may run. A positive
weight counts while the object is up, a negative one while it is down; `reverse` changes the sign, as in keepalived.
A file has a number instead, by which the weight is multiplied.

A result expires when its source, the helper process or `pylvs run`, is silent for too long. One that the helper process
reports as late expires, too. An expired result counts against the virtual router, as does a script that times out. Only
a file keeps its number where it has a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pylvs.model.bfd import Result
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.vrrp import OWNER, Track, VrrpConfiguration, VrrpInstance

MIN_PRIORITY, MAX_PRIORITY = 1, OWNER - 1
FILE_FAULT_POINTS = -254  # a file's number times its weight, up to which it is a fault
RESULT_LEASE_S = 10.0  # a lost helper process is restarted within it; a script may take its timeout in addition
Key = tuple[str, str]  # kind and name


@dataclass(frozen=True, slots=True)
class TrackedObject:
    """One tracked object and its last result; `up` is None before the first.

    As a message of the helper process it has no weight: each virtual router has its own one.
    """

    kind: str  # interface, script, file, process, link (by polling), bfd, data plane
    track: Track
    up: bool | None = None
    number: int | None = None  # of a file
    detail: str = ""
    expired: bool = False  # its source has been silent for too long

    @property
    def known(self) -> bool:
        """Whether there is a result, or there was one that expired."""
        return self.expired or (self.number is not None if self.kind == "file" else self.up is not None)

    @property
    def fault(self) -> str:
        """Why the virtual router must not start, "" if it may; one that runs ignores a missing result."""
        if self.kind == "file":
            if self.expired and not self.track.weight:
                return self.description
            if self.number is None:
                return "" if self.track.weight else f"{self} is not read yet"
            bad = self.points <= FILE_FAULT_POINTS if self.track.weight else bool(self.number) != self.track.reverse
            return self.description if bad else ""
        if self.track.weight or (self.up is not None and self.up != self.track.reverse):
            return ""
        return self.description

    @property
    def bad(self) -> bool:
        """Whether there is a result, and it counts against the virtual router."""
        if self.expired and self.kind != "file":
            return True
        return bool(self.points) if self.kind == "file" else self.up is not None and self.up == self.track.reverse

    @property
    def description(self) -> str:
        """The object and its result as text."""
        if self.expired:
            return f"{self} is unknown ({self.detail})"
        if self.kind == "file" and self.number is not None:
            return f"{self} is {self.number}"
        state = "not known yet" if self.up is None else "up" if self.up else "down"
        return f"{self} is {state}{f' ({self.detail})' if self.detail else ''}"

    @property
    def points(self) -> int:
        """What it adds to the priority."""
        weight = self.track.weight
        signed = -weight if self.track.reverse else weight
        if self.kind == "file":
            return (self.number or 0) * signed
        if self.expired:
            return min(0, signed)
        if self.up is None or not weight:
            return 0
        return signed if self.up == (weight > 0) else 0

    def __str__(self) -> str:
        return f"{self.kind} {self.track.name}" if self.kind != "data plane" else self.kind


def effective_priority(base: int, tracked: Iterable[TrackedObject]) -> int:
    """Return the priority with all tracked objects; an owner's never changes."""
    if base == OWNER:
        return OWNER
    return max(MIN_PRIORITY, min(MAX_PRIORITY, base + sum(each.points for each in tracked)))


def priority_reasons(tracked: Iterable[TrackedObject]) -> str:
    """Return which objects change the priority, as text."""
    return "; ".join(each.description for each in tracked if each.track.weight and each.bad)


class Tracking:
    """The last results of all tracked objects.

    `is_up` tells whether a device can carry packets, `session` returns the result of a BFD session. `implied` returns
    the devices that an instance depends on without a track_interface.
    """

    def __init__(
        self,
        is_up: Callable[[str], bool],
        session: Callable[[str], Result] = lambda name: Result(None, ""),
        implied: Callable[[VrrpInstance], Collection[str]] = lambda instance: (),
    ) -> None:
        self.data_plane: tuple[bool | None, str] = True, ""  # whether it works (None: unknown), and a message
        self._is_up = is_up
        self._session = session
        self._implied = implied
        self._configuration = VrrpConfiguration()
        self._results: dict[Key, TrackedObject] = {}
        self._expiry: dict[Key, float] = {}  # when a result expires; only while its source is lost

    def configure(self, configuration: VrrpConfiguration) -> None:
        """Forget the results of objects that are not configured any more; a new script with init_fail is down."""
        self._configuration = configuration
        names = {("script", each.name) for each in configuration.scripts}
        names |= {("file", each.name) for each in configuration.files}
        names |= {("process", each.name) for each in configuration.processes}
        names |= {("link", each.device) for each in configuration.settings.polled_links}
        self._results = {key: result for key, result in self._results.items() if key in names}
        self._expiry = {key: at for key, at in self._expiry.items() if key in names}
        for script in configuration.scripts:
            if script.down_at_start:
                initial = TrackedObject("script", Track(script.name), False, detail="init_fail")
                self._results.setdefault(("script", script.name), initial)

    def update(self, result: TrackedObject) -> None:
        """Store a result from the helper process."""
        key = result.kind, result.track.name
        self._results[key] = result
        self._expiry.pop(key, None)

    def lose_source(self, now: float, keys: Iterable[Key] | None = None) -> None:
        """Let the results of these objects, or of all, expire unless new ones come in time; missing ones, too."""
        configuration = self._configuration
        timeouts = {("script", each.name): each.timeout_s or each.interval_s for each in configuration.scripts}
        known = {*self._results, *timeouts, *(("file", each.name) for each in configuration.files)}
        known |= {("process", each.name) for each in configuration.processes}
        for key in known if keys is None else known.intersection(keys):
            if key not in self._results or not self._results[key].expired:
                self._expiry.setdefault(key, now + RESULT_LEASE_S + timeouts.get(key, 0))

    def expire(self, now: float, detail: str) -> list[TrackedObject]:
        """Return the results that expire now; `detail` is the reason."""
        if not self._expiry:
            return []
        keys = [key for key, at in self._expiry.items() if at <= now]
        for key in keys:
            del self._expiry[key]
            last = self._results.get(key) or TrackedObject(key[0], Track(key[1]))
            self._results[key] = replace(last, up=None, detail=detail, expired=True)
        return [self._results[key] for key in keys]

    def of(self, instance: VrrpInstance) -> dict[Key, TrackedObject]:
        """Return what an instance or its group tracks. A track of the instance without a weight is the one that counts.

        Otherwise that of the group does. A device that the instance depends on anyway has no weight.
        """
        found: dict[Key, TrackedObject] = {}
        implied = self._implied(instance)
        group = next((each for each in self._configuration.groups if instance.name in each.members), None)
        for tracks in (instance.tracks, *([group.tracks] if group else [])):
            for kind, several in (
                ("script", tracks.scripts),
                ("file", tracks.files),
                ("process", tracks.processes),
                ("interface", tuple(Track(each.name) if each.name in implied else each for each in tracks.interfaces)),
                ("bfd", tracks.sessions),
            ):
                for track in several:
                    key = kind, track.name
                    if key not in found or found[key].track.weight:
                        found[key] = self._object(kind, track)
        if instance.track_data_plane is not None:
            up, detail = self.data_plane
            track = instance.track_data_plane
            found["data plane", ""] = TrackedObject("data plane", track, up, None, detail, expired=up is None)
        return found

    def _object(self, kind: str, track: Track) -> TrackedObject:
        """Return an object with its last result."""
        if kind == "interface":
            return TrackedObject(kind, track, self._is_up(track.name))
        if kind == "bfd":
            result = self._session(track.name)
            return TrackedObject(kind, track, result.up, None, result.detail)
        return replace(self._results.get((kind, track.name), TrackedObject(kind, track)), track=track)
