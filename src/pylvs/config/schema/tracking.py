"""How virtual routers watch things: the lines of track_script and its like, and the weights of what is watched."""

from __future__ import annotations

from pylvs.config.schema.nouns import Type, Words, Wrong
from pylvs.config.schema.types import number_of
from pylvs.config.tree import Word
from pylvs.model.dataclass import dataclass

MOST = 253  # of a priority of 1 to 254


@dataclass(frozen=True, slots=True)
class Weight:
    """How much a thing counts; None is left to whoever defines it."""

    value: int | None = None
    reverse: bool | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """One line of a track block; `word` is its name, where findings about it belong."""

    name: str
    weight: Weight
    word: Word


@dataclass(frozen=True, slots=True)
class WeightOf(Type[Weight]):
    """A weight from -most to most, and `reverse`."""

    most: int = MOST

    def parse(self, words: Words) -> Weight:
        """The weight."""
        word = words.take("a weight")
        value = number_of(word)
        if not -self.most <= value <= self.most:
            raise Wrong(f"weight {word.text} is not between -{self.most} and {self.most}; it is ignored", word=word)
        return Weight(value, True if words.take_if("reverse") else None)

    def __str__(self) -> str:
        return f"a whole number, -{self.most} to {self.most} [reverse]"


@dataclass(frozen=True, slots=True)
class WeightBehind(Type[Weight]):
    """Nothing, which is weight 0; or `weight` and a number."""

    def parse(self, words: Words) -> Weight:
        """The weight."""
        if not words.take_if("weight"):
            return Weight(0)
        word = words.take("a weight")
        value = number_of(word)
        if not -MOST <= value <= MOST:
            raise Wrong(f"weight {word.text} is not between -{MOST} and {MOST}", "write one that is", word)
        return Weight(value)

    def __str__(self) -> str:
        return f"[weight N], -{MOST} to {MOST}"


@dataclass(frozen=True, slots=True)
class Watching(Type[Watched]):
    """A name, and with `weight` how much it counts for this one."""

    what: str
    most: int = MOST

    def parse(self, words: Words) -> Watched:
        """The line. A word that is none of its own ends in Wrong, as keepalived then watches nothing."""
        word = words.take(f"the name of {self.what}")
        given = words.take_if("weight")
        weight = self._weight(words) if given else Weight()
        extra = words.peek()
        if extra is not None:
            raise Wrong(
                f"'{extra.text}' is not known here, so {word.text} is not watched",
                "write one name a line, and no more than 'weight N [reverse]' behind it",
                extra,
            )
        return Watched(word.text, weight, word)

    def _weight(self, words: Words) -> Weight:
        word = words.take("a weight")
        value = number_of(word)
        kept: int | None = value
        if abs(value) == MOST + 1 and self.most == MOST:
            kept = MOST if value > 0 else -MOST
            words.warn(word, f"weight {word.text} is not between -{MOST} and {MOST}; it counts as {kept}")
        elif abs(value) > self.most:
            kept = None
            words.warn(word, f"weight {word.text} is not between -{self.most} and {self.most}; it is ignored")
        turned = words.take_if("reverse", "noreverse")
        return Weight(kept, turned.text == "reverse" if turned else None)

    def __str__(self) -> str:
        return f"the name of {self.what} [weight -{self.most} to {self.most} [reverse|noreverse]]"
