"""Kernel settings under /proc/sys. Names use slashes, because device names may hold dots."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

from pylvs.model.errors import NotPermitted, Unsupported

ROOT = Path("/proc/sys")


def exists(name: str) -> bool:
    """Whether this kernel, and this network namespace, has the setting."""
    return (ROOT / name).exists()


def read(name: str) -> str:
    """The value, without its newline. Raises Unsupported where there is no such setting."""
    try:
        return (ROOT / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Unsupported(f"{name}: this kernel has no such setting") from None


def read_number(name: str) -> int:
    """The value of a setting that is one number."""
    return int(read(name))


def write(name: str, value: str) -> None:
    """Set it. Raises NotPermitted, Unsupported."""
    try:
        (ROOT / name).write_text(value, encoding="ascii")
    except FileNotFoundError:
        raise Unsupported(f"{name}: this kernel has no such setting") from None
    except PermissionError:
        raise NotPermitted(
            f"{name}: may not be written; be root, and in a container mount /proc/sys writable"
        ) from None
    except OSError as error:
        raise Unsupported(f"{name}={value}: {error.strerror}") from None


def dotted(name: str) -> str:
    """The name as sysctl(8) writes it: dots for slashes, and slashes for dots."""
    return name.translate(str.maketrans("/.", "./"))


# --- interfaces ------------------------------------------------------------------------------------------------------
# The devices of this network namespace, asked without netlink: names and MTUs, and no more.


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
