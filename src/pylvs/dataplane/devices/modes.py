"""The mode in which a device runs the programs: what `auto` means on it, and why. Functions of facts, without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pylvs.model.dataclass import dataclass, field
from pylvs.netlink import links
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    Mode = Literal["auto", "native", "generic", "tc"]
else:
    Mode = str

ON_REQUEST = "on request"
_HIDDEN, _OCCUPIES, _IS_PORT = "unseen by XDP", "is at XDP already", "it is a port"  # parts of reasons
_NO_PORT, _ITS_PORT, _NO_NATIVE_PORTS = "it has no port", "its port", "the drivers of its ports have no native XDP"
_MAY_PASS = (_HIDDEN, _OCCUPIES, _IS_PORT, _NO_PORT, _ITS_PORT, _NO_NATIVE_PORTS)  # in reasons that edits check again
NOT_NATIVE = {  # kinds of devices for which `auto` means TC, and why
    "veth": "a veth loses natively forwarded frames unless its peer cooperates",
    "tun": "a tap's frames may have unfinished checksums, which XDP leaves to TC",
    "vlan": "a VLAN device has no native XDP; the device below it may have",
    "team": "a team has no native XDP",
}
# Why drivers of a bus run TC: the frames of other guests of this machine come as their stacks sent them.
UNFINISHED_BY_BUS = {"xen": "frames of a Xen guest may have unfinished checksums, which XDP leaves to TC"}
BOND = "bond"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The programs on a device: `mode` is "native", "generic" or "tc"; a program id of 0 means none.

    `intended` is the mode that pylvs attached. It differs from `mode` after another program has removed XDP.
    """

    device: str
    ifindex: int
    mode: Mode
    reason: str
    intended: Mode
    xdp: int = 0
    ingress: int = 0
    egress: int = 0


@dataclass(frozen=True, slots=True)
class Drivers:
    """What the kernel reports of drivers, by ifindex: `features` for XDP since Linux 6.3, and stripped VLAN tags.

    `foreign` has the names of the XDP programs on devices that are not of pylvs, by id.
    """

    features: Mapping[int, int] = field(default_factory=dict)
    stripped: Mapping[int, set[int]] = field(default_factory=dict)
    foreign: Mapping[int, str] = field(default_factory=dict)

    def foreign_on(self, device: Device) -> str:
        """Return the XDP program of another tool on a device in words, "" if there is none."""
        for program in (device.xdp_native, device.xdp_generic):
            if program in self.foreign:
                return foreign_program(program, self.foreign[program])
        return ""


def foreign_program(program: int, name: str) -> str:
    """Return a program of another tool in words, with a comma at the end."""
    return f"program {program} ({name}), which is not of pylvs," if name else f"program {program}, not of pylvs,"


def fixed_reason(device: Device) -> str:
    """Return why `auto` always means TC on a device; "" if that depends on its driver and on other devices."""
    if device.bare:
        return "its packets come without link addresses"
    if device.kind in NOT_NATIVE:
        return NOT_NATIVE[device.kind]
    if device.bus in UNFINISHED_BY_BUS:
        return UNFINISHED_BY_BUS[device.bus]
    return "the loopback device has no native XDP" if device.loopback else ""


def choose_mode(device: Device, everything: Sequence[Device], drivers: Drivers) -> tuple[Mode, str]:
    """Return the mode that `auto` means on a device, "native" or "tc", and the reason.

    Where the kernel does not report a driver's features, the driver may refuse "native"; `attach` then uses TC.
    """
    if reason := fixed_reason(device) or _obstacle(device, everything, drivers):
        return "tc", reason
    features = drivers.features.get(device.index)
    if features is None:
        return "native", "no other program is at XDP, and the driver takes it"
    if not features & links.XDP_BASIC:
        return "tc", _NO_NATIVE_PORTS if device.kind == BOND else "its driver has no native XDP"
    return "native", "its driver has native XDP and no other program is there"


def auto_changed(there: Attachment, device: Device, everything: Sequence[Device], drivers: Drivers) -> bool:
    """Return whether `auto` would decide otherwise than it did: an obstacle to native XDP has come or gone."""
    if there.mode == "native":
        return bool(_obstacle(device, everything, drivers))
    if not any(words in there.reason for words in _MAY_PASS):
        return False
    return choose_mode(device, everything, drivers) != (there.mode, there.reason)


def strips_tags(device: Device, everything: Iterable[Device]) -> list[int]:
    """Return the devices that may take off the tags of VLAN devices on a device: itself, or the ports of a bond."""
    if not any(each.vlan_protocol and each.lower == device.index for each in everything):
        return []
    ports = [each.index for each in everything if device.kind == BOND and each.master == device.index]
    return ports or [device.index]


def _obstacle(device: Device, everything: Sequence[Device], drivers: Drivers) -> str:
    """Return what prevents native XDP on a device at the moment; "" if nothing does. All have words of `_MAY_PASS`."""
    if program := drivers.foreign_on(device):
        return f"{program} {_OCCUPIES}"
    if device.master:
        return f"{_IS_PORT} of another device (bridge, bond or VRF)"
    ports = _obstacle_of_ports(device, everything) if device.kind == BOND else ""
    return ports or _hidden_tags(device, everything, drivers)


def _hidden_tags(device: Device, everything: Sequence[Device], drivers: Drivers) -> str:
    """Return why XDP on a device below VLAN devices does not see their tags; "" if it does, or there are none."""
    stripped = set[int]().union(*(drivers.stripped.get(each, ()) for each in strips_tags(device, everything)))
    vlans = {each.vlan_protocol: each.name for each in everything if each.lower == device.index}
    hidden = sorted(vlans.keys() & stripped)
    if not hidden:
        return ""
    option = "rxvlan" if hidden[0] == links.ETH_P_8021Q else "rx-vlan-stag-hw-parse"
    return f"{vlans[hidden[0]]} stands on it and the card takes VLAN tags off, {_HIDDEN} (ethtool: {option})"


def _obstacle_of_ports(bond: Device, everything: Sequence[Device]) -> str:
    """Return why a bond should not run XDP at its ports; "" if it can."""
    ports = [each for each in everything if each.master == bond.index]
    for port in ports:
        if port.kind == "veth":
            return f"{_ITS_PORT} {port.name} is a veth, which loses natively forwarded frames"
        if port.kind in NOT_NATIVE or port.bus in UNFINISHED_BY_BUS:
            return f"{_ITS_PORT} {port.name}: {NOT_NATIVE.get(port.kind) or UNFINISHED_BY_BUS[port.bus]}"
        if port.xdp_native or port.xdp_generic:  # the program of a bond is not reported at its ports
            return f"{_ITS_PORT} {port.name} runs an XDP program of its own"
    return "" if ports else _NO_PORT
