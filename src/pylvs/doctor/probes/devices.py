"""What other tools do to packets on a device, on a director and on a real server."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.foreign_programs import Foreign
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.model.addresses import Address
from pylvs.netlink.links import Device


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
