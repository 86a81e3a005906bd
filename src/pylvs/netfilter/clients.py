"""Make client rules of the rules of INPUT that name a virtual address.

Of the rules of a base chain the first that matches decides, of client rules the longest prefix. So a rule is left out
if an earlier one has all its clients. A later rule for more clients has the shorter prefix anyway.

A rule may accept clients for all addresses, the VIP among them. It becomes a client rule only where a later rule would
deny some of these clients. If it is unknown which clients a rule accepts, no later rule that denies is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from pylvs.model.client_rules import Action, ClientRule, Network, is_within
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.marks import MarkRule, Not
from pylvs.model.service import ServiceKey
from pylvs.netfilter.chains import EMPTY, MAX_DEPTH, CannotExpress, Clause, Hook, Rule, Skipped

_ACTIONS = {"accept": Action.ALLOW, "drop": Action.DROP, "reject": Action.PASS}
_SYN = 0x02  # the flags of a packet that opens a connection
_UNKNOWN = {
    "source_ports": "the port of the client",
    "device": "a device",
    "link": "a link address",
    "tos": "the type of service",
    "mark": "a mark",
}
_LEADING = ("jump", "goto", "return")  # to other rules
Decisions = dict[Network, Action]  # that of the longest prefix is that of the first rule


def client_rules(
    hooks: Sequence[Hook], keys: Iterable[ServiceKey]
) -> tuple[dict[ServiceKey, tuple[ClientRule, ...]], list[Skipped]]:
    """Return the rules of each service that these chains name, and the rules that are not imported."""
    found: dict[ServiceKey, tuple[ClientRule, ...]] = {}
    left: dict[tuple[str, str], Skipped] = {}
    hooks = sorted(hooks, key=lambda each: each.priority)
    for key in keys:
        if key.mark:
            continue
        decisions: Decisions = {}
        for hook in hooks:
            if hook.family in (0, key.address.version):
                walk = _Walk(hook, key, left)
                walk.chain(_Chain(hook.rules))
                decisions = _in_turn(decisions, walk.decisions)
        if decisions:
            found[key] = tuple(ClientRule(prefix, action) for prefix, action in decisions.items())
    return found, list(left.values())


def _in_turn(earlier: Decisions, later: Decisions) -> Decisions:
    """Return what two base chains decide. A packet that the first accepts continues with the second."""
    found: Decisions = {}
    for prefix in (*earlier, *later):
        first, second = _decision(earlier, prefix), _decision(later, prefix)
        action = second if first in (None, Action.ALLOW) and second is not None else first
        assert action is not None
        found[prefix] = action
    return found


def _decision(decisions: Decisions, prefix: Network) -> Action | None:
    """Return what is decided about all clients of a prefix; None without a rule for all of them."""
    for bits in range(prefix.prefixlen, -1, -1) if decisions else ():
        action = decisions.get(prefix.supernet(new_prefix=bits))
        if action is not None:
            return action
    return None


@dataclass(slots=True)
class _Chain:
    """A chain while its rules are read: the conditions of the rules that called it, and what its rules decided."""

    rules: Sequence[Rule | Skipped]
    callers: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()
    named: bool = False  # the service, by these clauses
    reason: str = ""  # why no rule can be imported, if a caller cannot
    ended: list[Network] = field(default_factory=list)  # clients that are not judged by its further rules
    unclear: str = ""  # why more clients may not be


class _Walk:
    """The rules that a packet to one service meets in a base chain and in the chains that it calls."""

    def __init__(self, hook: Hook, key: ServiceKey, left: dict[tuple[str, str], Skipped]) -> None:
        self.decisions: Decisions = {}
        self._accepted: list[Network] = []  # by rules that do not name the service
        self._unclear = ""  # why more clients may be
        self._hook = hook
        self._key = key
        self._left = left

    def chain(self, chain: _Chain) -> None:
        """Add what the rules of a chain decide, and report those that name the service otherwise."""
        for rule in chain.rules:
            named = chain.named or self._is_named(rule)
            accepts = rule.accepts if isinstance(rule, Skipped) else rule.verdict == "accept"
            if not (named or accepts or (rule.chains if isinstance(rule, Skipped) else rule.verdict in _LEADING)):
                continue
            inner = replace(chain, clauses=(*chain.clauses, *rule.clauses), named=named)
            try:
                self._rule(chain, rule, inner)
            except CannotExpress as error:
                if accepts:
                    self._unclear = f"an earlier rule may accept some of its clients: {error}"
                if named:
                    skipped = Skipped(rule.location, rule.text, str(error))
                    self._left.setdefault((rule.location, rule.text), skipped)

    def _is_named(self, rule: Rule | Skipped) -> bool:
        if isinstance(rule, Skipped) and rule.any_target:
            return True
        return any(_names(each, self._key) for clause in rule.clauses for each in clause)

    def _rule(self, chain: _Chain, rule: Rule | Skipped, inner: _Chain) -> None:
        """Add what a rule decides. `inner` has the conditions of a chain that it calls. Raises CannotExpress."""
        rest = [_remaining(clause, self._key) for clause in inner.clauses]
        if () in rest:
            return  # it is not for this service
        if isinstance(rule, Skipped):
            for name in rule.chains:
                self._call(name, replace(inner, reason=rule.reason))
            raise CannotExpress(rule.reason)
        if rule.verdict in ("jump", "goto"):
            self._call(rule.chain, inner)
        if rule.verdict in ("return", "goto"):
            self._end(chain, rest)
        elif rule.verdict != "jump":
            self._decide(chain, rule, rest, inner.named)

    def _call(self, name: str, inner: _Chain) -> None:
        if name not in self._hook.chains:
            raise CannotExpress(f"it calls {name}, which is not there")
        if name in inner.callers or len(inner.callers) >= MAX_DEPTH:
            raise CannotExpress("chains that call each other in circles, or too deeply")
        rules, callers = self._hook.chains[name], (*inner.callers, name)
        self.chain(replace(inner, rules=rules, callers=callers, ended=[*inner.ended]))

    def _end(self, chain: _Chain, rest: Sequence[Clause]) -> None:
        """Note which clients the further rules of a chain do not judge. Raises CannotExpress."""
        try:
            chain.ended += _clients(rest, self._key)
        except CannotExpress as error:
            chain.unclear = f"an earlier rule may take its clients out of the chain: {error}"
            raise

    def _decide(self, chain: _Chain, rule: Rule, rest: Sequence[Clause], named: bool) -> None:
        action = _ACTIONS.get(rule.verdict)
        if reason := chain.reason or chain.unclear or (action != Action.ALLOW and self._unclear):
            raise CannotExpress(reason)
        if action is None:
            raise CannotExpress("it has no verdict")
        judged = [each for each in _clients(rest, self._key) if not any(is_within(each, one) for one in chain.ended)]
        if any(is_within(ended, each) for ended in chain.ended for each in judged):
            raise CannotExpress("an earlier rule takes some of its clients out of the chain")
        if named:
            self._add(judged, action)
        else:
            self._accepted += judged

    def _add(self, judged: Sequence[Network], action: Action) -> None:
        """Decide about clients that no earlier rule has decided about."""
        for prefix in judged:
            if _decision(self.decisions, prefix) is not None:
                continue
            if action != Action.ALLOW:
                if any(is_within(prefix, accepted) for accepted in self._accepted):
                    continue
                for accepted in self._accepted:
                    if is_within(accepted, prefix) and _decision(self.decisions, accepted) is None:
                        self.decisions[accepted] = Action.ALLOW
            self.decisions[prefix] = action


def _clients(rest: Sequence[Clause], key: ServiceKey) -> list[Network]:
    """Return the clients for which all clauses hold. Raises CannotExpress."""
    found: list[Network] = [ip_network("::/0" if key.address.version == 6 else "0.0.0.0/0")]
    for clause in rest:
        if EMPTY not in clause:
            both = [(one, other) for one in found for other in map(_client, clause)]
            found = [
                one if is_within(one, other) else other
                for one, other in both
                if is_within(one, other) or is_within(other, one)
            ]
    return found


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
        "device": (False, Not.DEVICE, "" if condition.device == "lo" else condition.device),  # clients are elsewhere
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
