"""This host's addresses: those of its devices, and the networks with a local route. Packets read snapshots of them."""

from __future__ import annotations

import struct

from pylvs.dataplane.tables import ADDRESS_BYTES, Tables, address_bytes, replace_keys, set_bit
from pylvs.model import sockets as socket
from pylvs.netlink import links
from pylvs.netlink.local_routes import local_networks

_LOCAL_ROUTE = struct.Struct(f"<II{ADDRESS_BYTES}s")  # the structure local_route
_FAMILIES = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}


class OwnAddresses:
    """The addresses as they are now, as maps have them."""

    def __init__(self) -> None:
        """Ask the kernel. Raises PylvsError, OSError."""
        self.of_devices = {address_bytes(each) for each in links.local_addresses()}
        self.networks = {  # family, prefix length and address of local routes to others
            (_FAMILIES[family], bits, address.ljust(ADDRESS_BYTES, b"\0"))
            for family, bits, address in local_networks()
            if bits < 8 * len(address) or address.ljust(ADDRESS_BYTES, b"\0") not in self.of_devices
        }
        self._prefixes = [
            (family, 8 * ADDRESS_BYTES - bits, int.from_bytes(address, "big") >> 8 * ADDRESS_BYTES - bits)
            for family, bits, address in self.networks
        ]

    def has(self, address: bytes, family: int) -> bool:
        """Return whether an address is among them."""
        number = int.from_bytes(address, "big")
        return address in self.of_devices or any(
            of == family and number >> shift == prefix for of, shift, prefix in self._prefixes
        )


def refresh(tables: Tables) -> None:
    """Update the snapshots. The caller holds the lock."""
    own = OwnAddresses()
    for key in own.of_devices - set(tables.locals.keys()):  # before the key, lest a killed process forget the bit
        set_bit(tables, "reply_bits", key, 6 if any(key[4:]) else 4)
    replace_keys(tables.locals, own.of_devices)
    routes = {_LOCAL_ROUTE.pack(32 + bits, family, address) for family, bits, address in own.networks}
    replace_keys(tables.local_routes, routes)
