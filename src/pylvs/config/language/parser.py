"""keepalived's configuration language: text to a tree with positions, and what is wrong with it.

It is read by hand, not by a grammar: which words a line has depends on variables whose values hold braces, conditions,
definitions or further lines, a statement's keyword decides how its quotes are read, and after an error the next line
must still be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator

from pylvs.config.findings import Finding, Findings, Location
from pylvs.config.gc_pause import gc_paused
from pylvs.config.language.includes import (
    INCLUDE,
    NO_CHECKS,
    IncludeChecks,
    Source,
    Unreadable,
    included_sources,
    read_source,
)
from pylvs.config.language.lexer import BANG, HASH, SPACE, SPACES, Brace, Lexer
from pylvs.config.language.tree import Document, Line, Node, Word
from pylvs.config.language.variables import (
    DEFINITION,
    MOST_OF_A_LINE,
    MOST_TEXT,
    SEQUENCE,
    Budget,
    Repetition,
    Variables,
    parse_repetition,
    strip_comment,
)
from pylvs.model.dataclass import dataclass, field

# --- blocks ----------------------------------------------------------------------------------------------------------
# Lines of words to a tree of blocks; braces that are missing or too many are found.


DEEPEST = 32  # blocks within blocks; keepalived's own go six deep


def build_tree(lines: Iterable[list[Word | Brace]], findings: Findings) -> tuple[Node, ...]:
    """The statements of these lines.

    A statement ends at the end of its line, at its block's end, and before the end of the block that it stands in; its
    block may open on a later line, with nothing but comments between.
    """
    builder = _Builder(findings)
    for line in lines:
        words = tuple(item for item in line if isinstance(item, Word))
        if words:
            builder.statement(words)
        for item in line:
            if not isinstance(item, Brace):
                builder.before = item.location
            elif item.opens:
                builder.open(item.location)
            else:
                builder.close(item.location)
    return builder.end()


@dataclass(slots=True)
class _Open:
    """A block whose end has not been read: its statement, its opening brace, what stands in it so far."""

    words: tuple[Word, ...]
    brace: Location
    nodes: list[Node] = field(default_factory=list)

    @property
    def column(self) -> int:
        """Where its statement begins."""
        return self.words[0].location.column if self.words else self.brace.column

    def __str__(self) -> str:
        return f"the block of '{self.words[0]}'" if self.words else "the block"


@dataclass(slots=True)
class _Builder:
    """The blocks around the location that is being read."""

    findings: Findings
    nodes: list[Node] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    waiting: tuple[Word, ...] = ()  # a statement whose block may still open
    skipped: int = 0  # blocks that are too deep to be kept
    before: Location | None = None  # the word or brace before
    lacking: tuple[_Open, Location] | None = (
        None  # by its indentation, this block's brace is missing before that location
    )
    early: tuple[_Open, Location] | None = None  # by its indentation, this brace was not meant to end that block

    def statement(self, words: tuple[Word, ...]) -> None:
        """Words that are one statement, with or without a block."""
        self._finish()
        self.waiting = words

    def open(self, brace: Location) -> None:
        """A block begins."""
        if self.skipped or len(self.stack) >= DEEPEST:
            if not self.skipped:
                self.findings.error(
                    brace, f"blocks within blocks, over {DEEPEST} deep", "close those that should end", fatal=True
                )
            self.skipped += 1
        else:
            if not self.waiting:
                self.findings.error(brace, "'{' without a keyword before it", "write its keyword, or remove it")
            self.stack.append(_Open(self.waiting, brace))
        self.waiting, self.before = (), brace

    def close(self, brace: Location) -> None:
        """A block ends."""
        self._finish()
        if self.skipped:
            self.skipped -= 1
        elif not self.stack:
            advice = "remove it"
            if self.early:
                block, location = self.early
                advice = (
                    f"remove it, or that at line {location.line}, indented unlike {block} at line {block.brace.line}"
                )
            self.findings.error(brace, "'}' closes nothing", advice)
        else:
            self._compare(brace)
            self._close()
        self.before = brace

    def end(self) -> tuple[Node, ...]:
        """All statements, once the text has ended."""
        self._finish()
        for block in reversed(self.stack):
            advice = "write its '}'"
            if self.lacking and self.lacking[0] is not block:
                other, at = self.lacking
                advice = (
                    f"write its '}}'; by indentation, {other} at line {other.brace.line} lacks one at line {at.line}"
                )
            self.findings.error(block.brace, f"{block} is never closed", advice, fatal=True)
        while self.stack:
            self._close()
        return tuple(self.nodes)

    def _finish(self) -> None:
        """The statement that waited has no block."""
        if self.waiting and not self.skipped:
            (self.stack[-1].nodes if self.stack else self.nodes).append(Node(self.waiting))
        self.waiting = ()

    def _close(self) -> None:
        """The innermost block is complete; what stands in a block without a keyword belongs to the block around it."""
        done = self.stack.pop()
        around = self.stack[-1].nodes if self.stack else self.nodes
        if done.words:
            around.append(Node(done.words, tuple(done.nodes)))
        else:
            around += done.nodes

    def _compare(self, brace: Location) -> None:
        """Look at the indentation of a brace that begins its line and ends the innermost block."""
        block = self.stack[-1]
        begins = self.before is None or (self.before.file, self.before.line) != (brace.file, brace.line)
        if not begins or block.brace.file != brace.file or brace.column == block.column:
            return
        if not self.lacking and any(other.column == brace.column for other in self.stack[:-1]):
            self.lacking = block, brace
        elif not self.early and brace.column > block.column:
            self.early = block, brace


# --- parser ----------------------------------------------------------------------------------------------------------

DEEPEST_INCLUDE = 32
MOST_FILES = 10_000

_CONDITION = re.compile(r"@(\^?)([^ \t\v\f\r]*)")
_UNUSABLE = {0: "\ufffd", ord(HASH): "\ufffd", ord(BANG): "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
_BLANKS = " \t\v\f\r"


def read(path: str, ids: Collection[str] = ()) -> tuple[Document, tuple[Finding, ...]]:
    """The configuration in a file ("-": standard input) and in what it includes.

    `ids` are those that lines beginning with @ ask for; without any it is this machine's name, as in keepalived. Never
    raises: whatever is wrong is a finding, and the document is what could be read.
    """
    findings = Findings()
    try:
        source = read_source(path, pipes=True)
    except Unreadable as error:
        findings.error(Location(path, 1, 1), f"the file {error}", "name a configuration file", fatal=True)
        return Document((), (path,)), findings.all()
    return _Reader(findings, ids, MOST_TEXT).document(source)


def read_text(
    text: str, file: str = "-", ids: Collection[str] = (), most_text: int = MOST_TEXT
) -> tuple[Document, tuple[Finding, ...]]:
    """The same of a text that stands in this file; `most_text` characters are read and made of it, no more."""
    directory = os.path.realpath(os.path.dirname(file.replace("\0", "")) or ".")
    return _Reader(Findings(), ids, most_text).document(Source(file, text, (-1, -1), directory))


@dataclass(slots=True)
class _Frame:
    """Lines that are being read: a file's, a variable's, or a sequence's."""

    lines: Iterator[Line]
    name: str = ""  # of the variable
    source: Source | None = None
    checks: IncludeChecks = NO_CHECKS  # what `include_check` asks for in this file


@dataclass(slots=True)
class _Reader:
    """What is known while a configuration is read."""

    findings: Findings
    ids: Collection[str]
    most_text: int
    budget: Budget = field(init=False)
    variables: Variables = field(init=False)
    lexer: Lexer = field(init=False)
    frames: list[_Frame] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    includes: int = 0  # files included so far, as often as they were

    def __post_init__(self) -> None:
        self.ids = [*self.ids] or [os.uname().nodename.partition(".")[0]]
        self.budget = Budget(self.findings, self.most_text)
        self.variables = Variables(self.findings, self.budget, self.ids[0])
        self.lexer = Lexer(self.findings, self.variables.values)

    def document(self, source: Source) -> tuple[Document, tuple[Finding, ...]]:
        """What the file says."""
        self._open(source, NO_CHECKS)
        with gc_paused():
            nodes = build_tree(self._statements(), self.findings)
        return Document(nodes, tuple(self.texts), self.texts), self.findings.all()

    def _open(self, source: Source, checks: IncludeChecks) -> None:
        """Read this file's lines next."""
        text = source.text.translate(_UNUSABLE) if not source.text.isascii() or "\0" in source.text else source.text
        if source.marked:
            self.findings.warning(
                Location(source.path, 1, 1), "a byte order mark begins the file", "save it without one"
            )
        self.texts[source.path] = text
        lines = (Line.written(line, source.path, number) for number, line in enumerate(text.split("\n"), 1))
        self.frames.append(_Frame(lines, "", source, checks))

    def _file(self) -> _Frame:
        """The frame of the file that is being read."""
        return next(frame for frame in reversed(self.frames) if frame.source)

    def _next(self) -> Line | None:
        """The next line, out of whatever comes first; None at the end, or when there is no more room."""
        while self.frames:
            frame = self.frames[-1]
            line = next(frame.lines, None)
            if line is None:
                self.frames.pop()
            elif not self.budget.spend(len(line.text), line, 0 if frame.source else 1):
                return None
            elif len(line.text) <= MOST_OF_A_LINE:
                return line
            else:
                self.findings.error(
                    line.location(MOST_OF_A_LINE, MOST_OF_A_LINE + 1),
                    f"no line has more than {MOST_OF_A_LINE} characters",
                    "write shorter lines",
                    fatal=True,
                )
        return None

    def _statements(self) -> Iterator[list[Word | Brace]]:
        """The words of each statement up to its brace, and of the rest of its line."""
        while (line := self._next()) is not None:
            usual = self.lexer.usual(line)
            if usual is not None:
                yield usual
                continue
            at, replaced = 0, "$" not in line.text
            while (at := self._blanks(line, at)) < len(line.text):
                character = line.text[at]
                if character == "@":
                    at = self._condition(line, at)
                elif character == "$" and (match := DEFINITION.match(line.text, at)):
                    self._define(line, match)
                    break
                elif character == "~" and (match := SEQUENCE.match(line.text, at)):
                    self._sequence(line, at, match)
                    break
                elif not replaced:
                    line, at, replaced = self._replaced(line.part(at) if at else line), 0, True
                elif match := INCLUDE.match(line.text, at):
                    self._include(line, match)
                    break
                else:
                    words, at = self.lexer.statement(line, at)
                    self._obey(words)
                    yield words

    def _blanks(self, line: Line, at: int) -> int:
        """Where the blanks that begin at `at` end."""
        if line.text[at : at + 1] not in SPACE:
            return at
        match = SPACES.match(line.text, at)
        return match.end() if match else at

    def _replaced(self, line: Line) -> Line:
        """The line with its variables replaced; further lines of theirs come next."""
        source = self._file().source
        active = [frame.name for frame in self.frames if frame.name]
        result = self.variables.replace(line, source.directory if source else "", active)
        for name, lines in result.following:
            self.frames.append(_Frame(iter(lines), name))
        return result.line

    def _condition(self, line: Line, at: int) -> int:
        """Where to read on after the condition at `at`."""
        match = _CONDITION.match(line.text, at)
        assert match is not None
        if (match[2] in self.ids) != bool(match[1]):
            return match.end()
        if definition := DEFINITION.match(line.text, self._blanks(line, match.end())):
            self._definition(line, definition)  # all its lines are left out
            return len(line.text)
        end = self._scope(line, match.end())
        if end < len(line.text):
            self.findings.warning(
                line.location(end, end + 1),
                f"keepalived leaves out this brace too when {match[0]} does not hold",
                "write it on a line of its own",
            )
        return end

    def _scope(self, line: Line, at: int) -> int:
        """Where what stands at `at` ends: before a brace that closes a block opened before it, or with the line."""
        lexer, depth = Lexer(Findings()), 0
        while at < len(line.text):
            words, end = lexer.statement(line, at)
            if words and isinstance(words[-1], Brace):
                depth += 1 if words[-1].opens else -1
                if depth < 0:
                    return end - 1
            at = end
        return at

    def _definition(self, line: Line, match: re.Match[str]) -> tuple[bool, list[Line]]:
        """Whether a definition has several lines, and these, without the backslashes that continue them."""
        rest = line.part(match.end())
        if not rest.text.rstrip(_BLANKS).endswith("\\"):
            return False, [rest.part(0, len(strip_comment(rest.text)))]
        lines = [rest]
        for following in self.frames[-1].lines:
            if not self.budget.spend(len(following.text), following):
                break
            text = following.text.strip(_BLANKS)
            if text[:1] in ("#", "!"):  # a comment of its own neither belongs to a definition nor ends it
                continue
            if not text:
                self.findings.warning(
                    following.location(0, 1),
                    f"the definition of '{match[1]}' ends at this blank line",
                    "remove it, or the '\\' before",
                )
                break
            lines.append(following)
            if not text.endswith("\\"):
                break
        ends = [len(one.text.rstrip(_BLANKS)) - one.text.rstrip(_BLANKS).endswith("\\") for one in lines]
        parts = [one.part(0, end) for one, end in zip(lines, ends, strict=True)]
        return True, [part for part in parts if part.text.strip(_BLANKS)]

    def _define(self, line: Line, match: re.Match[str]) -> None:
        """Remember a variable's value."""
        several, lines = self._definition(line, match)
        if several:
            self.variables.define_lines(match[1], lines)
        else:
            self.variables.define(match[1], lines[0])

    def _sequence(self, line: Line, at: int, match: re.Match[str]) -> None:
        """Read the rest of the line, or of its block, once for each value."""
        close = line.text.find(")", match.end())
        head = self._replaced(line.part(match.end(), close + 1 if close >= 0 else None))
        sequence, _, wrong = parse_repetition(match[1], head.text)
        if sequence is None:
            self.findings.error(line.location(at, match.end()), wrong, f"the line needs ~{match[1]}(...)")
            return
        location, start = line.location(at, close + 1), close + 1
        end = self._scope(line, start)
        if end < len(line.text):
            self.findings.warning(
                line.location(end, end + 1),
                f"keepalived repeats this brace too, with ~{match[1]}",
                "write it on a line of its own",
            )
            self.frames.append(_Frame(iter((line.part(end),))))
        rest = line.part(start, end)
        self.frames.append(_Frame(self._rounds(sequence, rest, location)))

    def _rounds(self, sequence: Repetition, rest: Line, location: Location) -> Iterator[Line]:
        """The rest of a sequence's line, each time with other values of its variables."""
        for values in sequence.values():
            for name, value in zip(sequence.names, values, strict=True):
                self.variables.define(name, Line.written(value, "", 0).standing_for(location))
            yield rest

    def _include(self, line: Line, match: re.Match[str]) -> None:
        """Read the files that an include names next."""
        frame = self._file()
        assert frame.source is not None
        start = self._blanks(line, match.end())
        name = strip_comment(line.text[start:]).replace(HASH, "#").replace(BANG, "!")
        location = line.location(start, start + len(name)) if name else line.location(match.start(), match.end())
        active = {one.source.identity for one in self.frames if one.source}
        files: list[Source] = []
        for source in included_sources(name, match[1], frame.source, frame.checks, location, self.findings):
            if source.identity in active:
                self.findings.error(
                    location, f"'{source.path}' includes itself", "remove one of the includes", fatal=True
                )
            elif len(active) >= DEEPEST_INCLUDE or self.includes >= MOST_FILES:
                self.findings.error(location, "too many files include each other", "include fewer", fatal=True)
                break
            elif not self.budget.spend(len(source.text), line):
                break
            else:
                files.append(source)
                self.includes += 1
        for source in reversed(files):
            self._open(source, frame.checks)

    def _obey(self, words: list[Word | Brace]) -> None:
        """What a statement says about the reading itself."""
        texts = [word.text for word in words if isinstance(word, Word)]
        if texts[:1] == ["include_check"]:
            frame = self._file()
            frame.checks = frame.checks.changed(texts[1:])
        elif texts[:1] == ["random_seed"] and len(texts) > 1:
            self.variables.dice.seed(texts[1])
