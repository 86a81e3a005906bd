"""What a virtual router meets outside of itself: this machine, and those who want to know.

`pylvs.vrrp.vip_manager` and `pylvs.vrrp.router_service` are them in earnest; tests imagine others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpInstance
from pylvs.vrrp.loop import Call, Timer
from pylvs.vrrp.protocol.adverts import OutgoingPacket

DeviceAddress = tuple[str, Address]  # a device, and an address on it


class HostPort(Protocol):
    """This machine: its links, what it holds, what it sends."""

    def link_fault(self, instance: VrrpInstance) -> str:
        """Why the instance's device cannot be used, "" if it can."""

    def source_of(self, instance: VrrpInstance) -> Address | None:
        """The address that it speaks from, None while there is none."""

    def mtu_of(self, instance: VrrpInstance) -> int:
        """Of the device that it speaks through."""

    def device_of(self, instance: VrrpInstance) -> str:
        """Where it speaks: its VMAC, or the device itself."""

    def bases(self) -> dict[str, str]:
        """The device below each VMAC."""

    def targets_of(self, instance: VrrpInstance) -> list[DeviceAddress]:
        """Each of its addresses that is to be announced, with its device."""

    def take(self, instance: VrrpInstance) -> None:
        """Hold its addresses, routes and rules; those that are there already are fine."""

    def give_up(self, instance: VrrpInstance) -> None:
        """Hold them no more; those that have gone already are fine."""

    def change(self, old: VrrpInstance, new: VrrpInstance) -> None:
        """Hold what the new word says instead of what the old one said; what is in both is not touched."""

    def send(self, instance: VrrpInstance, packets: Sequence[OutgoingPacket]) -> None:
        """Advertisements."""

    def announce(self, instance: VrrpInstance, device: str, address: Address) -> None:
        """One gratuitous ARP or unsolicited neighbour advertisement."""


class ServicePort(Protocol):
    """Time, and everyone who wants to know."""

    @property
    def now(self) -> float:
        """Seconds of a clock that only goes forward."""

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before that time."""

    def roles_changed(self) -> None:
        """A virtual router became master, before it takes addresses; or is one no more, after it gave them up."""

    def log(self, level: str, text: str, **fields: Any) -> None:
        """A line."""

    def tell(self, event: str, instance: str, **fields: Any) -> None:
        """To those who follow events."""

    def notify(self, kind: str, name: str, state: str, priority: int, before: str) -> None:
        """To the operator's scripts, pipes and mail."""

    def priority_moved(self, name: str, state: str, priority: int) -> None:
        """To the operator's pipes."""

    def lower_heard(self, name: str, priority: int) -> None:
        """To the operator's script for masters that hear somebody worse."""
