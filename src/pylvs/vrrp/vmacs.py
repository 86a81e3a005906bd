"""The VMACs of all virtual routers: made when they are configured, long before a take-over, and removed with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.netlink import addresses
from pylvs.system.undo_log import Memory, load
from pylvs.vrrp import vmac
from pylvs.vrrp.vmac_plan import Plan, VmacDevice, plan
from pylvs.vrrp.watching import Change, Link, Watch

SETTINGS = Path("vrrp-settings.json")  # of other devices, as they were before; in the state directory


class Vmacs:
    """Those that there are. Troubles are given back in words."""

    def __init__(self, links: Watch) -> None:
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
            memory = self._memory = self._memory or load(SETTINGS)
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
