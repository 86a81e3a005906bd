"""Devices that are down, and what other tools do to packets on a device, on a director and on a real server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject
from pylvs.doctor.kernel.foreign_programs import Foreign
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.model.addresses import Address
from pylvs.netlink.links import HERE as IN_THIS_NAMESPACE
from pylvs.netlink.links import Device

_UPON = ("vlan", "macvlan", "ipvlan", "macvtap")  # kinds of devices that are down while the device below is


def works(device: Device) -> bool:
    """Return whether a device is up, and its link works."""
    return device.up and (device.carrier or device.loopback)


def lowest_down(device: Device, everything: Iterable[Device]) -> Device:
    """Return the device that is down itself: a VLAN device is down while the one below it is."""
    by_index = {each.index: each for each in everything}
    while device.kind in _UPON and device.lower_netns == IN_THIS_NAMESPACE:
        lower = by_index.get(device.lower)
        if lower is None or works(lower):
            break
        device = lower
    return device


def link_down(
    device: Device, everything: Iterable[Device], layer: Layer, why: str, about: Collection[Subject]
) -> Finding:
    """Return that a device is down, or the one below it."""
    lowest = lowest_down(device, everything)
    name, upon = lowest.name, "" if lowest is device else f"; {device.name} is on it"
    return Finding(
        id="link_down",
        severity=Severity.ERROR,
        layer=layer,
        title=f"{name} has no carrier" if lowest.up else f"{name} is down",
        evidence=f"ip link show {name}: {'NO-CARRIER' if lowest.up else 'it is not set up'}{upon}",
        why=why,
        fix="Mend its cable, or the switch's port." if lowest.up else "Set it up.",
        fix_command=None if lowest.up else f"ip link set {name} up",
        fix_host=None if lowest.up else HERE,
        about=frozenset({*about, name, device.name}),
    )


def foreign_finding(device: Device, found: Foreign, address: Address) -> Finding:
    """Return that another tool's program decides on packets to a virtual address."""
    return Finding(
        id="foreign_program",
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=f"{found.what} of {device.name} {found.does} to {address}",
        evidence=f"{found.what} on {device.name} is not of pylvs; run with a SYN to {address}, it {found.does}",
        why="It decides before the packet path and the stack, or behind them: the packets do not get through.",
        fix="Remove it, or let it continue with the next program.",
        fix_command=found.command,
        fix_host=HERE,
        about=frozenset({device.name, str(address)}),
    )


def losses(device: Device) -> Iterator[Finding]:
    """Yield a queueing discipline that loses packets on purpose, or most of them."""
    for loss in link_settings().losses(device.name):
        yield Finding(
            id="queue_loses",
            severity=Severity.WARNING,
            layer=Layer.LINK,
            title=f"the queueing discipline {loss.kind} of {device.name} loses packets",
            evidence=f"{loss.kind} on {device.name}: {loss.text}",
            why="What TC and the stack send passes this queue. XDP sends past it.",
            fix="Remove it.",
            fix_command=f"tc qdisc del dev {device.name} root",
            fix_host=HERE,
            about=frozenset({device.name}),
        )
