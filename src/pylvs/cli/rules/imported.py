"""What `pylvs mark import` and `pylvs filter import` have in common: they read rules of netfilter."""

from __future__ import annotations

from collections.abc import Collection
from typing import TextIO

import click

from pylvs.cli.common import Callback
from pylvs.model.errors import InvalidOperation
from pylvs.netfilter import hooks_of, hooks_of_host
from pylvs.netfilter.chains import Hook, Position, Skipped
from pylvs.system.logs import one_line


def of_netfilter(command: Callback) -> Callback:
    """Add the argument and the options by which a command imports rules."""
    for option in (
        click.argument("file", type=click.File("r", errors="surrogateescape"), required=False),
        click.option("--strict", is_flag=True, help="change nothing unless every rule can be taken over"),
        click.option("--dry-run", is_flag=True, help="show what would become of them, and change nothing"),
        click.option("-6", "six", is_flag=True, help="FILE is of ip6tables-save; it does not name its family itself"),
    ):
        command = option(command)
    return command


def read(file: TextIO | None, six: bool, position: Position) -> list[Hook]:
    """Return the base chains of a file, or of this network namespace. Raises InvalidOperation, Unsupported."""
    if file is None:
        return hooks_of_host(position)[0]
    try:
        return hooks_of(file.read(), six, position)
    except InvalidOperation as error:
        raise InvalidOperation(f"{file.name}: {error}") from None


def report(left: Collection[Skipped], strict: bool) -> None:
    """Name the rules that are left out, on standard error. Raises InvalidOperation if there are any, with `strict`."""
    for each in left:
        click.echo(one_line(f"{each.location}: left out: {each.reason}: {each.text}"), err=True)
    if left and strict:
        raise InvalidOperation(f"--strict: nothing was changed; rules that cannot be taken over: {len(left)}")
