"""`pylvs mark`: set which packets get which firewall mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TextIO

import click

from pylvs.cli.common import as_json
from pylvs.cli.rules import imported
from pylvs.dataplane.director import open_director
from pylvs.model.errors import InvalidOperation, counted
from pylvs.model.marks import TO_THE_END, MarkRule, checked, with_rule, without
from pylvs.model.marks import words as mark_words
from pylvs.netfilter.chains import MARKS, mark_rules

# late: each command imports what it runs, so that the others start sooner

# option, name of the argument, placeholder, help
_CONDITIONS = (
    ("--proto", "proto", "NAME", "tcp, udp, sctp, or a number"),
    ("--src", "src", "PREFIX", "where packets come from"),
    ("--dst", "dst", "PREFIX", "where they go; required; 0.0.0.0/0 or ::/0: anywhere"),
    ("--sports", "sports", "PORTS", "ports that they come from: 80,443,8000-8010"),
    ("--dports", "dports", "PORTS", "ports that they go to"),
    ("--in", "device", "DEVICE", "the device that they come in by"),
    ("--mac", "mac", "ADDRESS", "link address of the sender"),
    ("--tcp-flags", "tcp_flags", "VALUE/MASK", "of TCP; 0x02/0x17 is a SYN"),
    ("--tos", "tos", "VALUE/MASK", "type of service, or traffic class"),
    ("--if-mark", "if_mark", "VALUE/MASK", "the mark that they have so far"),
)


def _not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """Return the value, "" without the option. Raises click.UsageError for an empty one, which would match all."""
    if value == "":
        raise click.UsageError(f"{parameter.opts[0]} '': is empty; give it a value, or leave it out")
    return value or ""


def _with_conditions(command: Callable[..., None]) -> Callable[..., None]:
    for option, name, placeholder, text in reversed(_CONDITIONS):
        command = click.option(option, name, metavar=placeholder, callback=_not_empty, help=text)(command)
    return command


@click.group()
def mark() -> None:
    """Give packets firewall marks, for services of ipvsadm -f.

    Rules apply in their order, as those of iptables' mangle table: each that matches changes the mark, and the
    last one counts. A ! before a value negates a condition.
    """


@mark.command()
@_with_conditions
@click.option("--final", is_flag=True, help="after a match no other rule applies")
@click.option("--at", type=int, metavar="NUMBER", help="its number in the list; default: the last")
@click.argument("value", metavar="MARK")
def add(value: str, at: int | None, final: bool, **conditions: str) -> None:
    """Give MARK to packets that match --dst and every other condition.

    MARK/MASK changes some bits alone: those of MASK are cleared, then those of MARK are inverted.
    """
    rule = _rule(value, final, conditions)

    def change(rules: list[MarkRule]) -> list[MarkRule]:
        if at is None:
            return rules if rules and rules[-1] == rule else [*rules, rule]
        if not 1 <= at <= len(rules) + 1:
            raise InvalidOperation(f"--at {at}: the list has {counted(len(rules), 'rule')}; from 1 to {len(rules) + 1}")
        return with_rule(rules, rule, at - 1)

    open_director().change_mark_rules(change)


def _rule(value: str, final: bool, conditions: dict[str, str]) -> MarkRule:
    if not conditions["dst"]:
        raise click.UsageError("--dst is missing; --dst 0.0.0.0/0 (or ::/0) means anywhere")
    return checked(mark_words.rule_of(value, final=final, **conditions))


@mark.command(name="del")
@_with_conditions
@click.option("--final", is_flag=True, help="as it was added")
@click.option("--number", type=int, metavar="NUMBER", help="the rule of this number in pylvs mark list")
@click.option("--all", "everything", is_flag=True, help="all rules")
@click.argument("value", metavar="[MARK]", required=False)
def delete(value: str | None, final: bool, number: int | None, everything: bool, **conditions: str) -> None:
    """Delete a rule, given as it was added or by --number, or --all of them."""
    if sum((value is not None, number is not None, everything)) != 1:
        raise click.UsageError("name one rule, as it was added or by its --number; or --all")
    if value is None and (final or any(conditions.values())):
        raise click.UsageError("conditions go with a MARK, not with --number or --all")
    wanted = _rule(value, final, conditions) if value is not None else None

    def change(rules: list[MarkRule]) -> list[MarkRule]:
        if everything:
            return []
        if wanted is not None:
            if wanted not in rules:
                raise InvalidOperation(f"{mark_words.rule_text(wanted, 0)}: no such rule; see pylvs mark list")
            return without(rules, rules.index(wanted))
        assert number is not None
        if not 1 <= number <= len(rules):
            there = counted(len(rules), "rule")
            raise InvalidOperation(f"--number {number}: the list has {there}; see pylvs mark list")
        return without(rules, number - 1)

    director = open_director()
    if not director.mark_rules():
        if everything:
            return
        raise InvalidOperation("there are no mark rules in this network namespace")
    director.change_mark_rules(change)


@mark.command(name="list")
@as_json
def list_rules(as_json: bool) -> None:
    """List the rules in their order, as arguments of pylvs mark add."""
    print_rules(open_director().mark_rules(), as_json)


def print_rules(rules: list[MarkRule], as_json: bool) -> None:
    """Print rules in the format of `pylvs mark list`."""
    if as_json:
        click.echo(json.dumps([_described(rule, number) for number, rule in enumerate(rules, 1)], indent=2))
        return
    if not rules:
        click.echo("no mark rules in this network namespace: pylvs mark add makes one")
    width = len(str(len(rules)))
    for number, rule in enumerate(rules, 1):
        click.echo(f"{number:>{width}}  {mark_words.rule_text(rule, number)}")


def _described(rule: MarkRule, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"number": number, "family": rule.family or None}
    found |= {name.replace("-", "_"): text for name, text in mark_words.conditions(rule).items()}
    found |= {"mark": rule.value, "mask": rule.mask}
    for name, skip in ("then", rule.then_skip), ("else", rule.else_skip):
        found[name] = number + 1 + skip if skip < TO_THE_END else None  # the rule asked next
    return found


@mark.command(name="import")
@imported.of_netfilter
@click.option("--append", is_flag=True, help="add them after the present rules; default: replace those")
def import_rules(file: TextIO | None, six: bool, dry_run: bool, strict: bool, append: bool) -> None:
    """Replace the rules by those of netfilter that set marks at PREROUTING.

    FILE (-: standard input) holds what iptables-save, ip6tables-save or nft -j list ruleset print. Without FILE
    pylvs runs them. Rules that cannot be taken over are named on standard error.
    """
    rules, left = mark_rules(imported.read(file, six, MARKS))
    imported.report(left, strict)
    if dry_run:
        print_rules(rules, as_json=False)
        return
    director = open_director()
    before = director.mark_rules()
    if rules or before:
        director.change_mark_rules(lambda present: [*present, *rules] if append else rules)
    effect = f"; they replace {counted(len(before), 'rule')}" if before and not append else ""
    click.echo(f"{counted(len(rules), 'rule')}, {len(left)} left out{effect}")
