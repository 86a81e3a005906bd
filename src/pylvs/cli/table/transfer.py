"""`pylvs export` and `pylvs import`: the table as JSON, or as the text of ipvsadm-save."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TextIO

import click

from pylvs.daemon.state.owners import owner
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.dataplane.state import FIXED_CAPACITY
from pylvs.ipvsadm.commands import command_lines
from pylvs.ipvsadm.listing import numeric, rule_lines, sorted_destinations, sorted_services
from pylvs.ipvsadm.options import Command, OptionError
from pylvs.ipvsadm.parsing import Names, parse
from pylvs.library.difference import difference
from pylvs.library.document import Document, changes
from pylvs.library.invalid import Error
from pylvs.library.keys import ServiceKey as LibraryKey
from pylvs.library.values import Service
from pylvs.model.dataclass import replace
from pylvs.model.errors import Busy, InvalidOperation, PylvsError, shown
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, ServiceChange, ServiceKey, VirtualService, is_probe_mark

_ONLY = "no JSON of pylvs export, and no line of ipvsadm-save, which has -A and -a alone"


@click.command(name="export")
@click.option(
    "--ipvsadm", "as_text", is_flag=True, help="print the lines of ipvsadm-save -n: services and servers alone"
)
def export_table(as_text: bool) -> None:
    """Print the table as JSON: services, servers, timeouts, settings, mark rules and client rules.

    pylvs import reads both forms. Connections and counters are not among them.
    """
    director = open_director()
    if as_text:
        rows = [row for row in director.services() if not is_probe_mark(row.service.key.mark)]
        click.echo("".join(text_lines(rows)), nl=False)
        return
    found = _present(director)
    settings = dict(found.settings or {})
    if not director.state.exists or not director.state.note(FIXED_CAPACITY):
        del settings["conn_max"]  # it follows memory, here and there
    click.echo(json.dumps(replace(found, settings=settings).to_dict(), indent=2))


def text_lines(rows: Iterable[ServiceRow]) -> Iterator[str]:
    """Yield the lines of ipvsadm-save -n, which lacks thresholds, with thresholds."""
    rows = list(rows)
    lines = rule_lines(rows, numeric)
    for row in sorted_services(rows):
        yield next(lines)
        for server in sorted_destinations(row.destinations):
            upper, lower = server.destination.upper, server.destination.lower
            more = f" -x {upper}" * bool(upper) + f" -y {lower}" * bool(lower)
            yield f"{next(lines).rstrip()}{more}\n"


@click.command(name="import")
@click.option("--dry-run", is_flag=True, help="print what would change, and change nothing")
@click.argument("file", type=click.File("r", errors="surrogateescape"))
def import_table(file: TextIO, dry_run: bool) -> None:
    """Make the table that of FILE (-: standard input): JSON of pylvs export, or text of ipvsadm-save.

    Services that FILE lacks are deleted. Packets see all services and servers change at once. Connections stay.
    Prints what changed.
    """
    text = file.read()
    try:
        document = document_of(text)
    except (InvalidOperation, Error) as error:
        raise InvalidOperation(f"{file.name}: {error}") from None
    director = open_director()
    lines = _planned(director, document)[1] if dry_run else _apply(director, document)
    for line in lines or ["nothing differs"]:
        click.echo(line)


def document_of(text: str) -> Document:
    """Parse JSON, or lines of ipvsadm-save. Raises InvalidOperation, and InvalidValue of the library."""
    if text.lstrip()[:1] not in ("{", "["):
        return Document(tuple(_services(text)))
    try:
        return Document.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidOperation(f"line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise InvalidOperation("no JSON of pylvs export: too many brackets in each other") from None


def _services(text: str) -> Iterator[Service]:
    """Yield the services that lines of ipvsadm-save add. Raises InvalidOperation with the number of the line."""
    names = Names()
    found: dict[ServiceKey, tuple[VirtualService, dict[object, Destination]]] = {}
    for number, words in command_lines(text.split("\n")):
        try:
            request = parse(words, names)
            key = request.service_key() if request.command in (Command.ADD_SERVICE, Command.ADD_SERVER) else None
            if request.command == Command.ADD_SERVICE and key not in found and key is not None:
                found[key] = request.service(), {}
            elif request.command == Command.ADD_SERVER and key in found:
                destination = request.destination()
                if destination.key in found[key][1]:
                    raise InvalidOperation(f"{destination.key} is listed twice in {key}")
                found[key][1][destination.key] = destination
            else:
                raise InvalidOperation(_refusal(request.command, key))
        except (OptionError, InvalidOperation, ValueError) as error:
            reason = error.text if isinstance(error, OptionError) else str(error)
            reason = _ONLY if not words[0].startswith("-") else reason.splitlines()[0]
            raise InvalidOperation(f"line {number}: {shown(' '.join(words))}: {reason}") from None
    for service, destinations in found.values():
        rows = tuple(DestinationRow(each) for each in reversed(destinations.values()))
        yield Service.from_model(ServiceRow(service, rows))


def _refusal(command: str, key: ServiceKey | None) -> str:
    if command == Command.ADD_SERVICE:
        return f"{key} is listed twice"
    if command == Command.ADD_SERVER:
        return f"no line before adds the service {key}"
    return _ONLY


def _present(director: BpfDirector) -> Document:
    """Return the table, without services of the daemon's checks."""
    rows = [row for row in director.services() if not is_probe_mark(row.service.key.mark)]
    services = tuple(Service.from_model(row) for row in sorted_services(rows))
    rules = sorted(director.client_rules().items(), key=lambda each: str(each[0]))
    client_rules = {LibraryKey.from_model(key): of for key, of in rules}
    return Document(services, director.timeouts(), director.settings(), tuple(director.mark_rules()), client_rules)


def _planned(director: BpfDirector, document: Document) -> tuple[list[ServiceChange], list[str]]:
    """Return the changes of services, and a line for each change, after all checks. Raises InvalidOperation, Busy."""
    before = _present(director)
    services = difference(before.services, document.services)
    found = _with_rules([each.to_model() for each in services.services], before, document)
    if owned := owner(director.state.cookie, {each.key for each in found}):
        raise Busy(
            f"{owned.key}: pylvs run, process {owned.process}, has this service in its file and would restore it;"
            " nothing was changed: edit the file, and pylvs reload"
        )
    director.check(found)
    return found, list(changes(before, document, services))


def _with_rules(changes: Iterable[ServiceChange], before: Document, document: Document) -> list[ServiceChange]:
    """Return the changes with those of client rules: a service takes effect with its rules."""
    found = {each.key: each for each in changes}
    if document.client_rules is None:
        return list(found.values())
    former = before.client_rules or {}
    for service in document.services:
        rules = document.client_rules.get(service.key, ())
        if rules != former.get(service.key, ()):
            key = service.key.to_model()
            change = found[key] if key in found else ServiceChange(key, service.to_model())
            found[key] = replace(change, client_rules=rules)
    return list(found.values())


def _apply(director: BpfDirector, document: Document) -> list[str]:
    """Make the changes; return a line for each. If one is refused, those before it are withdrawn."""
    if not _planned(director, document)[1]:
        return []
    with director.batch():
        services, lines = _planned(director, document)
        before = _present(director)
        try:
            _set(director, document, before)
            director.apply(services)  # last: it is one store, or nothing
        except PylvsError:
            _set(director, before, _present(director))
            raise
    return lines


def _set(director: BpfDirector, document: Document, present: Document) -> None:
    """Set settings, timeouts and mark rules. conn_max is first: memory or connections may refuse it."""
    settings, now = document.settings or {}, present.settings or {}
    for name in sorted(settings, key=lambda each: each != "conn_max"):
        if settings[name] != now[name]:
            director.change_setting(name, settings[name])
    if document.timeouts is not None:
        director.set_timeouts(document.timeouts)
    rules = document.mark_rules
    if rules is not None and rules != present.mark_rules:
        director.change_mark_rules(lambda _: list(rules))
