"""A real server's virtual addresses: whether it holds them, and whether its neighbours learn that."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.counters import counts
from pylvs.doctor.kernel.routes import LOCAL, KernelRoutes
from pylvs.doctor.kernel.sniffer import Arrivals
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.packet_filter.packet import Packet, Verdict
from pylvs.doctor.probes.real_server.facts import RealServer, real_server
from pylvs.doctor.probes.real_server.translation import translations
from pylvs.model.addresses import Address
from pylvs.model.errors import counted
from pylvs.netlink.links import AssignedAddress, Device
from pylvs.system import proc

_DUPLICATE, _TENTATIVE = 0x08, 0x40  # IFA_F_DADFAILED, IFA_F_TENTATIVE
_HOST_SCOPE = 254  # RT_SCOPE_HOST
_ONLY_OWN, _ONLY_OWN_SUBNET, _NOT_HOST_SCOPE, _NEVER = 1, 2, 3, 8  # values of arp_ignore
_WEB = 80  # a port for rules that name none
_BEST_LOCAL = 2  # of arp_announce


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the virtual addresses of this real server."""
    server = real_server(facts)
    if server is None or server.by_nat:
        return
    for address, holders in server.vips.items():
        if not holders:
            if not _is_taken_otherwise(facts, server, address):
                yield _missing(server, address, facts)
        elif not server.loopback.up and any(each.index == server.loopback.index for each in holders):
            yield _lo_down(address)
        else:
            yield from _held(facts, server, address, holders)
    yield from _deaf(facts, server)
    if not any(server.vips.values()):
        yield from _unknown(facts, server)


def _is_taken_otherwise(facts: Facts, server: RealServer, address: Address) -> bool:
    """Return whether packets to an address that no device has stay here: by a local route, or by a rule of NAT."""
    with KernelRoutes() as routes:
        if routes.leaving_to(address).kind == LOCAL:
            return True
    here = {None, *(each.address for each in facts.addresses)}
    ports = sorted(packet_filter(facts).translated_ports() | {_WEB})
    found = translations(facts, server, server.clients(address)[0], address, ports)
    return any(other.address in here for _, other in found)


def _missing(server: RealServer, address: Address, facts: Facts) -> Finding:
    known = str(address) in server.memory.addresses
    off = f"net.ipv6.conf.{server.loopback.name}.disable_ipv6"
    command = f"pylvs realserver up {address}"
    evidence = f"no device has {address}" + (", which pylvs realserver has added" if known else "")
    if address.version == 6 and facts.number(off.replace(".", "/")):
        evidence += f"; {off} is 1"
        command = f"sysctl -w {off}=0 && {command}"
    return Finding(
        id="server_lacks_vip",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"this real server does not have {address}",
        evidence=evidence,
        why="Packets of direct routing and tunnels have the virtual address as destination: this host drops them.",
        fix="Add it to lo, without ARP.",
        fix_command=command,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _lo_down(address: Address) -> Finding:
    return Finding(
        id="server_lo_down",
        severity=Severity.ERROR,
        layer=Layer.HOST,
        title=f"lo is down, so {address} is not local",
        evidence=f"{address} is on lo, which is down",
        why="The kernel has no local route to addresses of a device that is down.",
        fix="Set lo up.",
        fix_command="ip link set lo up",
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _held(
    facts: Facts, server: RealServer, address: Address, holders: tuple[AssignedAddress, ...]
) -> Iterator[Finding]:
    names = {each.index: each.name for each in facts.devices}
    for held in holders:
        if held.flags & (_DUPLICATE | _TENTATIVE) and address.version == 6:
            yield _unusable(held, names[held.index])
        if held.index == server.loopback.index and held.prefix < address.max_prefixlen:
            yield _wide(held, names[held.index])
    outside = {each.index for each in server.outward}
    if elsewhere := [each for each in holders if each.index in outside]:
        for held in elsewhere:
            if address.version == 6 or _answers(facts, server, _device(facts, held.index), address):
                yield on_the_link(_device(facts, held.index), address, prefix=held.prefix)
    elif address.version == 4:
        answering = [each for each in server.outward if _answers(facts, server, each, address)]
        if answering:
            yield _answering(facts, address, answering)
        elif asking := [each for each in server.outward if _asks_with(facts, each, address)]:
            yield _asking(facts, address, asking)


def _device(facts: Facts, index: int) -> Device:
    return next(each for each in facts.devices if each.index == index)


def _unusable(held: AssignedAddress, name: str) -> Finding:
    bare = f"{held.address}/{held.prefix} dev {name}"
    duplicate = bool(held.flags & _DUPLICATE)
    return Finding(
        id="server_vip_duplicate",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"{held.address} on {name} is not in use: duplicate address detection "
        + ("found another host" if duplicate else "has not ended"),
        evidence=f"the address has the flag {'dadfailed' if duplicate else 'tentative'}",
        why="The kernel neither answers for such an address nor accepts packets to it.",
        fix="Add it without duplicate address detection: all real servers and the director have it.",
        fix_command=f"ip address del {bare} && ip address add {held.address}/128 dev lo nodad",
        fix_host=HERE,
        about=frozenset({str(held.address)}),
    )


def _wide(held: AssignedAddress, name: str) -> Finding:
    return Finding(
        id="server_vip_netmask",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"{held.address} is on {name} with the prefix length {held.prefix}: all of {held.network} is local here",
        evidence=f"{name} has {held.address}/{held.prefix}",
        why="Replies to clients of that network, and to its gateway, never leave this host.",
        fix=f"Add the address alone, with the prefix length {held.address.max_prefixlen}.",
        fix_command=f"ip address del {held.address}/{held.prefix} dev {name} && pylvs realserver up {held.address}",
        fix_host=HERE,
        about=frozenset({str(held.address)}),
    )


def on_the_link(device: Device, address: Address, seen: str = "", prefix: int | None = None) -> Finding:
    """Return that a virtual address is on a device to others; `seen`: further evidence."""
    name, held = device.name, f"{address}/{address.max_prefixlen if prefix is None else prefix}"
    protocol = "ARP" if address.version == 4 else "neighbour discovery"
    return Finding(
        id="server_vip_on_link",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{address} is on {name}, so this real server answers {protocol} for it",
        evidence=f"{name} has {held}" + (f", and {seen}" if seen else ""),
        why="Clients and routers may learn this host's link address, and bypass the director.",
        fix="Move the address to lo.",
        fix_command=f"ip address del {held} dev {name} && pylvs realserver up {address}",
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def effective(facts: Facts, device: Device, setting: str) -> int:
    """Return the value in force: the higher one of the device's and that of "all"."""
    return max(facts.number(f"net/ipv4/conf/{each}/{setting}") or 0 for each in ("all", device.name))


def answers_by_settings(ignore: int, held_by: list[AssignedAddress], device: Device) -> bool:
    """Return whether a device answers ARP requests for a local address of IPv4 (arp_ignore in net/ipv4/arp.c)."""
    if ignore in (_ONLY_OWN, _ONLY_OWN_SUBNET):
        own = [each for each in held_by if each.index == device.index]
        return any(ignore == _ONLY_OWN or each.prefix < each.address.max_prefixlen for each in own)
    if ignore == _NOT_HOST_SCOPE:
        return any(each.scope != _HOST_SCOPE for each in held_by)
    return ignore != _NEVER


def _answers(facts: Facts, server: RealServer, device: Device, address: Address) -> bool:
    """Return whether a device answers ARP requests for an address: settings, then rules for ARP."""
    ignore = effective(facts, device, "arp_ignore")
    if not answers_by_settings(ignore, list(server.vips[address]), device):
        return False
    asking = Packet(address, address, iif=device.name, arp=True)
    return packet_filter(facts).decision(("input",), asking).verdict is not Verdict.DROP


def _answering(facts: Facts, address: Address, devices: list[Device]) -> Finding:
    first = devices[0]
    return Finding(
        id="server_answers_arp",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"this real server answers ARP for {address} on {', '.join(each.name for each in devices)}",
        evidence=f"arp_ignore is {effective(facts, first, 'arp_ignore')} on {first.name}, and {address} is local",
        why="Clients and routers may learn this host's link address, and bypass the director.",
        fix="Set arp_ignore to 1 and arp_announce to 2.",
        fix_command=f"pylvs realserver up {address}",
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _asks_with(facts: Facts, device: Device, address: Address) -> bool:
    """Return whether ARP requests of a device may have an address as their sender (arp_solicit in net/ipv4/arp.c)."""
    announce = effective(facts, device, "arp_announce")
    if announce >= _BEST_LOCAL:
        return False
    networks = [each.network for each in facts.addresses if each.index == device.index and each.address != address]
    if announce == 1 and not any(address in network for network in networks):
        return False
    rules = packet_filter(facts).nft
    return not any(chain.family == "arp" for chain, _ in rules.rules_naming(str(address)))


def _asking(facts: Facts, address: Address, devices: list[Device]) -> Finding:
    first = devices[0]
    return Finding(
        id="server_asks_with_vip",
        severity=Severity.WARNING,
        layer=Layer.LINK,
        title=f"ARP requests of this real server on {first.name} may have {address} as their sender",
        evidence=f"arp_announce is {effective(facts, first, 'arp_announce')} on {first.name}",
        why="Neighbours learn from such a request that the virtual address is here, and bypass the director.",
        fix="Set arp_announce to 2.",
        fix_command=f"pylvs realserver up {address}",
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _deaf(facts: Facts, server: RealServer) -> Iterator[Finding]:
    """Yield devices that answer no ARP at all, not even for the real server's own address."""
    for device in server.outward:
        own = [each for each in facts.addresses if each.index == device.index and each.address.version == 4]
        if own and effective(facts, device, "arp_ignore") == _NEVER:
            yield Finding(
                id="server_answers_no_arp",
                severity=Severity.ERROR,
                layer=Layer.LINK,
                title=f"{device.name} answers no ARP request, not even for {own[0].address}",
                evidence=f"arp_ignore is {_NEVER} on {device.name}",
                why="The director cannot find out the link address of this real server.",
                fix="Set arp_ignore to 1.",
                fix_command="; ".join(
                    f"sysctl -w {proc.dotted(f'net/ipv4/conf/{each}/arp_ignore')}=1"
                    for each in ("all", device.name)
                    if facts.number(f"net/ipv4/conf/{each}/arp_ignore") == _NEVER
                ),
                fix_host=HERE,
                about=frozenset({device.name}),
                explains=frozenset(map(str, server.vips)),
            )


def _unknown(facts: Facts, server: RealServer) -> Iterator[Finding]:
    """Yield the addresses to which packets come that this host does not have. No record names them."""
    refused = counts(facts).get("IpInAddrErrors", 0)
    if server.vips or not refused:
        return
    with Arrivals(server.outward) as arrivals:
        seen = arrivals.foreign({each.address for each in facts.addresses})
    words = ", ".join(map(str, seen))
    yield Finding(
        id="server_lacks_vip",
        severity=Severity.ERROR if seen else Severity.WARNING,
        layer=Layer.ADDRESS,
        title=f"this real server does not have {words}" if seen else "lo of this real server has no virtual address",
        evidence=f"{counted(refused, 'packet')} came to addresses that this host does not have (IpInAddrErrors)"
        + (f", now to {words}" if seen else ", and arp_ignore and arp_announce are those of a real server"),
        why="Packets of direct routing and tunnels have the virtual address as destination: this host drops them.",
        fix="Add it to lo, without ARP: pylvs realserver up VIP.",
        fix_command=f"pylvs realserver up {words.replace(',', '')}" if seen else None,
        fix_host=HERE,
        about=frozenset(map(str, seen)),
    )
