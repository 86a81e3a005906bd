"""The two ports of a virtual router: its host, and the service that runs it.

`pylvs.vrrp.vip_manager` and `pylvs.vrrp.router_service` implement them; tests have other implementations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpInstance
from pylvs.vrrp.garp import DeviceAddress
from pylvs.vrrp.loop import Call, Timer
from pylvs.vrrp.protocol.adverts import OutgoingPacket


class HostPort(Protocol):
    """Links, addresses and the sockets that send."""

    def link_fault(self, instance: VrrpInstance) -> str:
        """Return why the instance's device is unusable, "" if it is usable."""

    def source_of(self, instance: VrrpInstance) -> Address | None:
        """Return the source address of its advertisements, None if the device has none."""

    def mtu_of(self, instance: VrrpInstance) -> int:
        """Return the MTU of its device."""

    def device_of(self, instance: VrrpInstance) -> str:
        """Return the device that sends advertisements: its VMAC, or its interface."""

    def vmac_bases(self) -> dict[str, str]:
        """Return the device below each VMAC."""

    def announced_addresses(self, instance: VrrpInstance) -> list[DeviceAddress]:
        """Return the addresses that a master announces, with their devices."""

    def add_resources(self, instance: VrrpInstance) -> None:
        """Add addresses, routes and rules; existing ones are no error."""

    def remove_resources(self, instance: VrrpInstance) -> None:
        """Remove them; missing ones are no error."""

    def replace_resources(self, instance: VrrpInstance) -> None:
        """Add and remove what differs from what the instance holds."""

    def send_adverts(self, instance: VrrpInstance, packets: Sequence[OutgoingPacket]) -> None:
        """Send advertisements."""

    def send_garp(self, instance: VrrpInstance, device: str, address: Address) -> None:
        """Send one gratuitous ARP or unsolicited neighbour advertisement."""


class ServicePort(Protocol):
    """Timers, and the receivers of events."""

    @property
    def now(self) -> float:
        """Seconds of a monotonic clock."""

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before `when`."""

    def roles_changed(self) -> None:
        """Publish the roles: before a new master adds its addresses, after a former one has removed them."""

    def log(self, level: str, text: str, **fields: Any) -> None:
        """Write a log line."""

    def publish(self, event: str, instance: str, **fields: Any) -> None:
        """Send an event to all subscribers."""

    def notify(self, kind: str, name: str, state: str, priority: int, before: str) -> None:
        """Run notify scripts, write to FIFOs and send mail about a state."""

    def notify_priority(self, name: str, state: str, priority: int) -> None:
        """Write a changed priority to the FIFOs."""

    def notify_lower_priority(self, name: str, priority: int) -> None:
        """Run notify_master_rx_lower_pri."""
