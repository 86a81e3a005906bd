"""Packets that a virtual router must keep from this host, or from the link: one nf_tables table of each family.

A router without `accept` does not receive packets to its virtual addresses (RFC 9568, 6.4.3). It still answers ARP and
neighbour solicitations for them, and forwards what is sent through it. The set contains these addresses in every state:
while another router is master, no packet matches, so a take-over changes nothing here. Packets that the data plane
balances do not reach these rules.

Group memberships (IGMP, MLD) are reported through the base device of a VMAC. A backup that reported them with the
virtual router's MAC address would attract its packets.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from typing import ClassVar

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpInstance
from pylvs.netlink import nftables as nft
from pylvs.netlink.changes import in_words
from pylvs.netlink.nftables import Chain, Set, Table
from pylvs.vrrp.netlink_monitor import Link
from pylvs.vrrp.vmac import VmacPlan

NAME = "pylvs-vrrp"
PRIORITY = -1  # just before NF_IP_PRI_FILTER
IGMP, ICMPV6 = b"\2", b"\x3a"
MLD_REPORT, ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = b"\x8f", b"\x85", b"\x87", b"\x88"
TO_V4, FROM_V4, PROTOCOL_V4, TO_V6, FROM_V6 = 16, 12, 9, 24, 8  # offsets in the headers
UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT, errno.EAFNOSUPPORT)

Refused = tuple[Address, str]  # and the device that holds it
IndexPair = tuple[int, int]  # of a VMAC, and of its base device
Rule = tuple[bytes, ...]


class Firewall:
    """The installed rules. A change takes about ten milliseconds, during which the kernel waits."""

    name: ClassVar[str] = NAME  # of the table; each instance in a network namespace has its own

    def __init__(self) -> None:
        self._installed: dict[int, tuple[list[Refused], list[IndexPair]]] = {}

    def set(self, instances: Iterable[VrrpInstance], plan: VmacPlan, links: Mapping[str, Link]) -> list[str]:
        """Install the rules for these virtual routers and existing VMACs; return error messages.

        Call it whenever the configuration or a VMAC changes, and at the end without instances. Equal rules stay.
        """
        refused = [
            (held.interface.ip, device)
            for instance in instances
            if not instance.accept
            for held, device in plan.placed(instance)
        ]
        existing = [each for each in plan.devices if each.name in links and each.base in links]
        errors = []
        for version, family in ((4, nft.IPV4), (6, nft.IPV6)):
            mine = [each for each in refused if each[0].version == version]
            above = [(links[each.name].index, links[each.base].index) for each in existing if each.family == version]
            if self._installed.get(family) == (mine, above):
                continue
            errors.append(_install(family, mine, above))
            self._installed[family] = mine, above
        return [error for error in errors if error]


def _install(family: int, refused: list[Refused], vmacs: list[IndexPair]) -> str:
    """Replace the table; return an error message, "" on success."""
    number, detail = nft.replace(family, Firewall.name, _table(family, refused, vmacs) if refused or vmacs else None)
    if number == 0 or (number in UNSUPPORTED and not refused and not vmacs):
        return ""
    if vmacs and refused and (error := _install(family, refused, [])):  # the kernel may lack only `dup`
        return error
    what = "group memberships are reported with the MAC addresses of VMACs"
    if refused and not vmacs:
        addresses = ", ".join(str(address) for address, _ in refused)
        what = f"packets to {addresses} are accepted although they should not be"
    return f"{what}: nf_tables: {in_words(number, detail)}"


def _table(family: int, refused: list[Refused], vmacs: list[IndexPair]) -> Table:
    """Return the rules of a family; those of IPv6 also concern neighbour discovery and link-local addresses."""
    v6 = family == nft.IPV6
    kind, octets, to, from_ = (nft.TYPE_IPV6, 16, TO_V6, FROM_V6) if v6 else (nft.TYPE_IPV4, 4, TO_V4, FROM_V4)
    sets: list[Set] = []
    inward: list[Rule] = []
    outward: list[Rule] = []
    if vmacs:
        elements = [(struct.pack("=I", vmac), struct.pack("=I", base)) for vmac, base in vmacs]
        sets.append(Set("bases", nft.TYPE_INDEX, 4, elements, nft.TYPE_INDEX, 4))
        igmp = nft.payload(nft.NETWORK, PROTOCOL_V4, 1), nft.compared(IGMP)
        outward.append((*(_icmpv6(MLD_REPORT, MLD_REPORT) if v6 else igmp), *_through_base(to, octets)))
        if v6:
            asking = (*_icmpv6(ROUTER_SOLICITATION, ROUTER_SOLICITATION), nft.meta(nft.OIF), nft.found_in("bases", 2))
            outward.append((*asking, nft.verdict(nft.DROP)))
    if refused:
        # A link-local address is one of its own link only; another host may have it on another link.
        local = {each for each in refused if v6 and each[0].is_link_local}
        anywhere = sorted({address.packed for address, device in refused if (address, device) not in local})
        sets.append(Set("refused", kind, octets, [(key, b"") for key in anywhere]))
        if v6:
            keys = sorted(address.packed + device.encode().ljust(nft.NAME_OCTETS, b"\0") for address, device in local)
            octets_on = octets + nft.NAME_OCTETS
            sets.append(Set("refused-on", kind << 6 | nft.TYPE_NAME, octets_on, [(key, b"") for key in keys]))
        for rules, offset, device in ((inward, to, nft.IIF_NAME), (outward, from_, nft.OIF_NAME)):
            address = nft.payload(nft.NETWORK, offset, octets)
            if v6:
                rules.append((*_icmpv6(NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT), nft.verdict(nft.ACCEPT)))
            rules.append((address, nft.found_in("refused"), nft.verdict(nft.DROP)))
            if v6:
                named = nft.meta(device, nft.REGISTER_2)
                rules.append((address, named, nft.found_in("refused-on"), nft.verdict(nft.DROP)))
    hooks = (("in", nft.LOCAL_IN, inward), ("out", nft.LOCAL_OUT, outward))
    return Table(
        family, Firewall.name, sets, [Chain(name, hook, PRIORITY, rules) for name, hook, rules in hooks if rules]
    )


def _through_base(offset: int, octets: int) -> Rule:
    """Send a packet that leaves through a VMAC through its base device instead."""
    daddr = nft.payload(nft.NETWORK, offset, octets, nft.REGISTER_3)
    match = nft.meta(nft.OIF), nft.found_in("bases", nft.REGISTER_2), daddr
    return (*match, nft.duplicated(nft.REGISTER_3, nft.REGISTER_2), nft.verdict(nft.DROP))


def _icmpv6(least: bytes, most: bytes) -> Rule:
    kind = nft.payload(nft.TRANSPORT, 0, 1), nft.compared(least, nft.AT_LEAST), nft.compared(most, nft.AT_MOST)
    return nft.meta(nft.L4_PROTOCOL), nft.compared(ICMPV6), *kind
