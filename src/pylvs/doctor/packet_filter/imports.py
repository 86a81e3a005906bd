"""Whether `pylvs filter import` takes a rule of the packet filter, and whether the rule may be removed then.

A rule that protects anything but services must stay: netfilter still applies it to that.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from pylvs.daemon.state.directory import daemons_of
from pylvs.daemon.state.saved import load_owned
from pylvs.doctor.facts import Facts
from pylvs.doctor.packet_filter.host import INPUT as ON_ARRIVAL
from pylvs.doctor.packet_filter.host import PacketFilter, packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Verdict, client_packet
from pylvs.model.addresses import Address
from pylvs.model.client_rules import Action, ClientRule, is_within
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import PylvsError
from pylvs.model.marks import Not
from pylvs.model.service import ServiceKey
from pylvs.netfilter import hooks_of_host
from pylvs.netfilter.chains import INPUT, Hook, Rule, Skipped
from pylvs.netfilter.clients import client_rules

_IMPORT = "pylvs filter import --strict"  # without --strict it succeeds although it leaves out rules
_MOST_DENIED = 200  # prefixes
_REMOVE = {
    True: "; then remove it.",
    False: ". Leave the rule itself: it protects more than services.",
    None: ". Leave the rule itself if it protects anything else.",
}


@dataclass(frozen=True, slots=True)
class Imports:
    """What `pylvs filter import --strict` can do: it takes all rules or none.

    `hooks`: the chains that it reads. `keys`: the services of the table, and `known` their client rules. `owned`:
    services of a daemon's file. `is_refused`: it leaves out a rule, or would change the rules of such a service. Or it
    would deny clients that netfilter accepts.
    """

    hooks: Sequence[Hook] = ()
    keys: Collection[ServiceKey] = ()
    known: Mapping[ServiceKey, Collection[ClientRule]] = MappingProxyType({})
    owned: Collection[ServiceKey] = ()
    is_refused: bool = False


def imports_of(facts: Facts) -> Imports:
    """Return what an import of the rules of this host can do."""
    director = facts.director
    keys = [row.service.key for row in director.services()]
    try:
        daemons = [state for state in daemons_of(director.state.cookie) if state.daemon_pid()]
        owned = {key for state in daemons for key in load_owned(state)}
        hooks = hooks_of_host(INPUT)[0]
        found, left = client_rules(hooks, keys)
        known = director.client_rules()
    except PylvsError:
        return Imports(keys=keys, owned=frozenset(keys), is_refused=True)
    is_refused = bool(left) or not owned.isdisjoint(found) or _denies_more(found, packet_filter(facts))
    return Imports(hooks, keys, known, owned, is_refused)


def _denies_more(imported: Mapping[ServiceKey, Iterable[ClientRule]], rules: PacketFilter) -> bool:
    """Return whether client rules would deny a client whose packets pass these rules."""
    denied = ((key, rule) for key, some in imported.items() for rule in some if rule.action is not Action.ALLOW)
    return any(
        rules.decision(ON_ARRIVAL, client_packet(key, rule.prefix)).verdict is Verdict.PASS
        for key, rule in islice(denied, _MOST_DENIED)
    )


def is_missed(key: ServiceKey, decision: Decision, imports: Imports, rules: PacketFilter) -> bool:
    """Return whether a service lacks what a rule is meant to do: the rule drops packets of clients to it.

    Behind "accept port 80" the rule "drop all others" drops none to a service of port 80. What a client rule of the
    service does is not lacking, either. A rule that an import does not read may be meant for it.
    """
    found = _found(decision, imports.hooks)
    taken = () if found is None else _taken(key, found)
    if not taken:
        return True
    denied = [each.prefix for each in imports.known.get(key, ()) if each.action is not Action.ALLOW and not each.rate]
    return any(
        not any(is_within(rule.prefix, each) for each in denied)
        and _ends_by(decision, rules.decision(ON_ARRIVAL, client_packet(key, rule.prefix)))
        for rule in taken
    )


def _ends_by(decision: Decision, found: Decision) -> bool:
    """Return whether a packet ends by the rule of a decision, or may end by it."""
    return found.verdict is Verdict.UNKNOWN or found.remove == decision.remove


def advice(key: ServiceKey, decision: Decision, imports: Imports) -> tuple[str, str | None]:
    """Return what to do about a rule, and a command that loses no protection; None if there is no such command."""
    found = _found(decision, imports.hooks)
    only_services = None if found is None else _is_of_services(found[1], imports.keys)
    then = _REMOVE[only_services]
    if key in imports.owned:
        return f"Write it as client_rules of the service in the file, and pylvs reload{then}", None
    if imports.is_refused or found is None or not _taken(key, found):
        return f"Add a client rule to the service, by pylvs filter add{then}", None
    fix = f"Make it a client rule of the service{then}"
    return fix, f"{_IMPORT} && {decision.remove}" if only_services else _IMPORT


def _found(decision: Decision, hooks: Sequence[Hook]) -> tuple[Hook, Rule | Skipped] | None:
    """Return the rule of a decision, and its chain.

    An import does not read the tables of the other variant of iptables. Of chains that rules call, nothing is known.
    """
    for hook in hooks:
        for rule in hook.rules:
            if _removes(decision.remove or "", rule.location, rule.text):
                return hook, rule
    return None


def _taken(key: ServiceKey, found: tuple[Hook, Rule | Skipped]) -> Sequence[ClientRule]:
    """Return the client rules that an import makes of this rule alone."""
    hook, rule = found
    return client_rules([replace(hook, rules=[rule])], [key])[0].get(key, ())


def _is_of_services(rule: Rule | Skipped, keys: Collection[ServiceKey]) -> bool:
    """Return whether all packets of a rule are for services: it names their addresses, protocols and ports alone."""
    targets, protocols = _values(rule, "target", Not.TARGET), _values(rule, "protocol", Not.PROTOCOL)
    if targets is None or protocols is None or any(each.num_addresses > 1 for each in targets):
        return False
    ranges = _values(rule, "target_ports", Not.TARGET_PORTS)
    ports = None if ranges is None else [each for some in ranges for each in some]
    return all(_serves(keys, target.network_address, protocol, ports) for target in targets for protocol in protocols)


def _serves(
    keys: Collection[ServiceKey], address: Address, protocol: int, ports: Iterable[tuple[int, int]] | None
) -> bool:
    """Return whether each of these ports has a service; None: every port."""
    served = {each.port for each in keys if not each.mark and (each.address, each.protocol) == (address, protocol)}
    if 0 in served:
        return True
    return ports is not None and all(served.issuperset(range(first, last + 1)) for first, last in ports)


def _values(rule: Rule | Skipped, name: str, negated: Not) -> list[Any] | None:
    """Return the values of a field to which a rule is limited; None if it is for others as well."""
    for clause in rule.clauses:
        found = [getattr(each, name) for each in clause if not each.turned & negated]
        if len(found) == len(clause) and all(found):
            return found
    return None


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
