"""Checkers whose result may be a weight: a script, a file, HAProxy's agent protocol, or the server's load."""

from __future__ import annotations

import re

from pylvs.config.schema.checkers.common import CONNECTION, checker_timing
from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import FLAG, MAX_INTEGER, SCRIPT_ALONE, TEXT, USER, Integer, Real, Text, did_you_mean
from pylvs.model.checks import LoadSource
from pylvs.model.dataclass import dataclass

MAX_TIMEOUT_S = 4294

MISC_CHECK = Block(
    "MISC_CHECK",
    "the exit status of a program is the result: 0 up, 1 down",
    (
        Keyword("misc_path", SCRIPT_ALONE, "the program and its arguments"),
        Keyword(
            "misc_timeout",
            Integer(1, MAX_TIMEOUT_S),
            "seconds after which the program is killed and the server is down",
            default_of="delay_loop",
        ),
        Keyword("misc_dynamic", FLAG, "exit status 2 to 255: up, with weight status - 2", default=False),
        Keyword("user", USER, "user and group that the program runs as", default_doc="script_user"),
        *checker_timing(retry=0, connect_timeout=False),
    ),
    twice=Twice.MANY,
)


@dataclass(frozen=True, slots=True)
class Multiplier(Type[tuple[int, bool]]):
    """The factor for the file's number, and whether `reverse` negates it."""

    def parse(self, words: Words) -> tuple[int, bool]:
        weight = Integer(-MAX_INTEGER, MAX_INTEGER).parse(words)
        return weight, words.take_if("reverse") is not None

    def __str__(self) -> str:
        return "NUMBER [reverse]"


FILE_CHECK = Block(
    "FILE_CHECK",
    "a number in a file, times a multiplier, changes the weight; with multiplier 0, it takes the server down",
    (
        Keyword("track_file", TEXT, "name of the track_file block"),
        Keyword("weight", Multiplier(), "multiplier of the file's number", default_doc="the track_file's"),
        Keyword("dynamic", FLAG, "always on: the number changes the weight", state=State.IGNORED),
    ),
    twice=Twice.MANY,
)


AGENT_CHECK = Block(
    "AGENT_CHECK",
    'the server answers one line over TCP: "75%", "drain", "maint", "up", "down"',
    (
        Keyword("send", Text("a text"), "line to send before the answer is read", default=""),
        *CONNECTION,
        *checker_timing(),
    ),
    twice=Twice.MANY,
    since="0.2",
)


NODE_EXPORTER_PORT = 9100  # node_exporter's
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^{}]*\})?\Z")


@dataclass(frozen=True, slots=True)
class SourceType(Type[tuple[LoadSource, str]]):
    """The value in the page that is the load."""

    def parse(self, words: Words) -> tuple[LoadSource, str]:
        """Return the source, and the name of a `metric`."""
        word = words.take("what the load is")
        names = [source.value for source in LoadSource]
        if word.text not in names:
            raise BadValue(f"there is no load '{word.text}'", did_you_mean(word.text, names) or f"one of {self}", word)
        source = LoadSource(word.text)
        if source is not LoadSource.METRIC:
            return source, ""
        metric = words.take("the metric's name")
        if not METRIC.match(metric.text):
            advice = "quote it, such as 'queue_length{pool=\"web\"}'"
            raise BadValue(f"'{metric.text}' is not the name of a metric", advice, metric)
        return source, metric.text

    def __str__(self) -> str:
        return "load1_per_core | cpu_busy | metric NAME"


LOAD_CHECK = Block(
    "LOAD_CHECK",
    "the weight follows the server's load, read from Prometheus's node_exporter; never takes a server down",
    (
        Keyword("path", Text("a path"), "path of the metrics", default="/metrics"),
        Keyword(
            "source",
            SourceType(),
            "value that is the load",
            default=(LoadSource.LOAD1_PER_CORE, ""),
            default_doc="load1_per_core",
        ),
        Keyword("full", Real(0.000001, 1e15), "load at which the server gets the smallest weight", default=1.0),
        Keyword("floor", Real(0, 1), "smallest weight, as a share of the configured one", default=0.1),
        Keyword("smoothing", Real(0, 0.99), "share of the previous load in the smoothed one", default=0.5),
        Keyword("hysteresis", Real(0, 1), "smallest change of the weight, as a share", default=0.05),
        Keyword(
            "patience", Integer(1, 1000), "consecutive failures before the configured weight counts again", default=3
        ),
        Keyword("tls", FLAG, "use HTTPS; the certificate is not verified", default=False),
        *CONNECTION,
        *checker_timing(),
    ),
    twice=Twice.MANY,
    since="0.2",
)
