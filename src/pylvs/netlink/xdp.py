"""Attaching to the XDP hook of a device by netlink, without replacing programs that are not ours."""

from __future__ import annotations

import os

from pylvs.bpf import kernel
from pylvs.model.errors import PylvsError
from pylvs.netlink.codec import IFINFOMSG, Netlink, nested, u32

_SET_LINK = 19  # RTM_SETLINK
_XDP, _FD, _FLAGS, _EXPECTED = 43, 1, 3, 8  # IFLA_XDP, IFLA_XDP_*
_IF_NOEXIST, _GENERIC, _NATIVE, _REPLACE = 1, 2, 4, 16  # XDP_FLAGS_*
MODES = {"native": _NATIVE, "generic": _GENERIC}
PROGRAM_PREFIX = "pylvs"  # of the names of our XDP programs


def set_program(link: Netlink, ifindex: int, mode: str, program: int, instead_of: int = 0) -> None:
    """Attach a program (-1: none) by its descriptor to a free hook, or in place of program number `instead_of`.

    This is atomic: the kernel compares the numbers. Raises NetlinkError; EEXIST or EBUSY when another program is there.
    """
    members = [u32(_FD, program & 0xFFFFFFFF)]
    expected = -1
    try:
        if instead_of:
            expected = kernel.program_by_id(instead_of)
            members += [u32(_EXPECTED, expected), u32(_FLAGS, MODES[mode] | _REPLACE)]
        else:
            members.append(u32(_FLAGS, MODES[mode] | _IF_NOEXIST))
        link.request(_SET_LINK, IFINFOMSG.pack(0, 0, ifindex, 0, 0) + nested(_XDP, *members))
    finally:
        if expected >= 0:
            os.close(expected)


def is_ours(program: int) -> bool:
    """Return whether the program of a number is an entry program of ours."""
    return program_name(program).startswith(PROGRAM_PREFIX)


def program_name(program: int) -> str:
    """Return the name of the program of a number; empty when it has none or is gone."""
    try:
        return kernel.describe_program(program).name
    except PylvsError:
        return ""
