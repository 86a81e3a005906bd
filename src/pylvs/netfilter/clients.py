"""Make client rules of the rules of INPUT that name a virtual address.

Of netfilter's rules the first that matches decides, of client rules the longest prefix. So a rule is left out if an
earlier one has all its clients. A later rule for more clients has the shorter prefix anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from pylvs.model.client_rules import Action, ClientRule, Network
from pylvs.model.marks import MarkRule, Not
from pylvs.model.service import ServiceKey
from pylvs.netfilter.chains import EMPTY, CannotExpress, Clause, Hook, Rule, Skipped

_ACTIONS = {"accept": Action.ALLOW, "drop": Action.DROP, "reject": Action.PASS}
_SYN = 0x02  # the flags of a packet that opens a connection
_UNKNOWN = {
    "source_ports": "the port of the client",
    "device": "a device",
    "link": "a link address",
    "tos": "the type of service",
    "mark": "a mark",
}
_CHAINS = "it leads to another chain"


def client_rules(
    hooks: Sequence[Hook], keys: Iterable[ServiceKey]
) -> tuple[dict[ServiceKey, tuple[ClientRule, ...]], list[Skipped]]:
    """Return the rules of each service that these chains name, and the rules that are not imported."""
    found: dict[ServiceKey, tuple[ClientRule, ...]] = {}
    left: dict[tuple[str, str], Skipped] = {}
    for key in keys:
        if key.mark:
            continue
        rules: dict[Network, ClientRule] = {}
        for hook in sorted(hooks, key=lambda each: each.priority):
            for rule in hook.rules if hook.family in (0, key.address.version) else ():
                try:
                    prefixes = _clients(rule, key)
                    for prefix in prefixes:
                        if not any(_has(prefix, known) for known in rules):
                            rules[prefix] = ClientRule(prefix, _action(rule))
                except CannotExpress as error:
                    skipped = Skipped(rule.location, rule.text, str(error))
                    left.setdefault((rule.location, rule.text), skipped)
        if rules:
            found[key] = tuple(rules.values())
    return found, list(left.values())


def _has(prefix: Network, known: Any) -> bool:
    return bool(prefix.version == known.version and prefix.subnet_of(known))


def _action(rule: Rule | Skipped) -> Action:
    verdict = rule.verdict if isinstance(rule, Rule) else ""
    if verdict not in _ACTIONS:
        raise CannotExpress(_CHAINS if verdict else "it has no verdict")
    return _ACTIONS[verdict]


def _clients(rule: Rule | Skipped, key: ServiceKey) -> list[Network]:
    """Return the clients that a rule decides about. Raises CannotExpress if it names the service otherwise."""
    if isinstance(rule, Skipped):
        if str(key.address) in rule.text:
            raise CannotExpress(rule.reason)
        return []
    if not any(_names(each, key) for clause in rule.clauses for each in clause):
        return []
    rest = [_remaining(clause, key) for clause in rule.clauses]
    if () in rest:
        return []  # it is not for this service
    conditions = [clause for clause in rest if EMPTY not in clause]
    if len(conditions) > 1:
        raise CannotExpress("it has several conditions on the client")
    return (
        [_client(each) for each in conditions[0]] if conditions else [ip_network("::/0" if _six(key) else "0.0.0.0/0")]
    )


def _six(key: ServiceKey) -> bool:
    return key.address.version == 6


def _names(condition: MarkRule, key: ServiceKey) -> bool:
    """Return whether a condition is that of addresses with this one; 0.0.0.0/0 names none."""
    target = condition.target
    return target is not None and bool(target.prefixlen) and not condition.turned & Not.TARGET and key.address in target


def _remaining(clause: Clause, key: ServiceKey) -> Clause:
    """Return the alternatives that may hold for packets to the service, without what holds for all of them."""
    return tuple(left for each in clause if (left := _without_service(each, key)) is not None)


def _without_service(condition: MarkRule, key: ServiceKey) -> MarkRule | None:
    """Return the condition without those on the service; None if it never holds for it."""
    found = condition
    port = any(first <= key.port <= last for first, last in condition.target_ports)
    value, mask = condition.tcp_flags or (0, 0)
    answers = {
        "target": (condition.target is not None and key.address in condition.target, Not.TARGET, None),
        "protocol": (condition.protocol == key.protocol, Not.PROTOCOL, 0),
        "target_ports": (port, Not.TARGET_PORTS, ()),
        "tcp_flags": (_SYN & mask == value, Not.TCP_FLAGS, None),
        "family": (condition.family == key.address.version, Not(0), 0),
    }
    for name, (holds, bit, nothing) in answers.items():
        if getattr(condition, name) == nothing:
            continue
        if holds == bool(condition.turned & bit):
            return None
        found = _cleared(found, name, bit, nothing)
    return found


def _cleared(condition: MarkRule, name: str, bit: Not, nothing: object) -> MarkRule:
    changes: dict[str, Any] = {name: nothing, "turned": condition.turned & ~bit}
    return replace(condition, **changes)


def _client(condition: MarkRule) -> Network:
    """Return the clients of a condition. Raises CannotExpress."""
    for name, what in _UNKNOWN.items():
        if getattr(condition, name) != getattr(EMPTY, name):
            raise CannotExpress(f"it has a condition on {what}")
    if condition.turned or condition.source is None:
        raise CannotExpress("it negates the addresses of clients")
    return condition.source
