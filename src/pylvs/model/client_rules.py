"""Client rules of a service: which clients may open connections, and how fast.

The rule of the longest prefix that has the client's address decides. Without such a rule the client is admitted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from zlib import crc32

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSpace

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, Final

Network = IPv4Network | IPv6Network
MOST_RULES: Final = 1 << 20  # of all services
MOST_CONNECTIONS: Final = 1_000_000  # of a rate and of a burst
PERIODS: Final = {"s": 1, "min": 60, "h": 3600}
NANOSECONDS: Final = 1_000_000_000
_LISTED: Final = 4  # in a line
SYNTAX: Final = (
    "allow PREFIX, deny PREFIX [pass], or limit PREFIX NUMBER/s [per BITS] [burst NUMBER] [pass]; also /min and /h"
)


class Action(IntEnum):
    """What becomes of a new connection, with the values of enum client_action in bpf/abi/config.h."""

    ALLOW = 0
    DROP = 1
    PASS = 2  # to the stack


@dataclass(frozen=True, slots=True)
class ClientRule:
    """One rule. With a limit, the action is that of the connections beyond it.

    A client may open `rate` connections in `period_s` seconds, and `burst` at once. Clients whose addresses share
    `client_bits` bits share a limit.
    """

    prefix: Network
    action: Action
    rate: int = 0  # 0: no limit
    period_s: int = 1
    burst: int = 0
    client_bits: int = 0

    def __str__(self) -> str:
        """Return the rule in the words of `rule_of`."""
        words = ["limit" if self.rate else "allow" if self.action == Action.ALLOW else "deny", str(self.prefix)]
        if self.rate:
            unit = next(name for name, seconds in PERIODS.items() if seconds == self.period_s)
            words.append(f"{self.rate}/{unit}")
            if self.client_bits != self.prefix.max_prefixlen:
                words += ["per", str(self.client_bits)]
            if self.burst != self.rate:
                words += ["burst", str(self.burst)]
        if self.action == Action.PASS:
            words.append("pass")
        return " ".join(words)

    @property
    def interval_ns(self) -> int:
        """Nanoseconds between two connections of a client at its rate; 0: no limit."""
        return self.period_s * NANOSECONDS // self.rate if self.rate else 0


def is_within(prefix: Network, other: Any) -> bool:
    """Return whether all addresses of a prefix are in another one; none are if that is of the other family."""
    return bool(prefix.version == other.version and prefix.subnet_of(other))


def prefix_of(text: str) -> Network:
    """Parse a prefix; an address is the prefix of itself alone. Raises InvalidOperation, also for host bits."""
    if "%" in text:  # Python accepts the zone of RFC 4007, which no packet has
        raise InvalidOperation(f"{text}: a prefix has no zone; leave out the % and what is behind it")
    try:
        return ip_network(text)
    except ValueError as error:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise InvalidOperation(f"{text}: must be a prefix, such as 10.0.0.0/8 or 2001:db8::/32") from None
        if "host bits" in str(error):
            raise InvalidOperation(f"{text}: has bits behind its prefix; write {meant}") from None
        raise InvalidOperation(f"{text}: {error}") from None


def rule_of(words: Sequence[str]) -> ClientRule:
    """Parse the words of a rule (`SYNTAX`). Raises InvalidOperation."""
    kind, *rest = words or ("",)
    if kind not in ("allow", "deny", "limit") or not rest:
        raise InvalidOperation(f"{' '.join(words) or 'an empty rule'}: must be {SYNTAX}")
    prefix, rest = prefix_of(rest[0]), rest[1:]
    if kind == "allow" and not rest:
        return ClientRule(prefix, Action.ALLOW)
    action = Action.DROP
    if rest and rest[-1] == "pass" and kind != "allow":
        action, rest = Action.PASS, rest[:-1]
    if kind == "deny" and not rest:
        return ClientRule(prefix, action)
    if kind != "limit" or not rest:
        raise InvalidOperation(f"{' '.join(words)}: must be {SYNTAX}")
    rate, period_s = _rate(rest[0])
    fields = {"per": prefix.max_prefixlen, "burst": rate}
    options, given = rest[1:], set[str]()
    while options:
        name, *options = options
        if name not in fields or name in given or not options:
            raise InvalidOperation(f"{' '.join(words)}: must be {SYNTAX}")
        given.add(name)
        limits = (prefix.prefixlen, prefix.max_prefixlen) if name == "per" else (1, MOST_CONNECTIONS)
        fields[name] = _number(name, options.pop(0), *limits)
    return ClientRule(prefix, action, rate, period_s, fields["burst"], fields["per"])


def _rate(text: str) -> tuple[int, int]:
    number, slash, unit = text.partition("/")
    if not slash or unit not in PERIODS:
        raise InvalidOperation(f"{text}: must be connections in a time, such as 20/s, 20/min or 20/h")
    return _number("rate", number, 1, MOST_CONNECTIONS), PERIODS[unit]


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise InvalidOperation(f"{name} {text}: must be a number from {least} to {most}")
    return int(text)


def checked(service: object, version: int, rules: Iterable[ClientRule]) -> tuple[ClientRule, ...]:
    """Return the rules of a service of IPv4 (4) or IPv6 (6), in the order of their prefixes, each once.

    Raises InvalidOperation for a prefix of the other family, and for two rules of one prefix; NoSpace.
    """
    by_prefix: dict[Network, ClientRule] = {}
    for rule in rules:
        if rule.prefix.version != version:
            raise InvalidOperation(f"{service}: {rule}: the service is of IPv{version}, the prefix is not")
        if by_prefix.setdefault(rule.prefix, rule) != rule:
            raise InvalidOperation(f"{service}: two rules for {rule.prefix}: {by_prefix[rule.prefix]}; {rule}")
    if len(by_prefix) > MOST_RULES:
        raise NoSpace(
            f"{service}: {len(by_prefix)} client rules; the table holds {MOST_RULES}", "client rules", MOST_RULES
        )
    return tuple(sorted(by_prefix.values(), key=by_order))


def edited(
    service: object, rules: Sequence[ClientRule], added: Iterable[ClientRule], doomed: Collection[Network]
) -> list[ClientRule]:
    """Return the rules of a service without those of some prefixes, and with others.

    Raises InvalidOperation for a prefix without a rule.
    """
    if missing := set(doomed).difference(each.prefix for each in rules):
        raise InvalidOperation(f"{service}: no rule for {min(map(str, missing))}; see pylvs filter list")
    return [*(each for each in rules if each.prefix not in doomed), *added]


def overlaid(rules: Sequence[ClientRule], others: Iterable[ClientRule]) -> tuple[ClientRule, ...]:
    """Return rules with others, which replace those of their prefixes. Both are in the order of their prefixes."""
    found, at = list[ClientRule](), 0
    for other in others:  # which are few: the rules between two of them are copied at once
        position = bisect_left(rules, by_order(other), at, key=by_order)
        found += rules[at:position]
        found.append(other)
        at = position + (position < len(rules) and rules[position].prefix == other.prefix)
    return (*found, *rules[at:])


def by_order(rule: ClientRule) -> tuple[int, int]:
    """Return what sorts rules of one family by their prefixes."""
    return int(rule.prefix.network_address), rule.prefix.prefixlen


def summary(rules: Sequence[ClientRule]) -> str:
    """Describe rules in a line: the first ones, and a checksum that tells many apart."""
    text = "; ".join(map(str, rules[:_LISTED]))
    if len(rules) <= _LISTED:
        return text
    return f"{len(rules)} ({text}; ...; checksum {crc32(repr(rules).encode()):08x})"
