"""The namespace of the device below another one, or of the other end of a veth."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pylvs.netlink.codec import Netlink, NetlinkError, attributes, u32
from pylvs.netlink.links import HERE, Device
from pylvs.system.namespaces import inside_network, networks

_GETNSID, _NSID, _FD = 90, 1, 3  # RTM_GETNSID, NETNSA_*


@contextmanager
def inside_lower(device: Device) -> Iterator[bool]:
    """Enter the namespace of `device.lower` until the block ends; yield whether it was found.

    The kernel names it by an id. The namespaces that have a name or a process are searched for that.
    """
    if device.lower_netns == HERE:
        yield True
        return
    found = next((path for path in networks() if _id_of(path) == device.lower_netns), None)
    with inside_network(found) if found else nullcontext():
        yield found is not None


def _id_of(path: Path) -> int:
    """Return the id that this network namespace gives that of a file; HERE if it has none."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # its process has ended
        return HERE
    try:
        with Netlink() as link:
            (answer,) = link.request(_GETNSID, bytes(4) + u32(_FD, opened))
        return int(struct.unpack("=i", attributes(answer, 4)[_NSID])[0])
    except (NetlinkError, ValueError, KeyError):
        return HERE
    finally:
        os.close(opened)
