"""`UDP_CHECK`: a datagram is not refused, or is answered."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import TARGET
from pylvs.config.schema.nouns import BadValue, Block, Keyword, Twice, Type, Words
from pylvs.config.schema.pace import checker_timing
from pylvs.config.schema.types import Integer
from pylvs.model.checks import Pattern
from pylvs.model.dataclass import dataclass

ANYTHING = Pattern()


@dataclass(frozen=True, slots=True)
class HexBytes(Type[Pattern]):
    """Bytes in hexadecimal: each word is bytes of two digits, of which the last may have only one.

    With `wild`, a digit may be X, which stands for any; with `empty` there may be no word at all.
    """

    wild: bool = False
    empty: bool = False

    def parse(self, words: Words) -> Pattern:
        """The bytes, and a mask of the bits that count."""
        if not words and not self.empty:
            words.take("bytes in hexadecimal")
        value, mask = bytearray(), bytearray()
        for word in words.rest():
            digits = word.text.lower()
            if not digits or set(digits) - set("0123456789abcdef" + ("x" if self.wild else "")):
                raise BadValue(f"'{word.text}' is not hexadecimal", str(self), word)
            for at in range(0, len(digits), 2):
                pair = digits[at : at + 2].rjust(2, "0")
                value.append(int(pair.replace("x", "0"), 16))
                mask.append(int("".join("0" if digit == "x" else "f" for digit in pair), 16))
        return Pattern(bytes(value), bytes(mask))

    def __str__(self) -> str:
        text = "bytes in hexadecimal" + (", X for any digit" if self.wild else "")
        return f"[{text}]" if self.empty else text


LENGTH = Integer(0, 65535)
UDP_CHECK = Block(
    "UDP_CHECK",
    "a datagram is not refused; or, with require_reply, it is answered",
    (
        Keyword("payload", HexBytes(), "what is sent", default=ANYTHING, default_doc="some random bytes"),
        Keyword("require_reply", HexBytes(wild=True, empty=True), "an answer must come, beginning with this"),
        Keyword("min_reply_length", LENGTH, "bytes the answer must have", default=0),
        Keyword("max_reply_length", LENGTH, "bytes the answer may have", default=255),
        *TARGET,
        *checker_timing(),
    ),
    twice=Twice.MANY,
)
