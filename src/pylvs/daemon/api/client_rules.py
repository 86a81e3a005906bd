"""Client rules as the API lists them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

from pylvs.daemon.api import replies
from pylvs.model.client_rules import Action, ClientRule
from pylvs.model.service import ServiceKey

Origin = Literal["file", "operator", "other"]
ACTIONS: Mapping[Action, Literal["allow", "drop", "pass"]] = {
    Action.ALLOW: "allow",
    Action.DROP: "drop",
    Action.PASS: "pass",
}


class RuleListing:
    """The rules of services in the table.

    `operator` has those of the operator, and `configured` the services of the file.
    """

    def __init__(
        self,
        rules: Mapping[ServiceKey, Sequence[ClientRule]],
        operator: Mapping[ServiceKey, Collection[ClientRule]],
        configured: Collection[ServiceKey],
    ) -> None:
        self._rules = rules
        self._operator = operator
        self._configured = configured

    @property
    def total(self) -> int:
        """How many rules there are."""
        return sum(map(len, self._rules.values()))

    def lines(self, start: int = 0) -> Iterator[replies.ClientRuleLine]:
        """Yield the rules by service and prefix, from this number on; those before cost little."""
        found = ((key, rule) for key in sorted(self._rules, key=str) for rule in self._rules[key])
        return (_encoded(key, rule, self._origin(key, rule)) for key, rule in islice(found, start, None))

    def _origin(self, key: ServiceKey, rule: ClientRule) -> Origin:
        if rule in self._operator.get(key, ()):
            return "operator"
        return "file" if key in self._configured else "other"


def _encoded(key: ServiceKey, rule: ClientRule, origin: Origin) -> replies.ClientRuleLine:
    found: replies.ClientRuleLine = {
        "service": str(key),
        "rule": str(rule),
        "prefix": str(rule.prefix),
        "action": ACTIONS[rule.action],
        "origin": origin,
    }
    if rule.rate:
        found["rate"], found["period_s"] = rule.rate, rule.period_s
        found["burst"], found["client_bits"] = rule.burst, rule.client_bits
    return found
