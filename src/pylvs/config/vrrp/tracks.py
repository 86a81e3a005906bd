"""What one virtual router, or a group of them, watches: the track blocks, each name looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pylvs.config.effective import EffectiveBlock
from pylvs.config.schema.tracking import TrackWeight, WrittenTrack
from pylvs.config.vrrp.known import Symbols
from pylvs.model.vrrp import Track, TrackFile, TrackProcess, Tracks, VrrpScript

Definition = VrrpScript | TrackFile | TrackProcess
DATA_PLANE = "track_data_plane"
DEFINITION_KEYWORDS = {"track_script": "vrrp_script", "track_file": "track_file", "track_process": "vrrp_track_process"}


def tracks_of(block: EffectiveBlock, known: Symbols, own_device: str = "") -> Tracks:
    """Everything that is watched; what cannot be is a finding."""
    tables: Mapping[str, Mapping[str, Definition]] = {
        "track_script": known.scripts,
        "track_file": known.files,
        "track_process": known.processes,
    }
    found = {name: _defined(block, name, table, known) for name, table in tables.items()}
    return Tracks(
        interfaces=_each(block, "track_interface", known, lambda line: _interface(line, known, own_device)),
        scripts=found["track_script"],
        files=found["track_file"],
        processes=found["track_process"],
    )


def data_plane_of(block: EffectiveBlock) -> Track | None:
    """Whether, and how, the packet path counts."""
    weight = block.maybe(DATA_PLANE, TrackWeight)
    return None if weight is None else Track("data plane", weight.value or 0)


def unweighted_data_plane(track: Track | None, block: EffectiveBlock, known: Symbols, why: str) -> Track | None:
    """None, with a finding, where its weight cannot count; as a script's."""
    if track is None or not track.weight:
        return track
    text = f"{why}, so the weight {track.weight} of {DATA_PLANE} does not count: it is not watched"
    known.findings.error(block.place(DATA_PLANE), text, f"write {DATA_PLANE} without a weight, or remove it")
    return None


def _defined(block: EffectiveBlock, name: str, table: Mapping[str, Definition], known: Symbols) -> tuple[Track, ...]:
    def look_up(line: WrittenTrack) -> Track | None:
        defined = table.get(line.name)
        if defined is not None:
            return _weighted(line, defined.track)
        if not (name == "track_script" and line.name in known.unusable):
            known.undefined(DEFINITION_KEYWORDS[name], line.word)
        return None

    return _each(block, name, known, look_up)


def _each(
    block: EffectiveBlock, name: str, known: Symbols, look_up: Callable[[WrittenTrack], Track | None]
) -> tuple[Track, ...]:
    """Every line of the blocks of one name; of two lines about the same thing the first counts."""
    found: dict[str, Track] = {}
    for each in block.below(name):
        for line in each.section.lines(WrittenTrack):
            if line.name in found:
                known.findings.warning(line.word.place, f"{line.name} is watched already", "remove one of them")
                continue
            track = look_up(line)
            if track is not None:
                found[line.name] = track
    return tuple(found.values())


def _interface(line: WrittenTrack, known: Symbols, own_device: str) -> Track | None:
    if line.name == own_device:
        text = f"{line.name} is the virtual router's own interface, which is watched anyway; this line does not count"
        known.findings.warning(line.word.place, text, "remove it")
        return None
    known.device(line.word)
    return _weighted(line, Track(line.name))


def _weighted(line: WrittenTrack, default: Track) -> Track:
    """What is written here counts instead of the definition's."""
    value, reverse = line.weight.value, line.weight.reverse
    return Track(
        line.name,
        default.weight if value is None else value,
        default.reverse if reverse is None else reverse,
    )


def unweighted(tracks: Tracks, block: EffectiveBlock, known: Symbols, why: str, keep_interfaces: bool) -> Tracks:
    """Without weights, where they cannot count, as keepalived has it; a finding for each that had one.

    A script with a weight is then not watched at all; a file is, with weight 0; a device too, if `keep_interfaces`.
    """
    places = {
        (each.block.name, line.name): line.word.place
        for each in block.below("track_interface", *DEFINITION_KEYWORDS)
        for line in each.section.lines(WrittenTrack)
    }

    def say(kind: str, track: Track, effect: str) -> None:
        text = f"{why}, so the weight {track.weight} of {track.name} does not count: {effect}"
        known.findings.error(places[kind, track.name], text, "write weight 0, or watch it elsewhere")

    interfaces, scripts, files = [], [], []
    for track in tracks.interfaces:
        if track.weight:
            say("track_interface", track, "a fault if it is down" if keep_interfaces else "it is not watched")
        if not track.weight or keep_interfaces:
            interfaces.append(Track(track.name))
    for track in tracks.scripts:
        if track.weight:
            say("track_script", track, "it is not watched")
        else:
            scripts.append(track)
    for track in tracks.files:
        if track.weight:
            say("track_file", track, "a fault unless its number is 0")
        files.append(Track(track.name))
    return Tracks(interfaces=tuple(interfaces), scripts=tuple(scripts), files=tuple(files), processes=tracks.processes)
