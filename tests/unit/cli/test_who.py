"""docs/reference/who.md has a row for each command of pylvs and of ipvsadm."""

from __future__ import annotations

from collections.abc import Iterator

import click

from pylvs.cli.group import pylvs
from pylvs.ipvsadm.options import OPTIONS, Words
from tests.who import COLUMNS, ROWS, expected

PROGRAMS = {"ipvsadm-save", "ipvsadm-restore"}


def verbs(command: click.Command, path: str) -> Iterator[str]:
    """Yield the commands that do something."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from verbs(found, f"{path} {name}")


def test_each_command_of_pylvs_has_a_row() -> None:
    missing = [verb for verb in verbs(pylvs, "pylvs") if not any(f"{row} ".startswith(f"{verb} ") for row in ROWS)]
    assert missing == []


def test_each_command_of_ipvsadm_has_a_row() -> None:
    rows = [row.split()[1:] for row in ROWS if row.startswith("ipvsadm ")]
    named = {option.command for words in rows for option, _ in Words(words) if option.command}
    assert named == {option.command for option in OPTIONS if option.command}
    assert {row.split()[0] for row in ROWS} == {"pylvs", "ipvsadm", *PROGRAMS}


def test_each_cell_has_an_answer_that_the_page_defines() -> None:
    for command, cells in ROWS.items():
        assert len(cells) == len(COLUMNS), command
        for user, state in COLUMNS:
            assert expected(command, user, state)
