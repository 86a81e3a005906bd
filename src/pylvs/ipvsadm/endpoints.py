"""How addresses and ports are written in listings and rules."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from pylvs.ipvsadm.names import Names
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address

LONGEST = 59  # letters of host:port
LONGEST_V4_LISTED = 28  # letters of an IPv4 one in a listing

Writer = Callable[[Address, int, int], str]  # address, port, protocol (0: its ports have no names)


def address_text(address: Address) -> str:
    """An address as inet_ntop writes it: unlike Python, with dotted quads in mapped addresses."""
    return str(address) if isinstance(address, IPv4Address) else socket.inet_ntop(socket.AF_INET6, address.packed)


def numeric(address: Address, port: int, _: int = 0) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]:80`."""
    return f"{address!s}:{port}" if isinstance(address, IPv4Address) else f"[{address_text(address)}]:{port}"


def with_names(names: Names) -> Writer:
    """A writer that uses names where there are any, and cuts what becomes too long."""

    def write(address: Address, port: int, protocol: int) -> str:
        host = names.host(address) or address_text(address)
        service = names.service(port, protocol) or str(port)
        return (f"{host}:{service}" if isinstance(address, IPv4Address) else f"[{host}]:{service}")[:LONGEST]

    return write


def listed(writer: Writer) -> Writer:
    """A writer for the columns of a listing."""

    def write(address: Address, port: int, protocol: int) -> str:
        text = writer(address, port, protocol)
        return text[:LONGEST_V4_LISTED] if isinstance(address, IPv4Address) else text

    return write


def mark_text(mark: int) -> str:
    """A firewall mark, which ipvsadm takes without a sign and prints with one."""
    return str(mark - (1 << 32) if mark >= 1 << 31 else mark)


def mask_text(netmask: int, family: int) -> str:
    """A persistence mask: an IPv4 mask, an IPv6 prefix length."""
    return str(IPv4Address(netmask)) if family == socket.AF_INET else str(netmask)
