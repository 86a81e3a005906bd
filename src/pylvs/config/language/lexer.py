r"""Split lines into words and braces, and format words as text again.

In most statements only a pair of `"` quotes; backslashes and single quotes are ordinary characters, as in passwords.
Statements in `SHELL_QUOTED` follow a shell: both quotes, anywhere in a word, and escapes. `#` and `!` begin a comment
unless `\` precedes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from pylvs.config.language.tree import Findings, Line, Location, Word
from pylvs.model.dataclass import dataclass

SHELL_QUOTED = frozenset(
    (
        *("lvs_notify_fifo_script", "misc_path", "notify", "notify_backup", "notify_deleted", "notify_down"),
        *("notify_fault", "notify_fifo_script", "notify_master", "notify_master_rx_lower_pri", "notify_stop"),
        *("notify_up", "quorum_down", "quorum_up", "regex", "script", "shutdown_script", "startup_script"),
        *("vrrp_notify_fifo_script", "send", "source"),  # the last two are pylvs's own
    )
)
SECRET_KEYWORDS = frozenset(("auth_pass", "password"))  # no finding has their values
PARSER_KEYWORDS = ("include", "random_seed")  # prefixes of keywords that the parser obeys
HASH, BANG = "\ufdd0", "\ufdd1"  # ${_HASH} and ${_BANG}: noncharacters, so that they begin no comment
ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

SPACE = " \t\v\f\r\n"  # C's isspace(), which excludes the no-break space
_SPACES = re.compile(f"[{SPACE}]*")
REFERENCE = re.compile(r"\$\{[A-Za-z_]\w*(?:[ \t][^{}\"#!]*)?\}|\$[A-Za-z_]\w*(?=[\s,)]|$)", re.ASCII)
_SIMPLE = re.compile(r"(?>[^ \t\v\f\r\n{}\"#!$\\]+|\\[#!]?|\$\{[A-Za-z_]\w*(?:[ \t][^{}\"#!]*)?\}|\$)+", re.ASCII)
_QUICK = r"\x00-\x08\x0a-\x1f\x7f{}\"'#!$\\"  # characters that the quick path excludes
_QUICK_LINE = re.compile(rf"[ \t]*+([^ \t@~{_QUICK}][^{_QUICK}]*+)?+([{{}}]?+)[ \t\r]*+$")
_QUICK_WORD = re.compile(r"[^ \t]+")
_HIDDEN = re.compile(r"\\([#!])")
_SHELL = re.compile(r"[^ \t\v\f\r\n{}\"'#!$\\]+")
_ARGUMENT = re.compile(r"[^ \t\v\f\r\n\"'\\]+")
_IN_QUOTES = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]+)|([0-7]{1,3})|c(.)|(.))", re.DOTALL)
_CURLY = re.compile("[\u2018-\u201f\ufffd]")


def skip_blanks(text: str, at: int) -> int:
    """Return the end of the blanks at `at`."""
    match = _SPACES.match(text, at) if text[at : at + 1] in SPACE else None
    return match.end() if match else at


@dataclass(frozen=True, slots=True)
class Brace:
    opens: bool
    location: Location


@dataclass(frozen=True, slots=True)
class Lexer:
    """Splits lines into words."""

    findings: Findings
    defined: Collection[str] = ()  # names of variables; the parser adds to it

    def quick_line(self, line: Line) -> list[Word | Brace] | None:
        """Return the words and brace of a line without quotes, comments or variables; None for any other.

        This quick path takes most lines.
        """
        match = _QUICK_LINE.match(line.text) if line.text.isascii() and len(line.origins) == 1 else None
        if match is None:
            return None
        (origin,) = line.origins
        if origin.width or not (match[1] or match[2]) or (match[1] or "").startswith(PARSER_KEYWORDS):
            return None
        file, number, before = origin.file, origin.line, origin.column
        found: list[Word | Brace] = [
            Word(word[0], Location(file, number, before + word.start(), len(word[0])))
            for word in (_QUICK_WORD.finditer(line.text, match.start(1), match.end(1)) if match[1] else ())
        ]
        if match[2]:
            found.append(Brace(match[2] == "{", Location(file, number, before + match.start(2), 1)))
        return found

    def statement(self, line: Line, at: int) -> tuple[list[Word | Brace], int]:
        """Return the words from `at` through the first brace or to the end of the line, and where they end."""
        found: list[Word | Brace] = []
        text, length, keyword, backslashes = line.text, len(line.text), "", 0
        single: Word | None = None  # begins with a single quote
        while True:
            at = skip_blanks(text, at)
            if at >= length or text[at] in "#!":
                return self._ended(found, backslashes), length
            if text[at] in "{}":
                return [*self._ended(found, backslashes), Brace(text[at] == "{", line.location(at, at + 1))], at + 1
            start = at
            if keyword in SHELL_QUOTED:
                word, at = self.shell_word(line, at, keyword)
            else:
                word, at = self._simple_word(line, at, keyword in SECRET_KEYWORDS)
                if not word.quoted and "'" in word.text and keyword:
                    single = self._single_quotes(word, single)
            keyword = keyword or word.text
            backslashes = backslashes + 1 if text[start:at] == "\\" else 0
            if not word.text.isprintable() or not word.text.isascii():
                word = self._checked(word)
            found.append(word)

    def _single_quotes(self, word: Word, first: Word | None) -> Word | None:
        """Warn of single quotes around words. `first` began with one; return the word whose quote is still open."""
        if word.text[0] == "'":
            first = first or word
        if first is None or word.text[-1] != "'" or word.text == "'":
            return first
        text = "single quotes are ordinary characters here"
        self.findings.warning(first.location, text, 'write " to make one word of several')
        return None

    def _ended(self, found: list[Word | Brace], backslashes: int) -> list[Word | Brace]:
        """Return the words without backslashes at the end: a backslash continues only a definition."""
        if not backslashes:
            return found
        text = "only a definition ($NAME= \\) continues after a '\\'"
        self.findings.error(found[-backslashes].location, text, "write the statement on one line")
        return found[:-backslashes]

    def _simple_word(self, line: Line, start: int, secret: bool) -> tuple[Word, int]:
        """Return the word at `start`, and where it ends; no finding names a `secret` one."""
        text = line.text
        if text[start] == '"':
            end = text.find('"', start + 1)
            if end < 0:
                self._unclosed(line, start)
                return Word(text[start + 1 :], line.location(start, len(text)), True), len(text)
            return Word(text[start + 1 : end], line.location(start, end + 1), True), end + 1
        match = _SIMPLE.match(text, start)
        assert match is not None  # the caller skipped blanks, comments and braces
        for reference in REFERENCE.finditer(text, start, match.end()):
            self._undefined(line, reference, start, secret)
        return Word(_HIDDEN.sub(r"\1", match[0]), line.location(start, match.end())), match.end()

    def shell_word(self, line: Line, start: int, keyword: str, plain: re.Pattern[str] = _SHELL) -> tuple[Word, int]:
        """Return the word at `start`, and where it ends; `plain` matches ordinary characters."""
        text, at, length, quoted = line.text, start, len(line.text), False
        parts: list[str] = []
        while at < length:
            match = plain.match(text, at)
            if match:
                parts.append(match[0])
                at = match.end()
            elif text[at] == "\\":
                part, at = self._escape(line, at, keyword, quoted=False)
                parts.append(part)
            elif text[at] in "\"'":
                quoted = True
                at = self._quotes(line, at, keyword, parts)
            elif text[at] == "$":
                match = REFERENCE.match(text, at)
                if match:
                    self._undefined(line, match, start)
                parts.append(match[0] if match else "$")
                at = match.end() if match else at + 1
            else:
                break
        return Word(_characters(parts), line.location(start, at), quoted), at

    def _quotes(self, line: Line, start: int, keyword: str, parts: list[str]) -> int:
        """Append the text in the quotes at `start` to `parts`; return where the quotes end."""
        text, at = line.text, start + 1
        plain = _IN_QUOTES[text[start]]
        while at < len(text):
            match = plain.match(text, at)
            if match:
                parts.append(match[0])
                at = match.end()
            elif text[at] == "\\":
                part, at = self._escape(line, at, keyword, quoted=True)
                parts.append(part)
            else:
                return at + 1
        self._unclosed(line, start)
        return at

    def _escape(self, line: Line, at: int, keyword: str, quoted: bool) -> tuple[str, int]:
        r"""Return the character of the escape at `at`, and where it ends. A byte beyond ASCII becomes a surrogate."""
        match = _ESCAPE.match(line.text, at)
        if match is None:
            return "\\", at + 1
        end = match.end()
        hexadecimal, octal, control, other = match.groups()
        plain = "\\\"'" if quoted else "\\\"' {}#!"
        if keyword == "regex" and not (hexadecimal or len(octal or "") == 3 or (other and other in plain)):
            text = f"'{match[0]}' is read before the regular expression is, which never sees the backslash"
            advice = f"write \\{match[0]} for it to reach the expression"
            self.findings.warning(line.location(at, end), text, advice)
        if hexadecimal or octal:
            value = int(hexadecimal[-2:], 16) if hexadecimal else int(octal, 8) & 0xFF
        elif control:
            value = ord(control) & 0x1F
        else:
            return ESCAPES.get(other, other), end
        if not value:
            self.findings.error(line.location(at, end), "no word can hold a NUL character", "remove it")
            return "", end
        return chr(value) if value < 0x80 else chr(0xDC00 + value), end

    def _unclosed(self, line: Line, at: int) -> None:
        quote = line.text[at]
        text = f"the quote {quote} is not closed on its line"
        self.findings.error(line.location(at, at + 1), text, f"write the {quote} that ends it")

    def _undefined(self, line: Line, reference: re.Match[str], word: int, secret: bool = False) -> None:
        """Report a reference to an unknown variable. A dollar sign that may belong to a password is no reference."""
        name = reference[0].strip("${}").split()[0]
        alone = reference.start() == word and line.text[reference.end() : reference.end() + 1] in ("", *" \t\v\f\r,)")
        if name in self.defined or not (reference[0].startswith("${") or (self.defined and alone)):
            return
        if secret:
            text = "this value has a reference to a variable that is not defined before this line"
            self.findings.error(line.location(*reference.span()), text, "define it")
            return
        from difflib import get_close_matches  # late: a valid file needs no advice

        close = get_close_matches(name, self.defined, 1)
        location, text = line.location(*reference.span()), f"no variable '{name}' is defined before this line"
        advice = f"did you mean '{close[0]}'?" if close else f"define it: ${name}=..."
        self.findings.error(location, text, advice)

    def _checked(self, word: Word) -> Word:
        """Return the word; report invisible characters and curly quotes, which editors and web pages insert."""
        text = word.text.replace(HASH, "#").replace(BANG, "!")
        hidden = next((c for c in text if not c.isprintable() and c != "\t"), None)
        curly = _CURLY.search(text)
        if curly and curly[0] == "\ufffd":
            self.findings.error(word.location, "these bytes are not UTF-8", "save the file as UTF-8")
        elif curly and not word.quoted:
            self.findings.warning(word.location, f"{curly[0]} is an ordinary character here", 'write " to quote')
        if hidden and not (word.quoted and hidden < " "):
            problem = f"the word holds an invisible character, U+{ord(hidden):04X}"
            self.findings.warning(word.location, problem, "remove it")
        return Word(text, word.location, word.quoted)


def _characters(parts: list[str]) -> str:
    """Join the parts and decode the bytes that escapes gave as UTF-8."""
    text = "".join(parts)
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def split_arguments(text: str) -> tuple[str, ...]:
    """Split a script's word such as `"/bin/check 'a b' c"` into program and arguments.

    keepalived resolves the quotes and escapes of such a word a second time. Raises ValueError for an open quote.
    """
    found: list[str] = []
    lexer, line, at = Lexer(Findings()), Line.of_file(text, "", 1), 0
    while True:
        at = skip_blanks(text, at)
        if at >= len(text):
            if lexer.findings.all():
                raise ValueError("a quote is not closed")
            return tuple(found)
        word, at = lexer.shell_word(line, at, "", _ARGUMENT)
        found.append(word.text)


def format_statement(words: Sequence[Word]) -> str:
    """Format a statement so that parsing gives the same words."""
    return " ".join([_as_simple(words[0].text, words[0].quoted), *format_arguments(words)])


def format_arguments(words: Sequence[Word]) -> list[str]:
    return [format_word(words[0].text, word.text, word.quoted) for word in words[1:]]


def format_word(keyword: str, word: str, quoted: bool = False) -> str:
    return (_as_shell if keyword in SHELL_QUOTED else _as_simple)(word, quoted)


def _as_simple(word: str, quoted: bool) -> str:
    """Format a word of a statement without escapes; a double quote cannot be written and becomes a single one."""
    bare = re.sub("[#!]", r"\\\g<0>", word)
    match = _SIMPLE.match(bare)
    if quoted or not match or match.end() < len(bare):
        return '"' + word.replace('"', "'") + '"'
    return bare


def _as_shell(word: str, quoted: bool) -> str:
    if quoted:
        return '"' + re.sub(r'[\x00-\x1f\x7f"\\]|\$(?=\{|[A-Za-z_])', _escaped, word) + '"'
    return re.sub(r"""[\x00-\x20\x7f{}"'#!\\]|\$(?=\{|[A-Za-z_])""", _escaped, word)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\{ord(character):03o}" if character < " " or character in "\x7f$" else f"\\{character}"
