"""`BFD_CHECK`: the state of a BFD session."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block, Keyword, State, Twice
from pylvs.config.schema.types import FLAG, TEXT

BFD_CHECK = Block(
    "BFD_CHECK",
    "the state of a BFD session",
    (Keyword("name", TEXT, "name of the bfd_instance"), Keyword("alpha", FLAG, "down at the start", default=False)),
    state=State.LATER,
    instead="this check is left out; use PING_CHECK or TCP_CHECK",
    twice=Twice.MANY,
)
