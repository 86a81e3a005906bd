"""Devices that are down, and what other tools do to packets on a device, on a director and on a real server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from pylvs.doctor.commands import listed
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject
from pylvs.doctor.kernel.foreign_programs import Foreign
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.model.addresses import Address
from pylvs.netlink.links import HERE as IN_THIS_NAMESPACE
from pylvs.netlink.links import Device

_UPON = ("vlan", "macvlan", "ipvlan", "macvtap")  # kinds of devices that are down while the device below is
_JOINING = ("bridge", "bond", "team")  # they have no link but that of their ports


def works(device: Device, everything: Collection[Device]) -> bool:
    """Return whether a device is up, and its link works: packets of other hosts come in by it."""
    if not device.up or not (device.carrier or device.loopback):
        return False
    return device.kind not in _JOINING or any(works(each, everything) for each in ports_of(device, everything))


def ports_of(device: Device, everything: Iterable[Device]) -> list[Device]:
    """Return the ports of a bridge or bond."""
    return [each for each in everything if each.master == device.index]


def lowest_down(device: Device, everything: Collection[Device]) -> Device | None:
    """Return the device that is down itself: a VLAN device is down while the one below it is. None if all work."""
    chain, by_index = [device], {each.index: each for each in everything}
    while (below := _below(chain[-1], by_index)) is not None and below not in chain:
        chain.append(below)
    return next((each for each in reversed(chain) if not works(each, everything)), None)


def _below(device: Device, by_index: Mapping[int, Device]) -> Device | None:
    """Return the device below another one, or its only port."""
    if device.kind in _UPON:
        return by_index.get(device.lower) if device.lower_netns == IN_THIS_NAMESPACE else None
    ports = ports_of(device, by_index.values()) if device.kind in _JOINING else []
    return ports[0] if len(ports) == 1 else None


def link_down(
    lowest: Device, device: Device, everything: Collection[Device], layer: Layer, why: str, about: Collection[Subject]
) -> Finding:
    """Return that a device is down, because the lowest one is: itself, or one below it."""
    name, upon = lowest.name, "" if lowest is device else f"; {device.name} is on it"
    ports = ports_of(lowest, everything) if lowest.kind in _JOINING else []
    command, fix = None, "Mend its cable, or the switch's port."
    if not lowest.up:
        title, seen = f"{name} is down", f"ip link show {name}: it is not set up"
        command, fix = f"ip link set {name} up", "Set it up."
    elif ports and not any(works(each, everything) for each in ports):
        title = f"all ports of {name} are down: {listed([each.name for each in ports])}"
        seen = ", ".join(f"{each.name}: {'NO-CARRIER' if each.up else 'it is not set up'}" for each in ports)
        if down := [each.name for each in ports if not each.up]:
            command, fix = "; ".join(f"ip link set {each} up" for each in down), "Set them up."
    elif lowest.kind in _JOINING and not ports:
        title, seen = f"{name}, a {lowest.kind}, has no port", f"ip link show master {name}: none"
        spare = _spare(everything)
        fix = "Add the card of its link as a port." + (f" {spare} is free." if spare else "")
        command = f"ip link set {spare} master {name}" if spare and lowest.kind == "bridge" else None
    else:
        title, seen = f"{name} has no carrier", f"ip link show {name}: NO-CARRIER"
    return Finding(
        id="link_down",
        severity=Severity.ERROR,
        layer=layer,
        title=title,
        evidence=f"{seen}{upon}",
        why=why,
        fix=fix,
        fix_command=command,
        fix_host=HERE if command else None,
        about=frozenset({*about, name, device.name}),
    )


def _spare(everything: Iterable[Device]) -> str:
    """Return the only card that works and has no address of its own; "" if there is none, or several."""
    cards = [each for each in everything if each.up and each.carrier and not each.loopback and not each.master]
    free = [each for each in cards if not each.has_unicast_address and not each.bare and each.kind in ("", "veth")]
    return free[0].name if len(free) == 1 else ""


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
