"""`pylvs filter`: which clients may open connections to a service, and how fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from pylvs.cli.common import as_json, own_state_dir
from pylvs.cli.rules import imported, overrides
from pylvs.daemon.state.owners import owner
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.ipvsadm.options import SERVICE_OPTIONS, service_option
from pylvs.model import sockets as socket
from pylvs.model.addresses import parsed_endpoint
from pylvs.model.client_rules import ClientRule, checked, prefix_of, rule_of
from pylvs.model.errors import Busy, InvalidOperation, counted
from pylvs.model.service import Protocol, ServiceChange, ServiceKey
from pylvs.netfilter.chains import INPUT
from pylvs.netfilter.clients import client_rules

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}
_LARGEST_MARK = 0xFFFFFFFF


@click.group(name="filter")
def filter_() -> None:
    """Give a service client rules: which clients may open connections, and how fast.

    The rule with the longest prefix of the client's address decides. Established connections are not judged.
    """


def _of_service(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("-6", "six", is_flag=True, help="with -f: of IPv6"),
        click.option("-f", "mark", metavar="MARK", help="the service of a firewall mark"),
        click.option("--sctp-service", "sctp", metavar="ADDRESS:PORT", help="a service of SCTP"),
        click.option("-u", "udp", metavar="ADDRESS:PORT", help="a service of UDP"),
        click.option("-t", "tcp", metavar="ADDRESS:PORT", help="a service of TCP, as ipvsadm names it"),
    ):
        command = option(command)
    return command


def _key(six: bool, mark: str | None, **addresses: str | None) -> ServiceKey | None:
    """Return the service that the options name; None without any. Raises click.UsageError, InvalidOperation."""
    given = {name: text for name, text in addresses.items() if text is not None}
    if len(given) + (mark is not None) > 1:
        raise click.UsageError("name one service: -t, -u, --sctp-service or -f")
    if six and mark is None:
        raise click.UsageError("-6 is for -f; an address has a family")
    if mark is not None:
        if not (mark.isascii() and mark.isdigit() and 0 < int(mark) <= _LARGEST_MARK):
            raise InvalidOperation(f"-f {mark}: must be a number from 1 to {_LARGEST_MARK}")
        return ServiceKey.of_mark(int(mark), socket.AF_INET6 if six else socket.AF_INET)
    for name, text in given.items():
        return _addressed(_PROTOCOLS[name], text)
    return None


def _addressed(protocol: Protocol, text: str) -> ServiceKey:
    try:
        return ServiceKey(protocol, *parsed_endpoint(text))
    except ValueError:
        given = f"{SERVICE_OPTIONS[protocol]} {text}"
        raise InvalidOperation(f"{given}: must be ADDRESS:PORT, in IPv6 [ADDRESS]:PORT") from None


def _required(**options: Any) -> ServiceKey:
    key = _key(**options)
    if key is None:
        raise click.UsageError("name the service: -t, -u, --sctp-service or -f")
    return key


def _overriding(command: Callable[..., None] | Callable[..., int]) -> Callable[..., Any]:
    option = click.option(
        "--override",
        is_flag=True,
        help="the operator's rules of a service in the file of pylvs run, beside those there",
    )
    return option(own_state_dir(command))


def _check_directory(override: bool, state_dir: Path | None) -> None:
    if state_dir and not override:
        raise click.UsageError("--state-dir is for --override")


@filter_.command()
@_of_service
@_overriding
@click.option(
    "--file", "file", type=click.File("r", errors="surrogateescape"), help="read rules, one a line; -: standard input"
)
@click.option("--replace", is_flag=True, help="replace the rules that the service has, at once")
@click.argument("rule", nargs=-1)
def add(
    rule: tuple[str, ...], file: TextIO | None, replace: bool, override: bool, state_dir: Path | None, **options: Any
) -> int:
    """Add a RULE, or those of a file.

    A RULE is allow PREFIX, deny PREFIX, or limit PREFIX NUMBER/s (also /min and /h), with per BITS for networks
    and burst NUMBER. The word pass at its end leaves packets to the host's stack instead of dropping them.

    With --override the running daemon gets them. They stay through reloads and restarts until they are deleted.
    """
    key = _required(**options)
    _check_directory(override, state_dir)
    if bool(rule) == bool(file):
        raise click.UsageError("give one RULE, or --file")
    fresh = [rule_of(rule)] if rule else _lines(file)
    if override:
        return overrides.change(state_dir, key, "replace" if replace else "add", rules=list(map(str, fresh)))
    director = _director_of(key)
    if replace:
        director.change_client_rules(key, lambda _: fresh)
    else:
        director.edit_client_rules(key, fresh, ())
    return 0


def _director_of(key: ServiceKey) -> BpfDirector:
    """Return what edits the rules of a service. Raises Busy for one of a daemon's file."""
    director = open_director()
    _check_free(director, {key}, ", or add --override")
    return director


def _check_free(director: BpfDirector, keys: Collection[ServiceKey], remedy: str = "") -> None:
    if owned := owner(director.state.cookie, keys):
        raise Busy(
            f"{owned.key}: pylvs run, process {owned.process}, has this service in its file and would undo the change;"
            f" nothing was changed: write client_rules in the file, and pylvs reload{remedy}"
        )


def _lines(file: TextIO | None) -> list[ClientRule]:
    """Return the rules of a file; blank lines and what follows a # are ignored. Raises InvalidOperation."""
    found = []
    for number, line in enumerate(file or (), 1):
        words = line.partition("#")[0].split()
        if words:
            try:
                found.append(rule_of(words))
            except InvalidOperation as error:
                raise InvalidOperation(f"{file.name if file else ''}:{number}: {error}") from None
    return found


@filter_.command(name="del")
@_of_service
@_overriding
@click.option("--all", "everything", is_flag=True, help="all rules of the service")
@click.argument("prefix", nargs=-1)
def delete(prefix: tuple[str, ...], everything: bool, override: bool, state_dir: Path | None, **options: Any) -> int:
    """Delete the rules of these prefixes, or --all of a service."""
    key = _required(**options)
    _check_directory(override, state_dir)
    if bool(prefix) == everything:
        raise click.UsageError("name the PREFIX of each rule, or --all")
    doomed = {prefix_of(each) for each in prefix}
    if override:
        fields = {"rules": list[str]()} if everything else {"prefixes": sorted(map(str, doomed))}
        return overrides.change(state_dir, key, "replace" if everything else "delete", **fields)
    director = _director_of(key)
    if everything:
        director.change_client_rules(key, lambda _: [])
    else:
        director.edit_client_rules(key, (), doomed)
    return 0


@filter_.command(name="import")
@imported.of_netfilter
@click.option("--replace", is_flag=True, help="replace the rules of the services that they name; default: add to them")
def import_rules(file: TextIO | None, six: bool, dry_run: bool, strict: bool, replace: bool) -> None:
    """Take over netfilter's rules of INPUT that name the address of a service.

    FILE (-: standard input) holds what iptables-save, ip6tables-save or nft -j list ruleset print. Without FILE
    pylvs runs them. Rules that cannot be taken over are named on standard error. All services change at once.
    """
    hooks = imported.read(file, six, INPUT)
    director = open_director()
    found, left = client_rules(hooks, [row.service.key for row in director.services()])
    imported.report(left, strict)
    _changes(director, found, replace)  # early, so that --dry-run names what is wrong
    if dry_run:
        print_rules(found, as_json=False)
        return
    if found:
        _check_free(director, found.keys())
        with director.batch():
            director.apply(_changes(director, found, replace))  # again: others may have edited until now
    count = sum(map(len, found.values()))
    click.echo(f"{counted(count, 'rule')} for {counted(len(found), 'service')}, {len(left)} left out")


def _changes(
    director: BpfDirector, found: Mapping[ServiceKey, Sequence[ClientRule]], replace: bool
) -> list[ServiceChange]:
    """Return the changes that give services these rules, or add them. Raises InvalidOperation, NoSuchService."""
    present: Mapping[ServiceKey, Sequence[ClientRule]] = {} if replace else director.client_rules()
    changes = []
    for key, rules in found.items():
        wanted = checked(key, key.address.version, [*present.get(key, ()), *rules])
        changes.append(ServiceChange(key, director.service(key).service, client_rules=wanted))
    return changes


@filter_.command(name="list")
@_of_service
@_overriding
@as_json
def list_rules(as_json: bool, override: bool, state_dir: Path | None, **options: Any) -> None:
    """List the rules of one service, or of all, as arguments of pylvs filter add.

    With --override, those of the operator alone.
    """
    key = _key(**options)
    _check_directory(override, state_dir)
    if override:
        print_rules(overrides.listed(state_dir, key), as_json)
        return
    director = open_director()
    if key is not None:
        director.known(key)
    print_rules({of: rules for of, rules in director.client_rules().items() if key in (None, of)}, as_json)


def print_rules(found: Mapping[ServiceKey, Sequence[ClientRule]], as_json: bool) -> None:
    """Print rules in the format of `pylvs filter list`."""
    pairs = [(key, rule) for key in sorted(found, key=str) for rule in found[key]]
    if as_json:
        click.echo(json.dumps([_described(key, rule) for key, rule in pairs], indent=2))
        return
    if not pairs:
        click.echo("no client rules here: pylvs filter add makes one")
    for key, rule in pairs:
        click.echo(f"{service_option(key)} {rule}")


def _described(key: ServiceKey, rule: ClientRule) -> dict[str, Any]:
    found = {"service": str(key), "prefix": str(rule.prefix), "action": rule.action.name.lower()}
    if not rule.rate:
        return found
    return found | {name: getattr(rule, name) for name in ("rate", "period_s", "burst", "client_bits")}
