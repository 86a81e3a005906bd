"""Write the manual pages of `pylvs`, from the same objects as `--help`: `python -m tools.manual FOLDER`.

Runs when the wheel is built. Each command has a page. The overview, pylvs(8), is man/pylvs.8 with a synopsis of all
commands. ipvsadm(8) is in man/.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pylvs.cli.group import pylvs

_STARTS_REQUEST = re.compile(r"^(?=[.'])", re.MULTILINE)
_OVERVIEW = Path(__file__).parents[1] / "man" / "pylvs.8"
_MARK = '.\\" tools/manual.py writes the commands with their options here.\n'
_MANY = 20  # of more options, those of keepalived, the synopsis leaves the list to the command's page
_UNFILLED = "\b"  # click's mark of a paragraph whose lines stay as they are


def escaped(text: str) -> str:
    """Return the text for troff: hyphens can be copied, and no line is a request (groff_char(7))."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return _STARTS_REQUEST.sub(r"\\&", text)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each page's file, and its text."""
    root = click.Context(pylvs, info_name="pylvs")
    for command, context in itertools.islice(_walk(pylvs, root), 1, None):
        yield f"{_page_name(context)}.8", _page(command, context)


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command with its context, then those below it."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _walk(found, click.Context(found, info_name=name, parent=context))


def overview() -> str:
    """Return pylvs(8)."""
    root = click.Context(pylvs, info_name="pylvs")
    before, mark, after = _OVERVIEW.read_text().partition(_MARK)
    assert mark, _OVERVIEW
    synopsis = [line for each in _walk(pylvs, root) for line in _synopsis(*each)]
    return "\n".join([f"{before}.ad l\n.nh\n.PD 0", *synopsis, f".PD\n.hy\n.ad\n{after}"])


def _synopsis(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the lines for a command; none for a group without options."""
    options, arguments = [], [each for each in command.collect_usage_pieces(context) if each != "[OPTIONS]"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            spelling = record[0].replace(", ", "|")
            options.append(spelling if parameter.required else f"[{spelling}]")
    is_group = isinstance(command, click.Group)
    if not is_group or options:
        shown = ["[OPTIONS]"] if len(options) > _MANY else options
        words = [escaped(each).replace(" ", r"\ ") for each in (*shown, *([] if is_group else arguments))]
        yield from (".HP 4", f".B {escaped(context.command_path)}", *words)


def _page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(command: click.Command, context: click.Context) -> str:
    name = _page_name(context)
    help_text = inspect.cleandoc(command.help or "")
    first = help_text.partition("\n\n")[0]
    lines = [
        '.\\" SPDX-License-Identifier: GPL-2.0-only OR MIT',
        f'.TH {name.upper()} 8 "" "pylvs" "System administration"',
        ".SH NAME",
        f"{escaped(name)} \\- {escaped(_summary(first))}",
        ".SH SYNOPSIS",
        f".B {escaped(context.command_path)}",
        escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(help_text),
    ]
    lines.append(".SH OPTIONS")  # every command has --help
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:
            lines += [".TP", f".B {escaped(record[0])}", escaped(record[1])]
    others = ["pylvs"] if context.parent is None or context.parent.parent is None else [_page_name(context.parent)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for word in command.list_commands(context):
            sub = command.get_command(context, word)
            assert sub is not None
            lines += [".TP", f".B {escaped(word)}", escaped(sub.get_short_help_str(limit=1000))]
            others.append(f"{name}-{word}")
    lines += [".SH EXIT STATUS", "0 done, 1 failed, 2 wrong usage, 130 interrupted, unless the description has others."]
    lines += [".SH SEE ALSO", *(f".BR {escaped(each)} (8)" for each in others)]
    return "\n".join(lines) + "\n"


def _summary(paragraph: str) -> str:
    """Return the first sentence as whatis(1) shows it: one line without the full stop."""
    line = " ".join(paragraph.replace(_UNFILLED, "").split())
    return re.split(r"(?<=[a-z)])\. |\.$", line, maxsplit=1)[0]


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith(_UNFILLED):
            yield from (".nf", escaped(paragraph.removeprefix(_UNFILLED).strip("\n")), ".fi")
        else:
            yield escaped(paragraph)


def write(folder: Path) -> list[Path]:
    """Write all pages into a folder, and return their paths. ipvsadm-save and ipvsadm-restore lead to ipvsadm(8)."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = dict(pages()) | {"pylvs.8": overview()}
    texts |= {f"ipvsadm-{each}.8": ".so man8/ipvsadm.8\n" for each in ("save", "restore")}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in sorted(texts)]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
