"""Compile rules of netfilter into a list of mark rules.

A netfilter rule has clauses that must all hold, and actions. A clause is a choice of alternatives. A rule becomes one
mark rule if that is enough, else several that skip each other. Chains are inlined where rules call them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import ALL_BITS, MOST_RANGES, MOST_RULES, NOTHING_TURNED, MarkRule, Not, Ranges, checked

MAX_DEPTH = 16  # jumps within jumps, as in netfilter
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
DSCP_CLASSES = {"be": 0, "ef": 46, **{f"cs{n}": 8 * n for n in range(8)}}
DSCP_CLASSES |= {f"af{high}{low}": 8 * high + 2 * low for high in range(1, 5) for low in range(1, 4)}
CONNTRACK = "it asks connection tracking, which has not seen the packet yet"
DROPS = "drops packets; pylvs mark marks them"
EMPTY = MarkRule(mask=0)
_TURNED = {name.lower(): bit for name, bit in Not.__members__.items()}  # by the field of a rule


class CannotExpress(Exception):
    """A rule has a match or an action without an equivalent in rules of pylvs; the text names it."""


class NoEquivalent(CannotExpress):
    """The same. The text follows the name of the command that imports the rule."""


class Position(NamedTuple):
    """Where rules are, in iptables and in nftables, and the command that imports them."""

    table: str
    chain: str
    hook: str
    priority: int  # of iptables' table
    command: str
    verdicts: Mapping[str, str] = {}  # further ones, by the target of iptables


MARKS = Position("mangle", "PREROUTING", "prerouting", -150, "pylvs mark")  # NF_IP_PRI_MANGLE
INPUT = Position("filter", "INPUT", "input", 0, "pylvs filter", {"DROP": "drop", "REJECT": "reject"})


Clause = tuple[MarkRule, ...]  # alternatives: one must hold; an empty clause never holds


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule that is not imported: location, text, reason, and the chains that it may call.

    `clauses` are those of its conditions that are known. With `any_target` one on the destination is not.
    `accepts`: that is its verdict.
    """

    location: str
    text: str
    reason: str
    chains: tuple[str, ...] = ()
    clauses: tuple[Clause, ...] = ()
    any_target: bool = False
    accepts: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """The conditions and actions of a netfilter rule. `verdict` is "", "accept", "return", "jump" or "goto".

    At INPUT it may be "drop" or "reject".
    """

    location: str
    text: str
    clauses: tuple[Clause, ...] = ()
    mask: int = 0
    value: int = 0
    verdict: str = ""
    chain: str = ""  # of a jump


@dataclass(slots=True)
class Hook:
    """A base chain at prerouting or input, its rules, and the chains that they call."""

    name: str
    priority: int
    family: int  # 4, 6, or 0 for both
    rules: Sequence[Rule | Skipped]
    chains: Mapping[str, Sequence[Rule | Skipped]] = field(default_factory=dict)


def condition(turned: bool = False, /, **fields: Any) -> MarkRule:
    """Return a condition on fields of a rule; `turned` negates it."""
    bits = NOTHING_TURNED
    if turned:
        for name in fields:
            bits |= _TURNED[name]
    return replace(EMPTY, turned=bits, **fields)


def ports(side: str, ranges: Ranges, turned: bool = False) -> Clause:
    """Return a clause about ports, with any number of ranges."""
    if len(ranges) <= MOST_RANGES:
        return (condition(turned, **{side: ranges}),)
    if turned:
        ranges = _complement(ranges)
    return tuple(condition(**{side: ranges[at : at + MOST_RANGES]}) for at in range(0, len(ranges), MOST_RANGES))


def _complement(ranges: Ranges) -> Ranges:
    """Return the ports in none of these sorted ranges."""
    found, at = [], 0
    for first, last in ranges:
        if at < first:
            found.append((at, first - 1))
        at = last + 1
    if at <= 0xFFFF:
        found.append((at, 0xFFFF))
    return tuple(found)


def of_state(states: Iterable[str], turned: bool) -> list[Clause]:
    """Return the clauses of a condition on the state of connection tracking, for a packet that opens a connection."""
    return [] if ("new" in {each.lower() for each in states}) != turned else [()]


def compose(mask: int, value: int, then_mask: int, then_value: int) -> tuple[int, int]:
    """Combine two changes of a mark, one after the other, into one."""
    return (mask | then_mask) & ALL_BITS, (value & ~then_mask ^ then_value) & ALL_BITS


@dataclass(eq=False, slots=True)
class _Label:
    """A position in the list, known once the rules before it are written."""

    position: int = -1


class _Call(NamedTuple):
    """A chain while its rules are written: where its end and that of the base chain are, and the calls around it."""

    hook: Hook
    end: _Label
    hook_end: _Label
    chains: tuple[str, ...] = ()


class _Writer:
    """The growing list of mark rules."""

    def __init__(self) -> None:
        self.rules: list[tuple[MarkRule, _Label | None, _Label | None]] = []
        self.skipped: list[Skipped] = []
        self._reported: set[str] = set()

    def add(self, rule: MarkRule, then: _Label | None = None, otherwise: _Label | None = None) -> None:
        if len(self.rules) >= MOST_RULES:
            raise InvalidOperation(f"these rules become more than {MOST_RULES} mark rules; that is all the table holds")
        self.rules.append((rule, then, otherwise))

    def set_label(self, label: _Label) -> None:
        label.position = len(self.rules)

    def skip(self, rule: Skipped) -> None:
        """Report a rule that is not imported, once even if its chain is called often."""
        if f"{rule.location} {rule.text}" not in self._reported:
            self._reported.add(f"{rule.location} {rule.text}")
            self.skipped.append(rule)

    def finish(self) -> list[MarkRule]:
        def skip_to(label: _Label | None, at: int) -> int:
            return 0 if label is None else label.position - at - 1

        return [
            checked(replace(rule, then_skip=skip_to(then, at), else_skip=skip_to(otherwise, at)))
            for at, (rule, then, otherwise) in enumerate(self.rules)
        ]

    def hook(self, hook: Hook) -> None:
        end = _Label()
        self.chain(_Call(hook, end, end), hook.rules)

    def chain(self, call: _Call, rules: Sequence[Rule | Skipped]) -> None:
        for rule in rules:
            if isinstance(rule, Skipped):
                self.skip(rule)
            else:
                self.rule(call, rule)
        self.set_label(call.end)

    def rule(self, call: _Call, rule: Rule) -> None:
        family = call.hook.family
        clauses = ((replace(EMPTY, family=family),), *rule.clauses) if family else rule.clauses
        merged, rest = _merge(clauses)
        if () in rest:
            return  # it never matches
        if rule.verdict in ("jump", "goto"):
            self._call(call, rule, merged, rest)
            return
        then = {"": None, "accept": call.hook_end, "return": call.end}[rule.verdict]
        if not (rule.mask or rule.value) and then is None:
            return
        marking = replace(merged, mask=rule.mask, value=rule.value)
        if len(rest) == 1 and then is None:
            both = [each for each in (_intersect(marking, one) for one in rest[0]) if each and _families(each) <= 1]
            if len(both) == len(rest[0]):
                self._alternatives(both)
                return
        after = _Label()
        self._guards(rest, after)
        self.add(marking, then)
        self.set_label(after)

    def _alternatives(self, rules: list[MarkRule]) -> None:
        """Add one rule for each alternative; a packet runs the first that matches."""
        after = _Label()
        for rule in rules[:-1]:
            self.add(rule, after)
        self.add(rules[-1])
        self.set_label(after)

    def _guards(self, clauses: Sequence[Clause], otherwise: _Label) -> None:
        """Add rules without an effect that skip to `otherwise` unless all clauses hold."""
        for clause in clauses:
            holds = _Label()
            for each in clause[:-1]:
                self.add(each, holds)
            self.add(clause[-1], None, otherwise)
            self.set_label(holds)

    def _call(self, call: _Call, rule: Rule, merged: MarkRule, rest: Sequence[Clause]) -> None:
        """Inline the chain that a rule calls, behind rules that skip it unless all clauses hold."""
        if rule.chain not in call.hook.chains:
            self.skip(Skipped(rule.location, rule.text, f"it calls {rule.chain}, which is not there"))
            return
        if rule.chain in call.chains or len(call.chains) >= MAX_DEPTH:
            text = "chains that call each other in circles, or too deeply"
            raise InvalidOperation(f"{rule.location}: {rule.text}: {text}")
        after = _Label()
        self._guards([*rest, (replace(merged, mask=rule.mask, value=rule.value),)], after)
        inner = _Call(call.hook, _Label(), call.hook_end, (*call.chains, rule.chain))
        self.chain(inner, call.hook.chains[rule.chain])
        if rule.verdict == "goto":
            self.add(EMPTY, call.end)
        self.set_label(after)


def _intersect(one: MarkRule, other: MarkRule) -> MarkRule | None:
    """Return one rule with the conditions of both; None if both have different conditions on one field."""
    found = one
    for name in ("family", *_TURNED):
        value = getattr(other, name)
        if value == getattr(EMPTY, name):
            continue
        mine = getattr(found, name)
        bit = _TURNED.get(name, NOTHING_TURNED)
        if mine == getattr(EMPTY, name):
            found = replace(found, turned=found.turned | other.turned & bit, **{name: value})
        elif mine != value or found.turned & bit != other.turned & bit:
            return None
    return found


def _merge(clauses: Sequence[Clause]) -> tuple[MarkRule, list[Clause]]:
    """Return one rule of the clauses that fit into one, and the other clauses."""
    found, rest = EMPTY, []
    for clause in clauses:
        both = _intersect(found, clause[0]) if len(clause) == 1 else None
        if both is not None and _families(both) <= 1:
            found = both
        else:
            rest.append(clause)
    return found, rest


def _families(rule: MarkRule) -> int:
    """Count the address families in the conditions of a rule."""
    versions = {each.version for each in (rule.source, rule.target) if each is not None} | ({rule.family} - {0})
    return len(versions)


def mark_rules(hooks: Sequence[Hook]) -> tuple[list[MarkRule], list[Skipped]]:
    """Return mark rules equivalent to these base chains, and the rules that are not imported.

    Raises InvalidOperation if there are too many, or if chains call each other in a loop.
    """
    writer = _Writer()
    for hook in sorted(hooks, key=lambda each: each.priority):
        writer.hook(hook)
    return writer.finish(), writer.skipped
