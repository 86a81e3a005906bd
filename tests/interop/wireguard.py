"""Two WireGuard devices that are each other's peer, as `wg set` configures them (Documentation/netlink: wireguard)."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterable

NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR, NLA_F_NESTED = 1, 4, 2, 0x8000
WG_CMD_SET_DEVICE = 1
IFNAME, PRIVATE_KEY, LISTEN_PORT, PEERS = 2, 3, 6, 8  # WGDEVICE_A_*
PUBLIC_KEY, ENDPOINT, ALLOWED = 1, 4, 9  # WGPEER_A_*
FAMILY, ADDRESS, LENGTH = 1, 2, 3  # WGALLOWEDIP_A_*
KEY_BYTES = 32  # at the end of OpenSSL's DER
GENL_HEADER = struct.Struct("=BBxx")
NL_HEADER = struct.Struct("=IHHII")
PORTS = (51820, 51821)


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def _nested(kind: int, parts: Iterable[bytes]) -> bytes:
    return _attribute(kind | NLA_F_NESTED, b"".join(parts))


def _request(netlink: socket.socket, family: int, command: int, content: bytes) -> bytes:
    """Send a request; return its first reply. Raises OSError with the kernel's error."""
    body = GENL_HEADER.pack(command, 1) + content
    netlink.send(NL_HEADER.pack(NL_HEADER.size + len(body), family, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
    reply = netlink.recv(1 << 16)
    if NL_HEADER.unpack_from(reply)[1] == NLMSG_ERROR and (error := struct.unpack_from("=i", reply, NL_HEADER.size)[0]):
        raise OSError(-error, f"command {command} of the netlink family {family}")
    return reply


def _family(netlink: socket.socket) -> int:
    reply = _request(netlink, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, _attribute(CTRL_ATTR_FAMILY_NAME, b"wireguard\0"))
    netlink.recv(1 << 16)  # the acknowledgement
    at = NL_HEADER.size + GENL_HEADER.size
    while at < len(reply):
        length, kind = struct.unpack_from("=HH", reply, at)
        if kind == CTRL_ATTR_FAMILY_ID:
            return int(struct.unpack_from("=H", reply, at + 4)[0])
        at += length + -length % 4
    raise AssertionError("the kernel names no number of the netlink family")


def _keys() -> tuple[bytes, bytes]:
    """Return a private key with its public key."""
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "X25519", "-outform", "DER"], capture_output=True, check=True
    )
    words = ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"]
    public = subprocess.run(words, input=made.stdout, capture_output=True, check=True)
    return made.stdout[-KEY_BYTES:], public.stdout[-KEY_BYTES:]


def _everything() -> Iterable[bytes]:
    """Yield the networks of all addresses, IPv4 and IPv6, as allowed ones."""
    for family, size in (socket.AF_INET, 4), (socket.AF_INET6, 16):
        parts = (
            _attribute(FAMILY, struct.pack("=H", family)),
            _attribute(ADDRESS, bytes(size)),
            _attribute(LENGTH, b"\0"),
        )
        yield _nested(0, parts)


def connect(first: str, second: str) -> None:
    """Let two devices of this network namespace send each other everything, by UDP over its lo."""
    keys = [_keys(), _keys()]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as netlink:
        netlink.bind((0, 0))
        family = _family(netlink)
        for number, device in enumerate((first, second)):
            other = 1 - number
            endpoint = struct.pack("=H", socket.AF_INET) + struct.pack(
                "!H4s8x", PORTS[other], socket.inet_aton("127.0.0.1")
            )
            peer = (
                _attribute(PUBLIC_KEY, keys[other][1]),
                _attribute(ENDPOINT, endpoint),
                _nested(ALLOWED, _everything()),
            )
            content = [
                _attribute(IFNAME, device.encode() + b"\0"),
                _attribute(PRIVATE_KEY, keys[number][0]),
                _attribute(LISTEN_PORT, struct.pack("=H", PORTS[number])),
                _nested(PEERS, [_nested(0, peer)]),
            ]
            _request(netlink, family, WG_CMD_SET_DEVICE, b"".join(content))
