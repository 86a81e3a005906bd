"""VMACs: macvlans with a virtual router's link address (RFC 9568, 7.3); and ipvlans, which have the base device's.

The plan follows keepalived's rules and is pure. A virtual router with a VMAC holds the addresses of its family there,
unless they name another device. Other addresses are on the devices that they name, or on VMACs above those.

IPv4: a VMAC answers ARP only for its own addresses, and its base device does not answer for them (arp_ignore,
arp_filter). Nor does the base device ask for a neighbour with them as the sender, because the neighbour would learn its
link address (arp_announce). A VMAC accepts packets from the virtual routers' own addresses, without rp_filter, because
answers may leave through the base device. IPv6: a VMAC has only the addresses that it is given. One is the base
device's link-local address, which is deprecated, so that other programs do not use it as a source.

An ipvlan has the base device's link address, so it needs none of these settings.

It takes about a millisecond to create one, ten to remove one: a take-over does neither.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv6Interface
from itertools import chain, count
from pathlib import Path

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import PylvsError
from pylvs.model.routing import SCOPE_LINK, HeldAddress
from pylvs.model.vrrp import Ipvlan, VrrpConfiguration, VrrpInstance, VrrpSettings
from pylvs.netlink import addresses
from pylvs.netlink.changes import in_words, index_of
from pylvs.netlink.codec import CREATE, DELLINK, EXCL, IFF_UP, IFINFOMSG, NEWLINK, Netlink, attribute, nested, text, u32
from pylvs.netlink.monitor import IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_MASTER
from pylvs.system import proc
from pylvs.system.undo_log import Memory, load
from pylvs.vrrp.netlink_monitor import Change, Link, NetlinkMonitor, vrf_of
from pylvs.vrrp.protocol.adverts import virtual_mac

SAVED_SETTINGS = Path("vrrp-settings.json")  # former sysctls of devices, in the state directory
KIND, IPVLAN_KIND = "macvlan", "ipvlan"
IPVLAN_MODE, IPVLAN_FLAGS, MODE_L2 = 1, 2, 0  # IFLA_IPVLAN_*, IPVLAN_MODE_L2
LOCAL_IGMP = "net/ipv4/igmp_link_local_mcast_reports"
PRIVATE = 1  # MACVLAN_MODE_PRIVATE: VMACs of one base device do not exchange packets
IFLA_AF_SPEC = 26
INFO_KIND, INFO_DATA, MACVLAN_MODE = 1, 2, 1
AF_INET6, ADDR_GEN_MODE, GEN_MODE_NONE = 10, 8, 1
ON_VMAC = {"arp_ignore": "1", "accept_local": "1", "rp_filter": "0", "promote_secondaries": "1"}
ON_BASE = {"arp_ignore": "1", "arp_filter": "1", "arp_announce": "2"}


@dataclass(frozen=True, slots=True)
class VmacDevice:
    """A macvlan in private mode above `base`, with the MAC address of a virtual router; or an ipvlan."""

    name: str
    base: str
    mac: bytes  # of a macvlan
    family: int  # of its addresses: 4 or 6
    ipvlan: Ipvlan | None = None

    def fits(self, link: Link, base: int) -> bool:
        """Return whether an existing device is this one; `base` is the index of the base device."""
        if self.ipvlan is not None:
            return (link.kind, link.below) == (IPVLAN_KIND, base)
        return (link.kind, link.below, link.mac) == (KIND, base, self.mac)


@dataclass(slots=True)
class VmacPlan:
    """All VMACs of a configuration."""

    by_key: dict[tuple[str, str, int], VmacDevice] = field(default_factory=dict)  # instance, base and family

    @property
    def devices(self) -> list[VmacDevice]:
        """All devices, each once."""
        return list(dict.fromkeys(self.by_key.values()))

    def device_of(self, instance: VrrpInstance) -> str:
        """Return the device that sends a virtual router's advertisements and answers ARP."""
        own = self.by_key.get((instance.name, instance.interface, instance.family))
        return own.name if own and instance.vmac is not None and instance.vmac.here else instance.interface

    def placed(self, instance: VrrpInstance) -> list[tuple[HeldAddress, str]]:
        """Return each address of a virtual router, advertised or not, with its device."""
        return [(held, self._device_for(instance, held)) for held in (*instance.addresses, *instance.excluded)]

    def _device_for(self, instance: VrrpInstance, held: HeldAddress) -> str:
        base = held.device or instance.interface
        own = self.by_key.get((instance.name, base, held.interface.version))
        return own.name if own and on_vmac(instance, held) else base


def on_vmac(instance: VrrpInstance, held: HeldAddress) -> bool:
    """Return whether an address is on a VMAC: the one that sends advertisements, or another one."""
    vmac = instance.vmac
    if (held.device or instance.interface, held.interface.version) == (instance.interface, instance.family):
        return held.own_vmac or (vmac is not None and vmac.here)
    return held.own_vmac or (vmac is not None and vmac.for_addresses)


def plan_vmacs(
    instances: Iterable[VrrpInstance], settings: VrrpSettings, existing: Mapping[str, Link] | None = None
) -> VmacPlan:
    """Return the VMACs of these virtual routers; one that a former process left keeps its name."""
    plan, existing = VmacPlan(), existing or {}
    taken = {each.vmac.name for each in instances if each.vmac is not None} - {""} | existing.keys()
    for instance in instances:
        wanted: list[tuple[str, int, str, str]] = []  # base, family, configured name, prefix of other names
        if instance.vmac is not None and instance.vmac.here:
            wanted.append((instance.interface, instance.family, instance.vmac.name, settings.vmac_prefix))
        for held in (*instance.addresses, *instance.excluded):
            if on_vmac(instance, held):
                base = held.device or instance.interface
                wanted.append((base, held.interface.version, "", settings.vmac_address_prefix))
        for base, family, name, prefix in wanted:
            if (instance.name, base, family) in plan.by_key:
                continue
            ipvlan = instance.vmac.ipvlan if instance.vmac and (base, family) == own_key(instance) else None
            first = f"{prefix}.{instance.vrid}" if ipvlan else ""  # ipvlans of one base have the same MAC address
            device = VmacDevice(name or first, base, mac_of(instance, family), family, ipvlan)
            name = name or existing_name(existing, plan, device)
            device = replace(device, name=name or free_name(prefix, instance.vrid, family, taken))
            plan.by_key[instance.name, base, family] = device
            taken.add(device.name)
    return plan


def own_key(instance: VrrpInstance) -> tuple[str, int]:
    """Return interface and family of the virtual router, where its own VMAC is."""
    return instance.interface, instance.family


def mac_of(instance: VrrpInstance, family: int) -> bytes:
    """Return the configured MAC address, whose last byte may be left to the VRID, or that of RFC 9568."""
    given = instance.vmac.mac if instance.vmac is not None else None
    if given is None:
        return virtual_mac(instance.vrid, family)
    return given if len(given) == 6 else given + bytes([instance.vrid])


def existing_name(existing: Mapping[str, Link], plan: VmacPlan, device: VmacDevice) -> str:
    """Return the name of an existing device that fits, "" if there is none to use. An ipvlan needs its name, too."""
    below = existing.get(device.base)
    if below is None:
        return ""
    used = {each.name for each in plan.devices}
    found = (name for name, each in existing.items() if device.fits(each, below.index))
    return next((name for name in found if name not in used and device.name in ("", name)), "")


def free_name(prefix: str, vrid: int, family: int, taken: Collection[str]) -> str:
    """Return PREFIX.VRID; if it is taken, with a number after the prefix: 6 for IPv6, else 1, 2, 3..."""
    numbers = chain(("", 6) if family == 6 else ("",), count(1))
    return next(name for number in numbers if (name := f"{prefix}{number}.{vrid}") not in taken)


def create_vmac(device: VmacDevice, existing: Mapping[str, Link]) -> str:
    """Create a VMAC and set it up; adopt an existing one with its MAC address above its base. Return an error."""
    base = index_of(device.base)
    if not base:
        return f"VMAC {device.name}: there is no device {device.base}"
    present = existing.get(device.name)
    if present is not None and not device.fits(present, base):
        return f"VMAC {device.name}: there is another device of that name; rename it, or the VMAC"
    with Netlink() as route:
        if present is None:
            vrf = vrf_of(existing, device.base)
            number, detail = route.do([(NEWLINK, creation(device, base, vrf.index if vrf else 0), CREATE | EXCL)])[0]
            if number:
                return f"VMAC {device.name} above {device.base}: {in_words(number, detail)}"
        error = _set_vmac_sysctls(device)
        if device.ipvlan is not None:
            number, detail = route.do([(NEWLINK, _message(device, flags=IFF_UP), 0)])[0]
            return f"VMAC {device.name}: {in_words(number, detail)}" if number else error
        # no link-local address made from the MAC address, which all routers of the VRID would share
        no_link_local = nested(AF_INET6, attribute(ADDR_GEN_MODE, struct.pack("=B", GEN_MODE_NONE)))
        quiet, up = _message(device, nested(IFLA_AF_SPEC, no_link_local)), _message(device, flags=IFF_UP)
        for number, detail in route.do([(NEWLINK, quiet, 0), (NEWLINK, up, 0)]):
            if number:
                return f"VMAC {device.name}: {in_words(number, detail)}"
    return error


def creation(device: VmacDevice, base: int, vrf: int) -> bytes:
    """Return the message that creates a VMAC above the device of index `base`, and within the VRF of that index."""
    master = [u32(IFLA_MASTER, vrf)] if vrf else []
    if device.ipvlan is not None:
        mode = attribute(IPVLAN_MODE, struct.pack("=H", MODE_L2))
        flags = attribute(IPVLAN_FLAGS, struct.pack("=H", device.ipvlan.mode.value))
        info = nested(IFLA_LINKINFO, text(INFO_KIND, IPVLAN_KIND), nested(INFO_DATA, mode, flags))
        return _message(device, u32(IFLA_LINK, base), info, *master)
    info = nested(IFLA_LINKINFO, text(INFO_KIND, KIND), nested(INFO_DATA, u32(MACVLAN_MODE, PRIVATE)))
    return _message(device, u32(IFLA_LINK, base), attribute(IFLA_ADDRESS, device.mac), info, *master)


def remove_vmac(device: VmacDevice) -> str:
    """Remove a VMAC; a missing one is no error. Return an error message."""
    try:
        with Netlink() as route:
            number, detail = route.do([(DELLINK, _message(device), 0)])[0]
    except OSError as error:
        number, detail = error.errno or errno.EIO, ""
    removed = number in (0, errno.ENODEV)
    return "" if removed else f"VMAC {device.name} could not be removed: {in_words(number, detail)}"


def _message(device: VmacDevice, *attributes: bytes, flags: int = 0) -> bytes:
    """Return a message about a device by its name, which sets these flags."""
    return IFINFOMSG.pack(0, 0, 0, flags, flags) + text(IFLA_IFNAME, device.name) + b"".join(attributes)


def link_local_source(device: VmacDevice, link_local: Address) -> HeldAddress:
    """Return the base device's link-local address for an IPv6 VMAC: the source of its advertisements."""
    return HeldAddress(
        interface=IPv6Interface((link_local.packed, 64)),
        device=device.name,
        scope=SCOPE_LINK,
        preferred_lft_s=0,
        no_dad=True,
        tracked=False,
    )


def _set_vmac_sysctls(device: VmacDevice) -> str:
    """Set a VMAC's own sysctls; return an error message."""
    wanted = {f"net/ipv6/conf/{device.name}/disable_ipv6": "0" if device.family == 6 else "1"}
    if device.family == 4 and device.ipvlan is None:
        wanted |= {f"net/ipv4/conf/{device.name}/{name}": value for name, value in ON_VMAC.items()}
    for name, value in wanted.items():
        if not proc.exists(name):
            continue  # a kernel without IPv6
        try:
            proc.write(name, value)
        except PylvsError as error:
            return str(error)
    return ""


def set_sysctls(memory: Memory, devices: Iterable[VmacDevice], others: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Set what VMACs need of other devices, before they are created, and `others`; return error messages."""
    errors = []
    for name, value in chain(_base_sysctls(devices), others):
        try:
            memory.set(name, value)
        except PylvsError as error:
            errors.append(str(error))
    return errors


def _base_sysctls(devices: Iterable[VmacDevice]) -> Iterator[tuple[str, str]]:
    """Yield what IPv4 VMACs need of their base devices, and of rp_filter.

    That moves from `all` to each device, because the greater value of both applies. A VMAC can then have none, while
    present and new devices filter as before.
    """
    bases = [device.base for device in devices if device.family == 4 and device.ipvlan is None]
    yield from ((f"net/ipv4/conf/{base}/{name}", value) for base in bases for name, value in ON_BASE.items())
    common = "net/ipv4/conf/all/rp_filter"
    value = proc.read_number(common) if bases and proc.exists(common) else 0
    if value:
        for device in sorted(os.listdir(proc.ROOT / "net/ipv4/conf")):
            name = f"net/ipv4/conf/{device}/rp_filter"
            with contextlib.suppress(PylvsError):  # the device was removed
                if proc.read_number(name) < value:
                    yield name, str(value)
        yield common, "0"


class VmacManager:
    """The VMACs of all virtual routers: created with the configuration, so that a take-over does not wait for them."""

    def __init__(self, links: NetlinkMonitor) -> None:
        self.plan = VmacPlan()
        self._links = links
        self._memory: Memory | None = None

    def configure(self, configuration: VrrpConfiguration) -> tuple[list[str], list[Change]]:
        """Create and remove VMACs. Return error messages, and the changes of links."""
        before = self.plan
        self.plan = plan_vmacs(configuration.instances, configuration.settings, self._links.links)
        errors = self._remove(device for device in before.devices if device not in self.plan.devices)
        promoting = (each.interface for each in configuration.instances if each.promote_secondaries)
        others = [(f"net/ipv4/conf/{device}/promote_secondaries", "1") for device in promoting]
        if configuration.settings.disable_local_igmp:
            others.append((LOCAL_IGMP, "0"))
        if self.plan.devices or others:
            errors += self._set_sysctls(others)
        else:
            self._restore_sysctls()
        more, changes = self.create_missing()
        return errors + more, changes

    def create_missing(self) -> tuple[list[str], list[Change]]:
        """Create VMACs whose base devices exist. Return error messages, and the changes of links."""
        if not self.plan.devices:
            return [], []
        errors = []
        changes = []
        try:
            for device in self.plan.devices:
                existing = self._links.links.get(device.name)
                if device.base in self._links.links and (existing is None or not existing.enabled):
                    errors.append(create_vmac(device, self._links.links))
            changes = self._links.read()
            self._add_link_local()
            self._add_ipvlan_addresses()
        except OSError as error:  # no free descriptor or memory: the caller's changes must not be lost
            errors.append(f"VMACs are incomplete: {error.strerror}")
        return [error for error in errors if error], changes + self._links.read()

    def close(self) -> list[str]:
        """Remove all VMACs and restore the sysctls. Return error messages."""
        errors = self._remove(self.plan.devices)
        self.plan = VmacPlan()
        self._restore_sysctls()
        return errors

    def _set_sysctls(self, others: Iterable[tuple[str, str]]) -> list[str]:
        try:
            self._memory = self._memory or load(SAVED_SETTINGS)
        except PylvsError as error:
            return [str(error)]
        return set_sysctls(self._memory, self.plan.devices, others)

    def _restore_sysctls(self) -> None:
        """Restore all former values but those that another program changed."""
        if self._memory is not None:
            self._memory.restore_sysctls()
            self._memory.save()

    def _remove(self, devices: Iterable[VmacDevice]) -> list[str]:
        return [error for device in devices if (error := remove_vmac(device))]

    def _add_link_local(self) -> None:
        """Add the base device's link-local address, from which VRRP over IPv6 sends."""
        for device in self.plan.devices:
            if device.family == 6 and device.ipvlan is None and device.name in self._links.links:
                link_local = self._links.primary_address(device.base, 6)
                present = {each.interface.ip for each in self._links.links[device.name].addresses}
                if link_local is not None and link_local not in present:
                    addresses.hold([(link_local_source(device, link_local), device.name)])

    def _add_ipvlan_addresses(self) -> None:
        """Add the configured addresses of ipvlans, from which their virtual routers send."""
        for device in self.plan.devices:
            link = self._links.links.get(device.name)
            address = device.ipvlan.address if device.ipvlan is not None else None
            if link is not None and address is not None and address not in {each.interface for each in link.addresses}:
                addresses.hold([(HeldAddress(interface=address, device=device.name, tracked=False), device.name)])
