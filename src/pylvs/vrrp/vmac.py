"""VMACs made and removed, and the settings that devices need for them.

IPv4: a VMAC answers ARP only for addresses of its own, and the device below it leaves that to the VMAC (arp_ignore,
arp_filter). Packets from the virtual routers' own addresses are accepted, and the way back is not looked at
(rp_filter): it may lead through the device below. IPv6: a VMAC has no address but those that it is given, the
link-local one of the device below among them, which nobody should speak from by himself.

Making one takes about a millisecond and removing one ten of them: none is done at a take-over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv6Interface
from itertools import count
from typing import Protocol

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.model.routing import SCOPE_LINK, HeldAddress
from pylvs.model.vrrp import VrrpInstance, VrrpSettings
from pylvs.netlink.addresses import Outcome, in_words, index_of
from pylvs.netlink.monitor import DELLINK, IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, LINK, NEWLINK, UP
from pylvs.netlink.rtnl import CREATE, EXCL, Request, RouteSocket, attribute, nested, text, u32
from pylvs.system import sysctl
from pylvs.system.undo_log import Memory

# --- vmac plan -------------------------------------------------------------------------------------------------------
# Which VMACs virtual routers have, how they are called, and which device each virtual address is on; pure.
#
# The rules are keepalived's. A virtual router with a VMAC holds the addresses of its family there, unless they name
# another device; the rest are on the devices that they name, or on a VMAC of their own above those.


PREFIX = {4: bytes.fromhex("00005e0001"), 6: bytes.fromhex("00005e0002")}  # RFC 9568, 7.3
KIND = "macvlan"


class ExistingLink(Protocol):
    """A device that is there."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def mac(self) -> bytes:
        """Its address."""

    @property
    def below(self) -> int:
        """The number of the device below; 0 for none."""

    @property
    def kind(self) -> str:
        """What it is; "macvlan"."""


@dataclass(frozen=True, slots=True)
class VmacDevice:
    """A macvlan in private mode above `base`, with the MAC address of a virtual router."""

    name: str
    base: str
    mac: bytes
    family: int  # of the addresses on it: 4 or 6


@dataclass(slots=True)
class VmacPlan:
    """All VMACs of a configuration."""

    by_router: dict[str, VmacDevice] = field(default_factory=dict)  # where a virtual router itself speaks, by its name
    for_addresses: dict[tuple[str, str, int], VmacDevice] = field(default_factory=dict)  # by router, base and family

    @property
    def devices(self) -> list[VmacDevice]:
        """Each of them once."""
        return list(dict.fromkeys([*self.by_router.values(), *self.for_addresses.values()]))

    def device_of(self, instance: VrrpInstance) -> str:
        """Where a virtual router speaks, and where its addresses are answered for."""
        own = self.by_router.get(instance.name)
        return own.name if own else instance.interface

    def placed(self, instance: VrrpInstance) -> list[tuple[HeldAddress, str]]:
        """Each address of a virtual router, also those that it does not advertise, with the name of its device."""
        return [(held, self._place(instance, held)) for held in (*instance.addresses, *instance.excluded)]

    def _place(self, instance: VrrpInstance, held: HeldAddress) -> str:
        base, family = held.device or instance.interface, held.interface.version
        if instance.name in self.by_router and (base, family) == (instance.interface, instance.family):
            return self.by_router[instance.name].name
        special = self.for_addresses.get((instance.name, base, family))
        return special.name if special and needs_own_vmac(instance, held) else base


def needs_own_vmac(instance: VrrpInstance, held: HeldAddress) -> bool:
    """Whether an address is on a VMAC that is not the virtual router's."""
    base, family = held.device or instance.interface, held.interface.version
    same = (base, family) == (instance.interface, instance.family)
    if same and instance.vmac is not None and instance.vmac.here:
        return False
    return held.own_vmac or (instance.vmac is not None and instance.vmac.for_addresses and not same)


def plan(
    instances: Iterable[VrrpInstance], settings: VrrpSettings, existing: Mapping[str, ExistingLink] | None = None
) -> VmacPlan:
    """The VMACs of these virtual routers; one that a former process left keeps its name."""
    found, existing = VmacPlan(), existing or {}
    named = {each.vmac.name for each in instances if each.vmac is not None} - {""}
    taken = named | existing.keys()
    for instance in instances:
        if instance.vmac is not None and instance.vmac.here:
            mac = mac_of(instance, instance.family)
            name = instance.vmac.name or existing_name(existing, found, instance.interface, mac)
            name = name or free_name(settings.vmac_prefix, instance.vrid, instance.family, taken)
            found.by_router[instance.name] = VmacDevice(name, instance.interface, mac, instance.family)
            taken.add(name)
        for held in (*instance.addresses, *instance.excluded):
            base, family = held.device or instance.interface, held.interface.version
            key = (instance.name, base, family)
            if key in found.for_addresses or not needs_own_vmac(instance, held):
                continue
            mac = mac_of(instance, family)
            name = existing_name(existing, found, base, mac)
            name = name or free_name(settings.vmac_address_prefix, instance.vrid, family, taken)
            found.for_addresses[key] = VmacDevice(name, base, mac, family)
            taken.add(name)
    return found


def mac_of(instance: VrrpInstance, family: int) -> bytes:
    """The MAC address of a virtual router: the given one, or the standard's."""
    given = instance.vmac.mac if instance.vmac is not None else None
    if given is None:
        given = PREFIX[family]
    return given if len(given) == 6 else given + bytes([instance.vrid])


def existing_name(existing: Mapping[str, ExistingLink], found: VmacPlan, base: str, mac: bytes) -> str:
    """The name of a macvlan above `base` with that address, if there is one that is not taken yet; else ""."""
    below = existing.get(base)
    if below is None:
        return ""
    used = {each.name for each in found.devices}
    for name, each in existing.items():
        if (each.kind, each.below, each.mac) == (KIND, below.index, mac) and name not in used:
            return name
    return ""


def free_name(prefix: str, vrid: int, family: int, taken: Collection[str]) -> str:
    """PREFIX.VRID, or with a number between the two when that name is taken: 6 for IPv6, else 1, 2, 3..."""
    return next(name for name in _names(prefix, vrid, family) if name not in taken)


def _names(prefix: str, vrid: int, family: int) -> Iterator[str]:
    yield f"{prefix}.{vrid}"
    if family == 6:
        yield f"{prefix}6.{vrid}"
    for number in count(1):
        yield f"{prefix}{number}.{vrid}"


# --- vmac ------------------------------------------------------------------------------------------------------------

PRIVATE = 1  # MACVLAN_MODE_PRIVATE: VMACs of one base do not hear each other
IFLA_AF_SPEC = 26
INFO_KIND, INFO_DATA, MACVLAN_MODE = 1, 2, 1
AF_INET, AF_INET6, INET_CONF, ADDR_GEN_MODE, GEN_MODE_NONE = 2, 10, 1, 8, 1
ON_VMAC = {"arp_ignore": "1", "accept_local": "1", "rp_filter": "0", "promote_secondaries": "1"}
ON_BASE = {"arp_ignore": "1", "arp_filter": "1"}


def create_vmac(device: VmacDevice, existing: Mapping[str, ExistingLink]) -> Outcome:
    """The VMAC, up; one that is there with its MAC address above its base is taken over."""
    base = index_of(device.base)
    if not base:
        return Outcome(False, f"VMAC {device.name}: there is no device {device.base}")
    there = existing.get(device.name)
    if there is not None and (there.kind, there.below, there.mac) != (KIND, base, device.mac):
        return Outcome(False, f"VMAC {device.name}: there is another device of that name; rename it, or the VMAC")
    with RouteSocket() as route:
        if there is None:
            number, words = route.do([Request(NEWLINK, creation(device, base), CREATE | EXCL)])[0]
            if number:
                return Outcome(False, f"VMAC {device.name} above {device.base}: {in_words(number, words)}")
        trouble = _settle(device)
        answers = route.do([Request(NEWLINK, no_address_of_its_own(device)), Request(NEWLINK, raising(device))])
        for number, words in answers:
            if number:
                return Outcome(False, f"VMAC {device.name}: {in_words(number, words)}")
    return Outcome(not trouble, trouble)


def remove_vmac(device: VmacDevice) -> Outcome:
    """Without it; one that has gone is fine."""
    with RouteSocket() as route:
        body = LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, device.name)
        number, words = route.do([Request(DELLINK, body)])[0]
    if number in (0, errno.ENODEV):
        return Outcome(True)
    return Outcome(False, f"VMAC {device.name} could not be removed: {in_words(number, words)}")


def creation(device: VmacDevice, base: int) -> bytes:
    """The message that makes a macvlan."""
    info = nested(IFLA_LINKINFO, text(INFO_KIND, KIND), nested(INFO_DATA, u32(MACVLAN_MODE, PRIVATE)))
    head = LINK.pack(0, 0, 0, 0, 0)
    return head + info + u32(IFLA_LINK, base) + text(IFLA_IFNAME, device.name) + attribute(IFLA_ADDRESS, device.mac)


def no_address_of_its_own(device: VmacDevice) -> bytes:
    """The message by which IPv6 makes no link-local address from the MAC address: every router of the group has it."""
    mode = nested(AF_INET6, attribute(ADDR_GEN_MODE, struct.pack("=B", GEN_MODE_NONE)))
    return LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, device.name) + nested(IFLA_AF_SPEC, mode)


def raising(device: VmacDevice) -> bytes:
    """The message that sets a device up."""
    return LINK.pack(0, 0, 0, UP, UP) + text(IFLA_IFNAME, device.name)


def _settle(device: VmacDevice) -> str:
    """Its settings; what could not be set, in words."""
    wanted = {f"net/ipv6/conf/{device.name}/disable_ipv6": "0" if device.family == 6 else "1"}
    if device.family == 4:
        wanted |= {f"net/ipv4/conf/{device.name}/{name}": value for name, value in ON_VMAC.items()}
    for name, value in wanted.items():
        if not sysctl.exists(name):
            continue  # a kernel without IPv6
        try:
            sysctl.write(name, value)
        except PylvsError as error:
            return str(error)
    return ""


def link_local_source(device: VmacDevice, link_local: Address) -> HeldAddress:
    """What an IPv6 VMAC speaks from: the link-local address of the device below, as an address to be held."""
    return HeldAddress(
        interface=IPv6Interface((link_local.packed, 64)),
        device=device.name,
        scope=SCOPE_LINK,
        preferred_lft_s=0,
        no_dad=True,
        tracked=False,
    )


def set_base_sysctls(memory: Memory, device: VmacDevice) -> list[str]:
    """The settings of other devices that an IPv4 VMAC needs, before it is made; troubles in words."""
    if device.family == 6:
        return []
    troubles = []
    for name, value in ON_BASE.items():
        troubles += _set(memory, f"net/ipv4/conf/{device.base}/{name}", value)
    return troubles + _looser(memory)


def promote_secondaries(memory: Memory, device: str) -> list[str]:
    """When an address goes, those of its network that came after it stay (promote_secondaries); troubles in words."""
    return _set(memory, f"net/ipv4/conf/{device}/promote_secondaries", "1")


def restore_sysctls(memory: Memory) -> list[str]:
    """Every setting as it was before; the names of those that somebody changed since, and that are left so."""
    left = memory.restore_sysctls()
    memory.save()
    return [sysctl.dotted(name) for name in left]


def _looser(memory: Memory) -> list[str]:
    """What counts of rp_filter is the greater of a device's and all's: give every device all's, and all none.

    So a VMAC can go without, and whatever else there is or comes is filtered as before.
    """
    common = "net/ipv4/conf/all/rp_filter"
    everywhere = sysctl.read_number(common) if sysctl.exists(common) else 0
    if not everywhere:
        return []
    troubles = []
    for name in sorted(os.listdir(sysctl.ROOT / "net/ipv4/conf")):
        path = f"net/ipv4/conf/{name}/rp_filter"
        with contextlib.suppress(PylvsError):  # it has gone since
            if sysctl.read_number(path) < everywhere:
                troubles += _set(memory, path, str(everywhere))
    return troubles + _set(memory, common, "0")


def _set(memory: Memory, name: str, value: str) -> list[str]:
    try:
        memory.set(name, value)
    except PylvsError as error:
        return [str(error)]
    return []
