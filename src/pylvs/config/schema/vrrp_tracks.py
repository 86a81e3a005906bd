"""Tracking and notification of virtual routers and groups, and the blocks that define tracked objects."""

from __future__ import annotations

import re

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import (
    BARE,
    FLAG,
    SCRIPT,
    SCRIPT_ALONE,
    USER,
    Integer,
    Seconds,
    Text,
    WrittenScript,
    choice,
    number_of,
)
from pylvs.config.schema.vrrp_types import NAME, AtLeastOne
from pylvs.model.dataclass import dataclass

MAX_WEIGHT = 253  # the distance of priorities 1 and 254


@dataclass(frozen=True, slots=True)
class TrackWeight:
    """A tracking weight; None stands for that of the definition."""

    value: int | None = None
    reverse: bool | None = None


@dataclass(frozen=True, slots=True)
class WrittenTrack:
    """One line of a track block; findings refer to `word`."""

    name: str
    weight: TrackWeight
    word: Word


@dataclass(frozen=True, slots=True)
class TrackWeightType(Type[TrackWeight]):
    """A weight, optionally with `reverse`."""

    maximum: int = MAX_WEIGHT

    def parse(self, words: Words) -> TrackWeight:
        word = words.take("a weight")
        value = number_of(word)
        if not -self.maximum <= value <= self.maximum:
            raise BadValue(
                f"weight {word.text} is not between -{self.maximum} and {self.maximum}; it is ignored", word=word
            )
        return TrackWeight(value, True if words.take_if("reverse") else None)

    def __str__(self) -> str:
        return f"a whole number, -{self.maximum} to {self.maximum} [reverse]"


@dataclass(frozen=True, slots=True)
class OptionalWeightType(Type[TrackWeight]):
    """The keyword alone, which is weight 0, or `weight` and a number."""

    def parse(self, words: Words) -> TrackWeight:
        if not words.take_if("weight"):
            return TrackWeight(0)
        word = words.take("a weight")
        value = number_of(word)
        if not -MAX_WEIGHT <= value <= MAX_WEIGHT:
            raise BadValue(
                f"weight {word.text} is not between -{MAX_WEIGHT} and {MAX_WEIGHT}", "write one that is", word
            )
        return TrackWeight(value)

    def __str__(self) -> str:
        return f"[weight N], -{MAX_WEIGHT} to {MAX_WEIGHT}"


@dataclass(frozen=True, slots=True)
class TrackLine(Type[WrittenTrack]):
    """A name, and an optional weight in this block."""

    what: str
    maximum: int = MAX_WEIGHT

    def parse(self, words: Words) -> WrittenTrack:
        """Parse the line; raises BadValue for a surplus word, because keepalived then ignores the line."""
        word = words.take(f"the name of {self.what}")
        given = words.take_if("weight")
        weight = self._weight(words) if given else TrackWeight()
        extra = words.peek()
        if extra is not None:
            raise BadValue(
                f"'{extra.text}' is not known here, so {word.text} is not watched",
                "write one name a line, and no more than 'weight N [reverse]' behind it",
                extra,
            )
        return WrittenTrack(word.text, weight, word)

    def _weight(self, words: Words) -> TrackWeight:
        word = words.take("a weight")
        value = number_of(word)
        kept: int | None = value
        if abs(value) == MAX_WEIGHT + 1 and self.maximum == MAX_WEIGHT:
            kept = MAX_WEIGHT if value > 0 else -MAX_WEIGHT
            words.warn(word, f"weight {word.text} is not between -{MAX_WEIGHT} and {MAX_WEIGHT}; it counts as {kept}")
        elif abs(value) > self.maximum:
            kept = None
            words.warn(word, f"weight {word.text} is not between -{self.maximum} and {self.maximum}; it is ignored")
        direction = words.take_if("reverse", "noreverse")
        return TrackWeight(kept, direction.text == "reverse" if direction else None)

    def __str__(self) -> str:
        return f"the name of {self.what} [weight -{self.maximum} to {self.maximum} [reverse|noreverse]]"


MAX_SCRIPT_S = 4294
MAX_DELAY_S = 3600.0
MAX_FILE_WEIGHT = 254
NUMBER = re.compile(r"-?[0-9]+\Z")

TRACKS = (
    Block(
        "track_interface",
        "tracked devices; with weight 0, a device that is down is a fault",
        lines=TrackLine("a device"),
        twice=Twice.MANY,
    ),
    Block("track_script", "tracked scripts", lines=TrackLine("a vrrp_script"), twice=Twice.MANY),
    Block("track_file", "tracked files", lines=TrackLine("a track_file", MAX_FILE_WEIGHT), twice=Twice.MANY),
    Block(
        "track_process",
        "tracked processes",
        lines=TrackLine("a vrrp_track_process", MAX_FILE_WEIGHT),
        twice=Twice.MANY,
    ),
    Block(
        "track_bfd",
        "tracked BFD sessions",
        lines=TrackLine("a bfd_instance"),
        state=State.LATER,
        instead="nothing is watched; use track_script",
    ),
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """notify_deleted: report DELETED when a reload removes a virtual router, and perhaps run a script."""

    script: WrittenScript | None


@dataclass(frozen=True, slots=True)
class DeletedType(Type[Deleted]):
    """A script, or nothing: then only the reported state changes."""

    def parse(self, words: Words) -> Deleted:
        return Deleted(SCRIPT.parse(words) if words else None)

    def __str__(self) -> str:
        return f"[{SCRIPT}]"


def _script(name: str, doc: str, kind: Type[object] = SCRIPT) -> Keyword:
    return Keyword(name, kind, doc, twice=Twice.FIRST)


NOTIFIES = (
    _script("notify_master", "run at the transition to master"),
    _script("notify_backup", "run at the transition to backup"),
    _script("notify_fault", "run at the transition to fault"),
    _script("notify_stop", "run when pylvs stops it"),
    _script(
        "notify_deleted", "report DELETED instead of FAULT when a reload removes it, and run the program", DeletedType()
    ),
    _script("notify", "run at every transition, after the others; arguments: INSTANCE or GROUP, name, state, priority"),
    Keyword(
        "notify_priority_changes",
        FLAG,
        "write changes of priority into the FIFOs",
        default=False,
        global_names=("vrrp_notify_priority_changes",),
    ),
    Keyword(
        "smtp_alert",
        FLAG,
        "mail transitions",
        default=False,
        global_names=("smtp_alert_vrrp", "smtp_alert"),
    ),
)

VRRP_SCRIPT = Block(
    "vrrp_script",
    "a program that runs periodically; exit status 0 is success",
    (
        Keyword("script", SCRIPT_ALONE, "the program and its arguments", twice=Twice.LAST),
        Keyword("interval", AtLeastOne(MAX_SCRIPT_S), "seconds between two runs", default=1),
        Keyword("timeout", AtLeastOne(MAX_SCRIPT_S), "seconds after which it is killed", default_of="interval"),
        Keyword("weight", TrackWeightType(), "default weight where a virtual router gives none", default=0),
        Keyword("rise", Integer(1), "consecutive successes until the state is up", default=1),
        Keyword("fall", Integer(1), "consecutive failures until the state is down", default=1),
        Keyword("user", USER, "user and group that the program runs as", default_doc="script_user"),
        Keyword("init_fail", BARE, "start in state down", default=False),
    ),
    head=NAME,
    twice=Twice.MANY,
)


@dataclass(frozen=True, slots=True)
class InitType(Type[tuple[int, bool]]):
    """The initial number of a track_file, and whether to overwrite an existing one; in any order."""

    def parse(self, words: Words) -> tuple[int, bool]:
        number, overwrite = 0, False
        for word in words.rest():
            if word.text == "overwrite":
                overwrite = True
            elif not NUMBER.match(word.text):
                raise BadValue(f"'{word.text}' is neither a number nor 'overwrite'", "", word)
            else:
                number = number_of(word)
                if abs(number) > MAX_FILE_WEIGHT:
                    words.warn(
                        word,
                        f"{word.text} is not between -{MAX_FILE_WEIGHT} and {MAX_FILE_WEIGHT}, where it would count",
                    )
        return number, overwrite

    def __str__(self) -> str:
        return "[a number] [overwrite]"


TRACK_FILE = Block(
    "track_file",
    "a file with a number that, times a weight, changes priorities",
    (
        Keyword("file", Text("a path"), "path of the file"),
        Keyword(
            "weight",
            TrackWeightType(MAX_FILE_WEIGHT),
            "default weight where a virtual router gives none",
            default=1,
        ),
        Keyword("init_file", InitType(), "create the file at startup with this number, by default 0"),
    ),
    aliases=("vrrp_track_file",),
    head=NAME,
    twice=Twice.MANY,
)


@dataclass(frozen=True, slots=True)
class ProcessType(Type[tuple[str, ...]]):
    """A command and its arguments."""

    def parse(self, words: Words) -> tuple[str, ...]:
        return words.take("a command").text, *(word.text for word in words.rest())

    def __str__(self) -> str:
        return "a command [arguments ...]"


def _delay(name: str, doc: str) -> Keyword:
    return Keyword(name, Seconds(0.000001, MAX_DELAY_S), doc)


VRRP_TRACK_PROCESS = Block(
    "vrrp_track_process",
    "a number of processes that must run",
    (
        Keyword("process", ProcessType(), "name of the process; with arguments, its command line"),
        Keyword(
            "param_match",
            choice("initial", "partial"),
            "initial: the last argument may be longer; partial: more arguments may follow",
        ),
        Keyword(
            "weight",
            TrackWeightType(MAX_FILE_WEIGHT),
            "default weight where a virtual router gives none",
            default=0,
        ),
        Keyword("quorum", Integer(1, 65535), "minimum number of processes", default=1),
        Keyword("quorum_max", Integer(0, 65535), "maximum number of processes", default_doc="any"),
        _delay("fork_delay", "seconds that enough processes must run before the state is up"),
        _delay("terminate_delay", "seconds that too few processes must run before the state is down"),
        _delay("delay", "both delays"),
        Keyword("full_command", BARE, "compare with the whole command line", default=False),
    ),
    head=NAME,
    twice=Twice.MANY,
)


def _bfd(name: str, *aliases: str) -> Keyword:
    return Keyword(name, Text(), "property of the session", aliases=aliases)


BFD_INSTANCE = Block(
    "bfd_instance",
    "a BFD session (RFC 5880)",
    (
        _bfd("neighbor_ip", "neighbour_ip"),
        *map(_bfd, ("source_ip", "min_rx", "min_tx", "idle_tx", "multiplier", "ttl", "hoplimit", "max_hops")),
        Keyword("weight", TrackWeightType(), "default weight"),
        *(Keyword(name, BARE, "property of the session") for name in ("passive", "vrrp", "checker")),
    ),
    head=NAME,
    state=State.LATER,
    instead="there are no BFD sessions; use track_script",
    twice=Twice.MANY,
)
TRACK_DEFINITIONS = (VRRP_SCRIPT, TRACK_FILE, VRRP_TRACK_PROCESS, BFD_INSTANCE)
