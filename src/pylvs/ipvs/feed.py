"""Give connections to the kernel's IPVS, through its own sync backup daemon.

The daemon listens on lo, so no message leaves this host.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from pylvs.ipvs import listing
from pylvs.ipvs.kernel import KernelIpvs
from pylvs.ipvs.listing import Key
from pylvs.model.errors import PylvsError
from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync.wire import Message, encode

GROUP, PORT = "224.0.0.81", 8848
SYNCID = 165
DEVICE = "lo"
_LONGEST = 1472  # bytes of a message
_AT_ONCE = 32  # messages: the smallest receive buffer in use holds them
_SOCKETS = "/proc/net/udp"
# Its second column, of sockets that receive messages: the address in hexadecimal digits, in the order of the memory.
_LOCAL = f"{int.from_bytes(socket.inet_aton(GROUP), sys.byteorder):08X}:{PORT:04X}"
_QUEUES, _INODE = 4, 9  # columns
_PAUSE_S, _PATIENCE_S = 0.001, 5.0
_VERSION = 1
_RENEWED = 10_000  # lines of the kernel between two calls of `renew`
_EXPIRES_S = 3


def key_of(connection: SyncedConnection) -> Key:
    """Return what identifies a connection in listings of the kernel."""
    return (
        connection.protocol,
        connection.client.packed,
        connection.client_port,
        connection.virtual.packed,
        connection.virtual_port,
    )


def messages(connections: Iterable[SyncedConnection]) -> Iterator[bytes]:
    """Yield sync messages that hold these connections."""
    message = _empty()
    for connection in connections:
        record = encode(connection)
        if not message.add(record):
            yield message.encoded()
            message = _empty()
            message.add(record)
    if message.count:
        yield message.encoded()


def _empty() -> Message:
    return Message(_VERSION, SYNCID, _LONGEST, 0.0, bytearray())


class Feed:
    """The kernel's backup daemon on lo, and a socket that sends to it."""

    def __init__(self, kernel: KernelIpvs) -> None:
        """Start the daemon. Raises what the kernel refuses."""
        self._kernel = kernel
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        index = socket.if_nametoindex(DEVICE)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)  # lo itself returns them
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        others = _unread().keys()  # sockets of other daemons have the same address, on other devices
        kernel.start_backup(DEVICE, SYNCID)
        self._daemon = _unread().keys() - others  # its sockets, one for each of the kernel's sync_ports
        self.renew: Callable[[], None] = lambda: None  # called now and then while connections are sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._kernel.stop_backup(DEVICE, SYNCID)

    def send(self, connections: Iterable[SyncedConnection]) -> None:
        """Send connections, and wait until the daemon has read them. Raises PylvsError."""
        for number, message in enumerate(messages(connections)):
            if number and number % _AT_ONCE == 0:
                self._wait()
                self.renew()
            self._socket.sendto(message, (GROUP, PORT))
        self._wait()

    def _wait(self) -> None:
        """Wait until the daemon has read everything. Raises PylvsError."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            unread = _unread()
            if not self._daemon or not self._daemon <= unread.keys():
                raise PylvsError("ip_vs: its sync daemon has ended")
            if not any(unread[each] for each in self._daemon):
                return
            if time.monotonic() > end:
                raise PylvsError("ip_vs: its sync daemon does not read what it is sent")
            time.sleep(_PAUSE_S)

    def missing(self, connections: Iterable[SyncedConnection]) -> list[SyncedConnection]:
        """Send connections again that the kernel does not list; return them.

        Those that are about to expire do not count.
        """
        lasting = (each for each in connections if each.timeout_s is None or each.timeout_s > _EXPIRES_S)
        lost = {listing.words_of(key_of(each)): each for each in lasting}
        for number, line in enumerate(self._kernel.connection_lines() if lost else ()):
            if number % _RENEWED == 0:
                self.renew()
            lost.pop(listing.ends(line), None)
        self.send(lost.values())
        return list(lost.values())


def _unread() -> dict[int, int]:
    """Return the bytes that wait in each socket for messages, by its inode."""
    found = {}
    with open(_SOCKETS) as file:
        for line in file:
            words = line.split()
            if words[1] == _LOCAL:
                found[int(words[_INODE])] = int(words[_QUEUES].partition(":")[2], 16)
    return found
