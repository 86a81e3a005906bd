"""The sockets of this network namespace, by netlink (sock_diag(7)): listening ones, and connections."""

from __future__ import annotations

import struct

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.netlink.codec import Netlink, NetlinkError, address_of, attributes, number

_NETLINK_SOCK_DIAG, _BY_FAMILY = 4, 20
_REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; struct inet_diag_sockid follows
_NO_ID = struct.pack("=HH32sIII", 0, 0, bytes(32), 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ANSWER = struct.Struct("=BBBB HH 16s16s I 8x IIIII")  # struct inet_diag_msg
_V6_ONLY = 11  # INET_DIAG_SKV6ONLY
_LISTEN, _UNCONNECTED = 1 << 10, 1 << 7  # TCP_LISTEN, and TCP_CLOSE of UDP
_SYN_RECV = (3, 12)  # TCP_SYN_RECV, as the kernel reports its TCP_NEW_SYN_RECV
_PEERS = 0xFFFFFFFF & ~(_LISTEN | _UNCONNECTED)
_SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that receives new connections, or datagrams. `waiting` connections are not accepted yet."""

    protocol: int
    address: Address
    port: int
    v6_only: bool
    waiting: int
    backlog: int
    device: int = 0  # to which it is bound (SO_BINDTODEVICE); 0: none

    def accepts(self, address: Address) -> bool:
        """Return whether it receives what is sent to a local address."""
        if not self.address.is_unspecified:
            return self.address == address
        return self.address.version == address.version or (self.address.version == 6 and not self.v6_only)


@dataclass(frozen=True, slots=True)
class Peer:
    """A connection with its other end. `resent`: how often its SYN-ACK was sent again; None: it was confirmed."""

    local: Address
    port: int
    peer: Address
    resent: int | None


def listeners() -> list[Listener] | None:
    """Return the listening sockets; None if this kernel does not report them."""
    found = []
    for protocol, states in ((TCP, _LISTEN), (UDP, _UNCONNECTED)):
        answers = _dump(protocol, states)
        if answers is None:
            if protocol == TCP:
                return None
            continue
        for message in answers:
            family, _, _, _, sport, _, saddr, _, device, _, waiting, backlog, _, _ = _ANSWER.unpack_from(message)
            address = address_of(saddr[: _SIZES[family]])
            port = socket.ntohs(sport)
            if address is not None and port:
                only = bool(number(attributes(message, _ANSWER.size).get(_V6_ONLY)))
                found.append(Listener(protocol, address, port, only, waiting, backlog, device))
    return found


def peers(most: int = 2000) -> list[Peer]:
    """Return connections of TCP, at most so many."""
    found = []
    for message in (_dump(TCP, _PEERS) or [])[:most]:
        family, state, _, resent, sport, _, saddr, daddr, *_ = _ANSWER.unpack_from(message)
        local, peer = (_mapped(each[: _SIZES[family]]) for each in (saddr, daddr))
        if local is not None and peer is not None:
            found.append(Peer(local, socket.ntohs(sport), peer, resent if state in _SYN_RECV else None))
    return found


def _mapped(packed: bytes) -> Address | None:
    """Return an address; of IPv4 also where a socket of IPv6 has it."""
    address = address_of(packed)
    return address.ipv4_mapped or address if address is not None and address.version == 6 else address


def _dump(protocol: int, states: int) -> list[bytes] | None:
    """Return the kernel's messages on both families; None if it reports neither."""
    found, reported = list[bytes](), False
    for family in _SIZES:
        try:
            with Netlink(_NETLINK_SOCK_DIAG) as link:
                found += link.dump(_BY_FAMILY, _REQUEST.pack(family, protocol, 0, states) + _NO_ID)
                reported = True
        except (NetlinkError, OSError):
            continue
    return found if reported else None
