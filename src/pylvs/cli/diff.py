"""`pylvs diff`: print what would change from one configuration to another.

Exit status, as of diff(1): 0 nothing differs, 1 something does, 2 a file cannot be read.
"""

from __future__ import annotations

import json
import sys

import click

from pylvs.cli.common import counted
from pylvs.config.compile.document import build
from pylvs.config.diff import Affected, differences
from pylvs.config.findings import Severity
from pylvs.config.language.parser import read
from pylvs.model.printing import one_line
from pylvs.model.wanted import Configuration

EXIT_DIFFERENT = 1
EXIT_UNREADABLE = 2


@click.command()
@click.argument("old", type=click.Path(allow_dash=True))
@click.argument("new", type=click.Path(allow_dash=True))
@click.option("-i", "--config-id", "ids", multiple=True, metavar="ID", help="Read lines that begin with @ID as well.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diff(old: str, new: str, ids: tuple[str, ...], as_json: bool) -> int:
    """Print what differs between two configurations, and which established connections it affects.

    Order, comments and defaults that are written out make no difference. Exit status: 0 nothing differs, 1 something
    does, 2 a file cannot be read.
    """
    before, after = _configuration(old, ids), _configuration(new, ids)
    if before is None or after is None:
        return EXIT_UNREADABLE
    changes = differences(before, after)
    affected = Affected.by(changes, before, after)
    if as_json:
        content = {
            "changes": [change.encoded() for change in changes],
            "connections": {"touched": list(affected.touched), "untouched": affected.untouched},
        }
        print(json.dumps(content, indent=2))
    elif changes:
        print(*changes, sep="\n")
        print(f"{counted(len(changes), 'change')}; {_affected_text(affected)}")
    return EXIT_DIFFERENT if changes else 0


def _configuration(file: str, ids: tuple[str, ...]) -> Configuration | None:
    """Return the configuration of a file. Print the errors that make it unreadable, and return None then."""
    document, unread = read(file, ids)
    fatal = [finding for finding in unread if finding.fatal]
    if fatal:
        for finding in fatal:
            print(one_line(str(finding)), file=sys.stderr)
        return None
    configuration, findings = build(document)
    found = [each for each in (*unread, *findings) if each.severity is not Severity.NOTE]
    if found:
        text = f"{file}: {counted(len(found), 'finding')}, which pylvs check {file} names"
        print(one_line(text), file=sys.stderr)
    return configuration


def _affected_text(affected: Affected) -> str:
    """Name the services whose connections are affected, and count the others."""
    stay = f"{counted(affected.untouched, 'service')} keep{'s' if affected.untouched == 1 else ''} all connections"
    return f"connections of {', '.join(affected.touched)} are affected, {stay}" if affected.touched else stay
