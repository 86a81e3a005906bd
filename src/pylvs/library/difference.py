"""The difference between two tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pylvs.library.client_rules import ClientRule, from_models
from pylvs.library.invalid import InvalidValue
from pylvs.library.keys import ServerKey, ServiceKey
from pylvs.library.values import Server, Service
from pylvs.model.client_rules import ClientRule as ModelRule
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.service import ServiceChange
from pylvs.model.service import ServiceKey as ModelKey

_SETTINGS = ("weight", "forwarding", "upper", "lower", "tunnel")


@dataclass(frozen=True, slots=True)
class ServiceDifference:
    """One service `before` and `after`: None where it does not exist.

    Its client rules before and after are equal, unless `apply` got other ones.
    """

    before: Service | None
    after: Service | None
    client_rules_before: tuple[ClientRule, ...] = ()
    client_rules_after: tuple[ClientRule, ...] = ()

    @property
    def key(self) -> ServiceKey:
        """What identifies the service."""
        service = self.after or self.before
        assert service is not None
        return service.key

    @property
    def added(self) -> tuple[Server, ...]:
        """The servers that the service gets."""
        former = _by_key(self.before)
        return tuple(each for key, each in _by_key(self.after).items() if key not in former)

    @property
    def removed(self) -> tuple[Server, ...]:
        """The servers that the service loses."""
        latter = _by_key(self.after)
        return tuple(each for key, each in _by_key(self.before).items() if key not in latter)

    @property
    def edited(self) -> tuple[tuple[Server, Server], ...]:
        """The servers whose settings change, before and after."""
        former = _by_key(self.before)
        return tuple(
            (former[key], each) for key, each in _by_key(self.after).items() if key in former and former[key] != each
        )

    def to_model(self) -> ServiceChange:
        """Return what the data plane makes of the difference."""
        if self.after is None:
            return ServiceChange(self.key.to_model(), None)
        return ServiceChange(
            self.key.to_model(),
            self.after.to_model(),
            is_new=self.before is None,
            deleted=tuple(each.key.to_model() for each in self.removed) if self.before else (),
            edited=tuple(each.to_model() for _, each in self.edited),
            added=tuple(each.to_model() for each in self.added),
            client_rules=self._rules_to_model(),
        )

    def _rules_to_model(self) -> tuple[ModelRule, ...] | None:
        if self.client_rules_before == self.client_rules_after:
            return None
        return tuple(each.to_model() for each in self.client_rules_after)

    def lines(self) -> Iterator[str]:
        """Yield a line for the service, and one for each server or client rule that differs.

        `+` means added, `-` removed, `~` edited.
        """
        if self.before is None or self.after is None:
            service = self.after or self.before
            assert service is not None
            yield f"{'+' if self.after else '-'} {self.key} {service.scheduler}"
        else:
            before, after = self.before.settings, self.after.settings
            names = ("scheduler", "persistence", "flags", "mss_clamp")
            yield _edited(str(self.key), [(*each,) for each in zip(names, before, after, strict=True)])
        yield from (f"-   {each.key}" for each in self.removed)
        for former, latter in self.edited:
            changes = [(name, getattr(former, name), getattr(latter, name)) for name in _SETTINGS]
            yield _edited(f"  {latter.key}", changes)
        yield from (f"+   {each.key} {each.forwarding} weight {each.weight}" for each in self.added)
        former_rules, latter_rules = frozenset(self.client_rules_before), frozenset(self.client_rules_after)
        yield from (f"-   client rule {each}" for each in self.client_rules_before if each not in latter_rules)
        yield from (f"+   client rule {each}" for each in self.client_rules_after if each not in former_rules)


def _edited(name: str, changes: Iterable[tuple[str, object, object]]) -> str:
    texts = [f"{field} {before} -> {after}" for field, before, after in changes if before != after]
    return f"~ {name} {', '.join(texts)}".rstrip()


def _by_key(service: Service | None) -> dict[ServerKey, Server]:
    return {each.key: each for each in service.servers} if service else {}


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns one table into another, in the order of the services. It is false if nothing differs."""

    services: tuple[ServiceDifference, ...] = ()

    @property
    def added(self) -> tuple[Service, ...]:
        """The services that are new."""
        return tuple(each.after for each in self.services if each.after and each.before is None)

    @property
    def removed(self) -> tuple[Service, ...]:
        """The services that are gone."""
        return tuple(each.before for each in self.services if each.before and each.after is None)

    @property
    def edited(self) -> tuple[ServiceDifference, ...]:
        """The services that stay, with other settings or servers."""
        return tuple(each for each in self.services if each.before and each.after)

    def with_rules(
        self,
        before: Mapping[ServiceKey, Service],
        after: Mapping[ServiceKey, Service],
        present: Mapping[ModelKey, tuple[ModelRule, ...]],
        wanted: Mapping[ServiceKey, tuple[ModelRule, ...]],
    ) -> Difference:
        """Return this with the client rules that change: from those `present` to those `wanted`."""
        found = {each.key: each for each in self.services}
        for key, rules in wanted.items():
            former = present.get(key.to_model(), ()) if key in before else ()
            if former != rules:
                change = found.get(key, ServiceDifference(before.get(key), after[key]))
                found[key] = replace(
                    change, client_rules_before=from_models(former), client_rules_after=from_models(rules)
                )
        return Difference((*found.values(),))

    def __bool__(self) -> bool:
        return bool(self.services)

    def __str__(self) -> str:
        return "\n".join(line for each in self.services for line in each.lines())


def difference(before: Iterable[Service], after: Iterable[Service]) -> Difference:
    """Return what turns the services `before` into those `after`. The order of servers does not matter.

    Raises InvalidValue for a service that is listed twice.
    """
    former, latter = by_key(before, "before"), by_key(after, "after")
    changed = [ServiceDifference(former.get(key), each) for key, each in latter.items() if former.get(key) != each]
    gone = [ServiceDifference(each, None) for key, each in former.items() if key not in latter]
    return Difference((*gone, *changed))


def by_key(services: Iterable[Service], field: str) -> dict[ServiceKey, Service]:
    """Return services by their keys. `field` is the name of the argument.

    Raises InvalidValue for anything else, and for a key that is listed twice.
    """
    if isinstance(services, str | Service) or not isinstance(services, Iterable):
        raise InvalidValue(field, services, "must be services, as [Service('tcp', '192.0.2.1', 80)]")
    found: dict[ServiceKey, Service] = {}
    for service in services:
        if not isinstance(service, Service):
            raise InvalidValue(field, service, "must be services, as [Service('tcp', '192.0.2.1', 80)]")
        if service.key in found:
            raise InvalidValue(field, str(service.key), "is listed twice")
        found[service.key] = service
    return found
