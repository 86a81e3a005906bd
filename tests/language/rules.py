"""The rules of the language: each takes a piece and yields findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from tests.language.reading import (
    BREAK,
    CODE,
    COMMENT,
    DOCSTRING,
    EACH,
    FILE,
    HIDDEN,
    MESSAGE,
    NAME,
    PAGE,
    ROOT,
    TEST,
    Piece,
    files,
    name_words,
    pieces,
)

GLOSSARY = ROOT / "docs" / "glossary.md"
HEADING = "## Words that pylvs does not use"
LONGEST_SENTENCE = 25  # words

# Where a row of the glossary's table holds, and the pieces that it means.
CONTEXTS = {
    "names": {FILE, NAME, TEST},
    "file names": {FILE},
    "text": {TEST, DOCSTRING, COMMENT, MESSAGE, PAGE, CODE},
}

# Nouns that are counted in messages. "1 services" is wrong; a number behind the noun is right: "services: 1".
COUNTED = (
    "services servers destinations connections entries files errors findings checks checkers addresses devices rules "
    "packets frames routers instances groups seconds minutes changes edits lines tables scripts processes seeds times"
)
PLURAL = re.compile(rf"(?<!to )(?:{{}}|%d|(?<![\w.:/-])1) (?:{'|'.join(COUNTED.split())})\b")

# Words that a docstring may consist of and still say nothing.
EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a all also an and as both end ended for here in is it its more no none nothing of one ones other others "
        "protocol return returns same see self that the there these this those to too what",
    )
)

# First words with which a docstring neither says what a function does nor names what it is (PEP 257).
STARTS = re.compile(
    r"\s*(?:what|whose|who|whom|where|how|whether|why|of|as|by|until|its|likewise|so|those|that|not)\b", re.IGNORECASE
)
UNCOUNTED = ("start",)  # rules that only `--rule` applies, until the tree has none of their findings

# Phrases in which a word of the table is right.
PHRASES = (
    ("source route", "the name of an IP option"),
    ("source routed", "the same"),
    ("source quench", "the name of an ICMP message"),
    ("source hash", "what the schedulers sh and mh are called"),
    ("source hashing", "the same"),
    ("odd number", "a number that two does not divide"),
    ("odd or even", "the same"),
    ("even or odd", "the same"),
    ("as well", "an adverb, not the state of an object"),
    ("well known", "the same"),
    ("well formed", "the same"),
    ("well defined", "the same"),
    ("well above", "the same"),
    ("well below", "the same"),
    ("well within", "the same"),
    ("looks up", "a lookup"),
    ("user nobody", "an account"),
    ("group nobody", "the same"),
)

# Findings that shall stand: path, rule or word, reason. Keep this short.
EXCEPTIONS: tuple[tuple[str, str, str], ...] = (
    ("bpf/abi/conntrack.h", "odd", "the seeds of the hash are odd numbers"),
    ("bpf/conntrack/key.h", "odd", "so are its factors"),
    ("bpf/*/*.h", "h_source", "a field of the kernel's struct ethhdr"),
    ("docs/performance.md", "length", "a line of measurements"),
    ("tests/unit/reference/simulated_wire.py", "hear", "the name in the recorder's Wire"),
    ("tests/packet/test_conformance.py", "defences_bounded", "the name of a recorded scenario"),
    ("tests/packet/test_conformance.py", "places", "the same"),
    ("tests/packet/test_conformance.py", "told", "the name of a recorded step"),
    ("tests/packet/test_conformance.py", "goes on with", "the same"),
    ("tests/packet/test_conformance.py", "strangers", "the same"),
    ("tests/packet/test_conformance.py", "odd", "the same"),
    ("tests/unit/test_release.py", "news", "a message of towncrier"),
    ("tests/interop/test_dev.py", "nobody", "an account"),
    ("tests/lab/test_notify.py", "nobody", "the same"),
    ("tests/unit/config/test_any_tree.py", "nobody", "the same"),
    ("tests/unit/daemon/simulation/simulate.py", "nobody", "the same"),
    ("tests/unit/health/test_engine_reload.py", "nobody", "the same"),
    ("src/pylvs/vrrp/router_service.py", "length", "a diagram"),
)


RIGHT = re.compile(r"\b(?:" + "|".join(phrase.replace(" ", r"\s+") for phrase, _ in PHRASES) + r")\b", re.IGNORECASE)


@dataclass(frozen=True)
class Ban:
    """A word of the glossary's table: where it is not used, and what is written instead."""

    word: str
    kinds: frozenset[str]
    below: tuple[str, ...]  # folders; none: everywhere
    instead: str


@dataclass(frozen=True)
class Finding:
    """A piece of language that breaks a rule."""

    path: str
    line: int
    column: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.rule}: {self.text}"


def parse_bans(page: str) -> list[Ban]:
    """Read the table of words from the text of the glossary; raise ValueError for a row with an unknown context."""
    bans = []
    for line in page.partition(HEADING + "\n")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "not" or set(cells[0]) <= set("-: "):
            continue
        words, where, instead = cells
        below = tuple(re.findall(r"`([^`]+)`", where))
        contexts = re.split(r",? and |, ", where.partition(" in ")[0])
        if not set(contexts) <= set(CONTEXTS):
            raise ValueError(f"{GLOSSARY.name}: {where}: not one of {', '.join(CONTEXTS)}")
        kinds = frozenset[str]().union(*(CONTEXTS[context] for context in contexts))
        bans += [Ban(word.strip().lower(), kinds, below, instead) for word in words.split(",")]
    if not bans:
        raise ValueError(f"{GLOSSARY.name}: no table below {HEADING!r}")
    return bans


def _any_of(words: list[str]) -> re.Pattern[str]:
    """Return an expression for any of the words; a blank in a phrase may be the end of a line."""
    choice = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)
    return re.compile(rf"(?<![\w'-])({choice})(?:'s)?(?![\w'-])", re.IGNORECASE)


class Rules:
    """All rules, with the words of one glossary."""

    def __init__(self, bans: Iterable[Ban]) -> None:
        bans = list(bans)
        kinds = frozenset[str]().union(*(ban.kinds for ban in bans))
        self._bans = {kind: {ban.word: ban for ban in bans if kind in ban.kinds} for kind in kinds}
        # One expression finds any of the words; what it found says which. The longest comes first.
        self._any = {kind: _any_of(sorted(words, key=len, reverse=True)) for kind, words in self._bans.items()}

    def check(self, piece: Piece) -> Iterator[Finding]:
        """Yield what is wrong with a piece."""
        if piece.kind in self._any:
            yield from self._words(piece)
        if piece.kind in (DOCSTRING, COMMENT, PAGE):
            yield from _sentences(piece)
        if piece.kind == DOCSTRING:
            yield from _empty(piece)
            if STARTS.match(piece.text) and not piece.is_test:
                yield _finding(piece, 0, "start", f"{piece.text[:60]!r}: begin with a verb or a noun")
        if piece.kind == EACH:
            yield _finding(piece, 0, "each", "write what the thing is: `server`, `row`, `device`")
        if piece.kind == MESSAGE and not piece.path.startswith("tests/"):
            for found in PLURAL.finditer(piece.text):
                yield _finding(piece, found.start(), "plural", f"{found[0]!r} is wrong for one")

    def _words(self, piece: Piece) -> Iterator[Finding]:
        is_name = piece.kind in (FILE, NAME, TEST)
        text = " ".join(name_words(piece.text)) if is_name else piece.prose
        text = RIGHT.sub(lambda found: HIDDEN * len(found[0]), text)
        found_words = set()
        for found in self._any[piece.kind].finditer(text):
            word = re.sub(r"\s+", " ", found[1].lower())
            ban = self._bans[piece.kind][word]
            if ban.below and not piece.path.startswith(ban.below):
                continue
            if is_name and word in found_words:
                continue
            found_words.add(word)
            what = f"{piece.text!r}: {word}" if is_name else repr(word)
            yield _finding(piece, 0 if is_name else found.start(1), "words", f"{what}; write {ban.instead}")


def _finding(piece: Piece, offset: int, rule: str, text: str) -> Finding:
    line, column = piece.position(offset)
    return Finding(piece.path, line, column, rule, text)


WORD = re.compile(rf"[\w{HIDDEN}][\w{HIDDEN}'’./:%+&=<>*@~^$#-]*")
CODES = re.compile(rf"{HIDDEN}+(?:(?:,? and |,? or |, | ){HIDDEN}+)+")  # a list of code spans counts as one word
SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!vs)(?<!cf)(?<!etc)[.!?][\"')\]*]*(?=\s|$)")


def sentences(prose: str) -> Iterator[tuple[int, str]]:
    """Yield offset and text of each sentence."""
    at = 0
    for paragraph in prose.split(BREAK):
        start = 0
        for end in [*(found.end() for found in SENTENCE_END.finditer(paragraph)), len(paragraph)]:
            sentence = paragraph[start:end]
            if sentence.strip():
                yield at + start + len(sentence) - len(sentence.lstrip()), sentence.strip()
            start = end
        at += len(paragraph) + 1


def count_words(sentence: str) -> int:
    """Count the words of a sentence; a list of code is one word."""
    return len(WORD.findall(CODES.sub(HIDDEN, re.sub(r"\s+", " ", sentence))))


def _sentences(piece: Piece) -> Iterator[Finding]:
    for offset, sentence in sentences(piece.prose):
        # A shorter string than two letters for each word cannot be too long; this is most of them.
        if len(sentence) > 2 * LONGEST_SENTENCE and (count := count_words(sentence)) > LONGEST_SENTENCE:
            start = re.sub(r"\s+(?:[#*/]+\s+)?", " ", piece.text[offset : offset + 60])
            yield _finding(piece, offset, "length", f"{count} words: {start!r}")


def _stem(word: str) -> str:
    """Cut off what makes a plural or a verb's form, so that `closes` is `close`."""
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 3 else word


def _empty(piece: Piece) -> Iterator[Finding]:
    words = re.findall(r"[a-z]+", piece.text.lower()) if HIDDEN not in piece.prose else []
    known = {_stem(word) for word in piece.about} | {_stem(word) for word in EMPTY}
    if words and len(words) < 8 and all(_stem(word) in known for word in words):
        yield _finding(piece, 0, "docstring", f"{piece.text!r} adds nothing to the name")


@cache
def project_rules() -> Rules:
    """Return the rules with the words of the project's glossary."""
    return Rules(parse_bans(GLOSSARY.read_text()))


def _is_excepted(finding: Finding) -> bool:
    return any(
        fnmatchcase(finding.path, path) and (rule == finding.rule or finding.text.startswith(repr(rule)))
        for path, rule, _ in EXCEPTIONS
    )


def find(paths: list[str] | None = None, rule: str = "") -> Iterator[Finding]:
    """Yield what is wrong below the given paths, or in the whole tree, by one rule or all that count."""
    rules = project_rules()
    for path in files(paths):
        for piece in pieces(path):
            if path == GLOSSARY:  # the table itself must hold the words
                head, mark, _ = piece.prose.partition(HEADING)
                piece = Piece(piece.kind, piece.path, 1, 1, piece.text, head + mark)
            for finding in rules.check(piece):
                if (finding.rule == rule if rule else finding.rule not in UNCOUNTED) and not _is_excepted(finding):
                    yield finding
