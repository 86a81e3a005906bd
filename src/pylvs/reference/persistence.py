"""Persistence: a client returns to the same server (IPVS-SEMANTICS 5)."""

from __future__ import annotations

from pylvs.reference.connections import Connection, Key
from pylvs.reference.packet import Packet
from pylvs.reference.service import Service
from pylvs.reference.tables import FTP

MARK_PROTOCOL = 0  # of a mark's templates, listed as IP


def masked(client: bytes, mask: int) -> bytes:
    """Return the client's network: `mask` is 32 bits for IPv4, a prefix length for IPv6."""
    if len(client) == 4:
        return (int.from_bytes(client, "big") & mask).to_bytes(4, "big")
    return (int.from_bytes(client, "big") >> (128 - mask) << (128 - mask)).to_bytes(16, "big")


def template_key(service: Service, packet: Packet) -> tuple[Key, bool]:
    """Return the key of the client's template, and whether the template has the server's port (5.1)."""
    client = masked(packet.saddr, service.given.mask)
    port = packet.dport
    if port == service.port:
        by_port = port != FTP
        return (packet.protocol, client, 0, packet.daddr, port if by_port else 0), by_port
    if service.mark:
        number = service.mark.to_bytes(4, "big").ljust(len(client), b"\0")
        return (MARK_PROTOCOL, client, 0, number, 0), False
    return (packet.protocol, client, 0, packet.daddr, 0), False


def is_valid(template: Connection, *, expire_quiescent: bool) -> bool:
    """Return whether the template's server may still be used (5.4)."""
    server = template.server
    return server.available and not (expire_quiescent and server.weight == 0)


def connection_port(service: Service, template: Connection, packet: Packet) -> int:
    """Return the server's port for a connection of a template (5.2).

    Services of a mark or of all ports keep the packet's port.
    """
    if packet.dport == service.port and template.server.port:
        return template.server.port
    return packet.dport
