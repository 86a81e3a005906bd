"""What a master has on this machine: its addresses, then its routes, then its rules; and what of it somebody removed.

Fixed addresses, routes and rules, which stay whoever is master, are held the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from pylvs.model.dataclass import dataclass
from pylvs.model.routing import Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.netlink import addresses, routes
from pylvs.netlink.addresses import Outcome, Placed
from pylvs.netlink.monitor import RouteKey, RuleKey
from pylvs.vrrp.vmac_plan import Plan
from pylvs.vrrp.watching import Change, RouteGone, RuleGone


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that belongs together."""

    placed: tuple[Placed, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[RoutingRule, ...] = ()

    def where(self, up: Callable[[str], bool]) -> Holdings:
        """Without routes by a device that is not up: the kernel removes them, nobody else."""
        ways = (each for each in self.routes if all(not hop.device or up(hop.device) for hop in each.next_hops))
        return replace(self, routes=tuple(ways))

    def without(self, others: Holdings) -> Holdings:
        """What is not in the others."""
        return Holdings(
            tuple(each for each in self.placed if each not in others.placed),
            tuple(each for each in self.routes if each not in others.routes),
            tuple(each for each in self.rules if each not in others.rules),
        )


def of_instance(instance: VrrpInstance, plan: Plan) -> Holdings:
    """A virtual router's, as master."""
    return Holdings(tuple(plan.placed(instance)), instance.routes, instance.rules)


def fixed(configuration: VrrpConfiguration) -> Holdings:
    """Those that stay."""
    default = configuration.settings.default_interface
    placed = tuple((each, each.device or default) for each in configuration.addresses)
    return Holdings(placed, configuration.routes, configuration.rules)


def take(wanted: Holdings) -> list[str]:
    """Have all this; what is there already is fine. Troubles in words."""
    troubles = _troubles(addresses.hold(wanted.placed))
    if wanted.routes:
        troubles += _troubles(routes.add(wanted.routes))
    if wanted.rules:
        troubles += _troubles(routes.add_rules(wanted.rules))
    return troubles


def give_up(had: Holdings) -> list[str]:
    """Have none of this; what has gone is fine. Troubles in words."""
    troubles = _troubles(routes.remove_rules(had.rules)) if had.rules else []
    if had.routes:
        troubles += _troubles(routes.remove(had.routes))
    return troubles + _troubles(addresses.release(had.placed))


def change(before: Holdings, after: Holdings) -> list[str]:
    """Have the one instead of the other; what is in both is not touched."""
    return give_up(before.without(after)) + take(after.without(before))


def missing(
    having: Holdings, changes: Iterable[Change], there: Collection[RouteKey], there_rules: Collection[RuleKey]
) -> set[str]:
    """Routes and rules that went by these changes, are tracked, and are not there again; in words."""
    gone = {each.key for each in changes if isinstance(each, RouteGone)} - set(there)
    gone_rules = {each.key for each in changes if isinstance(each, RuleGone)} - set(there_rules)
    found = {f"route {each}" for each in having.routes if each.tracked and routes.key_of(each) in gone}
    tracked = [each for each in having.rules if each.tracked]
    return found | {f"rule {each.preference}" for each in tracked if routes.key_of_rule(each) in gone_rules}


def _troubles(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.trouble for outcome in outcomes if not outcome.done]
