"""Generate the reference of every keyword from the schema."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.config.schema.global_defs import ROOT
from pylvs.config.schema.grammar import Block, Keyword, State
from pylvs.config.show import value_text

HEAD = """\
# Configuration keywords
Look up a keyword of keepalived's language, or one of pylvs's own, with its type, default and meaning. The page is
generated from the tables that read the configuration (`src/pylvs/config/schema/`). pylvs ignores all other keywords,
with a finding.

*Inherited* keywords take their value from the surrounding block (url, checker, real_server, virtual_server) if their
own block has none. Keywords that pylvs does not support are findings: *later* is not implemented yet, *never* will not
be implemented, *dead* has no effect in keepalived either.
"""
OWN = "pylvs's own"
WITHOUT_A_ROW = {
    State.PARSED: "Statements of the [language](language.md)",
    State.IGNORED: "Accepted and ignored",
}


def reference() -> str:
    tables = [table for block in _distinct(ROOT, "") for table in _table(*block)]
    return "\n".join([HEAD, *tables])


def _distinct(block: Block, path: str) -> Iterator[tuple[str, Block]]:
    """Yield each block with its path of block names."""
    yield path, block
    for entry in block.entries:
        if isinstance(entry, Block):
            yield from _distinct(entry, f"{path} / {entry.name}" if path else entry.name)


def _table(path: str, block: Block) -> Iterator[str]:
    head = f" `{_cell(block.head.syntax)}`" if block.head else ""
    yield f"## {path or 'The top of the file'}"
    yield f"{_sentence(block.doc)}{_state(block)}" + (f" Syntax:{head}." if head else "")
    if block.lines:
        yield f"Each line: `{_cell(block.lines.syntax)}`."
    keywords = [each for each in block.entries if isinstance(each, Keyword) and each.state not in WITHOUT_A_ROW]
    blocks = [entry.name for entry in block.entries if isinstance(entry, Block)]
    if blocks:
        yield "Blocks: " + ", ".join(f"`{name}`" for name in blocks) + "."
    for state, text in WITHOUT_A_ROW.items():
        names = [each.name for each in block.entries if isinstance(each, Keyword) and each.state is state]
        if names:
            yield f"{text}: " + ", ".join(f"`{name}`" for name in names) + "."
    yield ""
    if keywords:
        yield "| keyword | value | default | |"
        yield "|---|---|---|---|"
        yield from (_row(keyword) for keyword in keywords)
        yield ""


def _row(keyword: Keyword) -> str:
    names = ", ".join(f"`{name}`" for name in (keyword.name, *keyword.aliases))
    value = f"`{_cell(keyword.type.syntax)}`" if keyword.type.syntax and keyword.state is State.SUPPORTED else ""
    return f"| {names} | {value} | {_default(keyword)} | {_cell(keyword.doc)}{_notes(keyword)} |"


def _default(keyword: Keyword) -> str:
    if keyword.default_doc or keyword.default_of:
        return _cell(keyword.default_doc or keyword.default_of)
    return _cell(value_text(keyword.default)) if keyword.state is State.SUPPORTED else ""


def _notes(keyword: Keyword) -> str:
    notes = []
    if keyword.inherited:
        notes.append("*inherited*")
    if keyword.combine:
        notes.append("several lines count together")
    if keyword.global_names:
        notes.append("*else* " + ", ".join(f"`{name}`" for name in keyword.global_names) + " of global_defs")
    if keyword.is_now:
        notes.append(f"*deprecated, write* `{keyword.is_now}`")
    if keyword.state is not State.SUPPORTED:
        instead = f": {_cell(keyword.instead)}" if keyword.instead and keyword.instead != keyword.doc else ""
        notes.append(f"*{keyword.state.value}*{instead}")
    if keyword.is_own:
        notes.append(OWN)
    return "".join(f"; {note}" for note in notes)


def _state(block: Block) -> str:
    own = f" {OWN}." if block.is_own else ""
    return own if block.state is State.SUPPORTED else f" *{block.state.value}*: {block.instead}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
