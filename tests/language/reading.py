"""Split the files of the tree into pieces of language: names, docstrings, comments, messages, pages, and their code."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = ("tests/oracle", "tests/golden")  # kept byte for byte with the recordings
EXAMPLES = ("tests/unit/test_language.py", "tests/language/rules.py")  # their strings break the rules on purpose
SHELL = ("dev", "Makefile", "pyproject.toml")  # only their comments are read

FILE, NAME, TEST, DOCSTRING, COMMENT, MESSAGE, PAGE = "file", "name", "test", "docstring", "comment", "message", "page"
CODE = "code"  # output, commands and the labels of diagrams inside prose: words count, sentences do not
EACH = "each"  # the header of a statement that names something `each` for longer than a line

# One alternative is a comment; the others step over the strings in which a comment's sign means nothing.
PYTHON_COMMENT = re.compile(
    r"""(\#[^\n]*)|(\"{3}|'{3})(?:\\.|(?!\2).)*\2|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
C_TOKEN = re.compile(
    r"""(/\*.*?\*/|//[^\n]*)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?<=\n)\#\s*include[^\n]*|([A-Za-z_]\w*)""",
    re.DOTALL,
)
KERNEL_NAME = re.compile(r"bpf_|BPF_|XDP_|TC_ACT_|ETH_")  # names of the kernel and libbpf are not ours
SHELL_COMMENT = re.compile(r"(?:^|(?<=\s))#(?!!)[^\n]*", re.MULTILINE)
DIRECTIVE = re.compile(r"#\s*(?:type:|noqa|pragma|fmt:|mypy:|shellcheck)|SPDX-")
SPAN = r"(?<!`)(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=tick)(?!`)"  # as in CommonMark; within a paragraph
CODE_SPAN = re.compile(rf"{SPAN}|\[[^\]]*\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL)
IDENTIFIER = re.compile(r"[A-Za-z_][\w-]*")
FENCE = re.compile(r"^(?P<indent> *)```.*?^(?P=indent)```", re.MULTILINE | re.DOTALL)
CODE_TEXT = re.compile(rf"{FENCE.pattern}|<!--.*?-->|{SPAN}", re.MULTILINE | re.DOTALL)
CITES = ("CHANGELOG.md", "changes/")  # their code cites what was named in another way before
HIDDEN = "\N{CURRENCY SIGN}"  # stands for each character of code inside prose
BREAK = "\0"  # ends a paragraph


@dataclass(frozen=True)
class Piece:
    """One piece of language and where it stands."""

    kind: str
    path: str
    line: int
    column: int
    text: str
    prose: str = ""  # as long as the text, with code hidden and paragraphs ended
    about: frozenset[str] = field(default=frozenset())  # the words of the names that a docstring belongs to
    is_test: bool = False  # the docstring of a test says what the test shows

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column, counted from 1, of a character of the text."""
        before = self.text[:offset]
        if "\n" in before:
            return self.line + before.count("\n"), offset - before.rindex("\n")
        return self.line, self.column + offset


def name_words(name: str) -> list[str]:
    """Split an identifier: `PathMtu` and `path_mtu` are both path, mtu."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def files(paths: list[str] | None = None) -> Iterator[Path]:
    """Yield every file whose language is checked, below the given paths or of the whole tree."""
    for start in [ROOT / path for path in paths] if paths else [ROOT]:
        if start.is_file():
            yield start
        for at, folders, names in os.walk(start):
            folder = os.path.relpath(at, ROOT)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".")
                and name not in ("__pycache__", "build", "dist", "node_modules")
                and os.path.join(folder, name).removeprefix("./") not in NOT_OURS
            )
            for name in sorted(names):
                if name.endswith((".py", ".c", ".h", ".md", ".8", ".service", ".sh")) or (
                    folder == "." and name in SHELL
                ):
                    yield Path(at, name)


def pieces(path: Path, text: str | None = None) -> Iterator[Piece]:
    """Yield the pieces of one file, and the code in its prose; a text stands for the file's content."""
    name = str(path.relative_to(ROOT)) if path.is_absolute() else str(path)
    text = path.read_text() if text is None else text
    for piece in _pieces(path, name, text):
        yield piece
        if piece.prose and not name.startswith(CITES):
            yield from _code(piece)


def _code(prose: Piece) -> Iterator[Piece]:
    """Yield the code in a piece of prose. A code span of one identifier is a name."""
    for found in CODE_TEXT.finditer(prose.text):
        if found["tick"]:
            code = found[0].strip("`")
            kind, start = (NAME if IDENTIFIER.fullmatch(code) else CODE), found.start() + len(found["tick"])
        elif found["indent"] is not None:
            kind, start, code = CODE, found.start(), found[0]
        else:
            continue  # a comment of a page
        yield Piece(kind, prose.path, *prose.position(start), code, "" if kind == NAME else code)


def _pieces(path: Path, name: str, text: str) -> Iterator[Piece]:
    yield Piece(FILE, name, 1, 1, path.stem)
    if path.suffix == ".py":
        yield from _python(name, text)
    elif path.suffix in (".c", ".h"):
        yield from _c(name, text)
    elif path.suffix in (".md", ".8"):
        yield Piece(PAGE, name, 1, 1, text, markdown(text) if path.suffix == ".md" else _manual(text))
    else:
        yield from _comments(name, text, SHELL_COMMENT)


# --- Python --------------------------------------------------------------------------------------------------------


def _python(path: str, text: str) -> Iterator[Piece]:
    yield from _comments(path, text, PYTHON_COMMENT)
    seen: set[str] = set()
    docstrings: set[ast.AST] = set()
    messages = path not in EXAMPLES
    todo: list[tuple[ast.AST, frozenset[str]]] = [(ast.parse(text, path), frozenset(name_words(Path(path).stem)))]
    while todo:
        node, about = todo.pop()
        if isinstance(node, ast.Constant):
            if messages and isinstance(node.value, str) and node not in docstrings:
                yield from _message(path, node, node.value)
                if IDENTIFIER.fullmatch(node.value) and node.value not in seen:  # a field, an event, a state
                    seen.add(node.value)
                    yield Piece(NAME, path, node.lineno, node.col_offset + 1, node.value)
            continue
        if messages and isinstance(node, ast.JoinedStr):
            yield from _message(path, node, _joined(node))
            todo += [(part.value, about) for part in node.values if isinstance(part, ast.FormattedValue)]
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not isinstance(node, ast.Module):
                about |= frozenset(name_words(node.name))
            value = node.body[0].value if node.body and isinstance(node.body[0], ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docstrings.add(value)
                doc, of_test = value.value, getattr(node, "name", "").startswith("test_")
                yield Piece(DOCSTRING, path, value.lineno, value.col_offset + 4, doc, plain(doc), about, of_test)
        name = _defined(node)
        if name and name not in seen:
            seen.add(name)
            kind = TEST if name.startswith("test_") else NAME
            yield Piece(kind, path, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1, name)
        if _has_long_each(node):
            yield Piece(EACH, path, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1, "each")
        if not isinstance(node, ast.Name):  # half of all nodes; it has no child that matters
            todo += [(child, about) for child in ast.iter_child_nodes(node)][::-1]


def _defined(node: ast.AST) -> str:
    """Return the name that a node defines, that of an argument (a field of an event or a log line), or nothing."""
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Store) else ""
    if isinstance(node, ast.Attribute):
        return node.attr if isinstance(node.ctx, ast.Store) else ""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    if isinstance(node, ast.arg | ast.keyword):
        return node.arg or ""
    return node.asname or "" if isinstance(node, ast.alias) else ""


def _has_long_each(node: ast.AST) -> bool:
    """Return whether a parameter, an assignment, or a loop with more than a line in its body has the name `each`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = node.args
        return any(each.arg == "each" for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))
    if isinstance(node, ast.For | ast.AsyncFor):
        targets = [node.target] if node.body[0].lineno != node.body[-1].end_lineno else []
    elif isinstance(node, ast.Assign):
        targets = node.targets
    else:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(
        _defined(each) == "each" for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)
    )


def _joined(node: ast.JoinedStr) -> str:
    """Return an f-string's text with `{}` for each value, `{,}` for one that is never 1: a limit, or thousands."""
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            thousands = part.format_spec is not None and "," in ast.unparse(part.format_spec)
            limit = re.fullmatch(r"_?[A-Z_]{2,}(?: [-+] 1)?", ast.unparse(part.value))
            parts.append("{,}" if thousands or limit else "{}")
    return "".join(parts)


def _message(path: str, node: ast.expr, text: str) -> Iterator[Piece]:
    """Yield a string constant if it reads as prose: two words in a row."""
    if re.search(r"(?:^|\s)[A-Za-z0-9'{}%]+ [a-z0-9'{}%]+", text):
        yield Piece(MESSAGE, path, node.lineno, node.col_offset + 1, text, plain(text))


# --- comments ------------------------------------------------------------------------------------------------------


def _comments(path: str, text: str, pattern: re.Pattern[str]) -> Iterator[Piece]:
    """Yield the comments of a text; those on lines of their own that follow each other are one."""
    block, block_line, block_column, last = "", 0, 0, -1
    line, at = 1, 0
    for found in pattern.finditer(text):
        if not found[0].startswith("#") or DIRECTIVE.match(found[0]):
            continue
        line += text.count("\n", at, found.start())
        at = found.start()
        column = at - (text.rfind("\n", 0, at) + 1)
        alone = not text[at - column : at].strip()
        if block and alone and line == last + 1 and column == block_column:
            block += "\n" + " " * column + found[0]
        else:
            if block:
                yield _comment(path, block_line, block_column + 1, block)
            block, block_line, block_column = found[0], line, column
        last = line if alone else -1
    if block:
        yield _comment(path, block_line, block_column + 1, block)


def _comment(path: str, line: int, column: int, text: str) -> Piece:
    bare = re.sub(r"(?m)^\s*(?:#+|//+|/\*+|\*+(?!/))|\*/", lambda found: " " * len(found[0]), text)
    return Piece(COMMENT, path, line, column, text, plain(re.sub(r"-{4,}", lambda found: " " * len(found[0]), bare)))


# --- C -------------------------------------------------------------------------------------------------------------


def _c(path: str, text: str) -> Iterator[Piece]:
    seen: set[str] = set()
    block, block_line, block_column, last = "", 0, 0, -1
    line, at = 1, 0
    for found in C_TOKEN.finditer(text):
        line += text.count("\n", at, found.start())
        at = found.start()
        column = at - (text.rfind("\n", 0, at) + 1)
        comment, name = found[1], found[2]
        if comment and not DIRECTIVE.search(comment):
            if block and comment.startswith("//") and line == last + 1 and column == block_column:
                block += "\n" + " " * column + comment
            else:
                if block:
                    yield _comment(path, block_line, block_column + 1, block)
                block, block_line, block_column = comment, line, column
            last = line
        elif name and name not in seen and not KERNEL_NAME.match(name):
            seen.add(name)
            yield Piece(NAME, path, line, column + 1, name)
    if block:
        yield _comment(path, block_line, block_column + 1, block)


# --- prose ---------------------------------------------------------------------------------------------------------


def _hide(found: re.Match[str]) -> str:
    return re.sub(r"\S", HIDDEN, found[0])


def _hide_span(found: re.Match[str]) -> str:
    """Hide code; of a link, hide only where it leads."""
    span = found[0]
    if span.startswith("["):
        label, target = span.rsplit("](", 1)
        return " " + CODE_SPAN.sub(_hide_span, label[1:]) + " " * (len(target) + 2)
    if span.startswith("<!--"):
        return re.sub(r"[^\n]", " ", span)
    return HIDDEN * len(span) if "\n" not in span else _hide(found)


def plain(text: str) -> str:
    """Hide the code spans of a docstring, comment or message, and end its paragraphs."""
    text = CODE_SPAN.sub(_hide_span, text)
    return re.sub(r"\n(?=\s*(?:[-*•] |\d+\. |\n|>>> |@|\|))", BREAK, text)


def markdown(text: str) -> str:
    """Hide what is not prose in a page: fenced blocks, code, addresses of links; end paragraphs and cells of tables."""
    text = FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    lines = []
    for line in text.split("\n"):
        if line.lstrip().startswith("|"):
            line = re.sub(r"(?<!\\)\|", BREAK, CODE_SPAN.sub(_hide_span, line))
        lines.append(line)
    text = "\n".join(lines)
    text = CODE_SPAN.sub(_hide_span, text).replace("<br>", BREAK + "   ")
    text = re.sub(r"\n(?=\s*(?:[-*] |\d+\. |#|\n|\0|> ))", BREAK, text)
    return re.sub(r"(?<=\0)(#+ [^\n]*)\n", lambda found: found[1] + BREAK, text)


def _manual(text: str) -> str:
    """Hide what is not prose in a manual page: requests, bold and italic words, blocks without filling."""
    text = re.sub(
        r"^\.(?:nf|EX)$.*?^\.(?:fi|EE)$", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.M | re.S
    )
    text = re.sub(
        r"^\.(?:SH|SS|TP|PP|P|IP|TH|br|sp|HP|LP)\b[^\n]*",
        lambda found: BREAK + " " * (len(found[0]) - 1),
        text,
        flags=re.M,
    )
    text = re.sub(r"^\.\\\"[^\n]*|^\.(?:RS|RE|TH|ad|hy)\b[^\n]*", lambda found: " " * len(found[0]), text, flags=re.M)
    text = re.sub(r"^\.[A-Z]+ [^\n]*", _hide, text, flags=re.M)
    text = re.sub(r"\\f[BI].*?\\f[PR]", _hide, text, flags=re.S)
    return re.sub(r"\\.", "  ", text)
