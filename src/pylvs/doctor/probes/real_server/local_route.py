"""Addresses whose packets routing does not take: a rule precedes the table local, or that lacks the route."""

from __future__ import annotations

from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.routes import LOCAL, KernelRoutes, before_local
from pylvs.model.addresses import ip_option
from pylvs.netlink.links import AssignedAddress, Device

_UNUSED = 0x08 | 0x40  # IFA_F_DADFAILED, IFA_F_TENTATIVE: the address has no route yet


def routed_away(routes: KernelRoutes, held: AssignedAddress, device: Device) -> str:
    """Return what the kernel answers for a packet to an address of a device; "" if it takes the packet.

    A VRF, the master of a device, has tables of its own.
    """
    if device.master or held.flags & _UNUSED:
        return ""
    found = routes.leaving_to(held.address)
    return "" if found.kind == LOCAL else f"ip route get {held.address}: {found.reason or 'no local route'}"


def not_local(id: str, layer: Layer, held: AssignedAddress, device: str, seen: str) -> Finding:
    """Return that routing does not take packets to an address of a device; `seen`: what the kernel answers."""
    address, rules = held.address, before_local(held.address.version)
    option, bare = ip_option(address.version), f"{address}/{held.prefix} dev {device}"
    if rules:
        listed = ", ".join(map(str, rules))
        seen = f"{seen}; rules before the table local have the priorities {listed}"
        why, fix = (
            "A rule of the routing policy comes before the table of local addresses.",
            "Move it behind that table.",
        )
        command = f"ip {option}rule del priority {rules[0]}" if len(rules) == 1 else None
    else:
        nodad = "" if address.version == 4 else " nodad"
        seen = f"{seen}; ip {option}route show table local has no route to it"
        why = "The kernel makes this route with the address. Another program, or a command, has removed it."
        fix, command = "Add the address again.", f"ip address del {bare}; ip address add {bare}{nodad}"
    return Finding(
        id=id,
        severity=Severity.ERROR,
        layer=layer,
        title=f"routing sends packets to {address} away, although this host has it",
        evidence=seen,
        why=why,
        fix=fix,
        fix_command=command,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )
