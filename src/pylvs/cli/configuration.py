"""`pylvs check` and `pylvs diff`: the findings and the effective settings of a configuration; what differs between two.

Exit status of `check`, as of `keepalived -t`: 0 nothing found, 5 something, 6 scripts that are not secure. Of `diff`,
as of diff(1): 0 nothing differs, 1 something does, 2 a file cannot be read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator

import click

from pylvs.config.compile.document import CompiledDocument, build, compile_document, sort_findings
from pylvs.config.diff import Affected, differences
from pylvs.config.language.parser import read
from pylvs.config.language.tree import Document, Finding, Location, Severity
from pylvs.config.show import Report, shown
from pylvs.config.show import as_json as effective_json
from pylvs.daemon import DEFAULT_FILE
from pylvs.daemon.paths import missing_addresses
from pylvs.model.addresses import command_to_add
from pylvs.model.errors import counted
from pylvs.model.wanted import Configuration
from pylvs.netlink.links import Routes, local_addresses
from pylvs.system.logs import one_line

# late: each command imports what it runs, so that the others start sooner

EXIT_FOUND = 5
EXIT_SECURITY = 6
EXIT_DIFFERENT = 1
EXIT_UNREADABLE = 2

config_id = click.option(
    "-i", "--config-id", "ids", multiple=True, metavar="ID", help="Read lines that begin with @ID as well."
)
as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command()
@click.argument("file", type=click.Path(allow_dash=True), default=None, required=False)
@click.option("-f", "--use-file", "used", type=click.Path(allow_dash=True), help="The same as FILE, as in pylvs run.")
@config_id
@click.option("--show", "show", is_flag=True, help="Print every setting with its value, and where it comes from.")
@as_json
@click.option("--strict", is_flag=True, help="Any finding is a failure, notes about this machine as well.")
def check(file: str | None, used: str | None, ids: tuple[str, ...], show: bool, as_json: bool, strict: bool) -> int:
    """Read a configuration in keepalived's language and print what is wrong with it.

    FILE is /etc/keepalived/keepalived.conf by default. Nothing is changed. Exit status: 0 nothing found, 5 something
    found, 6 scripts that are not secure.
    """
    if file is not None and used is not None:
        raise click.UsageError("name the file once, as FILE or with -f")
    file = file or used or DEFAULT_FILE
    document, unread = read(file, ids)
    understanding = compile_document(document)
    notes = *_missing_addresses(understanding), *_emptiness(document, unread)
    findings = sort_findings((*unread, *understanding.findings, *notes), document)
    if as_json:
        _print_json(file, understanding, findings, show)
    else:
        shows = sys.stderr.isatty()
        report = Report(document, pictures=shows, colours=shows and "NO_COLOR" not in os.environ)
        sys.stderr.write(report.text(findings))
        if show:
            sys.stdout.write(shown(understanding.effective))
        print(one_line(_summary(file, understanding, findings)), file=sys.stderr if findings or show else sys.stdout)
    return exit_status(findings, strict)


def _emptiness(document: Document, unread: Iterable[Finding]) -> Iterator[Finding]:
    """Yield a warning for a file without a statement, unless it could not be read."""
    if not document.nodes and not any(each.fatal for each in unread):
        advice = "write a virtual_server or a vrrp_instance"
        yield Finding(Location(document.files[0], 1, 1), Severity.WARNING, "the file is empty", advice)


def _missing_addresses(compiled: CompiledDocument) -> Iterator[Finding]:
    """Yield a note for each service with a virtual address that this machine lacks, and that no vrrp_instance adds."""
    configuration = compiled.configuration
    if not configuration.services:
        return
    with Routes() as routes:
        problems = missing_addresses(configuration, local_addresses(), routes)
        missing = {problem.object: problem.text for problem in problems}
    blocks = compiled.effective.below("virtual_server")  # those of the services, in the same order
    for block, service in zip(blocks, configuration.services, strict=True):
        found = [key.address for key in service.keys if not key.mark and str(key.address) in missing]
        if found:
            text = f"{found[0]}: {missing[str(found[0])].partition(' (')[0]}"
            more = f"; so it is with {len(found) - 1} more" if len(found) > 1 else ""
            advice = f"on the director: {command_to_add(found[0], 'DEVICE')}"
            yield Finding(block.word.location, Severity.NOTE, text + more, advice)


def exit_status(findings: Iterable[Finding], strict: bool = False) -> int:
    """Return the exit status for these findings. Notes about this machine count only with `strict`."""
    counted = [each for each in findings if strict or each.severity is not Severity.NOTE]
    if any(each.security for each in counted):
        return EXIT_SECURITY
    return EXIT_FOUND if counted else 0


def _summary(file: str, understanding: CompiledDocument, findings: Iterable[Finding]) -> str:
    services = understanding.configuration.services
    servers = sum(len(service.servers) for service in services)
    routers = len(understanding.configuration.vrrp.instances)
    parts = [counted(len(services), "service"), counted(servers, "real server")]
    parts += [counted(routers, "virtual router")] if routers else []
    counts = [
        counted(number, severity.value)
        for severity in Severity
        if (number := sum(each.severity is severity for each in findings))
    ]
    return f"{file}: {', '.join(parts)}; " + (", ".join(counts) if counts else "nothing found")


def _print_json(file: str, understanding: CompiledDocument, findings: Iterable[Finding], show: bool) -> None:
    found: dict[str, object] = {
        "file": file,
        "findings": [each.encoded() for each in findings],
        "services": [service.name for service in understanding.configuration.services],
        "virtual_routers": [router.name for router in understanding.configuration.vrrp.instances],
    }
    if show:
        found["effective"] = effective_json(understanding.effective)
    print(json.dumps(found, indent=2))


@click.command()
@click.argument("old", type=click.Path(allow_dash=True))
@click.argument("new", type=click.Path(allow_dash=True))
@config_id
@as_json
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
