"""IP addresses, their families and their text with a port."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pylvs.model import sockets as socket

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
ANY_V4 = IPv4Address(0)
ANY_V6 = IPv6Address(0)


def family_of(address: Address) -> int:
    """Return socket.AF_INET or socket.AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def ip_option(version: int) -> str:
    """Return the option of ip(8) for an IP version, with the blank behind it."""
    return "" if version == 4 else "-6 "


def command_to_add(address: Address, device: str) -> str:
    """Return the command that gives a device this address alone, without its network."""
    return f"ip address add {address}/{address.max_prefixlen} dev {device}"


def endpoint(address: Address, port: int) -> str:
    """Return `192.0.2.1:80` or `[2001:db8::1]:80`, as ipvsadm writes them."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def parsed_endpoint(text: str) -> tuple[Address, int]:
    """Return the address and the port of such a text. Raises ValueError."""
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if is_bracketed else host)
    if is_bracketed != (address.version == 6) or not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(text)
    return address, int(port)
