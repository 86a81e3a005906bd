"""This machine, as virtual routers need it: links and their changes, what is held, and what is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pylvs.host import held
from pylvs.host.held import Outcome, Placed
from pylvs.model.addresses import Address
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.vrrp.claims import Claims
from pylvs.vrrp.link_socket import ClaimEar, Sender, announcement, known_as
from pylvs.vrrp.listening import family_of
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.sockets import Mouth
from pylvs.vrrp.speaking import Outgoing
from pylvs.vrrp.vmacs import Vmacs
from pylvs.vrrp.watching import AddressGone, Change, LinkCame, LinkChanged, LinkGone, Watch
from pylvs.vrrp.world import Target

Log = Callable[[str, str], None]  # level, text
USUAL_MTU = 1500
LISTEN_LATER_S = 0.005


class Place:
    """Links, addresses, and the sockets that send. `changed` is called with the devices that are there anew."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        changed: Callable[[set[str]], None],
        lost: Callable[[str, set[Address]], None],
        claimed: Callable[[Address, str], None],
    ) -> None:
        self._loop = loop
        self._log = log
        self._changed = changed
        self._lost = lost
        self._claimed = claimed
        self._links = Watch()
        self._sender = Sender()
        self._mouths: dict[tuple[str, int], Mouth] = {}
        self._ears: dict[str, ClaimEar] = {}
        self._claims = Claims(known_as)
        self._holding: dict[str, set[Target]] = {}  # by instance: what it holds at this moment
        self._virtual: frozenset[Address] = frozenset()  # of all instances, held or not
        self._said: dict[str, str] = {}  # the last trouble of each device that was logged
        self._fixed: list[Placed] = []
        self._listening: Timer | None = None
        self._vmacs = Vmacs(self._links)
        loop.watch(self._links.fileno(), self._links_changed)

    def close(self) -> None:
        """No more."""
        self._loop.forget(self._links.fileno())
        self._links.close()
        self._sender.close()
        for mouth in self._mouths.values():
            mouth.close()
        for ear in self._ears.values():
            self._loop.forget(ear.fileno())
            ear.close()

    # --- links ---

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        """From now on these addresses are virtual, and nobody speaks from them; troubles in words."""
        self._virtual = frozenset(
            each.interface.ip for instance in configuration.instances for each in _held_by(instance)
        )
        return self._vmacs.configure(configuration) + self._fix(configuration)

    def _fix(self, configuration: VrrpConfiguration) -> list[str]:
        """Hold the addresses that stay whoever is master, and those of the last configuration no more."""
        default = configuration.settings.default_interface
        before, self._fixed = self._fixed, [(each, each.device or default) for each in configuration.addresses]
        outcomes = held.release([each for each in before if each not in self._fixed])
        outcomes += held.hold([each for each in self._fixed if each not in before])
        return [outcome.trouble for outcome in outcomes if not outcome.done]

    def leave(self) -> None:
        """Everything as it was before the first virtual router."""
        for trouble in self._vmacs.leave() + self._fix(VrrpConfiguration()):
            self._log("error", trouble)

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
        changes = self._links.read()
        renewed: set[str] = set()
        for change in changes:
            if isinstance(change, LinkCame | LinkGone | LinkChanged):
                renewed.add(change.link.name)
        for device in renewed:
            self._forget_device(device)
        if renewed:
            for trouble in self._vmacs.make():
                self._trouble("", trouble)
        self._restore(changes)
        if changes:
            self._changed(renewed)
        if renewed:
            self._listen_soon()

    def _forget_device(self, device: str) -> None:
        for key in [key for key in self._mouths if key[0] == device]:
            self._mouths.pop(key).close()
        if device in self._ears:
            ear = self._ears.pop(device)
            self._loop.forget(ear.fileno())
            ear.close()

    # --- what is held ---

    def device_of(self, instance: VrrpInstance) -> str:
        """Where it speaks: its VMAC, or the device itself."""
        return self._vmacs.plan.device_of(instance)

    def heard_on(self, instance: VrrpInstance) -> str:
        """Where it hears others: multicast from a VMAC's own link address comes to that VMAC alone."""
        return instance.interface if instance.peers else self.device_of(instance)

    def bases(self) -> dict[str, str]:
        """The device below each VMAC."""
        return {each.name: each.base for each in self._vmacs.plan.devices}

    def targets_of(self, instance: VrrpInstance) -> list[Target]:
        """Each of its addresses, with its device."""
        return [(device, each.interface.ip) for each, device in self._vmacs.plan.placed(instance)]

    def take(self, instance: VrrpInstance) -> None:
        """Hold its addresses; those that are there already are fine."""
        self._holding[instance.name] = set(self.targets_of(instance))
        self._hold(instance, self._vmacs.plan.placed(instance))
        self._listen_soon()

    def give_up(self, instance: VrrpInstance) -> None:
        """Hold them no more; those that have gone already are fine."""
        self._holding.pop(instance.name, None)
        self._release(instance, self._vmacs.plan.placed(instance))
        self._listen_soon()

    def change(self, old: VrrpInstance, new: VrrpInstance) -> None:
        """Hold what the new word says instead of what the old one said; what is in both is not touched."""
        before, after = self._vmacs.plan.placed(old), self._vmacs.plan.placed(new)
        self._holding[new.name] = set(self.targets_of(new))
        self._release(old, [each for each in before if each not in after])
        self._hold(new, [each for each in after if each not in before])
        self._listen_soon()

    def _hold(self, instance: VrrpInstance, placed: Sequence[Placed]) -> None:
        self._say(instance, held.hold(placed))

    def _release(self, instance: VrrpInstance, placed: Sequence[Placed]) -> None:
        self._say(instance, held.release(placed))

    def _say(self, instance: VrrpInstance, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if not outcome.done:
                self._log("error", f"{instance.name}: {outcome.trouble}")

    def _restore(self, changes: Sequence[Change]) -> None:
        """Addresses that are held, and that somebody took off."""
        gone = {(change.device, change.address) for change in changes if isinstance(change, AddressGone)}
        for name, targets in list(self._holding.items()):
            if lost := {target for target in targets & gone if not self._is_here(*target)}:
                self._lost(name, {address for _, address in lost})

    def _is_here(self, device: str, address: Address) -> bool:
        link = self._links.links.get(device)
        return link is not None and any(each.interface.ip == address for each in link.addresses)

    # --- what is sent ---

    def send(self, instance: VrrpInstance, packets: Sequence[Outgoing]) -> None:
        """Advertisements."""
        below = instance.vmac is not None and instance.vmac.send_from_base
        key = instance.interface if below else self._vmacs.plan.device_of(instance), family_of(instance)
        try:
            if key not in self._mouths:
                self._mouths[key] = Mouth(*key)
            for each in packets:
                self._mouths[key].send(each.packet, each.source, each.destination, each.hops)
        except OSError as error:
            self._trouble(key[0], f"{instance.name}: {key[0]}: {error.strerror}")
            return
        self._said.pop(key[0], None)

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

    # --- who claims it as well ---

    def _listen_soon(self) -> None:
        """Once what is more urgent has been sent."""
        if self._listening is None or self._listening.call is None:
            self._listening = self._loop.at(self._loop.now + LISTEN_LATER_S, self._listen)

    def _listen(self) -> None:
        wanted: dict[str, set[Address]] = {}
        for targets in self._holding.values():
            for device, address in targets:
                wanted.setdefault(device, set()).add(address)
        for device in [device for device in self._ears if device not in wanted]:
            self._forget_ear(device)
        for device, addresses in wanted.items():
            link = self._links.links.get(device)
            if link is None:
                continue
            try:
                if device not in self._ears:
                    ear = ClaimEar(device)
                    self._ears[device] = ear
                    self._loop.watch(ear.fileno(), partial(self._hear_claims, ear))
                self._ears[device].watch(addresses, {link.mac, *self._macs_above(link.index)})
            except OSError as error:
                self._trouble(device, f"claims of others are not heard on {device}: {error.strerror}")

    def _macs_above(self, index: int) -> set[bytes]:
        return {link.mac for link in self._links.links.values() if link.below == index}

    def _forget_ear(self, device: str) -> None:
        ear = self._ears.pop(device)
        self._loop.forget(ear.fileno())
        ear.close()

    def _hear_claims(self, ear: ClaimEar) -> None:
        for claim in ear.receive():
            heard = self._claims.hear(self._loop.now, claim)
            if heard.words:
                self._log("warning", heard.words)
            if heard.answer:
                self._claimed(claim.address, heard.words)


def _held_by(instance: VrrpInstance) -> tuple[HeldAddress, ...]:
    return (*instance.addresses, *instance.excluded)
