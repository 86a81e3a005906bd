"""The VLAN devices of the current network namespace, by netlink."""

from __future__ import annotations

from pylvs.model import sockets as socket
from pylvs.model.dataclass import dataclass
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, attributes, name, number

_8021Q = 0x8100


@dataclass(frozen=True, slots=True)
class Vlan:
    """A VLAN device with 802.1Q tags: its own index, that of the device below it, and the VLAN's number."""

    index: int
    lower: int
    vid: int


def vlans() -> list[Vlan]:
    """Return all VLAN devices whose lower device is in this namespace, too."""
    with Netlink() as link:
        messages = link.dump(codec.GETLINK, codec.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    return [found for message in messages if (found := _vlan(message)) is not None]


def _vlan(message: bytes) -> Vlan | None:
    _family, _kind, index, _flags, _change = codec.IFINFOMSG.unpack_from(message)
    found = attributes(message, codec.IFINFOMSG.size)
    info = attributes(found.get(18, b""))  # IFLA_LINKINFO
    data = attributes(info.get(2, b""))  # IFLA_INFO_DATA
    protocol = int.from_bytes(data.get(5, b""), "big")  # IFLA_VLAN_PROTOCOL
    if name(info.get(1)) != "vlan" or protocol != _8021Q or 37 in found:  # IFLA_INFO_KIND, IFLA_LINK_NETNSID
        return None
    return Vlan(index, number(found.get(5)), number(data.get(1)))  # IFLA_LINK, IFLA_VLAN_ID
