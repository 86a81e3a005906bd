"""How the packet path validates sources on each device: a snapshot of the sysctl rp_filter (bpf/policy/rp_filter.h).

As in the kernel, the greater of the values of `all` and of the device counts: 1 is strict, others but 0 are loose.
Devices of a VRF are not checked, because the packet path looks routes up in the tables of all packets. A lookup returns
one path of a route that has several, where the kernel accepts each of them. So if there is such a route, strict accepts
any route by the device. A check costs a lookup for each new connection, and systemd sets loose on most hosts. So loose
is not checked while there is a route to every source.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from pylvs.dataplane.tables import Tables
from pylvs.netlink import codec, links
from pylvs.netlink.codec import Netlink, NetlinkError, attributes, number

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pylvs.netlink.links import Device

_GETNETCONF, _IFINDEX, _RP_FILTER, _ALL = 82, 1, 3, 0xFFFFFFFF  # RTM_GETNETCONF, NETCONFA_*
_AF_INET, _UNICAST, _REJECTING = 2, 1, (6, 7, 8)  # RTN_UNICAST; RTN_BLACKHOLE, _UNREACHABLE and _PROHIBIT
_TO_TABLE = 1  # FR_ACT_TO_TBL
_SPREAD = ("1.0.0.1", "120.0.0.1", "150.0.0.1", "223.255.255.1")  # a default route may consist of up to four
_MULTIPATH, _NH_ID, _OIF = 9, 30, 4  # RTA_*
_ATTEMPTS = 5  # at a dump that changes of other routes interrupt
_MANY = 4096  # routes: further ones are not read, and may have several paths
UNCHECKED, STRICT, LOOSE, FEASIBLE = range(4)  # enum rp_mode
NAMES = {STRICT: "strict", LOOSE: "loose", FEASIBLE: "strict"}
_LENIENT = (UNCHECKED, LOOSE, FEASIBLE, STRICT)  # the most lenient first


def values() -> dict[int, int]:
    """Return rp_filter of each device, by ifindex, and of `all`."""
    found = dict[int, int]()
    with Netlink() as link, suppress(NetlinkError):
        for message in link.dump(_GETNETCONF, bytes((_AF_INET, 0, 0, 0))):
            parts = attributes(message, 4)
            found[number(parts.get(_IFINDEX))] = number(parts.get(_RP_FILTER))
    return found


def has_several_paths() -> bool:
    """Return whether a route of IPv4 has several next hops, or there are too many routes to look."""
    body = codec.RTMSG.pack(_AF_INET, 0, 0, 0, 0, 0, 0, _UNICAST, 0)
    with Netlink() as link, suppress(NetlinkError):
        for count, message in enumerate(link.beginning(codec.GETROUTE, body)):
            parts = attributes(message, codec.RTMSG.size)
            if count >= _MANY or _MULTIPATH in parts or (_NH_ID in parts and _OIF not in parts):
                return True
        return False
    return True


def routes_every_source() -> bool:
    """Return whether there is a default route, and no route or rule rejects any address."""
    with Netlink() as link, suppress(NetlinkError):
        for kind in _REJECTING:
            body = codec.RTMSG.pack(_AF_INET, 0, 0, 0, 0, 0, 0, kind, 0)
            if any(codec.RTMSG.unpack_from(each)[7] == kind for each in link.dump(codec.GETROUTE, body, _ATTEMPTS)):
                return False
        rules = link.dump(codec.GETRULE, codec.RTMSG.pack(_AF_INET, *bytes(8)), _ATTEMPTS)
        if any(codec.RTMSG.unpack_from(each)[7] != _TO_TABLE for each in rules):
            return False
        with links.Routes() as routes:
            return all((found := routes.to(ip_address(each))) and not found.local for each in _SPREAD)
    return False


def modes(by_device: Mapping[int, int], everything: list[Device]) -> dict[int, int]:
    """Return the mode of each device that is checked, by ifindex."""
    by_index = {each.index: each for each in everything}
    found = dict[int, int]()
    for device in everything:
        master = by_index.get(device.master)
        in_vrf = device.kind == "vrf" or (master is not None and master.kind == "vrf")
        value = max(by_device.get(_ALL, 0), by_device.get(device.index, 0))
        if value and not (in_vrf or device.loopback):
            found[device.index] = STRICT if value == 1 else LOOSE
    if LOOSE in found.values() and routes_every_source():
        found = {index: mode for index, mode in found.items() if mode != LOOSE}
    if STRICT in found.values() and has_several_paths():
        found = {index: FEASIBLE if mode == STRICT else mode for index, mode in found.items()}
    return found


def current(everything: list[Device] | None = None) -> dict[int, int]:
    """Return the mode of each device that is checked now, by ifindex. `everything` saves a dump of the devices."""
    by_device = values()
    return modes(by_device, everything or links.devices()) if any(by_device.values()) else {}


def named(tables: Tables) -> dict[int, str]:
    """Return how sources are checked on each device, by ifindex, as the last edit has read it: "strict" or "loose"."""
    found = dict[int, str]()
    for index in current():
        mode = tables.rp_filters.get(index % tables.rp_filters.count, "mode")
        if mode:
            found[index] = NAMES[mode]
    return found


def refresh(tables: Tables) -> None:
    """Write what is in force."""
    checks = tables.rp_filters
    everything = links.devices()
    found = current(everything)
    if not found and not any(checks.array.elements(0, checks.count)):
        return
    slots: dict[int, list[int]] = {}
    for device in everything:
        slots.setdefault(device.index % checks.count, []).append(found.get(device.index, 0))
    for slot in range(checks.count):
        mode = min(slots.get(slot, [0]), key=_LENIENT.index)
        if checks.get(slot, "mode") != mode:
            checks.set(slot, "mode", mode)
