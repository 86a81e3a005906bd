"""Whether `pylvs filter import` takes a rule of the packet filter, so that it may be removed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from pylvs.daemon.state.directory import daemons_of
from pylvs.daemon.state.saved import load_owned
from pylvs.doctor.facts import Facts
from pylvs.doctor.packet_filter.packet import Decision
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey
from pylvs.netfilter import hooks_of_host
from pylvs.netfilter.chains import INPUT, Hook
from pylvs.netfilter.clients import client_rules

_IMPORT = "pylvs filter import --strict"  # without --strict it succeeds although it leaves out rules


class Imports(NamedTuple):
    """What `pylvs filter import --strict` can do: it takes all rules or none.

    `hooks`: the chains that it reads; none if it refuses a rule. `owned`: services of a daemon's file. `is_refused`: it
    would change the rules of one of them.
    """

    hooks: Sequence[Hook]
    owned: Collection[ServiceKey]
    is_refused: bool


def imports_of(facts: Facts) -> Imports:
    """Return what an import of the rules of this host can do."""
    director = facts.director
    keys = [row.service.key for row in director.services()]
    try:
        daemons = [state for state in daemons_of(director.state.cookie) if state.daemon_pid()]
        owned = {key for state in daemons for key in load_owned(state)}
        hooks = hooks_of_host(INPUT)[0]
        found, left = client_rules(hooks, keys)
    except PylvsError:
        return Imports((), frozenset(keys), is_refused=True)
    return Imports(() if left else hooks, owned, not owned.isdisjoint(found))


def advice(key: ServiceKey, decision: Decision, imports: Imports) -> tuple[str, str | None]:
    """Return what to do about a rule, and a command that loses no protection; None if there is no such command."""
    if key in imports.owned:
        return "Write it as client_rules of the service in the file, and pylvs reload; then remove it.", None
    if imports.is_refused or not _is_taken(key, decision, imports.hooks):
        return "Add a client rule to the service, by pylvs filter add; then remove it.", None
    fix = "Make it a client rule of the service; then remove it."
    return fix, f"{_IMPORT} && {decision.remove}" if decision.remove else _IMPORT


def _is_taken(key: ServiceKey, decision: Decision, hooks: Sequence[Hook]) -> bool:
    """Return whether an import makes a client rule of this rule.

    It does not read the tables of the other variant of iptables, nor chains that rules call.
    """
    for hook in hooks:
        for rule in hook.rules:
            if _removes(decision.remove or "", rule.location, rule.text):
                found: Mapping[ServiceKey, object] = client_rules([replace(hook, rules=[rule])], [key])[0]
                return key in found
    return False


def _removes(command: str, location: str, text: str) -> bool:
    """Return whether a command removes this rule: by its handle in nftables, by its words in iptables."""
    if command == f"nft delete rule {location}":
        return True
    if not text.startswith("-A "):
        return False
    try:
        return shlex.split(command)[1:] == ["-D", *shlex.split(text)[1:]]
    except ValueError:  # the kernel's comments may have an unpaired quote
        return False
