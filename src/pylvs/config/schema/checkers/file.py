"""`FILE_CHECK`: a number in a file, of a `track_file` block, moves the weight."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import FLAG, MAX_INTEGER, TEXT, Integer
from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Multiplier(Type[tuple[int, bool]]):
    """What the file's number is multiplied by, and whether its sign is turned round."""

    def parse(self, words: Words) -> tuple[int, bool]:
        """Multiplier, and whether `reverse` follows."""
        weight = Integer(-MAX_INTEGER, MAX_INTEGER).parse(words)
        return weight, words.take_if("reverse") is not None

    def __str__(self) -> str:
        return "NUMBER [reverse]"


FILE_CHECK = Block(
    "FILE_CHECK",
    "a number in a file is added to the weight, times a multiplier; with multiplier 0, it takes the server out",
    (
        Keyword("track_file", TEXT, "name of the track_file block"),
        Keyword("weight", Multiplier(), "multiplier of the number", default_doc="the track_file's"),
        Keyword("dynamic", FLAG, "the number moves the weight with or without it", state=State.NEEDLESS),
    ),
    twice=Twice.MANY,
)
