"""Values of options: numbers, addresses, ports, masks; None for what cannot be read."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from pylvs.ipvsadm.names import Names
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass

MAX_PORT = 65535
LONG_DIGITS = 19  # more significant digits than this never fit a C long
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
_BLANKS, _DIGITS = " \t\n\v\f\r", "0123456789"


def whole_number(text: str, lowest: int, highest: int) -> int | None:
    """A decimal number as strtol reads it, nothing behind it, within its bounds."""
    if text.isdecimal() and text.isascii() and len(text) < LONG_DIGITS:
        number = int(text)  # as most are written
    else:
        _, digits, behind = _parts(text)
        if not digits or behind:
            return None
        number = leading_number(text)
    return number if lowest <= number <= highest else None


def leading_number(text: str) -> int:
    """The number a text begins with, as strtol reads it; 0 if it does not begin with one."""
    sign, digits, _ = _parts(text)
    digits = digits.lstrip("0")
    if len(digits) > LONG_DIGITS:
        return LONG_MIN if sign == "-" else LONG_MAX
    number = int(digits or "0")
    return max(-number, LONG_MIN) if sign == "-" else min(number, LONG_MAX)


def _parts(text: str) -> tuple[str, str, str]:
    """Sign and digits that a text begins with, and what follows them."""
    text = text.lstrip(_BLANKS)
    sign = text[:1] if text.startswith(("+", "-")) else ""
    behind = text[len(sign) :].lstrip(_DIGITS)
    return sign, text[len(sign) : len(text) - len(behind)], behind


def as_int(number: int) -> int:
    """What a C int keeps of a number: its low 32 bits, signed."""
    return ((number + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and the port if one was written with it."""

    address: Address
    port: int | None


def endpoint(text: str, protocol: int, names: Names) -> Endpoint | None:
    """`host`, `host:port`, `[IPv6]:port` or a bare IPv6 address; port names are those of the protocol.

    In brackets the colon behind them is required, and an IPv4 host loses the port that follows.
    """
    if not text.strip("0123456789"):
        return None  # a lone number would pass for an address
    port_text: str | None = None
    if text.startswith("["):
        text, bracket, behind = text[1:].partition("]")
        if not bracket or not behind.startswith(":"):
            return None
        port_text = behind[1:]
    address: Address | None = ipv6(text) if text.count(":") > 1 else None
    if address is None:
        host, colon, after = text.rpartition(":")
        port_text = after if colon else None
        address = ipv4(host if colon else text, names)
        if address is None:
            return None
    if port_text is None:
        return Endpoint(address, None)
    port = whole_number(port_text, 0, MAX_PORT)
    if port is None:
        port = names.port(port_text, protocol)
    return None if port is None else Endpoint(address, port)


def ipv4(text: str, names: Names) -> IPv4Address | None:
    """An IPv4 address in any form inet_aton takes, or a host's name."""
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return names.address(text)


def ipv6(text: str) -> IPv6Address | None:
    """An IPv6 address, without a zone."""
    try:
        return IPv6Address(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError):
        return None


def dotted_quad(text: str) -> IPv4Address | None:
    """An IPv4 address of four decimal numbers."""
    try:
        return IPv4Address(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        return None
