"""Socket filters in classic BPF (Documentation/networking/filter.rst in the kernel), and receive buffers."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if not, operand

LOAD_4, LOAD_2, LOAD_1 = 0x20, 0x28, 0x30  # BPF_LD | BPF_ABS of that many bytes
EQUALS, RETURN = 0x15, 0x06
NETWORK_HEADER, ANCILLARY = 0xFFF00000, 0xFFFFF000  # SKF_NET_OFF, SKF_AD_OFF

TAKE: Instruction = (RETURN, 0, 0, 0xFFFFFFFF)
DROP: Instruction = (RETURN, 0, 0, 0)

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog


def attach(filtered: socket.socket, program: Sequence[Instruction]) -> None:
    """Attach a filter; it replaces the present one atomically. Raises OSError."""
    held = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in program))
    described = _PROGRAM.pack(len(program), ctypes.addressof(held))
    filtered.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def enlarge(enlarged: socket.socket, octets: int) -> None:
    """Enlarge the receive buffer; beyond net.core.rmem_max if this process has CAP_NET_ADMIN."""
    try:
        enlarged.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except PermissionError:
        enlarged.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)
