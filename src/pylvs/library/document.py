"""The whole table as JSON types: services with their servers, timeouts, settings, mark rules and client rules.

docs/reference/json.md has the fields. A part that a document lacks stays as it is in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from pylvs.library.difference import Difference, by_key
from pylvs.library.invalid import InvalidValue, located
from pylvs.library.keys import ServiceKey, number
from pylvs.library.values import Service
from pylvs.model.client_rules import SYNTAX, ClientRule
from pylvs.model.client_rules import checked as checked_rules
from pylvs.model.client_rules import rule_of as client_rule_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import PylvsError
from pylvs.model.marks import ALL_BITS, MOST_RULES, TO_THE_END, MarkRule, checked
from pylvs.model.marks.words import conditions, rule_of, rule_text
from pylvs.model.service import LONGEST_S, Timeouts
from pylvs.model.settings import checked as checked_setting
from pylvs.model.settings import known_setting

Value = TypeVar("Value")
ClientRules = Mapping[ServiceKey, tuple[ClientRule, ...]]

FORMAT = 1  # another number: a document that this version cannot read
_PARTS = ("pylvs_table", "services", "timeouts", "settings", "mark_rules", "client_rules")
_RULE_SET = ("service", "rules")
_TIMEOUTS = ("tcp_s", "tcp_fin_s", "udp_s")
_JUMPS = ("then_skip", "else_skip")
_ARGUMENTS = {"in": "device"}  # of `rule_of`, where they are not the option's name
_OPTIONS = ("proto", "src", "sports", "dst", "dports", "in", "mac", "tcp-flags", "tos", "if-mark")


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a table; a part that is None is not in the document."""

    services: tuple[Service, ...]
    timeouts: Timeouts | None = None
    settings: Mapping[str, int] | None = None
    mark_rules: tuple[MarkRule, ...] | None = None
    client_rules: ClientRules | None = None  # of the services that have any

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON types; `from_dict` inverts it."""
        found: dict[str, Any] = {"pylvs_table": FORMAT, "services": [each.to_dict() for each in self.services]}
        if self.timeouts is not None:
            found["timeouts"] = dict(zip(_TIMEOUTS, self.timeouts, strict=True))
        if self.settings is not None:
            found["settings"] = dict(self.settings)
        if self.mark_rules is not None:
            found["mark_rules"] = [_rule_to_dict(each) for each in self.mark_rules]
        if self.client_rules is not None:
            found["client_rules"] = [
                {"service": str(key), "rules": list(map(str, rules))} for key, rules in self.client_rules.items()
            ]
        return found

    @staticmethod
    def from_dict(data: object) -> Document:
        """Return the document that `to_dict` describes. Raises InvalidValue, with the position of the value."""
        given = _object(data, "document", _PARTS, _PARTS[:2])
        if given["pylvs_table"] != FORMAT:
            raise InvalidValue("pylvs_table", given["pylvs_table"], f"must be {FORMAT}, the format of this version")
        services = tuple(_items(given, "services", Service.from_dict))
        known = by_key(services, "services")
        return Document(
            services,
            _timeouts(given["timeouts"]) if "timeouts" in given else None,
            _settings(given["settings"]) if "settings" in given else None,
            _rules(given) if "mark_rules" in given else None,
            _client_rules(given, known) if "client_rules" in given else None,
        )


def changes(before: Document, after: Document, services: Difference) -> Iterator[str]:
    """Yield a line for each difference of the tables; `services` is that of their services."""
    yield from str(services).splitlines()
    for name, former, latter in zip(_TIMEOUTS, before.timeouts or (), after.timeouts or (), strict=False):
        if latter not in (0, former):
            yield f"~ timeout {name} {former} -> {latter}"
    for name, value in (after.settings or {}).items():
        present = (before.settings or {}).get(name)
        if value != present:
            yield f"~ net.ipv4.vs.{name} {present} -> {value}"
    if after.mark_rules is not None and after.mark_rules != before.mark_rules:
        yield from (f"- mark rule {rule_text(each, at)}" for at, each in enumerate(before.mark_rules or (), 1))
        yield from (f"+ mark rule {rule_text(each, at)}" for at, each in enumerate(after.mark_rules, 1))
    if after.client_rules is not None:
        yield from _rule_changes(before.client_rules or {}, after.client_rules)


def _rule_changes(before: ClientRules, after: ClientRules) -> Iterator[str]:
    for key in sorted({*before, *after}, key=str):
        former, latter = before.get(key, ()), after.get(key, ())
        gone, new = set(former).difference(latter), set(latter).difference(former)
        yield from (f"- client rule {key} {rule}" for rule in former if rule in gone)
        yield from (f"+ client rule {key} {rule}" for rule in latter if rule in new)


def _client_rules(given: Mapping[str, Any], services: Collection[ServiceKey]) -> ClientRules:
    found = dict[ServiceKey, tuple[ClientRule, ...]]()
    for at, (key, rules) in enumerate(_items(given, "client_rules", partial(_rule_set, services))):
        if key in found:
            raise InvalidValue("service", str(key), "is listed twice", f"client_rules[{at}]")
        found[key] = rules
    return found


def _rule_set(services: Collection[ServiceKey], item: object) -> tuple[ServiceKey, tuple[ClientRule, ...]]:
    given = _object(item, "client rule set", _RULE_SET, _RULE_SET)
    key, lines = ServiceKey.parse(given["service"]), given["rules"]
    if key not in services:
        raise InvalidValue("service", given["service"], "is no service of this document")
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise InvalidValue("rules", lines, f"must be a list of: {SYNTAX}")
    return key, _rules_of(key, lines)


def _rules_of(key: ServiceKey, lines: Iterable[str]) -> tuple[ClientRule, ...]:
    rules = []
    for line in lines:
        try:
            rules.append(client_rule_of(line.split()))
        except PylvsError as error:
            raise InvalidValue("rule", line, str(error)) from None
    try:
        return checked_rules(key, key.address.version, rules)
    except PylvsError as error:
        what, _, hint = str(error).removeprefix(f"{key}: ").partition(": ")
        raise InvalidValue("rule", what, hint) from None


def _object(data: object, what: str, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InvalidValue(what, data, f"must be an object with {', '.join(needed or known)}")
    for name in data:
        if name not in known:
            raise InvalidValue(str(name), data[name], f"is unknown; a {what} has: {', '.join(known)}")
    for name in needed:
        if name not in data:
            raise InvalidValue(name, None, f"is missing; a {what} has: {', '.join(known)}")
    return dict(data)


def _items(given: Mapping[str, Any], part: str, read: Callable[[Any], Value]) -> Iterator[Value]:
    if not isinstance(given[part], list | tuple):
        raise InvalidValue(part, given[part], "must be a list")
    for at, item in enumerate(given[part]):
        with located(f"{part}[{at}]"):
            yield read(item)


def _timeouts(data: object) -> Timeouts:
    with located("timeouts"):
        given = _object(data, "timeouts", _TIMEOUTS)
        return Timeouts(*(number(name, given.get(name, 0), 0, LONGEST_S) for name in _TIMEOUTS))


def _settings(data: object) -> dict[str, int]:
    found = {}
    with located("settings"):
        if not isinstance(data, Mapping):
            raise InvalidValue("settings", data, "must be an object of numbers by name")
        for name, value in data.items():
            if type(value) is not int:
                raise InvalidValue(str(name), value, "must be a whole number")
            try:
                setting = known_setting(str(name))
                found[setting.name] = checked_setting(setting, value)
            except PylvsError as error:
                raise InvalidValue(str(name), value, str(error)) from None
    return found


def _rule_to_dict(rule: MarkRule) -> dict[str, Any]:
    """Return a rule with its conditions as the options of `pylvs mark add` have them."""
    found: dict[str, Any] = {name.replace("-", "_"): text for name, text in conditions(rule).items()}
    if rule.family and not (rule.source or rule.target):
        found["family"] = rule.family
    found |= {"mark": rule.value, "mask": rule.mask}
    return found | {name: getattr(rule, name) for name in _JUMPS if getattr(rule, name)}


def _rules(given: Mapping[str, Any]) -> tuple[MarkRule, ...]:
    rules = tuple(_items(given, "mark_rules", _rule_from_dict))
    if len(rules) > MOST_RULES:
        raise InvalidValue("mark_rules", len(rules), f"must be at most {MOST_RULES} rules")
    return rules


def _rule_from_dict(data: object) -> MarkRule:
    options = {name.replace("-", "_"): _ARGUMENTS.get(name, name.replace("-", "_")) for name in _OPTIONS}
    given = _object(data, "mark rule", (*options, "family", "mark", "mask", *_JUMPS), ("mark",))
    value, mask = (number(name, given.get(name, ALL_BITS), 0, ALL_BITS) for name in ("mark", "mask"))
    then_skip, else_skip = (number(name, given.get(name, 0), 0, TO_THE_END) for name in _JUMPS)
    texts = {options[name]: text for name, text in given.items() if name in options}
    family = given.get("family", 0)
    if family not in (0, 4, 6):
        raise InvalidValue("family", family, "must be 4 or 6, or 0 for both")
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InvalidValue(name, text, "must be a text, as the option of pylvs mark add has it")
    if family and not (texts.get("src") or texts.get("dst")):
        texts["dst"] = "0.0.0.0/0" if family == 4 else "::/0"
    try:
        found = checked(rule_of("0", **texts))
    except PylvsError as error:
        raise InvalidValue("mark rule", None, str(error)) from None
    return replace(found, value=value, mask=mask, then_skip=then_skip, else_skip=else_skip)
