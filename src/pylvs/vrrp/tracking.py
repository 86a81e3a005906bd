"""What was last said of everything that virtual routers track, and what of it each of them tracks: pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pylvs.model.vrrp import Track, Tracks, VrrpConfiguration, VrrpInstance
from pylvs.vrrp.aide.messages import FileNumber, ProcessesWell, ScriptWell
from pylvs.vrrp.priority import Watched

Key = tuple[str, str]  # kind and name


class Tracking:
    """`up` says whether a device can carry packets."""

    def __init__(self, up: Callable[[str], bool]) -> None:
        self.data_plane = True, ""  # well, and in words
        self._up = up
        self._configuration = VrrpConfiguration()
        self._known: dict[Key, Watched] = {}  # the last that the aide said

    def configure(self, configuration: VrrpConfiguration) -> None:
        """What is not tracked any more is forgotten."""
        self._configuration = configuration
        names = {("script", each.name) for each in configuration.scripts}
        names |= {("file", each.name) for each in configuration.files}
        names |= {("process", each.name) for each in configuration.processes}
        self._known = {key: known for key, known in self._known.items() if key in names}

    def hear(self, message: Any) -> Watched | None:
        """What the aide found; None if it speaks of something else."""
        if isinstance(message, ScriptWell):
            watched = Watched("script", Track(message.name), message.well, None, message.words)
        elif isinstance(message, FileNumber):
            watched = Watched("file", Track(message.name), None, message.number)
        elif isinstance(message, ProcessesWell):
            watched = Watched("process", Track(message.name), message.well, None, f"{message.count} of them")
        else:
            return None
        self._known[watched.kind, watched.track.name] = watched
        return watched

    def of(self, instance: VrrpInstance) -> dict[Key, Watched]:
        """Everything that an instance tracks, or its group, as it stands."""
        found: dict[Key, Watched] = {}
        for tracks in self._tracks_of(instance):
            for kind, several in (("script", tracks.scripts), ("file", tracks.files), ("process", tracks.processes)):
                for track in several:
                    known = self._known.get((kind, track.name), Watched(kind, track))
                    found[kind, track.name] = Watched(kind, track, known.well, known.number, known.words)
            for track in tracks.interfaces:
                found["interface", track.name] = Watched("interface", track, self._up(track.name))
        if instance.track_data_plane is not None:
            well, words = self.data_plane
            found["data plane", ""] = Watched("data plane", instance.track_data_plane, well, None, words)
        return found

    def _tracks_of(self, instance: VrrpInstance) -> list[Tracks]:
        group = next((each for each in self._configuration.groups if instance.name in each.members), None)
        return [instance.tracks] + ([group.tracks] if group else [])
