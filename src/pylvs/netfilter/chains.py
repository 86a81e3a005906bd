"""What importing reads rules into, whichever tool wrote them, and the list of mark rules that does the same.

A netfilter rule is a sequence of clauses that must all hold, each a choice of alternatives, and then some actions. It
becomes one mark rule where that says it all, else several that lead past each other; chains that are jumped to are
written out where they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import ALL_BITS, MOST_RANGES, MOST_RULES, NOTHING_TURNED, MarkRule, Not, Ranges, checked

DEEPEST = 16  # jumps within jumps, as in netfilter
EMPTY = MarkRule(mask=0)
_TURNED = {
    "protocol": Not.PROTOCOL,
    "source": Not.SOURCE,
    "target": Not.TARGET,
    "source_ports": Not.SOURCE_PORTS,
    "target_ports": Not.TARGET_PORTS,
    "device": Not.DEVICE,
    "link": Not.LINK,
    "tcp_flags": Not.TCP_FLAGS,
    "tos": Not.TOS,
    "mark": Not.MARK,
}


class CannotExpress(Exception):
    """A rule asks or does what mark rules cannot; the text says what."""


@dataclass(frozen=True, slots=True)
class Left:
    """A rule that was left out: where it stands, its words, and why."""

    place: str
    text: str
    reason: str


Clause = tuple[MarkRule, ...]  # alternatives, of whose conditions one must hold; none: it never holds


@dataclass(frozen=True, slots=True)
class Rule:
    """What a netfilter rule asks and does. `verdict` is "", "accept", "return", "jump" or "goto"."""

    place: str
    text: str
    clauses: tuple[Clause, ...] = ()
    mask: int = 0
    value: int = 0
    verdict: str = ""
    chain: str = ""  # of a jump


@dataclass(slots=True)
class Hook:
    """A base chain: the rules that are asked at prerouting, in the order of their priorities, and those they call."""

    name: str
    priority: int
    family: int  # 4, 6, or 0 for both
    rules: Sequence[Rule | Left]
    chains: Mapping[str, Sequence[Rule | Left]] = field(default_factory=dict)


def condition(turned: bool = False, /, **fields: Any) -> MarkRule:
    """A condition on one field of a rule, perhaps turned round."""
    bits = NOTHING_TURNED
    if turned:
        for name in fields:
            bits |= _TURNED[name]
    return replace(EMPTY, turned=bits, **fields)


def ports(side: str, ranges: Ranges, turned: bool = False) -> Clause:
    """A clause about ports, however many ranges there are."""
    if len(ranges) <= MOST_RANGES:
        return (condition(turned, **{side: ranges}),)
    if turned:
        ranges = _others(ranges)
    return tuple(condition(**{side: ranges[at : at + MOST_RANGES]}) for at in range(0, len(ranges), MOST_RANGES))


def _others(ranges: Ranges) -> Ranges:
    """The ports in no range; these in order."""
    found, at = [], 0
    for first, last in ranges:
        if at < first:
            found.append((at, first - 1))
        at = last + 1
    if at <= 0xFFFF:
        found.append((at, 0xFFFF))
    return tuple(found)


def composed(mask: int, value: int, then_mask: int, then_value: int) -> tuple[int, int]:
    """Two changes of a mark, one after the other, as one."""
    return (mask | then_mask) & ALL_BITS, (value & ~then_mask ^ then_value) & ALL_BITS


# --- writing the list ---


@dataclass(eq=False, slots=True)
class _Label:
    """A place in the list that is known once what comes before is written."""

    place: int = -1


class _Writer:
    """The list as it grows."""

    def __init__(self) -> None:
        self.rules: list[tuple[MarkRule, _Label | None, _Label | None]] = []
        self.left: list[Left] = []
        self.told: set[str] = set()

    def add(self, rule: MarkRule, then: _Label | None = None, otherwise: _Label | None = None) -> None:
        if len(self.rules) >= MOST_RULES:
            raise InvalidOperation(f"these rules become more than {MOST_RULES} mark rules; that is all the table holds")
        self.rules.append((rule, then, otherwise))

    def here(self, label: _Label) -> None:
        label.place = len(self.rules)

    def leave(self, left: Left) -> None:
        """Note a rule that was left out, once, however often its chain is called."""
        if f"{left.place} {left.text}" not in self.told:
            self.told.add(f"{left.place} {left.text}")
            self.left.append(left)

    def finished(self) -> list[MarkRule]:
        def skip(label: _Label | None, at: int) -> int:
            return 0 if label is None else label.place - at - 1

        return [
            checked(replace(rule, then_skip=skip(then, at), else_skip=skip(otherwise, at)))
            for at, (rule, then, otherwise) in enumerate(self.rules)
        ]

    # --- chains and rules ---

    def hook(self, hook: Hook) -> None:
        end = _Label()
        self.chain(hook, hook.rules, end, end, ())
        self.here(end)

    def chain(
        self, hook: Hook, rules: Sequence[Rule | Left], chain_end: _Label, hook_end: _Label, called: tuple[str, ...]
    ) -> None:
        for rule in rules:
            if isinstance(rule, Left):
                self.leave(rule)
            else:
                self.rule(hook, rule, chain_end, hook_end, called)

    def rule(self, hook: Hook, rule: Rule, chain_end: _Label, hook_end: _Label, called: tuple[str, ...]) -> None:
        clauses = rule.clauses if not hook.family else ((replace(EMPTY, family=hook.family),), *rule.clauses)
        merged, rest = _merged(clauses)
        if () in rest:
            return  # it never matches
        if rule.verdict in ("jump", "goto"):
            self._call(hook, rule, merged, rest, chain_end, hook_end, called)
            return
        then = {"": None, "accept": hook_end, "return": chain_end}[rule.verdict]
        if not (rule.mask or rule.value) and then is None:
            return
        marking = replace(merged, mask=rule.mask, value=rule.value)
        if len(rest) == 1 and then is None:
            both = [each for each in (_joined(marking, one) for one in rest[0]) if each and _families(each) <= 1]
            if len(both) == len(rest[0]):
                self._alternatives(both)
                return
        after = _Label()
        self._guards(rest, after)
        self.add(marking, then)
        self.here(after)

    def _alternatives(self, rules: list[MarkRule]) -> None:
        """One rule for each alternative; the first that matches is the only one."""
        after = _Label()
        for rule in rules[:-1]:
            self.add(rule, after)
        self.add(rules[-1])
        self.here(after)

    def _guards(self, clauses: Sequence[Clause], otherwise: _Label) -> None:
        """Rules that change nothing and let only those packets go on for which all clauses hold."""
        for clause in clauses:
            holds = _Label()
            for each in clause[:-1]:
                self.add(each, holds)
            self.add(clause[-1], None, otherwise)
            self.here(holds)

    def _call(
        self,
        hook: Hook,
        rule: Rule,
        merged: MarkRule,
        rest: Sequence[Clause],
        chain_end: _Label,
        hook_end: _Label,
        called: tuple[str, ...],
    ) -> None:
        if rule.chain not in hook.chains:
            self.leave(Left(rule.place, rule.text, f"it calls {rule.chain}, which is not there"))
            return
        if rule.chain in called or len(called) >= DEEPEST:
            raise InvalidOperation(f"{rule.place}: {rule.text}: chains that call each other in circles, or too deeply")
        after, end = _Label(), _Label()
        self._guards([*rest, (replace(merged, mask=rule.mask, value=rule.value),)], after)
        self.chain(hook, hook.chains[rule.chain], end, hook_end, (*called, rule.chain))
        self.here(end)
        if rule.verdict == "goto" and chain_end is not end:
            self.add(EMPTY, chain_end)
        self.here(after)


def _joined(one: MarkRule, other: MarkRule) -> MarkRule | None:
    """The conditions of both in one rule; None where both ask about the same."""
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


def _merged(clauses: Sequence[Clause]) -> tuple[MarkRule, list[Clause]]:
    """One rule of what can be asked in one, and the clauses beyond it."""
    found, rest = EMPTY, []
    for clause in clauses:
        both = _joined(found, clause[0]) if len(clause) == 1 else None
        if both is not None and _families(both) <= 1:
            found = both
        else:
            rest.append(clause)
    return found, rest


def _families(rule: MarkRule) -> int:
    """How many address families a rule's conditions are about."""
    versions = {each.version for each in (rule.source, rule.target) if each is not None} | ({rule.family} - {0})
    return len(versions)


def mark_rules(hooks: Sequence[Hook]) -> tuple[list[MarkRule], list[Left]]:
    """The list that does what these base chains do, and the rules that it could not take over.

    Raises InvalidOperation where there are too many, or chains call each other in circles.
    """
    writer = _Writer()
    for hook in sorted(hooks, key=lambda each: each.priority):
        writer.hook(hook)
    return writer.finished(), writer.left
