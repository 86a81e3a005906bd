"""The maps by which XDP knows devices: those that run it, with their ports and VLANs, and those it may redirect to.

XDP tells devices apart by ifindex modulo the number of slots. A device whose slot another one has runs TC.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence

from pylvs.bpf import abi
from pylvs.dataplane.devices.modes import BOND, Attachment
from pylvs.dataplane.devices.selection import can_carry
from pylvs.dataplane.tables import Tables, replace_keys
from pylvs.model.dataclass import dataclass
from pylvs.netlink import links
from pylvs.netlink.links import Device

ONE_BUFFER = 3498  # the longest MTU whose frames are in one page with XDP's headroom


@dataclass(frozen=True, slots=True)
class Entry:
    """What XDP must know of a device. A port of a bond names it; a VLAN device names the one below it, its trunk."""

    ifindex: int
    mac: bytes
    bond: int = 0
    trunk: int = 0
    vid: int = 0


class Slots:
    """Which devices have slots, while entries are planned. `taken` has ifindex and trunk of those in use, by slot."""

    def __init__(self, taken: Mapping[int, tuple[int, int]], count: int) -> None:
        self._taken = dict(taken)
        self._count = count

    def other(self, index: int) -> int:
        """Return the other device in the slot of this one; 0: none, or a VLAN device, which can do without."""
        there, trunk = self._taken.get(index % self._count, (0, 0))
        return 0 if there == index or trunk else there

    def _take(self, device: Device, bond: int = 0, trunk: int = 0, vid: int = 0) -> list[Entry]:
        slot = device.index % self._count
        there = self._taken.get(slot, (0, 0))[0]
        if device.loopback or (there not in (0, device.index) if trunk else self.other(device.index)):
            return []
        self._taken[slot] = device.index, trunk
        return [Entry(device.index, device.mac, bond, trunk, vid)]

    def take(self, device: Device, everything: Iterable[Device], commanded: Mapping[int, object]) -> list[Entry]:
        """Return the entries of a device that runs XDP.

        XDP finds a bond by its ports; a port whose slot another device has passes its packets to TC. It finds the VLAN
        devices on the device by their tags, unless another mode than `auto` is commanded there.
        """
        found = self._take(device)
        for link in everything:
            if device.kind == BOND and link.master == device.index:
                found += self._take(link, bond=device.index)
            is_tagged = link.lower == device.index and link.vlan_protocol == links.ETH_P_8021Q
            if is_tagged and commanded.get(link.index, "auto") == "auto":
                found += self._take(link, trunk=device.index, vid=link.vid)
        return found


def taken(tables: Tables) -> dict[int, tuple[int, int]]:
    """Return ifindex and trunk of each slot in use."""
    form = tables.devices.codec.view("ifindex", "trunk")
    elements = form.iter_unpack(tables.devices.array.elements(0, tables.devices.count))
    return {slot: (index, trunk) for slot, (index, trunk) in enumerate(elements) if index}


def slot_count() -> int:
    return abi.constant("DEVICES")


def write(tables: Tables, entries: Iterable[Entry]) -> None:
    """Write entries where they differ: XDP may be reading them. MAC address, ports and VLANs of a device may change."""
    for entry in entries:
        slot = entry.ifindex % slot_count()
        fields = {
            "ifindex": entry.ifindex,
            "mac": entry.mac,
            "present": 1,
            "bond": entry.bond,
            "trunk": entry.trunk,
            "vid": entry.vid,
        }
        if any(tables.devices.get(slot, name) != value for name, value in fields.items()):
            tables.devices.write(slot, fields)


def clear_others(tables: Tables, there: Sequence[Attachment], everything: Sequence[Device]) -> None:
    """Empty the slots of devices that do not run XDP, and are no port of a bond that does."""
    by_xdp = {each.ifindex for each in there if each.mode != "tc"}
    kept = by_xdp | {each.index for each in everything if each.master in by_xdp}
    for slot, (index, _) in taken(tables).items():
        if index not in kept:
            tables.devices.clear(slot)


def transmitters(there: Sequence[Attachment], everything: Sequence[Device], features: Mapping[int, int]) -> set[int]:
    """Return the devices to which XDP may redirect.

    Without native XDP these are all attached devices. Else they are those whose driver transmits redirected frames,
    attached or not. If XDP may receive frames in several buffers, the driver must transmit those, too. Without our
    program, a veth does so as long as its peer takes the frames. Another program may leave at any time.
    """
    by_xdp = {each.ifindex for each in there if each.mode != "tc"}
    native = {each.ifindex for each in there if each.mode == "native"}
    if not native:
        return {each.ifindex for each in there} if by_xdp else set()
    jumbo = any(each.mtu > ONE_BUFFER for each in everything if each.index in by_xdp)
    wanted = links.XDP_TRANSMIT | (links.XDP_TRANSMIT_FRAGS if jumbo else 0)
    return {
        each.index
        for each in everything
        if features.get(each.index, 0) & wanted == wanted
        and (each.index in native or (can_carry(each) and not (each.bare or each.kind == "veth" or each.xdp_native)))
    }


def redirect_to(tables: Tables, indices: Collection[int]) -> None:
    """Let XDP redirect to these devices; frames for others pass to TC."""
    most = abi.constant("TRANSMITTERS")
    replace_keys(tables.transmitters, {struct.pack("<I", index) for index in sorted(indices)[:most]}, value=None)


def stop_redirects(tables: Tables, ifindex: int, to_all: bool = False) -> None:
    """Let XDP pass packets for a device, or for all, to TC: its driver may not transmit them after the next step."""
    for key in list(tables.transmitters.keys()) if to_all else [struct.pack("<I", ifindex)]:
        tables.transmitters.remove(key)
