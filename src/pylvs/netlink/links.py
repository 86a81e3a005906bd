"""Devices of the current network namespace, their addresses, and the route to an address, by netlink.

/sys/class/net is not used: it may show another namespace's devices.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import NoSuchDevice, shown
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, NetlinkError, address_of, attribute, attributes, name, number

Network = IPv4Network | IPv6Network
ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
# ethtool's features: the card takes the tags off, and the kernel finds them beside the frame
_TAG_FEATURES = {"rx-vlan-hw-parse": ETH_P_8021Q, "rx-vlan-stag-hw-parse": ETH_P_8021AD}
XDP_BASIC, XDP_REDIRECT, XDP_TRANSMIT, XDP_TRANSMIT_FRAGS = 1, 2, 4, 64  # NETDEV_XDP_ACT_*
HERE = -1  # in this network namespace
LOCAL_ROUTE, _BROADCAST_ROUTE = 2, 3  # RTN_LOCAL, RTN_BROADCAST
_DROPPING = {6: "blackhole", 8: "prohibit"}  # RTN_BLACKHOLE, RTN_PROHIBIT
# of the networks for documentation: no host has them
_ANYWHERE: dict[int, tuple[Address, ...]] = {
    4: (IPv4Address("192.0.2.77"), IPv4Address("203.0.113.177")),
    6: (IPv6Address("2001:db8:77::77"), IPv6Address("3fff:177::77")),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A network device. `kind` is the driver's name for virtual ones ("veth", "vlan", "bridge"), else empty.

    `lower` is the device below a VLAN or macvlan, or a veth's peer, and `lower_netns` the id of its namespace, or
    HERE. `master` is the bridge, bond or VRF above. `bus` is that of the hardware: "pci", "virtio", "xen".
    `vlan_protocol` and `vid` are those of the tags of a VLAN device, else 0. They are 0, too, if the device below it is
    in another namespace. XDP program numbers are 0 where none is attached.
    """

    index: int
    name: str
    mac: bytes
    kind: str
    up: bool
    loopback: bool
    mtu: int
    master: int
    lower: int
    addresses: tuple[Address, ...]
    xdp_native: int = 0
    xdp_generic: int = 0
    vlan_protocol: int = 0  # ETH_P_8021Q or ETH_P_8021AD
    vid: int = 0
    vrf_table: int = 0  # of a VRF
    lower_netns: int = HERE
    bus: str = ""
    carrier: bool = True  # IFF_RUNNING: its link works

    @property
    def bare(self) -> bool:
        """Return whether its packets have no link addresses: tunnels (whose "address" is an IP address), VPNs, PPP."""
        return len(self.mac) in (0, 4, 16)

    @property
    def has_unicast_address(self) -> bool:
        """Return whether it has a unicast address beyond loopback and link-local ones."""
        return any(not (each.is_loopback or each.is_link_local or each.is_multicast) for each in self.addresses)


@dataclass(frozen=True, slots=True)
class AssignedAddress:
    """An address of the device with this index."""

    index: int
    address: Address
    peer: Address  # the other end of a point-to-point link, else the address itself
    prefix: int
    label: str  # ifconfig's alias; IPv4 only
    scope: int = 0  # RT_SCOPE_*
    flags: int = 0  # IFA_F_*

    @property
    def network(self) -> Network:
        """The network that the device reaches without a gateway."""
        return ip_network((self.peer, self.prefix), strict=False)


@dataclass(frozen=True, slots=True)
class Route:
    """The route to an address: device, next hop (None: the address itself), source address and kind of route."""

    ifindex: int
    gateway: Address | None
    source: Address | None
    kind: int
    mtu: int  # set on the route, or learned; 0: the device's

    @property
    def local(self) -> bool:
        """Return whether the address is this host's own."""
        return self.kind == LOCAL_ROUTE


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of a device: packets and bytes received and sent, and packets lost."""

    in_packets: int
    out_packets: int
    in_bytes: int
    out_bytes: int
    in_lost: int
    out_lost: int


def _device(message: bytes, addresses: dict[int, list[Address]]) -> Device:
    _family, _kind, index, flags, _change = codec.IFINFOMSG.unpack_from(message)
    found = attributes(message, codec.IFINFOMSG.size)
    info = attributes(found.get(18, b""))  # IFLA_LINKINFO
    xdp = attributes(found.get(43, b""))  # IFLA_XDP
    kind = name(info.get(1))  # IFLA_INFO_KIND
    is_vlan = kind == "vlan" and 37 not in found  # IFLA_LINK_NETNSID
    data = attributes(info.get(2, b""))  # IFLA_INFO_DATA
    tag = data if is_vlan else {}
    return Device(
        index=index,
        name=name(found.get(3)),
        mac=found.get(1, b""),
        kind=kind,
        up=bool(flags & codec.IFF_UP),
        loopback=bool(flags & codec.IFF_LOOPBACK),
        mtu=number(found.get(4)),
        master=number(found.get(10)),
        lower=number(found.get(5)),
        addresses=tuple(addresses.get(index, ())),
        xdp_native=number(xdp.get(5)) or number(xdp.get(7)),  # IFLA_XDP_DRV_PROG_ID, IFLA_XDP_HW_PROG_ID
        xdp_generic=number(xdp.get(6)),  # IFLA_XDP_SKB_PROG_ID
        vlan_protocol=int.from_bytes(tag.get(5, b""), "big"),  # IFLA_VLAN_PROTOCOL
        vid=number(tag.get(1)),  # IFLA_VLAN_ID
        vrf_table=number(data.get(1)) if kind == "vrf" else 0,  # IFLA_VRF_TABLE
        lower_netns=number(found[37]) if 37 in found else HERE,  # IFLA_LINK_NETNSID
        bus=name(found.get(57)),  # IFLA_PARENT_DEV_BUS_NAME
        carrier=bool(flags & codec.IFF_RUNNING),
    )


def _all(kind: int, body: bytes, what: str) -> list[bytes]:
    """Return the kernel's messages on all objects of a kind. Raises PylvsError, OSError."""
    with Netlink() as link:
        try:
            return link.dump(kind, body)
        except NetlinkError as error:
            raise error.as_failure(f"asking for {what}") from None


def addresses() -> list[AssignedAddress]:
    """Return all addresses of all devices. Raises PylvsError, OSError."""
    found = []
    for message in _all(codec.GETADDR, codec.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), "all addresses"):
        _family, prefix, flags, scope, index = codec.IFADDRMSG.unpack_from(message)
        parts = attributes(message, codec.IFADDRMSG.size)
        flags = number(parts.get(8)) or flags  # IFA_FLAGS
        peer = address_of(parts.get(1))  # IFA_ADDRESS
        own = address_of(parts.get(2)) or peer  # IFA_LOCAL
        if own is not None:
            found.append(
                AssignedAddress(index, own, peer or own, prefix, name(parts.get(3)), scope, flags)
            )  # IFA_LABEL
    return found


def _addresses_by_device() -> dict[int, list[Address]]:
    found: dict[int, list[Address]] = {}
    for each in addresses():
        found.setdefault(each.index, []).append(each.address)
    return found


def local_addresses() -> set[Address]:
    """Return every address that a device of this namespace holds."""
    return {each.address for each in addresses()}


def devices() -> list[Device]:
    """Return all devices, sorted by index. Raises PylvsError, OSError."""
    held = _addresses_by_device()
    messages = _all(codec.GETLINK, codec.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0), "all devices")
    return sorted((_device(message, held) for message in messages), key=lambda device: device.index)


def device(wanted: str | int) -> Device:
    """Return the device of a name or an index. Raises NoSuchDevice, which lists those that exist."""
    return _device(_link(wanted), _addresses_by_device())


def traffic(wanted: str | int) -> Traffic:
    """Return a device's counters since its creation. Raises NoSuchDevice."""
    counted = attributes(_link(wanted), codec.IFINFOMSG.size).get(23, b"")  # IFLA_STATS64
    inside, out, inside_bytes, out_bytes, *lost = struct.unpack_from("=8Q", counted.ljust(64, b"\0"))
    return Traffic(inside, out, inside_bytes, out_bytes, lost[0] + lost[2], lost[1] + lost[3])  # errors and dropped


def _link(wanted: str | int) -> bytes:
    """Return the kernel's message on a device. Raises NoSuchDevice."""
    index, label = (wanted, b"") if isinstance(wanted, int) else (0, codec.text(3, wanted))
    body = codec.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + label
    try:
        if isinstance(wanted, str) and not 0 < len(codec.octets(wanted)) < 16:
            raise NetlinkError(errno.ENODEV, "")
        with Netlink() as link:
            return link.request(codec.GETLINK, body)[0]
    except NetlinkError as error:
        if error.number not in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
            raise error.as_failure(f"asking for device {wanted}") from None
        there = ", ".join(each.name for each in devices())
        raise NoSuchDevice(f"{shown(str(wanted))}: no such device; there are: {there}") from None


class Routes:
    """Routes to many addresses: one socket, and one request for each address."""

    def __init__(self) -> None:
        self._link: Netlink | None = None
        self._found: dict[Address, tuple[int, Route | None]] = {}

    def __enter__(self) -> Routes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and drop all cached routes."""
        self._found.clear()
        if self._link is not None:
            self._link.close()
            self._link = None

    def ask(self, addresses: Iterable[Address]) -> None:
        """Look up many routes at once, which takes a quarter of the time. `to` then returns them."""
        wanted = [each for each in addresses if each not in self._found]
        for at, message in self._opened().ask(codec.GETROUTE, [_route_request(each) for each in wanted]):
            self._found[wanted[at]] = _route_of(message)

    def to(self, address: Address) -> Route | None:
        """Return the route by which the kernel would send to an address; None when there is none."""
        return self._ask(address)[1]

    def is_broadcast(self, address: Address) -> bool:
        """Return whether this host has a broadcast route to an address."""
        return self._ask(address)[0] == _BROADCAST_ROUTE

    def _ask(self, address: Address) -> tuple[int, Route | None]:
        """Return the kind of route (0: none), and the route if it leads anywhere."""
        found = self._found.get(address)
        if found is None:
            found = self._found[address] = _ask_route(self._opened(), address)
        return found

    def _opened(self) -> Netlink:
        if self._link is None:
            self._link = Netlink()
        return self._link


def _route_request(address: Address, mark: int = 0) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    bits = address.max_prefixlen
    body = codec.RTMSG.pack(family, bits, 0, 0, 0, 0, 0, 0, 0) + attribute(1, address.packed)  # RTA_DST
    return body + codec.u32(16, mark) if mark else body  # RTA_MARK


def _ask_route(link: Netlink, address: Address, mark: int = 0) -> tuple[int, Route | None]:
    try:
        return _route_of(link.request(codec.GETROUTE, _route_request(address, mark))[0])
    except NetlinkError as error:
        if error.number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return 0, None
        raise error.as_failure(f"asking for the route to {address}") from None


def _route_of(message: bytes) -> tuple[int, Route | None]:
    """Return the kind of a route, and the route if it leads anywhere."""
    kind = codec.RTMSG.unpack_from(message)[7]
    found = attributes(message, codec.RTMSG.size)
    gateway = found.get(5)  # RTA_GATEWAY
    if 18 in found:  # RTA_VIA: a next hop of the other family
        gateway = found[18][2:]
    if kind not in (1, LOCAL_ROUTE):  # RTN_UNICAST; the others drop (blackhole, unreachable, prohibit)
        return kind, None
    return kind, Route(
        number(found.get(4)),  # RTA_OIF
        address_of(gateway),
        address_of(found.get(7)),  # RTA_PREFSRC
        kind,
        number(attributes(found.get(8, b"")).get(2)),  # RTA_METRICS, RTAX_MTU
    )


def dropping_route(address: Address) -> str:
    """Return "blackhole" or "prohibit" if such a route leads to an address, else "". Packets to it are dropped."""
    with Netlink() as link:
        try:
            kind = codec.RTMSG.unpack_from(link.request(codec.GETROUTE, _route_request(address))[0])[7]
        except NetlinkError as error:  # as connect(2) would fail
            return {errno.EINVAL: "blackhole", errno.EACCES: "prohibit"}.get(error.number, "")
    return _DROPPING.get(kind, "")


def routed_local(mark: int, family: int) -> bool:
    """Return whether this host delivers all packets of a firewall mark locally, by `ip rule` and a default route."""
    with Netlink() as link:
        return all(_ask_route(link, each, mark)[0] == LOCAL_ROUTE for each in _ANYWHERE[family])


def native_xdp(index: int) -> int | None:
    """Return the XDP features of a driver (XDP_BASIC...), since Linux 6.3; None if the kernel does not report them."""
    return xdp_features([index]).get(index)


def xdp_features(indices: Iterable[int]) -> dict[int, int]:
    """Return the XDP features of the drivers of devices, by index, as far as the kernel reports them."""
    found = dict[int, int]()
    with Netlink(codec.NETLINK_GENERIC) as link:
        family = codec.generic_family(link, "netdev")
        if family is None:
            return found
        for index in indices:
            body = struct.pack("=BBH", 1, 1, 0) + codec.u32(1, index)  # NETDEV_CMD_DEV_GET, IFINDEX
            with suppress(NetlinkError):
                for answer in link.request(family, body):
                    found[index] = number(attributes(answer, 4).get(3))  # NETDEV_A_DEV_XDP_FEATURES
    return found


def stripped_tags(index: int) -> set[int]:
    """Return the protocols of the VLAN tags that a device takes off received frames, so that XDP does not see them."""
    active = active_features(index)
    return {protocol for feature, protocol in _TAG_FEATURES.items() if feature in active}


def active_features(index: int) -> set[str]:
    """Return the names of a device's features that are on, as ethtool prints them; none if the kernel reports none."""
    with Netlink(codec.NETLINK_GENERIC) as link:
        family = codec.generic_family(link, "ethtool")
        if family is None:
            return set()
        header = codec.nested(1, codec.u32(1, index))  # ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_HEADER_DEV_INDEX
        body = struct.pack("=BBH", 11, 1, 0) + header  # ETHTOOL_MSG_FEATURES_GET
        with suppress(NetlinkError):
            for answer in link.request(family, body):
                active = attributes(attributes(answer, 4).get(4, b""))  # ETHTOOL_A_FEATURES_ACTIVE
                bits = codec.members(active.get(3, b""))  # ETHTOOL_A_BITSET_BITS
                return {name(attributes(bit).get(2)) for _, bit in bits}  # ETHTOOL_A_BITSET_BIT_NAME
    return set()
