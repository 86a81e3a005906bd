"""What virtual routers have on this host: virtual addresses, routes, rules, VMACs, and the sockets that send."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.routing import Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.netlink import addresses, routes
from pylvs.netlink.addresses import Placed
from pylvs.netlink.changes import Outcome
from pylvs.netlink.monitor import RouteKey, RuleKey
from pylvs.vrrp import netlink_monitor
from pylvs.vrrp.conflicts import ConflictListener, OnConflict
from pylvs.vrrp.firewall import Firewall
from pylvs.vrrp.garp import DeviceAddress, FrameSender, announcement_frame
from pylvs.vrrp.link_delays import LinkDelays
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.netlink_monitor import Change, NetlinkMonitor, replaced_devices
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.sockets import AdvertSender, family_of
from pylvs.vrrp.vmac import VmacManager, VmacPlan, remove_vmac

DEFAULT_MTU = 1500
RETRY_S = 1.0  # of changes for which descriptors or memory were missing
STATIC = ""  # the name, among those of instances, of static addresses, routes and rules
WriteLog = Callable[[str, str], None]  # level, text


@dataclass(frozen=True, slots=True)
class HeldResources:
    """Addresses, routes and rules that a host adds and removes together."""

    placed: tuple[Placed, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[RoutingRule, ...] = ()

    def on(self, renamed: Mapping[str, str]) -> HeldResources:
        """Return what is on renamed devices, by their present names."""
        placed = tuple((each, renamed[device]) for each, device in self.placed if device in renamed)
        moved = []
        for route in self.routes:
            hops = tuple(replace(each, device=renamed.get(each.device, each.device)) for each in route.next_hops)
            if hops != route.next_hops:
                moved.append(replace(route, next_hops=hops))
        return HeldResources(placed, tuple(moved))

    def possible(self, is_up: Callable[[str], bool]) -> HeldResources:
        """Return them without routes through a device that is down, which the kernel removes."""
        routes_up = (each for each in self.routes if all(not hop.device or is_up(hop.device) for hop in each.next_hops))
        return replace(self, routes=tuple(routes_up))

    def without(self, others: HeldResources) -> HeldResources:
        """Return what is not in the others."""
        return HeldResources(
            tuple(each for each in self.placed if each not in others.placed),
            tuple(each for each in self.routes if each not in others.routes),
            tuple(each for each in self.rules if each not in others.rules),
        )


def resources_of(instance: VrrpInstance, plan: VmacPlan) -> HeldResources:
    """Return what a virtual router holds as master."""
    return HeldResources(tuple(plan.placed(instance)), instance.routes, instance.rules)


def tracked_devices(instance: VrrpInstance, plan: VmacPlan) -> tuple[str, ...]:
    """Return the devices that must be up: interface, VMAC, and those of addresses, routes and rules.

    As in keepalived 2.2.7, `no_track` excepts one of these. `dont_track_primary` excepts the interface, its VMACs, and
    addresses on them, but no routes and rules. A multipath route is not tracked.
    """
    primary = instance.interface or instance.vrf
    found = [primary, plan.device_of(instance)] if instance.track_primary else []
    bases = {each.name: each.base for each in plan.devices}
    for held, device in plan.placed(instance):
        base = bases.get(device, device)
        if held.tracked and (instance.track_primary or base != primary):
            found += base, device
    found += (each.next_hops[0].device for each in instance.routes if each.tracked and len(each.next_hops) == 1)
    found += (device for each in instance.rules if each.tracked for device in (each.iif, each.oif))
    return tuple(dict.fromkeys(device for device in found if device))


def static_resources(configuration: VrrpConfiguration) -> HeldResources:
    """Return what the host holds in every state."""
    default = configuration.settings.default_interface
    placed = tuple((each, each.device or default) for each in configuration.addresses)
    return HeldResources(placed, configuration.routes, configuration.rules)


def add_resources(wanted: HeldResources) -> list[Outcome]:
    """Add addresses, then routes, then rules; existing ones are no error. Return the failures."""
    return _failures(
        partial(addresses.hold, wanted.placed),
        partial(routes.add, wanted.routes),
        partial(routes.add_rules, wanted.rules),
    )


def remove_resources(resources: HeldResources) -> list[Outcome]:
    """Remove rules, then routes, then addresses; missing ones are no error. Return the failures."""
    return _failures(
        partial(routes.remove_rules, resources.rules),
        partial(routes.remove, resources.routes),
        partial(addresses.release, resources.placed),
    )


def _failures(*changes: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Make each change, also after one for which there was no free descriptor or memory. Return the failures."""
    outcomes: list[Outcome] = []
    for change in changes:
        try:
            outcomes += change()
        except OSError as error:
            text = f"addresses, routes or rules could not be changed: {error.strerror}; retrying each second"
            outcomes.append(Outcome(False, text, shortage=True))
    return [each for each in outcomes if not each.done]


def lost_resources(
    resources: HeldResources, changes: Iterable[Change], present: Collection[RouteKey | RuleKey]
) -> set[str]:
    """Return descriptions of tracked routes and rules that these changes removed and nothing added again."""
    lost = {each.key for each in changes if isinstance(each, netlink_monitor.KeyRemoved)}.difference(present)
    found = {f"route {each}" for each in resources.routes if each.tracked and routes.key_of(each) in lost}
    tracked = [each for each in resources.rules if each.tracked]
    return found | {f"rule {each.preference}" for each in tracked if routes.key_of_rule(each) in lost}


class VipManager:
    """What virtual routers need of their host: the state of links, addresses, routes and rules, and sending.

    `on_change` receives the replaced devices. `on_loss` receives an instance's name and what was removed from it:
    nothing, if a device returned without its addresses. `on_conflict` receives address conflicts.
    """

    def __init__(
        self,
        loop: Loop,
        log: WriteLog,
        on_change: Callable[[set[str]], None],
        on_loss: Callable[[str, set[str]], None],
        on_conflict: OnConflict,
    ) -> None:
        self._loop = loop
        self._log = log
        self._on_change = on_change
        self._on_loss = on_loss
        self._links = NetlinkMonitor()
        self._delays = LinkDelays(loop, lambda: on_change(set()))
        self._vmacs = VmacManager(self._links)
        self._firewall = Firewall()
        self._frame_sender = FrameSender()
        self._advert_senders: dict[tuple[str, int], AdvertSender] = {}
        self._held: dict[str, HeldResources] = {}  # by instance
        self._to_add: set[str] = set()  # instances whose resources could not be added for a shortage
        self._to_remove: list[tuple[str, HeldResources]] = []  # resources that could not be removed for a shortage
        self._retry_timer: Timer | None = None
        self._vmac_names: frozenset[str] = frozenset()
        self._configuration = VrrpConfiguration()
        self._tracked: dict[str, tuple[str, ...]] = {}  # devices by instance
        self._virtual: frozenset[Address] = frozenset()  # addresses of all instances, held or not
        self._last_warning: dict[str, str] = {}  # by device or instance
        self._conflicts = ConflictListener(loop, self._links, self._held_addresses, on_conflict, self._warn)
        loop.watch(self._links.fileno(), lambda: self._apply(self._links.read()))

    def close(self) -> None:
        self._loop.forget(self._links.fileno())
        self._links.close()
        self._frame_sender.close()
        self._conflicts.close()
        for sender in self._advert_senders.values():
            sender.close()

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        """Apply VMACs, filter rules and static resources. Return error messages."""
        self._configuration = configuration
        self._delays.configure(configuration.settings.link_delays, configuration.settings.polled_links)
        self._delays.update(self._links.links)
        self._virtual = frozenset(
            each.interface.ip
            for instance in configuration.instances
            for each in (*instance.addresses, *instance.excluded)
        )
        errors, changes = self._vmacs.configure(configuration)
        self._tracked = {each.name: tracked_devices(each, self._vmacs.plan) for each in configuration.instances}
        self._vmac_names = frozenset(self.vmac_bases())
        errors += self._set_firewall() + self._set_static(static_resources(configuration))
        self._apply(changes)
        return errors

    def reset(self) -> None:
        """Restore the host as it was before the first configuration."""
        self._configuration = VrrpConfiguration()
        errors = self._vmacs.close() + self._set_firewall() + self._set_static(HeldResources())
        for error in errors:
            self._log("error", error)
        self._retry()  # now, because the loop ends, and the sockets that closed have left free descriptors

    def _set_firewall(self) -> list[str]:
        return self._firewall.set(self._configuration.instances, self._vmacs.plan, self._links.links)

    def _set_static(self, wanted: HeldResources) -> list[str]:
        before = self._held.pop(STATIC, HeldResources())
        if wanted != HeldResources():
            self._held[STATIC] = wanted
        return [each.error for each in self._replace(STATIC, before, wanted)]

    def set_link_beat(self, device: str, up: bool) -> None:
        """Set the result of polling a link (linkbeat_use_polling)."""
        self._delays.set_beat(device, up)
        self._delays.update(self._links.links)
        self._on_change(set())

    def is_up(self, device: str) -> bool:
        """Return whether a device counts as up: it exists and can carry packets, for as long as its delay demands."""
        link = self._links.links.get(device)
        return link is not None and self._delays.is_up(device, link.running)

    def _carries(self, device: str) -> bool:
        """Return whether a device exists and can carry packets now."""
        link = self._links.links.get(device)
        return link is not None and link.running

    def link_fault(self, instance: VrrpInstance) -> str:
        """Return why one of the instance's devices is unusable, "" if all are usable."""
        primary = instance.interface or instance.vrf
        if primary and primary not in self._links.links:
            return f"there is no device {primary}"
        faults = map(self._device_fault, self.devices_tracked_by(instance))
        return next((fault for fault in faults if fault), "")

    def devices_tracked_by(self, instance: VrrpInstance) -> tuple[str, ...]:
        """Return the devices that must be up for an instance."""
        return self._tracked.get(instance.name, ())

    def _device_fault(self, device: str) -> str:
        link = self._links.links.get(device)
        if device in self._vmac_names:  # `_apply` creates an absent one; the carrier of a new one follows its base late
            return "" if link is None or link.enabled else f"{device} is down"
        if link is None:
            return f"there is no device {device}"
        return "" if self.is_up(device) else f"{device} is down"

    def source_of(self, instance: VrrpInstance) -> Address | None:
        """Return the source address of its advertisements, None if the device has none."""
        if instance.source is not None:
            if not instance.track_source:
                return instance.source
            present = {each.interface.ip for link in self._links.links.values() for each in link.addresses}
            return instance.source if instance.source in present else None
        vmac = instance.vmac
        device = self.device_of(instance) if vmac is not None and vmac.ipvlan is not None else instance.interface
        return self._links.primary_address(device, family_of(instance), self._virtual)

    def mtu_of(self, instance: VrrpInstance) -> int:
        link = self._links.links.get(instance.interface)
        return link.mtu if link else DEFAULT_MTU

    def device_of(self, instance: VrrpInstance) -> str:
        """Return the device that sends advertisements: its VMAC, or its interface."""
        return self._vmacs.plan.device_of(instance)

    def receive_device_of(self, instance: VrrpInstance) -> str:
        """Return the device that receives advertisements.

        Multicast from a VMAC's own link address reaches only that VMAC. Unicast arrives on the interface, or on the
        ipvlan that has its address. Without an interface it arrives on any device of a VRF, or on any device: "".
        """
        ipvlan = instance.vmac.ipvlan if instance.vmac is not None else None
        own = ipvlan.address.ip if ipvlan is not None and ipvlan.address is not None else None
        if not instance.peers or (ipvlan is not None and instance.source in (None, own)):
            return self.device_of(instance)
        return instance.interface or instance.vrf

    def vmac_bases(self) -> dict[str, str]:
        """Return the device below each VMAC."""
        return {each.name: each.base for each in self._vmacs.plan.devices}

    def _apply(self, changes: list[Change]) -> None:
        latest = changes
        while renamed := self._links.renamed(latest):
            self._leave_renamed(renamed)
            latest = self._links.read()
            changes = changes + latest
        replaced = replaced_devices(changes)
        for device in replaced:
            for key in [key for key in self._advert_senders if key[0] == device]:
                self._advert_senders.pop(key).close()
            self._conflicts.forget(device)
        if replaced or any(isinstance(change, netlink_monitor.AddressAdded) for change in changes):
            errors, more = self._vmacs.create_missing()
            for error in errors + (self._set_firewall() if replaced else []):
                self._warn("", error)
            changes = changes + more
            replaced |= replaced_devices(more)
        self._restore(changes)
        self._delays.update(self._links.links)
        if changes:
            self._on_change(replaced)
        if replaced:
            self._conflicts.listen_soon()

    def _leave_renamed(self, renamed: Mapping[str, str]) -> None:
        """Remove what virtual routers have on devices that were renamed.

        To the configuration such a device is gone. Without this, it would answer ARP beside the next master.
        """
        for name, resources in self._held.items():
            left = resources.on(renamed) if name != STATIC else HeldResources()
            if left != HeldResources():
                now = ", ".join(f"{before} is {after} now" for before, after in renamed.items())
                self._log("warning", f"{name}: {now}: its addresses there are removed")
                self._log_failures(name, self._remove(name, left))
        for device in self._vmacs.plan.devices:  # one that lost its name would keep its link address
            name = renamed.get(device.name, device.name)
            if not renamed.keys().isdisjoint((device.name, device.base)) and (
                error := remove_vmac(replace(device, name=name))
            ):
                self._log("error", error)

    def announced_addresses(self, instance: VrrpInstance) -> list[DeviceAddress]:
        """Return the addresses that a master announces, with their devices."""
        return [(device, each.interface.ip) for each, device in self._vmacs.plan.placed(instance)]

    def add_resources(self, instance: VrrpInstance) -> None:
        """Add addresses, routes and rules; existing ones are no error."""
        wanted = self._held[instance.name] = resources_of(instance, self._vmacs.plan)
        self._finish(instance, self._add(instance.name, wanted))

    def remove_resources(self, instance: VrrpInstance) -> None:
        """Remove them; missing ones are no error."""
        held = self._held.pop(instance.name, None) or resources_of(instance, self._vmacs.plan)
        self._finish(instance, self._remove(instance.name, held))

    def replace_resources(self, instance: VrrpInstance) -> None:
        """Add and remove what differs from what the instance holds."""
        before = self._held.get(instance.name, HeldResources())
        wanted = self._held[instance.name] = resources_of(instance, self._vmacs.plan)
        self._finish(instance, self._replace(instance.name, before, wanted))

    def _add(self, name: str, resources: HeldResources) -> list[Outcome]:
        failed = add_resources(resources)
        if any(each.shortage for each in failed):
            self._to_add.add(name)
            self._retry_soon()
        return failed

    def _remove(self, name: str, resources: HeldResources) -> list[Outcome]:
        failed = remove_resources(resources)
        if any(each.shortage for each in failed):
            self._to_remove.append((name, resources))
            self._retry_soon()
        return failed

    def _replace(self, name: str, before: HeldResources, after: HeldResources) -> list[Outcome]:
        return self._remove(name, before.without(after)) + self._add(name, after.without(before))

    def _retry_soon(self) -> None:
        if self._retry_timer is None:
            self._retry_timer = self._loop.at(self._loop.now + RETRY_S, self._retry)

    def _retry(self) -> None:
        """Make the changes again for which descriptors or memory were missing; their errors are in the log."""
        self._retry_timer = None
        to_remove, self._to_remove = self._to_remove, []
        to_add, self._to_add = self._to_add, set()
        for name, resources in to_remove:
            for held in self._held.values():  # an instance may hold them again
                resources = resources.without(held)
            failed = self._remove(name, resources)
            self._log_failures(name, [each for each in failed if not each.shortage])
        for name in sorted(to_add & self._held.keys()):
            failed = self._add(name, self._held[name])
            self._log_failures(name, [each for each in failed if not each.shortage])

    def _held_addresses(self) -> Iterator[DeviceAddress]:
        for name, resources in self._held.items():
            if name != STATIC:
                yield from ((device, each.interface.ip) for each, device in resources.placed)

    def _finish(self, instance: VrrpInstance, failed: Iterable[Outcome]) -> None:
        self._log_failures(instance.name, failed)
        self._conflicts.listen_soon()

    def _log_failures(self, name: str, failed: Iterable[Outcome]) -> None:
        for each in failed:
            self._log("error", f"{name}: {each.error}" if name else each.error)

    def _restore(self, changes: Sequence[Change]) -> None:
        """Restore addresses, routes and rules that another program or the kernel removed."""
        removed = {
            (each.interface.ip, each.device) for each in changes if isinstance(each, netlink_monitor.AddressRemoved)
        }
        came_up = {each.link.name for each in changes if isinstance(each, netlink_monitor.LinkUp)}
        for name, resources in list(self._held.items()):
            lost = lost_resources(resources.possible(self._carries), changes, self._links.keys)
            absent = [each for each in resources.placed if not self._is_present(each[1], each[0].interface.ip)]
            for vip, device in absent:
                if vip.tracked and (vip.interface.ip, device) in removed and self._carries(device):
                    lost.add(str(vip.interface.ip))
            returned = any(device in came_up for _, device in absent)
            if name != STATIC and (lost or returned):
                self._on_loss(name, lost)
            elif lost or returned or any(hop.device in came_up for each in resources.routes for hop in each.next_hops):
                self._add(name, resources)

    def _is_present(self, device: str, address: Address) -> bool:
        link = self._links.links.get(device)
        return link is not None and any(each.interface.ip == address for each in link.addresses)

    def send_adverts(self, instance: VrrpInstance, packets: Sequence[Datagram]) -> None:
        """Send advertisements."""
        from_base = instance.vmac is not None and instance.vmac.send_from_base
        device = instance.interface if from_base else self.receive_device_of(instance)
        key = device, family_of(instance)
        try:
            if key not in self._advert_senders:
                self._advert_senders[key] = AdvertSender(*key)
            for each in packets:
                self._advert_senders[key].send(each)
        except OSError as error:
            self._warn(instance.name, f"{instance.name}: {device}: {error.strerror or error}")
            return
        self._last_warning.pop(instance.name, None)

    def send_garp(self, instance: VrrpInstance, device: str, address: Address) -> None:
        """Send one gratuitous ARP or unsolicited neighbour advertisement."""
        link = self._links.links.get(device)
        if link is None:
            return
        if error := self._frame_sender.send(device, announcement_frame(device, address, link.mac)):
            self._warn(device, f"{instance.name}: {address} is not announced: {error}")

    def _warn(self, key: str, text: str) -> None:
        """Log a warning unless it is the last one of this device or instance."""
        if self._last_warning.get(key) != text:
            self._last_warning[key] = text
            self._log("warning", text)
