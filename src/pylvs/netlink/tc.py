"""The traffic control hook: clsact and one cls_bpf filter of ours at each side of a device, never another's."""

from __future__ import annotations

import errno
import struct

from pylvs.model.dataclass import dataclass
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, NetlinkError, attributes, name, nested, number, text, u32

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and of egress
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_NEW_QDISC, _DELETE_QDISC, _GET_QDISC = 36, 37, 38
_NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 44, 45, 46
_MESSAGE = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS = 1, 2  # TCA_KIND, TCA_OPTIONS
_CLASS, _FD, _NAME, _FLAGS, _ID = 3, 6, 7, 8, 11  # TCA_BPF_*
_DIRECT_ACTION = 1
_ALL_PROTOCOLS = 0x0300  # htons(ETH_P_ALL)
_HANDLE = 0x1B5
NAME_PREFIX = "pylvs-"
# Class of our filters on a clsact that pylvs added; clsact has no classes, so it changes nothing for packets. By it a
# director and a real server on one device each know that they may remove clsact if they leave last.
_OWN_CLSACT = 0x1B50000
# Before the default priorities of other programs (from 49152 downwards), after a filter that must be first (1).
PRIORITIES = {"realserver": 4, "director": 5}


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter on one side of a device; without BPF, `program` is 0 and `label` the kind of filter.

    `own_clsact`: pylvs added the clsact of the device before it added this filter.
    """

    priority: int
    handle: int
    label: str
    program: int
    own_clsact: bool


def _message(ifindex: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _MESSAGE.pack(0, ifindex, handle, parent, info)


def has_clsact(link: Netlink, ifindex: int) -> bool:
    """Return whether the device has clsact, to which the filters belong."""
    return ifindex in clsact_devices(link, ifindex)


def clsact_devices(link: Netlink, ifindex: int = 0) -> list[int]:
    """Return the devices with clsact, all or only the given one."""
    found = []
    for message in link.dump(_GET_QDISC, _message(ifindex, 0, 0)):
        _family, index, _handle, parent, _info = _MESSAGE.unpack_from(message)
        if parent == _CLSACT and name(attributes(message, _MESSAGE.size).get(_KIND)) == "clsact":
            found.append(index)
    return [index for index in found if not ifindex or index == ifindex]


def add_clsact(link: Netlink, ifindex: int) -> bool:
    """Add clsact to a device; return False when it had it. Raises NetlinkError."""
    try:
        link.request(
            _NEW_QDISC, _message(ifindex, _CLSACT_HANDLE, _CLSACT) + text(_KIND, "clsact"), codec.CREATE | codec.EXCL
        )
    except NetlinkError as error:
        if error.number == errno.EEXIST and has_clsact(link, ifindex):
            return False
        raise
    return True


def remove_clsact(link: Netlink, ifindex: int) -> bool:
    """Remove clsact from a device unless it has filters; return whether it was removed."""
    if not has_clsact(link, ifindex) or any(filters(link, ifindex, side) for side in (INGRESS, EGRESS)):
        return False
    link.request(_DELETE_QDISC, _message(ifindex, _CLSACT_HANDLE, _CLSACT) + text(_KIND, "clsact"))
    return True


def filters(link: Netlink, ifindex: int, side: int) -> list[Filter]:
    """Return all filters on one side of a device, ours and others'."""
    found = []
    for message in link.dump(_GET_FILTER, _message(ifindex, 0, side)):
        _family, _index, handle, _parent, info = _MESSAGE.unpack_from(message)
        parts = attributes(message, _MESSAGE.size)
        if not handle or _OPTIONS not in parts:  # the head of a chain of filters, not one of them
            continue
        kind = name(parts.get(_KIND))
        options = attributes(parts[_OPTIONS]) if kind == "bpf" else {}
        label, own = name(options.get(_NAME)) or kind, number(options.get(_CLASS)) == _OWN_CLSACT
        found.append(Filter(info >> 16, handle, label, number(options.get(_ID)), own))
    return found


def is_ours(found: Filter, role: str) -> bool:
    """Return whether `set_filter` made a filter for this role."""
    return found.label == NAME_PREFIX + role and found.priority == PRIORITIES[role] and found.handle == _HANDLE


def has_own_clsact(link: Netlink, ifindex: int) -> bool:
    """Return whether pylvs added the clsact of a device, by what our filters of either role record."""
    there = [each for side in (INGRESS, EGRESS) for each in filters(link, ifindex, side)]
    return any(each.own_clsact and is_ours(each, role) for each in there for role in PRIORITIES)


def set_filter(link: Netlink, ifindex: int, side: int, role: str, program: int, own_clsact: bool | None = None) -> None:
    """Let our filter run this program instead of its present one. Raises NetlinkError, FileExistsError.

    `own_clsact` records whether pylvs added clsact; None leaves that as it is.
    FileExistsError (its text is the filter's name): a filter of another program has our priority.
    """
    priority = PRIORITIES[role]
    for attached in filters(link, ifindex, side):
        if is_ours(attached, role):
            own_clsact = attached.own_clsact if own_clsact is None else own_clsact
        elif attached.priority == priority:
            raise FileExistsError(errno.EEXIST, attached.label)
    body = _message(ifindex, _HANDLE, side, priority << 16 | _ALL_PROTOCOLS) + text(_KIND, "bpf")
    members = [u32(_FD, program), text(_NAME, NAME_PREFIX + role), u32(_FLAGS, _DIRECT_ACTION)]
    if own_clsact:
        members.append(u32(_CLASS, _OWN_CLSACT))
    link.request(_NEW_FILTER, body + nested(_OPTIONS, *members), codec.CREATE | codec.REPLACE)


def our_filter(link: Netlink, ifindex: int, side: int, role: str) -> Filter | None:
    """Return our filter of this role, or None."""
    return next((each for each in filters(link, ifindex, side) if is_ours(each, role)), None)


def remove_filter(link: Netlink, ifindex: int, side: int, role: str) -> bool:
    """Remove our filter; return False when there was none. Raises NetlinkError."""
    if our_filter(link, ifindex, side, role) is None:
        return False
    body = _message(ifindex, _HANDLE, side, PRIORITIES[role] << 16 | _ALL_PROTOCOLS) + text(_KIND, "bpf")
    try:
        link.request(_DELETE_FILTER, body)
    except NetlinkError as error:
        if error.number == errno.ENOENT:
            return False
        raise
    return True
