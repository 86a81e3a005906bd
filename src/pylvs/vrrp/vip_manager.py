"""What a master has on this machine: its addresses, then its routes, then its rules; and what of it somebody removed.

Fixed addresses, routes and rules, which stay whoever is master, are held the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.routing import Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.netlink import addresses, routes
from pylvs.netlink.addresses import Outcome, Placed
from pylvs.netlink.monitor import RouteKey, RuleKey
from pylvs.system.undo_log import Memory, load
from pylvs.vrrp import vmac
from pylvs.vrrp.conflicts import ConflictListener, FrameSender, OnConflict, announcement_frame
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.netlink_monitor import (
    AddressAdded,
    AddressRemoved,
    Change,
    Link,
    LinkAdded,
    LinkChanged,
    LinkRemoved,
    LinkUp,
    NetlinkMonitor,
    RouteRemoved,
    RuleRemoved,
)
from pylvs.vrrp.packet_filter import Guard
from pylvs.vrrp.ports import DeviceAddress
from pylvs.vrrp.protocol.adverts import OutgoingPacket
from pylvs.vrrp.protocol.adverts import socket_device as unicast_by
from pylvs.vrrp.sockets import AdvertSender, family_of
from pylvs.vrrp.vmac_plan import Plan, VmacDevice, plan


@dataclass(frozen=True, slots=True)
class HeldResources:
    """All that belongs together."""

    placed: tuple[Placed, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[RoutingRule, ...] = ()

    def where(self, up: Callable[[str], bool]) -> HeldResources:
        """Without routes by a device that is not up: the kernel removes them, nobody else."""
        ways = (each for each in self.routes if all(not hop.device or up(hop.device) for hop in each.next_hops))
        return replace(self, routes=tuple(ways))

    def without(self, others: HeldResources) -> HeldResources:
        """What is not in the others."""
        return HeldResources(
            tuple(each for each in self.placed if each not in others.placed),
            tuple(each for each in self.routes if each not in others.routes),
            tuple(each for each in self.rules if each not in others.rules),
        )


def resources_of(instance: VrrpInstance, plan: Plan) -> HeldResources:
    """A virtual router's, as master."""
    return HeldResources(tuple(plan.placed(instance)), instance.routes, instance.rules)


def static_resources(configuration: VrrpConfiguration) -> HeldResources:
    """Those that stay."""
    default = configuration.settings.default_interface
    placed = tuple((each, each.device or default) for each in configuration.addresses)
    return HeldResources(placed, configuration.routes, configuration.rules)


def add_resources(wanted: HeldResources) -> list[str]:
    """Have all this; what is there already is fine. Troubles in words."""
    troubles = _troubles(addresses.hold(wanted.placed))
    if wanted.routes:
        troubles += _troubles(routes.add(wanted.routes))
    if wanted.rules:
        troubles += _troubles(routes.add_rules(wanted.rules))
    return troubles


def remove_resources(had: HeldResources) -> list[str]:
    """Have none of this; what has gone is fine. Troubles in words."""
    troubles = _troubles(routes.remove_rules(had.rules)) if had.rules else []
    if had.routes:
        troubles += _troubles(routes.remove(had.routes))
    return troubles + _troubles(addresses.release(had.placed))


def replace_resources(before: HeldResources, after: HeldResources) -> list[str]:
    """Have the one instead of the other; what is in both is not touched."""
    return remove_resources(before.without(after)) + add_resources(after.without(before))


def lost_resources(
    having: HeldResources, changes: Iterable[Change], there: Collection[RouteKey], there_rules: Collection[RuleKey]
) -> set[str]:
    """Routes and rules that went by these changes, are tracked, and are not there again; in words."""
    gone = {each.key for each in changes if isinstance(each, RouteRemoved)} - set(there)
    gone_rules = {each.key for each in changes if isinstance(each, RuleRemoved)} - set(there_rules)
    found = {f"route {each}" for each in having.routes if each.tracked and routes.key_of(each) in gone}
    tracked = [each for each in having.rules if each.tracked]
    return found | {f"rule {each.preference}" for each in tracked if routes.key_of_rule(each) in gone_rules}


def _troubles(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.trouble for outcome in outcomes if not outcome.done]


# --- vmacs -----------------------------------------------------------------------------------------------------------
# The VMACs of all virtual routers: made when they are configured, long before a take-over, and removed with them.


SAVED_SETTINGS = Path("vrrp-settings.json")  # of other devices, as they were before; in the state directory


class VmacManager:
    """Those that there are. Troubles are given back in words."""

    def __init__(self, links: NetlinkMonitor) -> None:
        self.plan = Plan()
        self._links = links
        self._memory: Memory | None = None

    def configure(self, configuration: VrrpConfiguration) -> tuple[list[str], list[Change]]:
        """These from now on; and what changed on this machine thereby."""
        before = self.plan
        self.plan = plan(configuration.instances, configuration.settings, self._existing())
        troubles = self._unmake(device for device in before.devices if device not in self.plan.devices)
        promoting = [each.interface for each in configuration.instances if each.promote_secondaries]
        if self.plan.devices or promoting:
            troubles += self._prepare(self.plan.devices, promoting)
        elif self._memory is not None:
            vmac.restore(self._memory)
        more, changes = self.make()
        return troubles + more, changes

    def make(self) -> tuple[list[str], list[Change]]:
        """Those that are not there, as far as their base devices are."""
        if not self.plan.devices:
            return [], []
        troubles = []
        for device in self.plan.devices:
            there = self._links.links.get(device.name)
            if device.base in self._links.links and (there is None or not there.enabled):
                outcome = vmac.make(device, self._existing())
                troubles += [outcome.trouble] if outcome.trouble else []
        changes = self._links.read()
        self._give_sources()
        return troubles, changes + self._links.read()

    def leave(self) -> list[str]:
        """Without any, and every setting as it was before."""
        troubles = self._unmake(self.plan.devices)
        self.plan = Plan()
        if self._memory is not None:
            vmac.restore(self._memory)
        return troubles

    def _existing(self) -> Mapping[str, Link]:
        return self._links.links

    def _prepare(self, devices: Iterable[VmacDevice], promoting: Iterable[str]) -> list[str]:
        troubles = []
        try:
            memory = self._memory = self._memory or load(SAVED_SETTINGS)
        except PylvsError as error:
            return [str(error)]
        for device in devices:
            troubles += vmac.prepare(memory, device)
        for name in promoting:
            troubles += vmac.promote(memory, name)
        return troubles

    def _unmake(self, devices: Iterable[VmacDevice]) -> list[str]:
        return [outcome.trouble for device in devices if (outcome := vmac.unmake(device)).trouble]

    def _give_sources(self) -> None:
        """IPv6 speaks from the link-local address of the device below."""
        for device in self.plan.devices:
            if device.family == 6 and device.name in self._links.links:
                link_local = self._links.primary_address(device.base, 6)
                have = {each.interface.ip for each in self._links.links[device.name].addresses}
                if link_local is not None and link_local not in have:
                    addresses.hold([(vmac.source_on(device, link_local), device.name)])


# --- place -----------------------------------------------------------------------------------------------------------
# This machine, as virtual routers need it: links and their changes, what is held, and what is sent.


WriteLog = Callable[[str, str], None]  # level, text
DEFAULT_MTU = 1500
STATIC = ""  # the name, among those of instances, under which stands what is held whoever is master


class VipManager:
    """Links, addresses, and the sockets that send.

    `changed` is called with the devices that are there anew, `lost` with an instance's name and what somebody removed
    (nothing, where a device came back without it), `claimed` with what others claim.
    """

    def __init__(
        self,
        loop: Loop,
        log: WriteLog,
        changed: Callable[[set[str]], None],
        lost: Callable[[str, set[str]], None],
        claimed: OnConflict,
    ) -> None:
        self._loop = loop
        self._log = log
        self._changed = changed
        self._lost = lost
        self._links = NetlinkMonitor(routes=True)
        self._vmacs = VmacManager(self._links)
        self._guard = Guard()
        self._sender = FrameSender()
        self._mouths: dict[tuple[str, int], AdvertSender] = {}
        self._holding: dict[str, HeldResources] = {}  # at this moment, by instance
        self._configuration = VrrpConfiguration()
        self._virtual: frozenset[Address] = frozenset()  # of all instances, held or not
        self._said: dict[str, str] = {}  # the last trouble of each device or instance that was logged
        self._ears = ConflictListener(loop, self._links, self._held, claimed, self._trouble)
        loop.watch(self._links.fileno(), self._links_changed)

    def close(self) -> None:
        """No more."""
        self._loop.forget(self._links.fileno())
        self._links.close()
        self._sender.close()
        self._ears.close()
        for mouth in self._mouths.values():
            mouth.close()

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        """From now on these addresses are virtual, and nobody speaks from them; troubles in words."""
        self._configuration = configuration
        self._virtual = frozenset(
            each.interface.ip
            for instance in configuration.instances
            for each in (*instance.addresses, *instance.excluded)
        )
        troubles, changes = self._vmacs.configure(configuration)
        troubles += self._guarded() + self._fix(static_resources(configuration))
        self._follow(changes)
        return troubles

    def leave(self) -> None:
        """Everything as it was before the first virtual router."""
        self._configuration = VrrpConfiguration()
        troubles = self._vmacs.leave() + self._guarded() + self._fix(HeldResources())
        for trouble in troubles:
            self._log("error", trouble)

    def _guarded(self) -> list[str]:
        return self._guard.set(self._configuration.instances, self._vmacs.plan, self._links.links)

    def _fix(self, wanted: HeldResources) -> list[str]:
        before = self._holding.pop(STATIC, HeldResources())
        if wanted != HeldResources():
            self._holding[STATIC] = wanted
        return replace_resources(before, wanted)

    # --- links ---

    def up(self, device: str) -> bool:
        """Whether a device is there and can carry packets."""
        link = self._links.links.get(device)
        return link is not None and link.up

    def link_fault(self, instance: VrrpInstance) -> str:
        """Why the instance's device cannot be used, "" if it can."""
        link = self._links.links.get(instance.interface)
        if link is None:
            return f"there is no device {instance.interface}"
        if instance.track_primary and not link.up:
            return f"{instance.interface} is down"
        return ""

    def source_of(self, instance: VrrpInstance) -> Address | None:
        """The address that it speaks from, None while there is none."""
        if instance.source is not None:
            if not instance.track_source:
                return instance.source
            here = {each.interface.ip for link in self._links.links.values() for each in link.addresses}
            return instance.source if instance.source in here else None
        return self._links.primary_address(instance.interface, family_of(instance), self._virtual)

    def mtu_of(self, instance: VrrpInstance) -> int:
        """Of the device that it speaks through."""
        link = self._links.links.get(instance.interface)
        return link.mtu if link else DEFAULT_MTU

    def _links_changed(self) -> None:
        self._follow(self._links.read())

    def _follow(self, changes: list[Change]) -> None:
        renewed = _renewed(changes)
        for device in renewed:
            for key in [key for key in self._mouths if key[0] == device]:
                self._mouths.pop(key).close()
            self._ears.forget(device)
        if renewed or any(isinstance(change, AddressAdded) for change in changes):
            troubles, more = self._vmacs.make()
            for trouble in troubles + (self._guarded() if renewed else []):
                self._trouble("", trouble)
            changes = changes + more
            renewed |= _renewed(more)
        self._restore(changes)
        if changes:
            self._changed(renewed)
        if renewed:
            self._ears.listen_soon()

    # --- what is held ---

    def device_of(self, instance: VrrpInstance) -> str:
        """Where it speaks: its VMAC, or the device itself."""
        return self._vmacs.plan.device_of(instance)

    def heard_on(self, instance: VrrpInstance) -> str:
        """Where it hears others: multicast from a VMAC's own link address comes to that VMAC alone.

        Unicast comes by any device, "".
        """
        return unicast_by(instance, instance.interface) if instance.peers else self.device_of(instance)

    def bases(self) -> dict[str, str]:
        """The device below each VMAC."""
        return {each.name: each.base for each in self._vmacs.plan.devices}

    def targets_of(self, instance: VrrpInstance) -> list[DeviceAddress]:
        """Each of its addresses, with its device."""
        return [(device, each.interface.ip) for each, device in self._vmacs.plan.placed(instance)]

    def take(self, instance: VrrpInstance) -> None:
        """Hold its addresses, routes and rules; those that are there already are fine."""
        wanted = self._holding[instance.name] = self._of(instance)
        self._say(instance, add_resources(wanted))

    def give_up(self, instance: VrrpInstance) -> None:
        """Hold them no more; those that have gone already are fine."""
        self._say(instance, remove_resources(self._holding.pop(instance.name, self._of(instance))))

    def change(self, old: VrrpInstance, new: VrrpInstance) -> None:
        """Hold what the new word says instead of what the old one said; what is in both is not touched."""
        before = self._holding.get(new.name, HeldResources())
        wanted = self._holding[new.name] = self._of(new)
        self._say(new, replace_resources(before, wanted))

    def _of(self, instance: VrrpInstance) -> HeldResources:
        return resources_of(instance, self._vmacs.plan)

    def _held(self) -> Iterator[DeviceAddress]:
        """Virtual addresses that are held at this moment."""
        for name, having in self._holding.items():
            if name != STATIC:
                yield from ((device, each.interface.ip) for each, device in having.placed)

    def _say(self, instance: VrrpInstance, troubles: Sequence[str]) -> None:
        for trouble in troubles:
            self._log("error", f"{instance.name}: {trouble}")
        self._ears.listen_soon()

    def _restore(self, changes: Sequence[Change]) -> None:
        """What is held, and somebody removed; and what the kernel forgot while a device was down or gone."""
        gone = {(each.address, each.device) for each in changes if isinstance(each, AddressRemoved)}
        up = {each.link.name for each in changes if isinstance(each, LinkUp)}
        for name, having in list(self._holding.items()):
            lost = lost_resources(having.where(self.up), changes, self._links.routes, self._links.rules)
            absent = [each for each in having.placed if not self._is_here(each[1], each[0].interface.ip)]
            for held, device in absent:
                if held.tracked and (held.interface.ip, device) in gone and self.up(device):
                    lost.add(str(held.interface.ip))
            back = any(device in up for _, device in absent)
            if name != STATIC and (lost or back):
                self._lost(name, lost)
            elif lost or back or any(hop.device in up for route in having.routes for hop in route.next_hops):
                add_resources(having)

    def _is_here(self, device: str, address: Address) -> bool:
        link = self._links.links.get(device)
        return link is not None and any(each.interface.ip == address for each in link.addresses)

    # --- what is sent ---

    def send(self, instance: VrrpInstance, packets: Sequence[OutgoingPacket]) -> None:
        """Advertisements."""
        below = bool(instance.peers) or (instance.vmac is not None and instance.vmac.send_from_base)
        device = instance.interface if below else self._vmacs.plan.device_of(instance)
        key = unicast_by(instance, device), family_of(instance)
        try:
            if key not in self._mouths:
                self._mouths[key] = AdvertSender(*key)
            for each in packets:
                self._mouths[key].send(each.packet, each.source, each.destination, each.hops)
        except OSError as error:
            self._trouble(instance.name, f"{instance.name}: {device}: {error.strerror}")
            return
        self._said.pop(instance.name, None)

    def announce(self, instance: VrrpInstance, device: str, address: Address) -> None:
        """One gratuitous ARP or unsolicited neighbour advertisement."""
        link = self._links.links.get(device)
        if link is None:
            return
        if trouble := self._sender.send(device, announcement_frame(device, address, link.mac)):
            self._trouble(device, f"{instance.name}: {address} is not announced: {trouble}")

    def _trouble(self, device: str, words: str) -> None:
        if self._said.get(device) != words:
            self._said[device] = words
            self._log("warning", words)


def _renewed(changes: Sequence[Change]) -> set[str]:
    """Devices that came, went, or have another link address."""
    return {each.link.name for each in changes if isinstance(each, LinkAdded | LinkRemoved | LinkChanged)}
