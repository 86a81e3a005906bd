"""`AGENT_CHECK`: the server itself says how much it can take, in HAProxy's agent protocol."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import CONNECTION
from pylvs.config.schema.nouns import Block, Keyword, Twice
from pylvs.config.schema.pace import checker_timing
from pylvs.config.schema.types import Text

AGENT_CHECK = Block(
    "AGENT_CHECK",
    'the server answers one line over TCP: "75%", "drain", "maint", "up", "down"',
    (
        Keyword("send", Text("a text"), "sent before the answer is read, with a line's end", default=""),
        *CONNECTION,
        *checker_timing(),
    ),
    twice=Twice.MANY,
    since="0.2",
)
