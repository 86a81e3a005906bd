"""This machine, as virtual routers need it: links and their changes, what is held, and what is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.vrrp import holdings
from pylvs.vrrp.claim_ears import ClaimEars, Claimed
from pylvs.vrrp.holdings import Holdings
from pylvs.vrrp.link_socket import Sender, announcement
from pylvs.vrrp.listening import family_of
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.packet_filter import Guard
from pylvs.vrrp.sockets import Mouth
from pylvs.vrrp.speaking import Outgoing
from pylvs.vrrp.speaking import device_of as unicast_by
from pylvs.vrrp.vmacs import Vmacs
from pylvs.vrrp.watching import AddressCame, AddressGone, Change, LinkCame, LinkChanged, LinkGone, LinkUp, Watch
from pylvs.vrrp.world import Target

Log = Callable[[str, str], None]  # level, text
USUAL_MTU = 1500
FIXED = ""  # the name, among those of instances, under which stands what is held whoever is master


class Place:
    """Links, addresses, and the sockets that send.

    `changed` is called with the devices that are there anew, `lost` with an instance's name and what somebody removed
    (nothing, where a device came back without it), `claimed` with what others claim.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        changed: Callable[[set[str]], None],
        lost: Callable[[str, set[str]], None],
        claimed: Claimed,
    ) -> None:
        self._loop = loop
        self._log = log
        self._changed = changed
        self._lost = lost
        self._links = Watch(routes=True)
        self._vmacs = Vmacs(self._links)
        self._guard = Guard()
        self._sender = Sender()
        self._mouths: dict[tuple[str, int], Mouth] = {}
        self._holding: dict[str, Holdings] = {}  # at this moment, by instance
        self._configuration = VrrpConfiguration()
        self._virtual: frozenset[Address] = frozenset()  # of all instances, held or not
        self._said: dict[str, str] = {}  # the last trouble of each device or instance that was logged
        self._ears = ClaimEars(loop, self._links, self._held, claimed, self._trouble)
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
        troubles += self._guarded() + self._fix(holdings.fixed(configuration))
        self._follow(changes)
        return troubles

    def leave(self) -> None:
        """Everything as it was before the first virtual router."""
        self._configuration = VrrpConfiguration()
        troubles = self._vmacs.leave() + self._guarded() + self._fix(Holdings())
        for trouble in troubles:
            self._log("error", trouble)

    def _guarded(self) -> list[str]:
        return self._guard.set(self._configuration.instances, self._vmacs.plan, self._links.links)

    def _fix(self, wanted: Holdings) -> list[str]:
        before = self._holding.pop(FIXED, Holdings())
        if wanted != Holdings():
            self._holding[FIXED] = wanted
        return holdings.change(before, wanted)

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
        return link.mtu if link else USUAL_MTU

    def _links_changed(self) -> None:
        self._follow(self._links.read())

    def _follow(self, changes: list[Change]) -> None:
        renewed = _renewed(changes)
        for device in renewed:
            for key in [key for key in self._mouths if key[0] == device]:
                self._mouths.pop(key).close()
            self._ears.forget(device)
        if renewed or any(isinstance(change, AddressCame) for change in changes):
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

    def targets_of(self, instance: VrrpInstance) -> list[Target]:
        """Each of its addresses, with its device."""
        return [(device, each.interface.ip) for each, device in self._vmacs.plan.placed(instance)]

    def take(self, instance: VrrpInstance) -> None:
        """Hold its addresses, routes and rules; those that are there already are fine."""
        wanted = self._holding[instance.name] = self._of(instance)
        self._say(instance, holdings.take(wanted))

    def give_up(self, instance: VrrpInstance) -> None:
        """Hold them no more; those that have gone already are fine."""
        self._say(instance, holdings.give_up(self._holding.pop(instance.name, self._of(instance))))

    def change(self, old: VrrpInstance, new: VrrpInstance) -> None:
        """Hold what the new word says instead of what the old one said; what is in both is not touched."""
        before = self._holding.get(new.name, Holdings())
        wanted = self._holding[new.name] = self._of(new)
        self._say(new, holdings.change(before, wanted))

    def _of(self, instance: VrrpInstance) -> Holdings:
        return holdings.of_instance(instance, self._vmacs.plan)

    def _held(self) -> Iterator[Target]:
        """Virtual addresses that are held at this moment."""
        for name, having in self._holding.items():
            if name != FIXED:
                yield from ((device, each.interface.ip) for each, device in having.placed)

    def _say(self, instance: VrrpInstance, troubles: Sequence[str]) -> None:
        for trouble in troubles:
            self._log("error", f"{instance.name}: {trouble}")
        self._ears.listen_soon()

    def _restore(self, changes: Sequence[Change]) -> None:
        """What is held, and somebody removed; and what the kernel forgot while a device was down or gone."""
        gone = {(each.address, each.device) for each in changes if isinstance(each, AddressGone)}
        up = {each.link.name for each in changes if isinstance(each, LinkUp)}
        for name, having in list(self._holding.items()):
            lost = holdings.missing(having.where(self.up), changes, self._links.routes, self._links.rules)
            absent = [each for each in having.placed if not self._is_here(each[1], each[0].interface.ip)]
            for held, device in absent:
                if held.tracked and (held.interface.ip, device) in gone and self.up(device):
                    lost.add(str(held.interface.ip))
            back = any(device in up for _, device in absent)
            if name != FIXED and (lost or back):
                self._lost(name, lost)
            elif lost or back or any(hop.device in up for route in having.routes for hop in route.next_hops):
                holdings.take(having)

    def _is_here(self, device: str, address: Address) -> bool:
        link = self._links.links.get(device)
        return link is not None and any(each.interface.ip == address for each in link.addresses)

    # --- what is sent ---

    def send(self, instance: VrrpInstance, packets: Sequence[Outgoing]) -> None:
        """Advertisements."""
        below = bool(instance.peers) or (instance.vmac is not None and instance.vmac.send_from_base)
        device = instance.interface if below else self._vmacs.plan.device_of(instance)
        key = unicast_by(instance, device), family_of(instance)
        try:
            if key not in self._mouths:
                self._mouths[key] = Mouth(*key)
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
        if trouble := self._sender.send(device, announcement(device, address, link.mac)):
            self._trouble(device, f"{instance.name}: {address} is not announced: {trouble}")

    def _trouble(self, device: str, words: str) -> None:
        if self._said.get(device) != words:
            self._said[device] = words
            self._log("warning", words)


def _renewed(changes: Sequence[Change]) -> set[str]:
    """Devices that came, went, or have another link address."""
    return {each.link.name for each in changes if isinstance(each, LinkCame | LinkGone | LinkChanged)}
