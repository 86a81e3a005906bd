"""PING_CHECK: an ICMP or ICMPv6 echo is answered (RFC 792, RFC 4443)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import replace

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint, receive_datagram, send_datagram
from pylvs.health.probes import CheckContext, NoSocket, Outcome, Probe, ProbeFailed
from pylvs.model.checks import PingCheck
from pylvs.system.sockets import closed_on_error

_TOKEN_BYTES = 20  # identifier, sequence number and data; random, so that a reply matches one request only
_ICMP_FILTER, _ICMP6_FILTER = 1, 1  # linux/icmp.h, linux/icmpv6.h: a set bit drops that type
_SOL_RAW = 255
_NOT_PERMITTED = (errno.EACCES, errno.EPERM)


class EchoKind:
    """The protocol and ICMP types of a family."""

    def __init__(self, family: int) -> None:
        if family == socket.AF_INET:
            self.protocol, self.request, self.reply = socket.IPPROTO_ICMP, 8, 0
        else:
            self.protocol, self.request, self.reply = socket.IPPROTO_ICMPV6, 128, 129
        self.v4 = family == socket.AF_INET

    def only_replies(self, raw: socket.socket) -> None:
        """Let a raw socket receive echo replies only; otherwise every ICMP message of the peer would wake it."""
        if self.v4:
            raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << self.reply)))
        else:
            mask = [0xFFFFFFFF] * 8
            mask[self.reply >> 5] &= ~(1 << (self.reply & 31))
            raw.setsockopt(self.protocol, _ICMP6_FILTER, struct.pack("=8I", *mask))


def probe(check: PingCheck, context: CheckContext) -> Probe:
    """Return a probe that sends one echo request."""
    endpoint = _endpoint(check)
    kind = EchoKind(endpoint.family)

    async def ask() -> Outcome:
        deadline = Deadline(check.pace.timeout_s)
        clock = asyncio.get_running_loop().time
        with endpoint.connect_datagram(_socket(endpoint, kind)) as sock:
            raw = sock.type == socket.SOCK_RAW
            message = bytes([kind.request, 0, 0, 0]) + os.urandom(_TOKEN_BYTES)
            sent = clock()
            send_datagram(sock, summed(message) if raw and kind.v4 else message)
            if await receive_datagram(sock, deadline, is_reply(message, kind, raw)) is None:
                raise deadline.expired("waiting for the echo")
            return Outcome(True, f"echo after {(clock() - sent) * 1000:.3g} ms")

    return ask


def echo_socket(check: PingCheck) -> socket.socket:
    """Return a socket for the probe of this check, not connected yet. Raises ProbeFailed."""
    endpoint = _endpoint(check)
    return _socket(endpoint, EchoKind(endpoint.family))


def _endpoint(check: PingCheck) -> Endpoint:
    return Endpoint(replace(check.target, port=0, source_port=0))


def _socket(endpoint: Endpoint, kind: EchoKind) -> socket.socket:
    """Return a ping socket if net.ipv4.ping_group_range allows that, else a raw socket. Raises ProbeFailed."""
    try:
        return endpoint.new_or_given(socket.SOCK_DGRAM, kind.protocol)
    except NoSocket as error:
        if error.code not in (*_NOT_PERMITTED, errno.EPROTONOSUPPORT):
            raise
    try:
        raw = endpoint.new_or_given(socket.SOCK_RAW, kind.protocol)
    except NoSocket as error:
        if error.code in _NOT_PERMITTED:
            text = "not allowed to send echoes; run as root, or set net.ipv4.ping_group_range"
            raise ProbeFailed(text, inconclusive=True) from None
        raise
    with closed_on_error(raw):
        kind.only_replies(raw)
    return raw


def is_reply(message: bytes, kind: EchoKind, raw: bool) -> Callable[[bytes], bool]:
    """Return whether a packet is the reply to this message. On a ping socket the kernel sets the identifier."""

    def matches(packet: bytes) -> bool:
        if raw and kind.v4 and packet:
            packet = packet[(packet[0] & 15) * 4 :]  # after the IP header
        token = slice(4 if raw else 6, None)
        return packet[:1] == bytes([kind.reply]) and packet[token] == message[token]

    return matches


def summed(message: bytes) -> bytes:
    """Return the message with its checksum (RFC 1071), which the kernel sets except on raw sockets for IPv4."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~(total + (total >> 16)) & 0xFFFF
    return message[:2] + total.to_bytes(2, "big") + message[4:]
