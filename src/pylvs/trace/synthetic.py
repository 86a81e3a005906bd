"""Ask the packet path what it would do with a client's packet. No packet is sent, and nothing is created or counted.

The question is a frame that the kernel runs through a copy of the programs of TC (BPF_PROG_TEST_RUN). In this copy
everything that writes to the director's maps is compiled out (VARIANT_DRY in bpf/).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from pylvs.bpf import kernel
from pylvs.bpf.maps import RingBuffer
from pylvs.dataplane.state import State
from pylvs.model.addresses import Address
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import Protocol
from pylvs.netlink import links
from pylvs.reference.packet import checksum, crc32c, pseudo_header
from pylvs.trace import variants
from pylvs.trace.packet import TracedPacket
from pylvs.trace.session import packet_of

_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_TTL, _WINDOW, _SYN, _INIT = 64, 65535, 2, 1
_CONTEXT = struct.Struct("<8xI28xI148x")  # struct __sk_buff: mark, ifindex
TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


class Questions:
    """A loaded copy, for several questions."""

    def __init__(self, state: State) -> None:
        """Load. Raises what `variants.DryCopy` does."""
        self._copy = variants.DryCopy(state)
        self._ring = RingBuffer.duplicate(self._copy.records)
        self._number = 0

    def close(self) -> None:
        self._ring.close()
        self._copy.close()

    def ask(
        self,
        client: Address,
        client_port: int,
        virtual: Address,
        virtual_port: int,
        protocol: Protocol = TCP,
        device: str = "",
        mark: int = 0,
    ) -> TracedPacket:
        """Return what would happen to the first packet of a flow.

        It comes by `device`; by default the one that leads to the client. `mark` is one that a filter of tc has set.
        Raises InvalidOperation for addresses of two families, and without a device.
        """
        if client.version != virtual.version:
            raise InvalidOperation(f"{client} and {virtual} are addresses of different families")
        found = links.device(device) if device else _device_to(client)
        frame = first_frame(client, client_port, virtual, virtual_port, protocol, found.mac or bytes(6))
        self._number += 1
        kernel.run_program(self._copy.program, frame, _CONTEXT.pack(mark, found.index))
        for record in self._ring:
            packet = packet_of(record, self._number)
            if packet is not None:
                return packet
        raise InvalidOperation("the programs returned no record; run pylvs trace --synthetic again")


def _device_to(client: Address) -> links.Device:
    with links.Routes() as routes:
        route = routes.to(client)
    if route is None or not route.ifindex:
        raise InvalidOperation(f"no route leads to {client}, so name the device by which its packets come (--device)")
    return links.device(route.ifindex)


@contextlib.contextmanager
def questions() -> Iterator[Questions]:
    """Load a copy for questions about the director of this network namespace.

    Raises InvalidOperation without tables, Unsupported if another pylvs made the running programs.
    """
    state = State.open()
    variants.check(state)
    asked = Questions(state)
    try:
        yield asked
    finally:
        asked.close()


def ask(
    client: Address,
    client_port: int,
    virtual: Address,
    virtual_port: int,
    protocol: Protocol = TCP,
    device: str = "",
    mark: int = 0,
) -> TracedPacket:
    """Ask one question (`Questions.ask`)."""
    with questions() as asked:
        return asked.ask(client, client_port, virtual, virtual_port, protocol, device, mark)


# --- the frame ---


def first_frame(
    client: Address, client_port: int, virtual: Address, virtual_port: int, protocol: Protocol, mac: bytes
) -> bytes:
    """Return the frame that begins a flow: a SYN, an empty datagram, or an INIT; from a client behind a router."""
    ends = struct.pack(">HH", client_port, virtual_port)
    if protocol == TCP:
        header = ends + struct.pack(">IIBBHHH", 1, 0, 5 << 4, _SYN, _WINDOW, 0, 0)
        at = 16
    elif protocol == UDP:
        header, at = ends + struct.pack(">HH", 8, 0), 6
    else:
        header, at = ends + struct.pack(">II", 0, 0) + _init_chunk(), 8
    pseudo = pseudo_header(client.packed, virtual.packed, protocol, len(header))
    if protocol == SCTP:
        check = struct.pack("<I", crc32c(header))
    else:
        check = struct.pack(">H", checksum(pseudo + header) or 0xFFFF)
    header = header[:at] + check + header[at + len(check) :]
    ip = _header4 if client.version == 4 else _header6
    ether = mac + bytes(6) + struct.pack(">H", _ETHERTYPE[client.version])
    return ether + ip(client, virtual, protocol, len(header)) + header


def _header4(client: Address, virtual: Address, protocol: int, length: int) -> bytes:
    words = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, _TTL, protocol, 0)
    header = words + client.packed + virtual.packed
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:]


def _header6(client: Address, virtual: Address, protocol: int, length: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28, length, protocol, _TTL) + client.packed + virtual.packed


def _init_chunk() -> bytes:
    return struct.pack(">BBHIIHHI", _INIT, 0, 20, 1, _WINDOW, 1, 1, 1)
