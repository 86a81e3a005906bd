"""What `pylvs attach` says before or after it attaches XDP: frames that would be lost, packets that take TC."""

from __future__ import annotations

from pylvs.dataplane.devices.modes import NOT_NATIVE, UNFINISHED_BY_BUS
from pylvs.netlink import links, other_end
from pylvs.netlink.links import Device

_TX_CHECKSUMS = {"tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"}  # ethtool's features


def loses_frames(device: Device) -> str:
    """Return why native XDP on a device loses what it sends, and the remedy; "" if it does not.

    A veth's peer takes such frames only while it runs XDP itself or has GRO on; the kernel drops others silently.
    Before Linux 6.3 it does not report whether the peer takes them: then the answer is "".
    """
    features = links.native_xdp(device.index) if device.kind == "veth" else None
    if features is None or features & links.XDP_TRANSMIT:
        return ""
    return (
        f"{device.name}: native XDP would lose the frames that it sends, because the other end of this veth does not"
        " take them; switch GRO on at the other end (ethtool -K PEER gro on), or use --mode tc"
    )


def leaves_to_tc(device: Device) -> str:
    """Return why XDP on a device leaves most packets to TC, and the remedy; "" if no reason is known.

    XDP passes packets with unfinished checksums to TC. A veth's peer, a container, sends them unless its checksum
    offload is off.
    """
    if device.kind == "tun":
        return f"{device.name}: {NOT_NATIVE['tun']}; --mode tc costs less"
    if device.bus in UNFINISHED_BY_BUS:
        return f"{device.name}: {UNFINISHED_BY_BUS[device.bus]}; --mode tc costs less"
    if device.kind != "veth":
        return ""
    remedy = "ethtool -K PEER tx off at the other end lets XDP send its packets; otherwise --mode tc costs less"
    with other_end.inside_lower(device) as found:
        if not found:
            return (
                f"{device.name}: the other end of this veth is in a namespace that cannot be found. If its checksum"
                f" offload is on, XDP leaves its packets to TC: {remedy}"
            )
        peer = links.device(device.lower)
        if not _TX_CHECKSUMS & links.active_features(peer.index):
            return ""
    return (
        f"{device.name}: the other end of this veth, {peer.name}, sends unfinished checksums, so XDP leaves its packets"
        f" to TC: {remedy.replace('PEER', peer.name)}"
    )
