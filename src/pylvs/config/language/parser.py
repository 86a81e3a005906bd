"""Parse keepalived's configuration language into a tree, with findings.

The parser is written by hand, not generated from a grammar. The words of a line depend on variables whose values hold
braces, conditions, definitions or further lines. A statement's keyword decides how quotes are read. After an error the
parser continues with the next line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator

from pylvs.config.language.lexer import BANG, HASH, Brace, Lexer, skip_blanks
from pylvs.config.language.preprocessor import (
    DEFINITION,
    INCLUDE,
    MAX_LINE,
    MAX_ROUNDS,
    MAX_TEXT,
    SEQUENCE,
    Budget,
    Source,
    Unreadable,
    Value,
    Variables,
    changed_checks,
    continued,
    included_sources,
    parse_repetition,
    read_source,
    strip_comment,
)
from pylvs.config.language.tree import Document, Finding, Findings, Line, Location, Node, Word, gc_paused
from pylvs.model.dataclass import dataclass, field

Parsed = tuple[Document, tuple[Finding, ...]]

MAX_DEPTH = 32  # nested blocks; keepalived's own go six deep


def build_tree(lines: Iterable[list[Word | Brace]], findings: Findings) -> tuple[Node, ...]:
    """Build the tree of statements; report braces that are missing or surplus.

    A statement ends with its line or its block, or before the end of the block around it. Its block may open on a later
    line, with only comments between.
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
class _OpenBlock:
    """An open block: its statement, its opening brace, and its statements so far."""

    words: tuple[Word, ...]
    brace: Location
    nodes: list[Node] = field(default_factory=list)
    inside: int = 0  # the column of its first statement on a line of its own

    @property
    def column(self) -> int:
        return self.words[0].location.column if self.words else self.brace.column

    def __str__(self) -> str:
        return f"the block of '{self.words[0]}'" if self.words else "the block"


@dataclass(slots=True)
class _Builder:
    """Builds the tree from statements and braces; `stack` holds the open blocks."""

    findings: Findings
    nodes: list[Node] = field(default_factory=list)
    stack: list[_OpenBlock] = field(default_factory=list)
    pending: tuple[Word, ...] = ()  # a statement whose block may still open
    skipped: int = 0  # open blocks that are nested too deep
    before: Location | None = None  # of the last word or brace
    lacking: tuple[_OpenBlock, Location] | None = None  # indentation suggests that the block ends before this location
    early: tuple[_OpenBlock, Location] | None = None  # indentation suggests that this brace does not end the block

    def statement(self, words: tuple[Word, ...]) -> None:
        """Begin a statement, with or without a block."""
        self._finish()
        self._compare_statement(words[0].location)
        self.pending = words

    def open(self, brace: Location) -> None:
        if self.skipped or len(self.stack) >= MAX_DEPTH:
            if not self.skipped:
                text = f"blocks within blocks, over {MAX_DEPTH} deep"
                self.findings.error(brace, text, "close those that should end", fatal=True)
            self.skipped += 1
        else:
            if not self.pending:
                self.findings.error(brace, "'{' without a keyword before it", "write its keyword, or remove it")
            self.stack.append(_OpenBlock(self.pending, brace))
        self.pending, self.before = (), brace

    def close(self, brace: Location) -> None:
        self._finish()
        if self.skipped:
            self.skipped -= 1
        elif not self.stack:
            advice = "remove it"
            if self.early:
                block, at = self.early
                advice = (
                    f"remove it, or that at {at.line_for(brace)}, indented unlike {block} at line {block.brace.line}"
                )
            self.findings.error(brace, "'}' closes nothing", advice)
        else:
            self._compare(brace)
            self._close()
        self.before = brace

    def end(self) -> tuple[Node, ...]:
        """Close the open blocks and return all statements."""
        self._finish()
        for block in reversed(self.stack):
            advice = "write its '}'"
            if self.lacking:
                other, at = self.lacking
                where = f"before {at.line_for(block.brace)}"
                if other is block:
                    advice += f", by indentation {where}"
                else:
                    advice += f"; by indentation, {other} at line {other.brace.line} lacks one {where}"
            self.findings.error(block.brace, f"{block} is never closed", advice, fatal=True)
        while self.stack:
            self._close(closed=False)
        return tuple(self.nodes)

    def _finish(self) -> None:
        """Add the pending statement, which has no block."""
        if self.pending and not self.skipped:
            (self.stack[-1].nodes if self.stack else self.nodes).append(Node(self.pending))
        self.pending = ()

    def _close(self, closed: bool = True) -> None:
        """Add the innermost block; the statements of a block without a keyword belong to the block around it."""
        done = self.stack.pop()
        around = self.stack[-1].nodes if self.stack else self.nodes
        if done.words:
            around.append(Node(done.words, tuple(done.nodes), closed))
        else:
            around += done.nodes

    def _begins_line(self, at: Location) -> bool:
        return self.before is None or (self.before.file, self.before.line) != (at.file, at.line)

    def _compare_statement(self, at: Location) -> None:
        """Compare the indentation of a statement that begins its line with that of the innermost block."""
        if not self.stack or not self._begins_line(at) or self.stack[-1].brace.file != at.file:
            return
        block = self.stack[-1]
        if not block.inside:
            block.inside = at.column
        elif not self.lacking and at.column <= block.column < block.inside:
            self.lacking = block, at

    def _compare(self, brace: Location) -> None:
        """Compare the indentation of a closing brace that begins its line with that of the innermost block."""
        block = self.stack[-1]
        if not self._begins_line(brace) or block.brace.file != brace.file:
            return
        if brace.column == block.column:
            if self.lacking and self.lacking[0] is block:
                self.lacking = None  # it was a statement with another indentation
            return
        if not self.lacking and any(other.column == brace.column for other in self.stack[:-1]):
            self.lacking = block, brace
        elif not self.early and brace.column > block.column:
            self.early = block, brace


MAX_INCLUDE_DEPTH = 32
MAX_FILES = 10_000

_CONDITION = re.compile(r"@(\^?)([^ \t\v\f\r]*)")
_UNUSABLE = {0: "\ufffd", ord(HASH): "\ufffd", ord(BANG): "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
_BLANKS = " \t\v\f\r"
_SERVICE = ("virtual_server ", "virtual_server\t", "virtual_server_group ")
_VIRTUAL_SERVER = re.compile(r"^\s*virtual_server\s", re.MULTILINE)
_NOT_PLAIN = re.compile(r"[\"'$@~\\]|\binclude|\}[^\n#!]*[^\s}#!]|\brandom_seed")
_COMMENTED = re.compile("[#!]")


def read(path: str, ids: Collection[str] = (), checks: frozenset[str] = frozenset(), services: bool = True) -> Parsed:
    """Parse a file ("-": standard input) and the files that it includes, which must meet `checks` (`include_check`).

    Lines that begin with @ID count if `ids` has the ID; the default is this machine's host name, as in keepalived.
    Never raises: problems are findings, and the document holds what could be parsed. Without `services` it lacks those
    whose text is plain; they are most of a large file.
    """
    findings = Findings()
    try:
        source = read_source(path, main=True)
    except Unreadable as error:
        advice, may_pass = "name a configuration file", error.may_pass
        findings.error(Location(path, 1, 1), f"the file {error}", advice, fatal=True, may_pass=may_pass)
        return Document((), (path,)), findings.all()
    return _Parser(findings, ids, MAX_TEXT, services).document(source, checks)


def read_text(
    text: str, file: str = "-", ids: Collection[str] = (), max_text: int = MAX_TEXT
) -> tuple[Document, tuple[Finding, ...]]:
    """Parse a text as that of `file`; `max_text` limits the characters that are read and produced."""
    directory = os.path.realpath(os.path.dirname(file.replace("\0", "")) or ".")
    return _Parser(Findings(), ids, max_text).document(Source(file, text, (-1, -1), directory))


def names_services(document: Document) -> bool:
    """Return whether a file of this document may have a virtual server, with or without a condition."""
    return any(_VIRTUAL_SERVER.search(text) for text in document.texts.values())


def without_services(text: str) -> str:
    """Return the text with blank lines in place of the virtual servers, as far as their braces can be counted.

    One that has variables, conditions, quotes or includes stays, and so does one that is not closed.
    """
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(_SERVICE)]
    done = 0
    for start in starts:
        if start < done:
            continue
        depth = 0
        for number in range(start, len(lines)):
            line = lines[number]
            if "#" in line or "!" in line:
                line = _COMMENTED.split(line, 1)[0]
            if "{" in line or "}" in line:
                depth += line.count("{") - line.count("}")
                if depth <= 0:
                    break
        done = number + 1
        if depth == 0 and "}" in line and not _NOT_PLAIN.search("\n".join(lines[start:done])):
            lines[start:done] = [""] * (done - start)
    return "\n".join(lines)


@dataclass(slots=True)
class _Frame:
    """A source of lines: a file, a variable or a sequence."""

    lines: Iterator[Line]
    name: str = ""  # of the variable
    source: Source | None = None
    checks: frozenset[str] = frozenset()  # the conditions that `include_check` set in this file


@dataclass(slots=True)
class _Parser:
    """The state of parsing one configuration."""

    findings: Findings
    ids: Collection[str]
    max_text: int
    services: bool = True
    budget: Budget = field(init=False)
    variables: Variables = field(init=False)
    lexer: Lexer = field(init=False)
    frames: list[_Frame] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    includes: int = 0  # files included so far, repeatedly included ones too

    def __post_init__(self) -> None:
        self.ids = [*self.ids] or [os.uname().nodename.partition(".")[0]]
        self.budget = Budget(self.findings, self.max_text)
        self.variables = Variables(self.findings, self.budget, self.ids[0])
        self.lexer = Lexer(self.findings, self.variables.values)

    def document(self, source: Source, checks: frozenset[str] = frozenset()) -> tuple[Document, tuple[Finding, ...]]:
        self._open(source, checks)
        with gc_paused():
            nodes = build_tree(self._statements(), self.findings)
        return Document(nodes, tuple(self.texts), self.texts), self.findings.all()

    def _open(self, source: Source, checks: frozenset[str] = frozenset()) -> None:
        """Push a frame of the file's lines."""
        text = source.text.translate(_UNUSABLE) if not source.text.isascii() or "\0" in source.text else source.text
        if source.marked:
            start = Location(source.path, 1, 1)
            self.findings.warning(start, "a byte order mark begins the file", "save it without one")
        self.texts[source.path] = text
        if not self.services:
            text = without_services(text)
        lines = (Line.of_file(line, source.path, number) for number, line in enumerate(text.split("\n"), 1))
        self.frames.append(_Frame(lines, "", source, checks))

    def _file_frame(self) -> _Frame:
        """Return the frame of the current file."""
        return next(frame for frame in reversed(self.frames) if frame.source)

    def _next(self) -> Line | None:
        """Return the next line of the innermost frame; None at the end, or when the budget is spent."""
        while self.frames:
            frame = self.frames[-1]
            line = next(frame.lines, None)
            if line is None:
                self.frames.pop()
            elif not self.budget.spend(len(line.text), line, 0 if frame.source else 1):
                return None
            elif len(line.text) <= MAX_LINE:
                return line
            else:
                location, text = line.location(MAX_LINE, MAX_LINE + 1), f"no line has more than {MAX_LINE} characters"
                self.findings.error(location, text, "write shorter lines", fatal=True)
        return None

    def _statements(self) -> Iterator[list[Word | Brace]]:
        """Yield the words of each statement, up to and including its brace."""
        while (line := self._next()) is not None:
            quick = self.lexer.quick_line(line)
            if quick is not None:
                yield quick
            else:
                yield from self._of_line(line)

    def _of_line(self, line: Line) -> Iterator[list[Word | Brace]]:
        """Yield the statements of a line, with the steps of keepalived's read_line().

        Conditions, definitions and sequences are read at the beginning and behind a brace. They are read again after
        variables are replaced, if others are left or a condition came.
        """
        written, at, opened, rounds, begins, variables = line, 0, 0, 0, True, "$" in line.text
        while (at := skip_blanks(line.text, at)) < len(line.text):
            if begins and line.text[at] == "@":
                condition = _CONDITION.match(line.text, at)
                assert condition is not None
                if not self._holds(condition):
                    self._exclude(line, condition, opened)
                    return
                at = skip_blanks(line.text, condition.end())
            if begins and (match := DEFINITION.match(line.text, at)):
                self.variables.values[match[1]] = self._definition(line, match)
                return
            if begins and (match := SEQUENCE.match(line.text, at)):
                self._sequence(line, at, match, opened)
                return
            begins = False
            if variables:
                if rounds == MAX_ROUNDS:
                    self.variables.endless(written)
                    return
                before = line.part(at) if at else line
                line, at, rounds = self._replaced(before), 0, rounds + 1
                changed = line is not before
                variables = changed and "$" in line.text
                begins = variables or (changed and line.text.lstrip(_BLANKS)[:1] == "@")
            elif match := INCLUDE.match(line.text, at):
                self._include(line, match)
                return
            elif at < len(line.text):
                words, at = self.lexer.statement(line, at)
                if words and isinstance(words[-1], Brace):
                    opened += 1 if words[-1].opens else -1
                begins = True
                self._apply_directive(words)
                yield words

    def _replaced(self, line: Line) -> Line:
        """Replace the variables of a line once; push a frame for further lines of a value."""
        source = self._file_frame().source
        active = [frame.name for frame in self.frames if frame.name]
        result = self.variables.replace(line, source.directory if source else "", active)
        for name, lines in result.following:
            self.frames.append(_Frame(iter(lines), name))
        return result.line

    def _exclude(self, line: Line, condition: re.Match[str], opened: int) -> None:
        """Report what the rest of a line would have been whose condition does not hold, if that is surprising.

        `opened` is the number of blocks that the line has opened before.
        """
        if definition := DEFINITION.match(line.text, skip_blanks(line.text, condition.end())):
            self._excluded_definition(line, definition, condition[0])
            return
        text = f"{condition[0]}, which does not hold, excludes this brace too"
        self._report_brace(line, condition.end(), opened, text)

    def _holds(self, condition: re.Match[str]) -> bool:
        return (condition[2] in self.ids) != bool(condition[1])

    def _excluded_definition(self, line: Line, match: re.Match[str], condition: str) -> None:
        """Consume all lines of a definition whose condition does not hold; keepalived only leaves out the first one."""
        following = self._definition(line, match).lines[1:]
        conditions = [_CONDITION.match(each.text.lstrip(_BLANKS)) for each in following]
        if any(each is None or self._holds(each) for each in conditions):
            text = f"keepalived leaves out only the first line of this definition when {condition} does not hold"
            where = line.location(match.start(), match.end())
            self.findings.warning(where, text, f"begin each of its lines with {condition}")

    def _report_brace(self, line: Line, at: int, opened: int, text: str) -> None:
        """Report a brace behind a condition or sequence that closes one of the blocks `opened` before it."""
        lexer, depth = Lexer(Findings()), 0
        while opened and at < len(line.text):
            words, end = lexer.statement(line, at)
            if words and isinstance(words[-1], Brace):
                depth += 1 if words[-1].opens else -1
                if depth < 0:
                    self.findings.warning(line.location(end - 1, end), text, "write it on a line of its own")
                    return
            at = end

    def _definition(self, line: Line, match: re.Match[str]) -> Value:
        """Consume a definition; return its lines without trailing backslashes."""
        rest = line.part(match.end())
        end = continued(rest.text)
        if end is None:
            return Value((rest.part(0, len(strip_comment(rest.text))),))
        parts = [rest.part(0, end)]
        for following in self.frames[-1].lines:
            if not self.budget.spend(len(following.text), following):
                break
            text = following.text.strip(_BLANKS)
            if text[:1] in ("#", "!"):  # a comment line neither belongs to a definition nor ends it
                if not text.endswith("\\"):
                    text = f"in keepalived the definition of '{match[1]}' ends at this comment"
                    self.findings.warning(following.location(0, 1), text, "write a '\\' at its end, or remove it")
                continue
            if not text:
                text = f"the definition of '{match[1]}' ends at this blank line"
                self.findings.warning(following.location(0, 1), text, "remove it, or the '\\' before")
                break
            end = continued(following.text)
            parts.append(following.part(0, end))
            if end is None:
                break
        return Value(tuple(part for part in parts if part.text.strip(_BLANKS)), several=True)

    def _sequence(self, line: Line, at: int, match: re.Match[str], opened: int) -> None:
        """Push a frame that repeats the rest of the line, or of its block, for each value."""
        close = line.text.find(")", match.end())
        head = self._replaced(line.part(match.end(), close + 1 if close >= 0 else None))
        try:
            names, values = parse_repetition(match[1], head.text)
        except ValueError as error:
            self.findings.error(line.location(at, match.end()), str(error), f"the line needs ~{match[1]}(...)")
            return
        location, start = line.location(at, close + 1), close + 1
        self._report_brace(line, start, opened, f"~{match[1]} repeats this brace too")
        rest = line.part(start)

        def repeated() -> Iterator[Line]:
            for row in values:
                for name, value in zip(names, row, strict=True):
                    self.variables.values[name] = Value((Line.of_file(value, "", 0).located_at(location),))
                yield rest

        self.frames.append(_Frame(repeated()))

    def _include(self, line: Line, match: re.Match[str]) -> None:
        """Push a frame for each file that an include names."""
        frame = self._file_frame()
        assert frame.source is not None
        start = skip_blanks(line.text, match.end())
        name = strip_comment(line.text[start:]).replace(HASH, "#").replace(BANG, "!")
        location = line.location(start, start + len(name)) if name else line.location(match.start(), match.end())
        active = {one.source.identity for one in self.frames if one.source}
        files: list[Source] = []
        for source in included_sources(name, match[1], frame.source, frame.checks, location, self.findings):
            if source.identity in active:
                text = f"'{source.path}' includes itself"
                self.findings.error(location, text, "remove one of the includes", fatal=True)
            elif len(active) >= MAX_INCLUDE_DEPTH or self.includes >= MAX_FILES:
                self.findings.error(location, "too many files include each other", "include fewer", fatal=True)
                break
            elif not self.budget.spend(len(source.text), line):
                break
            else:
                files.append(source)
                self.includes += 1
        for source in files:  # findings are sorted in this order, in which the files are read
            self.texts.setdefault(source.path, source.text)
        for source in reversed(files):
            self._open(source, frame.checks)

    def _apply_directive(self, words: list[Word | Brace]) -> None:
        """Apply the statements that control the parser itself."""
        texts = [word.text for word in words if isinstance(word, Word)]
        if texts[:1] == ["include_check"]:
            frame = self._file_frame()
            frame.checks = changed_checks(frame.checks, texts[1:])
        elif texts[:1] == ["random_seed"] and len(texts) > 1:
            self.variables.random_numbers.seed(texts[1])
