"""Compile tracking: definitions such as `vrrp_script`, and the track blocks that refer to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.language.tree import Finding, Severity, Word
from pylvs.config.schema.types import Written
from pylvs.config.schema.vrrp_types import TrackWeight, WrittenTrack
from pylvs.model.bfd import BfdSession
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.vrrp import Track, TrackFile, TrackProcess, Tracks, VrrpScript
from pylvs.netlink.links import Device

DEFAULT_INTERFACE = "eth0"
ETHERNET_MTU = 1500
FIRST_PREFERENCE = 16384
T = TypeVar("T")
MAX_PROCESSES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class DefinedSession:
    """A bfd_instance that virtual routers may track; None if its settings are wrong, and it is never up."""

    track: Track
    session: BfdSession | None


Definition = VrrpScript | TrackFile | TrackProcess | DefinedSession
DATA_PLANE = "track_data_plane"
DEFAULT_FILE_WEIGHT = 1
DEFINITION_KEYWORDS = {
    "track_script": "vrrp_script",
    "track_file": "track_file",
    "track_process": "vrrp_track_process",
    "track_bfd": "bfd_instance",
}
DEFAULT_TTL = 255
LEAST_HOP_LIMIT = 64  # keepalived sends IPv6 with it unless hoplimit is written
ANY_HOPS = (-1, 255)
NEIGHBOR = ("neighbor_ip", "neighbour_ip")


@dataclass(slots=True)
class Symbols:
    """What the blocks of a document may refer to: global_defs, this machine's devices, and the definitions above."""

    settings: EffectiveBlock  # global_defs
    script_rules: ScriptRules
    devices: Mapping[str, Device]  # of this machine, by name
    dynamic_interfaces: bool = False
    scripts: dict[str, VrrpScript] = field(default_factory=dict)
    files: dict[str, TrackFile] = field(default_factory=dict)
    processes: dict[str, TrackProcess] = field(default_factory=dict)
    sessions: dict[str, DefinedSession] = field(default_factory=dict)
    check_sessions: dict[str, BfdSession] = field(default_factory=dict)  # for health checks alone
    unusable: set[str] = field(default_factory=set)  # names of rejected scripts
    track_groups: dict[str, EffectiveBlock] = field(default_factory=dict)
    static_devices: list[tuple[str, str]] = field(default_factory=list)  # a track_group, and a device it depends on
    next_preference: int = FIRST_PREFERENCE  # of a routing rule without one; keepalived counts down in the text
    definitions: dict[str, Word] = field(default_factory=dict)  # all of the text, such as "vrrp_script NAME"

    @property
    def default_interface(self) -> str:
        """Return the device of addresses that name none, outside of a virtual router with an interface."""
        device: Written[str] | None = self.settings.maybe("default_interface", Written)
        return device.value if device else DEFAULT_INTERFACE

    def all_sessions(self) -> tuple[BfdSession, ...]:
        """Return the sessions with right settings."""
        tracked = (each.session for each in self.sessions.values())
        return (*(each for each in tracked if each is not None), *self.check_sessions.values())

    def check_device(self, word: Word) -> None:
        """Report a device that this machine does not have, unless devices may appear later."""
        if word.text not in self.devices and not self.dynamic_interfaces:
            advice = "create it, correct its name, or write dynamic_interfaces into global_defs"
            text = f"this machine has no device '{word.text}'"
            self.settings.findings.add(Finding(word.location, Severity.WARNING, text, advice, absent_device=word.text))

    def undefined(self, kind: str, word: Word) -> None:
        """Report a name without a definition above it, which keepalived ignores."""
        where = self.definitions.get(f"{kind} {word.text}")
        if where is None:
            self.settings.findings.typo(
                word.location, f"there is no {kind} '{word.text}', so it is not watched", "define it"
            )
        else:
            line = where.location.line_for(word.location)
            text = f"{kind} '{word.text}' is defined only in {line}, so it is not watched"
            self.settings.findings.typo(word.location, text, f"move the {kind} before this block")

    def mtu(self, device: str) -> int:
        """Return a device's MTU, by default Ethernet's."""
        return self.devices[device].mtu if device in self.devices else ETHERNET_MTU


def name_of(block: EffectiveBlock) -> Word:
    """Return the name of a block."""
    assert isinstance(block.head, Word)
    return block.head


def taken(block: EffectiveBlock) -> str:
    """Return the beginning of a finding about a name that an earlier block of the same kind has."""
    name = name_of(block)
    heads = (each.head for each in block.outer[-1].below(block.block.name))
    first = next(head for head in heads if isinstance(head, Word) and head.text == name.text)
    return f"the name '{name}' is taken, in {first.location.line_for(name.location)}"


def define_script(block: EffectiveBlock, symbols: Symbols) -> None:
    """Define a vrrp_script unless its program cannot run."""
    name = name_of(block)
    if not block.is_written("script"):
        symbols.unusable.add(name.text)
        block.error("", f"vrrp_script {name} has no script", "add script COMMAND")
        return
    program = symbols.script_rules.of(block, "script", f"; vrrp_script {name} watches nothing")
    if program is None:
        symbols.unusable.add(name.text)
        return
    down = block.get("init_fail", bool)
    found = block.make(VrrpScript, name=name.text, script=program, track=_track(block), down_at_start=down)
    _define(block, symbols.scripts, found)


def define_file(block: EffectiveBlock, symbols: Symbols) -> None:
    name = name_of(block)
    path = block.maybe("file", str)
    if path is None:
        block.error("", f"track_file {name} has no file", "add file PATH")
        return
    number, overwrite = block.maybe("init_file", tuple, (None, False))
    track = _track(block)
    found = TrackFile(name=name.text, path=path, track=track, initial=number, overwrite=overwrite)
    _define(block, symbols.files, found)


def define_process(block: EffectiveBlock, symbols: Symbols) -> None:
    name = name_of(block)
    command = block.maybe("process", tuple)
    if command is None:
        block.error("", f"vrrp_track_process {name} has no process", "add process NAME")
        return
    minimum, maximum = block.get("quorum", int), block.maybe("quorum_max", int)
    if maximum == 0 and not block.is_written("quorum"):
        minimum = 0
        block.adjust("quorum", None, "none may run")
    if maximum is not None and maximum < minimum:
        text = f"quorum_max {maximum} is less than quorum {minimum} and is ignored"
        block.error("quorum_max", text, "raise it, or remove it")
        maximum = None
    match = block.maybe("param_match", str)
    if block.is_written("delay"):
        delays = {"fork_delay": 0.0, "terminate_delay": 0.0}
        for setting in block.section.settings:  # `delay` sets both, and the last line wins
            if setting.keyword is not None and isinstance(setting.value, float):
                names = delays if setting.keyword.name == "delay" else (setting.keyword.name,)
                delays |= dict.fromkeys(names, setting.value)
        block.adjust("delay", None, "fork_delay and terminate_delay replace it")
        for each, seconds in delays.items():
            block.adjust(each, seconds, "the last one in the text")
    found = block.make(
        TrackProcess,
        name=name.text,
        command=command,
        match_arguments=len(command) > 1 or match is not None,
        arguments_begin=match == "initial",
        arguments_partly=match == "partial",
        full_command=block.get("full_command", bool) or len(command) > 1,
        track=_track(block),
        least=minimum,
        most=MAX_PROCESSES if maximum is None else maximum,
    )
    _define(block, symbols.processes, found)


def define_session(block: EffectiveBlock, symbols: Symbols) -> None:
    """Define a bfd_instance. As in keepalived one with wrong settings can be tracked, and is never up."""
    name = name_of(block)
    if name.text in symbols.sessions or name.text in symbols.check_sessions:
        block.error(name, f"{taken(block)}; this one does not count", "give it another name")
        return
    session = _session(block, symbols)
    if block.get("checker", bool) and not block.get("vrrp", bool):
        if session is not None:
            symbols.check_sessions[name.text] = session
    else:
        symbols.sessions[name.text] = DefinedSession(_track(block), session)


def _session(block: EffectiveBlock, symbols: Symbols) -> BfdSession | None:
    name = name_of(block)
    neighbor, source = block.address("neighbor_ip"), block.address("source_ip")
    if neighbor is None:
        written = block.section.node.block if block.section.node else None
        if not any(each.keyword in NEIGHBOR for each in written or ()):  # else a finding is there already
            block.error("", f"bfd_instance {name} has no neighbor_ip; it is never up", "add neighbor_ip ADDRESS")
        return None
    if source is not None and source.version != neighbor.version:
        text = f"source_ip {source} is not of the IP version of {neighbor}; bfd_instance {name} is never up"
        block.error("source_ip", text, "write an address of the same IP version")
        return None
    for other in symbols.all_sessions():
        if (other.neighbor, other.source) == (neighbor, source):
            text = f"bfd_instance {other.name} has neighbor {neighbor} and the same source_ip; {name} is never up"
            block.error("neighbor_ip", text, "remove one of them")
            return None
    return BfdSession(
        name=name.text,
        neighbor=neighbor,
        source=source,
        **{f"{each}_us": round(block.get(each, float) * 1000) for each in ("min_rx", "min_tx", "idle_tx")},
        multiplier=block.get("multiplier", int),
        passive=block.get("passive", bool),
        ttl=block.maybe("ttl", int, DEFAULT_TTL),
        min_ttl=_min_ttl(block, neighbor.version),
        multihop=block.get("multihop", bool),
    )


def _min_ttl(block: EffectiveBlock, version: int) -> int:
    """Return the least TTL of received packets: the ttl less max_hops, as in keepalived; 0 for any."""
    base = block.maybe("ttl", int, DEFAULT_TTL if version == 4 else LEAST_HOP_LIMIT)
    hops = block.get("max_hops", int)
    if hops in ANY_HOPS or (block.get("multihop", bool) and not block.is_written("max_hops")):
        return 0
    if hops > base:
        block.error("max_hops", f"max_hops {hops} is more than the ttl {base}, which counts", f"write {base}, or less")
        block.adjust("max_hops", base, "not more than ttl")
    return max(base - hops, 0)


def _track(block: EffectiveBlock) -> Track:
    """Return the track with its weight; defaults are plain numbers."""
    name, weight = name_of(block).text, block.effective("weight").value
    if isinstance(weight, TrackWeight):
        return Track(name, weight.value or 0, bool(weight.reverse))
    assert isinstance(weight, int)
    return Track(name, weight)


def _define(block: EffectiveBlock, among: dict[str, T], found: T) -> None:
    """Add a definition under its name; the first one counts."""
    name = name_of(block)
    if name.text in among:
        block.error(name, f"{taken(block)}; this one does not count", "give it another name")
    else:
        among[name.text] = found


def tracks_of(block: EffectiveBlock, symbols: Symbols, own_device: str = "") -> Tracks:
    """Return everything that a block tracks; report what it cannot track."""
    return Tracks(
        scripts=_defined(block, "track_script", symbols.scripts, symbols),
        files=_defined(block, "track_file", symbols.files, symbols),
        processes=_defined(block, "track_process", symbols.processes, symbols),
        sessions=_defined(block, "track_bfd", symbols.sessions, symbols),
        interfaces=_each(block, "track_interface", lambda line: _interface(block, line, symbols, own_device)),
    )


def tracked_words(block: EffectiveBlock) -> dict[tuple[str, str], Word]:
    """Return where a block tracks each object, by the track block and the object's name."""
    return {
        (name, line.name): line.word
        for name in ("track_interface", *DEFINITION_KEYWORDS)
        for line in block.lines(name, WrittenTrack)
    }


def data_plane_of(block: EffectiveBlock) -> Track | None:
    """Return the track of the packet path, if track_data_plane is given."""
    weight = block.maybe(DATA_PLANE, TrackWeight)
    return None if weight is None else Track("data plane", weight.value or 0)


def without_data_plane_weight(track: Track | None, block: EffectiveBlock, why: str) -> Track | None:
    """Reject a weighted track_data_plane where weights cannot count, as for scripts."""
    if track is None or not track.weight:
        return track
    text = f"{why}, so the weight {track.weight} of {DATA_PLANE} does not count: it is not watched"
    block.error(DATA_PLANE, text, f"write {DATA_PLANE} without a weight, or remove it")
    return None


def _defined(block: EffectiveBlock, name: str, table: Mapping[str, Definition], symbols: Symbols) -> tuple[Track, ...]:
    def look_up(line: WrittenTrack) -> Track | None:
        defined = table.get(line.name)
        if defined is not None:
            return _weighted(line, defined.track)
        if name == "track_bfd" and line.name in symbols.check_sessions:
            text = f"bfd_instance {line.name} is for health checks alone, so it is not watched"
            symbols.settings.error(line.word, text, "write vrrp into it too")
        elif not (name == "track_script" and line.name in symbols.unusable):
            symbols.undefined(DEFINITION_KEYWORDS[name], line.word)
        return None

    return _each(block, name, look_up)


def _each(block: EffectiveBlock, name: str, look_up: Callable[[WrittenTrack], Track | None]) -> tuple[Track, ...]:
    """Return the tracks of the blocks of one name; the first line about an object counts."""
    found: dict[str, Track] = {}
    for line in block.lines(name, WrittenTrack):
        if line.name in found:
            block.warning(line.word, f"{line.name} is watched already", "remove one of them")
        elif (track := look_up(line)) is not None:
            found[line.name] = track
    return tuple(found.values())


def _interface(block: EffectiveBlock, line: WrittenTrack, symbols: Symbols, own_device: str) -> Track | None:
    if line.name == own_device:
        text = f"{line.name} is the virtual router's own interface, which is watched anyway; this line does not count"
        block.warning(line.word, text, "remove it")
        return None
    symbols.check_device(line.word)
    return _weighted(line, Track(line.name))


def _weighted(line: WrittenTrack, default: Track) -> Track:
    """Return the track with the weight of this line, or else of the definition."""
    value, reverse = line.weight.value, line.weight.reverse
    return Track(line.name, default.weight if value is None else value, default.reverse if reverse is None else reverse)


def without_weights(tracks: Tracks, block: EffectiveBlock, why: str) -> Tracks:
    """Return the tracks without weights but of devices, and report those that had one.

    As in keepalived, a weighted object is then not tracked. A file of the default weight is, with weight 0.
    """

    def of_file(track: Track) -> str:
        number = "if its number is 0" if track.reverse else "unless its number is 0"
        return f"a fault {number}" if track.weight == DEFAULT_FILE_WEIGHT else ""

    return replace(
        tracks,
        scripts=tuple(_unweighted(block, why, "track_script", tracks.scripts)),
        files=tuple(_unweighted(block, why, "track_file", tracks.files, of_file)),
        sessions=tuple(_unweighted(block, why, "track_bfd", tracks.sessions)),
    )


def without_device_weights(tracks: Tracks, block: EffectiveBlock, why: str, keep: bool) -> Tracks:
    """Return the tracks without weights of devices; weighted ones are tracked only with `keep`, with weight 0."""

    def of_device(track: Track) -> str:
        return f"a fault if it is {'up' if track.reverse else 'down'}" if keep else ""

    return replace(tracks, interfaces=tuple(_unweighted(block, why, "track_interface", tracks.interfaces, of_device)))


def _unweighted(
    block: EffectiveBlock, why: str, kind: str, found: Iterable[Track], effect: Callable[[Track], str] = lambda _: ""
) -> Iterator[Track]:
    """Yield the tracks with weight 0; weighted ones are reported, and yielded only if this has an effect."""
    words = tracked_words(block)
    for track in found:
        if track.weight:
            text = f"{why}, so the weight {track.weight} of {track.name} does not count"
            text += f": {effect(track) or 'it is not watched'}"
            block.error(words[kind, track.name], text, "write weight 0, or watch it elsewhere")
        if effect(track) or not track.weight:
            yield replace(track, weight=0)
