"""Announcements go out, and the claims of others come in: packet sockets (packet(7)), never waiting for anything.

Whatever the kernel can throw away before this process is woken, its filter throws away.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Collection

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.system import sysctl
from pylvs.system.socket_filter import attach
from pylvs.vrrp import frames
from pylvs.vrrp.claim_filter import program
from pylvs.vrrp.frames import ETH_P_ARP, ETH_P_IPV6, Claim, claim_of

LONGEST_FRAME = 2048
RECEIVE_BUFFER = 64 << 10  # bytes: what does not fit is dropped by the kernel, not worked on here


class Sender:
    """Sends frames on any device. Raises OSError if it cannot be made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)

    def send(self, device: str, frame: bytes) -> str:
        """Why it was not sent; "" if it was."""
        try:
            self._socket.sendto(frame, (device, 0))
        except OSError as error:
            return f"{device}: {error.strerror}"
        return ""

    def close(self) -> None:
        """No more."""
        self._socket.close()


class ClaimEar:
    """Hears who claims one of the watched addresses on a device; nothing, before `watch`. Raises OSError.

    One socket for each protocol, and for IPv6 only where such an address is watched: the kernel shows them nothing
    else, none of what this host sends, and none of what the data plane has already forwarded.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._addresses: frozenset[Address] = frozenset()
        self._own: frozenset[bytes] = frozenset()
        self._sockets: dict[int, socket.socket] = {}
        self._either = select.epoll()
        try:
            self._open(ETH_P_ARP)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._either.fileno()

    @property
    def gone(self) -> bool:
        """Whether the device was removed, or has another name now: one of this name needs an ear of its own."""
        return str(self._sockets[ETH_P_ARP].getsockname()[0]) != self.device

    def watch(self, addresses: Collection[Address], own_macs: Collection[bytes]) -> None:
        """From now on these addresses, unless one of these claims them. Raises OSError."""
        self._addresses, self._own = frozenset(addresses), frozenset(own_macs)
        if any(address.version == 6 for address in self._addresses):
            self._open(ETH_P_IPV6)
        elif ETH_P_IPV6 in self._sockets:
            self._close(ETH_P_IPV6)
        for protocol, opened in self._sockets.items():
            version = 4 if protocol == ETH_P_ARP else 6
            attach(opened, program(version, self._addresses, self._own))

    def receive(self, most: int = 64) -> list[Claim]:
        """The claims among the next frames, so many of each protocol at most; called again when there are more."""
        found = []
        for opened in self._sockets.values():
            for _ in range(most):
                try:
                    frame, (device, *_) = opened.recvfrom(LONGEST_FRAME)
                except OSError:
                    break  # there are no more, or the device is down
                claim = claim_of(frame, device)
                if claim and device == self.device and claim.address in self._addresses and claim.mac not in self._own:
                    found.append(claim)
        return found

    def close(self) -> None:
        """No more."""
        for protocol in list(self._sockets):
            self._close(protocol)
        self._either.close()

    def _open(self, protocol: int) -> None:
        if protocol in self._sockets:
            return
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            attach(opened, program(4, (), ()))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened.bind((self.device, protocol))
            self._either.register(opened, select.EPOLLIN)
        except OSError:
            opened.close()
            raise
        self._sockets[protocol] = opened

    def _close(self, protocol: int) -> None:
        self._sockets.pop(protocol).close()


def announcement(device: str, address: Address, mac: bytes) -> bytes:
    """The frame for an address on a device: IPv6 says that this is a router where that device forwards it."""
    return frames.announcement(address, mac, router=address.version == 6 and forwards(device))


def forwards(device: str) -> bool:
    """Whether IPv6 packets that come in on a device are forwarded."""
    try:
        return sysctl.read_number(f"net/ipv6/conf/{device}/forwarding") != 0
    except (PylvsError, OSError, ValueError):
        return False  # no IPv6 here, or no such device any more


def known_as(mac: bytes) -> str:
    """By which IPv4 address this host's neighbour table knows a link address; "" if by none. Raises nothing."""
    try:
        with open("/proc/thread-self/net/arp", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        return ""
    return next((row[0] for row in rows if len(row) > 3 and row[3].lower() == mac.hex(":")), "")
