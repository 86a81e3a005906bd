"""Client rules of services: which clients may open connections, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pylvs.library.errors import Exists, NotFound
from pylvs.library.invalid import InvalidValue, located
from pylvs.library.keys import ServiceKey, choice, number, setter, text
from pylvs.library.values import Service, service_key
from pylvs.model.client_rules import MOST_CONNECTIONS, MOST_RULES, PERIODS, SYNTAX, Action, checked, prefix_of, rule_of
from pylvs.model.client_rules import ClientRule as ModelRule
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Literal

    ActionName = Literal["allow", "drop", "pass"]

Network = IPv4Network | IPv6Network
Prefix = Network | IPv4Address | IPv6Address
_PREFIX = "must be a prefix, such as 10.0.0.0/8 or 2001:db8::/32"
_RULES = "must be client rules or their texts in a list, as ['deny 10.0.0.0/8']"


class ClientAction(StrEnum):
    """What becomes of a client's new connection; with a rate, of one beyond it."""

    ALLOW = "allow"
    DROP = "drop"
    PASS = "pass"  # to the host's stack


@dataclass(frozen=True, slots=True)
class ClientRule:
    """A rule for the clients of a prefix. Of several rules, the one with the longest prefix decides.

    With a `rate`, a client may open so many connections in `period_s`, and `burst` at once. Clients whose addresses
    share `client_bits` bits share the rate. Without a rate, `burst` is 0 and `client_bits` None.
    """

    prefix: Network
    action: ClientAction
    rate: int
    period_s: int
    burst: int
    client_bits: int | None

    def __init__(
        self,
        prefix: Prefix | str,
        action: ClientAction | ActionName = "drop",
        *,
        rate: int = 0,
        period_s: int = 1,
        burst: int = 0,
        client_bits: int | None = None,
    ) -> None:
        """Take a prefix or an address. A burst of 0 means `rate`, and no `client_bits` each address by itself.

        Raises InvalidValue.
        """
        put = setter(self)
        put("prefix", prefix_from("prefix", prefix))
        with located(self.prefix):
            put("action", choice("action", action, ClientAction, True))
            put("rate", number("rate", rate, 0, MOST_CONNECTIONS))
            if type(period_s) is not int or period_s not in PERIODS.values():
                raise InvalidValue("period_s", period_s, f"must be one of: {', '.join(map(str, PERIODS.values()))}")
            put("period_s", period_s)
            put("burst", number("burst", burst, 0, MOST_CONNECTIONS) or self.rate)
            bits = self.prefix.prefixlen, self.prefix.max_prefixlen
            default = bits[1] if self.rate else None
            put("client_bits", default if client_bits is None else number("client_bits", client_bits, *bits))
            if self.rate and self.action is ClientAction.ALLOW:
                raise InvalidValue(
                    "action", str(self.action), 'must be "drop" or "pass": it is for what exceeds the rate'
                )
            if not self.rate and (self.period_s, self.burst, self.client_bits) != (1, 0, None):
                raise InvalidValue("rate", rate, "must not be 0 with a period, a burst or client bits")

    @classmethod
    def parse(cls, text: str) -> ClientRule:
        """Invert `str`: `deny 10.0.0.0/8`, `limit 0.0.0.0/0 20/s`, as `pylvs filter add` takes it.

        Raises InvalidValue.
        """
        words = _text("rule", text, f"must be {SYNTAX}").split()
        try:
            return cls.from_model(rule_of(words))
        except PylvsError as error:
            raise InvalidValue("rule", text, str(error)) from None

    @classmethod
    def from_model(cls, rule: ModelRule) -> ClientRule:
        """Return a rule of the table, without checks."""
        made = cls.__new__(cls)
        put = setter(made)
        put("prefix", rule.prefix)
        put("action", _ACTIONS[rule.action])
        put("rate", rule.rate)
        put("period_s", rule.period_s)
        put("burst", rule.burst)
        put("client_bits", rule.client_bits if rule.rate else None)
        return made

    def to_model(self) -> ModelRule:
        """Return what the data plane edits."""
        action = Action[self.action.name]
        return ModelRule(self.prefix, action, self.rate, self.period_s, self.burst, self.client_bits or 0)

    def __str__(self) -> str:
        return str(self.to_model())


_ACTIONS = {each: ClientAction[each.name] for each in Action}
_text = text  # the argument of `parse` hides the function


def prefix_from(field: str, value: object) -> Network:
    """Return a prefix from its text, an address or itself. Raises InvalidValue."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    given = str(value) if isinstance(value, IPv4Address | IPv6Address) else text(field, value, _PREFIX)
    try:
        return prefix_of(given)
    except PylvsError as error:
        raise InvalidValue(field, value, str(error).removeprefix(f"{given}: ")) from None


def prefixes_from(value: object) -> frozenset[Network]:
    """Return the prefixes of an argument `prefixes`. Raises InvalidValue."""
    if isinstance(value, str | IPv4Network | IPv6Network) or not isinstance(value, Iterable):
        raise InvalidValue("prefixes", value, "must be prefixes or their texts in a list, as ['10.0.0.0/8']")
    return frozenset(prefix_from("prefixes", each) for each in value)


def rules_for(key: ServiceKey, value: object, field: str = "rules") -> tuple[ModelRule, ...]:
    """Return the rules of an argument in the order of their prefixes. Raises InvalidValue."""
    if isinstance(value, str | ClientRule) or not isinstance(value, Iterable):
        raise InvalidValue(field, value, _RULES)
    found = []
    for rule in value:
        if not isinstance(rule, ClientRule | str):
            raise InvalidValue(field, rule, _RULES)
        try:
            found.append(rule.to_model() if isinstance(rule, ClientRule) else rule_of(rule.split()))
        except PylvsError as error:
            raise InvalidValue(field, rule, str(error)) from None
    if len(found) > MOST_RULES:
        raise InvalidValue(field, len(found), f"must be at most {MOST_RULES} rules")
    try:
        return checked(key, key.address.version, found)
    except PylvsError as error:
        what, _, hint = str(error).removeprefix(f"{key}: ").partition(": ")
        raise InvalidValue(field, what, hint, str(key)) from None


def rules_by_service(value: object) -> dict[ServiceKey, tuple[ModelRule, ...]]:
    """Return the rules of an argument `client_rules`. Raises InvalidValue."""
    if not isinstance(value, Mapping):
        raise InvalidValue("client_rules", value, "must be a dictionary of rules by service")
    found = {}
    for service, rules in value.items():
        try:
            key = service_key(service)
        except InvalidValue as error:
            raise InvalidValue("client_rules", service, str(error)) from None
        if key in found:
            raise InvalidValue("client_rules", str(key), "is listed twice")
        found[key] = rules_for(key, rules, "client_rules")
    return found


def check_conflicts(
    key: ServiceKey, present: Iterable[ModelRule], added: Iterable[ModelRule], doomed: Iterable[Network]
) -> None:
    """Raise NotFound for a prefix without a rule, and Exists for one that has another rule."""
    rules = {each.prefix: each for each in present}
    for prefix in sorted(doomed, key=str):
        if prefix not in rules:
            raise NotFound(key, prefix=prefix)
    for rule in added:
        if rules.get(rule.prefix, rule) != rule:
            raise Exists(key, prefix=rule.prefix)


def from_models(rules: Iterable[ModelRule]) -> tuple[ClientRule, ...]:
    """Return rules of the table."""
    return tuple(map(ClientRule.from_model, rules))


_Rules = Iterable[ClientRule | str]
ServiceRules = Mapping[Service, _Rules] | Mapping[ServiceKey, _Rules] | Mapping[str, _Rules]  # keys are invariant
