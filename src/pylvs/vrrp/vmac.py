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
from collections.abc import Mapping
from ipaddress import IPv6Interface

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.routing import SCOPE_LINK, HeldAddress
from pylvs.netlink.addresses import Outcome, in_words, index_of
from pylvs.netlink.monitor import DELLINK, IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, LINK, NEWLINK, UP
from pylvs.netlink.rtnl import CREATE, EXCL, Request, RouteSocket, attribute, nested, text, u32
from pylvs.system import proc
from pylvs.system.undo_log import Memory
from pylvs.vrrp.vmac_plan import KIND, Existing, VmacDevice

PRIVATE = 1  # MACVLAN_MODE_PRIVATE: VMACs of one base do not hear each other
IFLA_AF_SPEC = 26
INFO_KIND, INFO_DATA, MACVLAN_MODE = 1, 2, 1
AF_INET, AF_INET6, INET_CONF, ADDR_GEN_MODE, GEN_MODE_NONE = 2, 10, 1, 8, 1
ON_VMAC = {"arp_ignore": "1", "accept_local": "1", "rp_filter": "0", "promote_secondaries": "1"}
ON_BASE = {"arp_ignore": "1", "arp_filter": "1"}


def make(device: VmacDevice, existing: Mapping[str, Existing]) -> Outcome:
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


def unmake(device: VmacDevice) -> Outcome:
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
        if not proc.exists(name):
            continue  # a kernel without IPv6
        try:
            proc.write(name, value)
        except PylvsError as error:
            return str(error)
    return ""


def source_on(device: VmacDevice, link_local: Address) -> HeldAddress:
    """What an IPv6 VMAC speaks from: the link-local address of the device below, as an address to be held."""
    return HeldAddress(
        interface=IPv6Interface((link_local.packed, 64)),
        device=device.name,
        scope=SCOPE_LINK,
        preferred_lft_s=0,
        no_dad=True,
        tracked=False,
    )


def prepare(memory: Memory, device: VmacDevice) -> list[str]:
    """The settings of other devices that an IPv4 VMAC needs, before it is made; troubles in words."""
    if device.family == 6:
        return []
    troubles = []
    for name, value in ON_BASE.items():
        troubles += _set(memory, f"net/ipv4/conf/{device.base}/{name}", value)
    return troubles + _looser(memory)


def promote(memory: Memory, device: str) -> list[str]:
    """When an address goes, those of its network that came after it stay (promote_secondaries); troubles in words."""
    return _set(memory, f"net/ipv4/conf/{device}/promote_secondaries", "1")


def restore(memory: Memory) -> list[str]:
    """Every setting as it was before; the names of those that somebody changed since, and that are left so."""
    left = memory.restore_sysctls()
    memory.save()
    return [proc.dotted(name) for name in left]


def _looser(memory: Memory) -> list[str]:
    """What counts of rp_filter is the greater of a device's and all's: give every device all's, and all none.

    So a VMAC can go without, and whatever else there is or comes is filtered as before.
    """
    common = "net/ipv4/conf/all/rp_filter"
    everywhere = proc.read_number(common) if proc.exists(common) else 0
    if not everywhere:
        return []
    troubles = []
    for name in sorted(os.listdir(proc.ROOT / "net/ipv4/conf")):
        path = f"net/ipv4/conf/{name}/rp_filter"
        with contextlib.suppress(PylvsError):  # it has gone since
            if proc.read_number(path) < everywhere:
                troubles += _set(memory, path, str(everywhere))
    return troubles + _set(memory, common, "0")


def _set(memory: Memory, name: str, value: str) -> list[str]:
    try:
        memory.set(name, value)
    except PylvsError as error:
        return [str(error)]
    return []
