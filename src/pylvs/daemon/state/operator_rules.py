"""Client rules of the operator, which are in force beside those of the file, as other overrides are.

Where both have a rule of the same prefix, that of the operator decides. They survive reloads and crashes: the state
directory has them, with the keys of their services, which may get another name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.state.directory import RULES_FILE, StateDirectory
from pylvs.daemon.state.overrides import StateWriter
from pylvs.health.engine import Engine
from pylvs.model.client_rules import ClientRule, Network, by_order, overlaid, rule_of, summary
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import InvalidOperation, NoSpace, NoSuchRule, NoSuchService, PylvsError
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.service import ServiceKey
from pylvs.model.wanted import WantedRow, WantedService, predecessors
from pylvs.system.logs import get_logger

MOST_OPERATOR_RULES = 10_000  # of all services: each change writes and replaces them; more belong into the file


@dataclass(frozen=True, slots=True)
class _SavedRules:
    keys: tuple[ServiceKey, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Saved:
    services: Mapping[str, _SavedRules] = field(default_factory=dict)  # by name


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """The rules of one service in the order of their prefixes, those of IPv4 first, and the keys that it has."""

    keys: tuple[ServiceKey, ...]
    rules: tuple[ClientRule, ...]

    def of(self, key: ServiceKey) -> tuple[ClientRule, ...]:
        return tuple(rule for rule in self.rules if rule.prefix.version == key.address.version)


class OperatorRules:
    """The operator's client rules of all services."""

    def __init__(self, engine: Engine, state: StateDirectory, writer: StateWriter, events: EventBus) -> None:
        self._engine = engine
        self._state = state
        self._writer = writer
        self._events = events
        self._services: dict[str, ServiceRules] = {}  # by name
        self._by_key: dict[ServiceKey, ServiceRules] = {}
        self._texts: list[str] = []  # made once: a status is requested each second
        self._configuration = engine.configuration  # that these names are of
        # The reconciler takes an equal row for a change unless it is the same object.
        self._rows: dict[ServiceKey, tuple[WantedRow, ServiceRules, WantedRow]] = {}
        self._log = get_logger()

    def resume(self, saved: Mapping[str, ServiceRules]) -> None:
        """Continue with the rules of the last daemon."""
        self._services = dict(saved)
        self._follow()

    def follow(self) -> None:
        """Continue with the services of another configuration. Rules of those that are gone end."""
        if self._engine.configuration is not self._configuration:
            self._follow()

    def rows(self, rows: Iterable[WantedRow]) -> Iterator[WantedRow]:
        """Yield the rows of the desired table with the operator's rules."""
        self.follow()
        for row in rows:
            own = self._by_key.get(row.service.key)
            if own is None:
                yield row
                continue
            known = self._rows.get(row.service.key)
            if known is None or known[0] is not row or known[1] is not own:
                rules = overlaid(row.client_rules, own.of(row.service.key))
                known = self._rows[row.service.key] = row, own, replace(row, client_rules=rules)
            yield known[2]

    def described(self) -> Sequence[str]:
        """Return a text for each service with rules of the operator."""
        self.follow()
        return self._texts

    def _named(self) -> Iterable[tuple[str, ServiceRules]]:
        return sorted(self._services.items())

    def of(self, key: ServiceKey) -> frozenset[ClientRule]:
        """Return the operator's rules of a service in the table."""
        self.follow()
        found = self._by_key.get(key)
        return frozenset(found.of(key)) if found else frozenset()

    def count(self, name: str) -> int:
        """Return how many rules of the operator a service has."""
        return len(self._services[name].rules) if name in self._services else 0

    @property
    def error(self) -> str:
        """Why the rules could not be saved, "" if they are."""
        return self._writer.error(RULES_FILE)

    # --- commands: each changes the rules of one service, as a whole or not at all, and returns its name ---

    def add(self, service: str, rules: Iterable[ClientRule]) -> str:
        """Add rules; the same again are ignored. Raises NoSuchService, InvalidOperation, NoSpace, PylvsError."""
        wanted, added = self._found(service), list(rules)
        by_prefix = {rule.prefix: rule for rule in self._present(wanted)}
        for rule in added:
            if by_prefix.get(rule.prefix, rule) != rule:
                text = f"the operator has another rule of this prefix: {by_prefix[rule.prefix]}"
                raise PylvsError(f"{wanted.name}: {rule}: {text}; delete it first")
        return self._change(wanted, [*by_prefix.values(), *added], f"added {summary(added)}")

    def delete(self, service: str, prefixes: Collection[Network], file: str) -> str:
        """Delete rules of the operator. Raises NoSuchService, NoSuchRule, and PylvsError for one of the `file`."""
        wanted, doomed = self._found(service), frozenset(prefixes)
        present = {rule.prefix: rule for rule in self._present(wanted)}
        for prefix in sorted(doomed - present.keys(), key=str):
            if any(rule.prefix == prefix for rule in wanted.client_rules):
                text = f"its rule is in {file}: change client_rules there and run pylvs reload, or add another rule"
                raise PylvsError(f"{wanted.name}: {prefix}: {text}")
            raise NoSuchRule(f"{wanted.name}: {prefix}: no such client rule of the operator")
        gone = [rule for prefix, rule in present.items() if prefix in doomed]
        left = [rule for prefix, rule in present.items() if prefix not in doomed]
        return self._change(wanted, left, f"deleted {summary(gone)}")

    def replace(self, service: str, rules: Iterable[ClientRule]) -> str:
        """Let these be all rules of the operator. Raises NoSuchService, InvalidOperation, NoSpace."""
        wanted, fresh = self._found(service), list(rules)
        return self._change(wanted, fresh, f"replaced by {summary(fresh) or 'none'}")

    def _found(self, service: str) -> WantedService:
        """Return the service that has this name, or a key of this text."""
        self.follow()
        services = self._engine.configuration.services
        found = next((each for each in services if each.name == service), None)
        found = found or next((each for each in services if service in map(str, each.keys)), None)
        if found is None:
            raise NoSuchService(f"{service}: no such service in the configuration; for others run pylvs filter")
        return found

    def _present(self, wanted: WantedService) -> tuple[ClientRule, ...]:
        return self._services[wanted.name].rules if wanted.name in self._services else ()

    def _change(self, wanted: WantedService, rules: Iterable[ClientRule], text: str) -> str:
        checked = _checked(wanted, rules)
        former = self._present(wanted)
        total = sum(len(each.rules) for each in self._services.values()) - len(former) + len(checked)
        if total > MOST_OPERATOR_RULES:
            what = f"{total} client rules of the operator; all services have at most {MOST_OPERATOR_RULES}"
            raise NoSpace(f"{wanted.name}: {what}, so write them into the file", "client rules", MOST_OPERATOR_RULES)
        if checked == former:
            return wanted.name
        self._services.pop(wanted.name, None)
        if checked:
            self._services[wanted.name] = ServiceRules(wanted.keys, checked)
        self._index()
        self._save()
        self._log.info("client rules by the operator", service=wanted.name, change=text)
        self._events.publish("client_rules", service=wanted.name, rules=len(checked), reason=text)
        return wanted.name

    def _follow(self) -> None:
        self._configuration = self._engine.configuration
        before = self._services
        if not before:
            return
        now = self._configuration.services
        former = predecessors({name: each.keys for name, each in before.items()}, now)
        self._services = {}
        for service in now:
            if service.name in former:
                families = {key.address.version for key in service.keys}
                rules = before[former[service.name]].rules
                left = tuple(rule for rule in rules if rule.prefix.version in families)
                if left:
                    self._services[service.name] = ServiceRules(service.keys, left)
        for name in before.keys() - former.values():
            self._log.warning("client rules by the operator ended: the file has no such service", service=name)
        self._index()
        if self._services != before:
            self._save()

    def _index(self) -> None:
        self._rows = {}
        self._texts = [f"client rules of {name} by the operator: {summary(each.rules)}" for name, each in self._named()]
        self._by_key = {key: each for each in self._services.values() for key in each.keys}

    def _save(self) -> None:
        self._writer.put(RULES_FILE, self._prepare)

    def _prepare(self) -> Callable[[], None]:
        saved = _Saved({name: _SavedRules(each.keys, tuple(map(str, each.rules))) for name, each in self._named()})
        return partial(self._state.write, RULES_FILE, to_plain(saved) if saved.services else None)


def _checked(wanted: WantedService, rules: Iterable[ClientRule]) -> tuple[ClientRule, ...]:
    """Return rules that a service can have, in their order, each once. Raises InvalidOperation."""
    families = {key.address.version for key in wanted.keys}
    by_prefix: dict[Network, ClientRule] = {}
    for rule in rules:
        if rule.prefix.version not in families:
            text = f"no address of the service is of IPv{rule.prefix.version}"
            raise InvalidOperation(f"{wanted.name}: {rule}: {text}")
        if by_prefix.setdefault(rule.prefix, rule) != rule:
            raise InvalidOperation(f"{wanted.name}: two rules for {rule.prefix}: {by_prefix[rule.prefix]}; {rule}")
    return tuple(sorted(by_prefix.values(), key=lambda rule: (rule.prefix.version, *by_order(rule))))


def load_rules(state: StateDirectory) -> Mapping[str, ServiceRules]:
    """Return the operator's rules of the last daemon by service. Raises PylvsError."""
    with state.decoding(RULES_FILE) as content:
        saved = _Saved() if content is None else from_plain(_Saved, content)
        try:
            return {
                name: ServiceRules(each.keys, tuple(rule_of(text.split()) for text in each.rules))
                for name, each in saved.services.items()
            }
        except InvalidOperation as error:
            raise ValueError(str(error)) from None
