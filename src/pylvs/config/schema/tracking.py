"""How virtual routers watch things: the lines of track_script and its like, and the weights of what is watched."""

from __future__ import annotations

from pylvs.config.schema.nouns import BadValue, Type, Words
from pylvs.config.schema.types import number_of
from pylvs.config.tree import Word
from pylvs.model.dataclass import dataclass

MOST_WEIGHT = 253  # of a priority of 1 to 254


@dataclass(frozen=True, slots=True)
class TrackWeight:
    """How much a thing counts; None is left to whoever defines it."""

    value: int | None = None
    reverse: bool | None = None


@dataclass(frozen=True, slots=True)
class WrittenTrack:
    """One line of a track block; `word` is its name, where findings about it belong."""

    name: str
    weight: TrackWeight
    word: Word


@dataclass(frozen=True, slots=True)
class TrackWeightType(Type[TrackWeight]):
    """A weight from -most to most, and `reverse`."""

    most: int = MOST_WEIGHT

    def parse(self, words: Words) -> TrackWeight:
        """The weight."""
        word = words.take("a weight")
        value = number_of(word)
        if not -self.most <= value <= self.most:
            raise BadValue(f"weight {word.text} is not between -{self.most} and {self.most}; it is ignored", word=word)
        return TrackWeight(value, True if words.take_if("reverse") else None)

    def __str__(self) -> str:
        return f"a whole number, -{self.most} to {self.most} [reverse]"


@dataclass(frozen=True, slots=True)
class OptionalWeightType(Type[TrackWeight]):
    """Nothing, which is weight 0; or `weight` and a number."""

    def parse(self, words: Words) -> TrackWeight:
        """The weight."""
        if not words.take_if("weight"):
            return TrackWeight(0)
        word = words.take("a weight")
        value = number_of(word)
        if not -MOST_WEIGHT <= value <= MOST_WEIGHT:
            raise BadValue(
                f"weight {word.text} is not between -{MOST_WEIGHT} and {MOST_WEIGHT}", "write one that is", word
            )
        return TrackWeight(value)

    def __str__(self) -> str:
        return f"[weight N], -{MOST_WEIGHT} to {MOST_WEIGHT}"


@dataclass(frozen=True, slots=True)
class TrackLine(Type[WrittenTrack]):
    """A name, and with `weight` how much it counts for this one."""

    what: str
    most: int = MOST_WEIGHT

    def parse(self, words: Words) -> WrittenTrack:
        """The line. A word that is none of its own ends in Wrong, as keepalived then watches nothing."""
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
        if abs(value) == MOST_WEIGHT + 1 and self.most == MOST_WEIGHT:
            kept = MOST_WEIGHT if value > 0 else -MOST_WEIGHT
            words.warn(word, f"weight {word.text} is not between -{MOST_WEIGHT} and {MOST_WEIGHT}; it counts as {kept}")
        elif abs(value) > self.most:
            kept = None
            words.warn(word, f"weight {word.text} is not between -{self.most} and {self.most}; it is ignored")
        turned = words.take_if("reverse", "noreverse")
        return TrackWeight(kept, turned.text == "reverse" if turned else None)

    def __str__(self) -> str:
        return f"the name of {self.what} [weight -{self.most} to {self.most} [reverse|noreverse]]"
