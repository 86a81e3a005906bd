"""The devices of this network namespace, asked without netlink: names and MTUs, and no more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

SIOCGIFMTU = 0x8921  # netdevice(7)
IFREQ = struct.Struct("=16si20x")


def mtus() -> dict[str, int]:
    """The MTU of each device by its name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has gone since
                answer = fcntl.ioctl(asking, SIOCGIFMTU, IFREQ.pack(os.fsencode(name), 0))
                found[name] = int(IFREQ.unpack(answer)[1])
    return found
