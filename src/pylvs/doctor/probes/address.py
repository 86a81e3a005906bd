"""Virtual addresses: whether packets to them reach this host, and no other one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pylvs.dataplane.devices.host import absent
from pylvs.doctor.clients import owner_of
from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, server_subject
from pylvs.doctor.kernel.routes import KernelRoutes
from pylvs.doctor.probes.devices import link_down, lowest_down, works
from pylvs.doctor.probes.real_server.local_route import not_local, routed_away
from pylvs.doctor.servers import own_addresses
from pylvs.doctor.survey import Survey, askable, survey
from pylvs.doctor.virtual_routers import routers_of, standby_of
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import Exchange, Question
from pylvs.doctor.wire.packets import Kind, Reply
from pylvs.model.addresses import Address, command_to_add
from pylvs.netlink.links import AssignedAddress, Device

MOST_ALONE = 8  # missing addresses with a finding of their own
MOST_COMMANDS = 500  # the kernel limits the length of a command line
_MOST_ASKED = 64  # real servers that are asked whether they have a link address
_ANSWER_S, _AGAIN_S = 0.3, 0.1
DAD_FAILED = 0x08  # IFA_F_DADFAILED
_EACH = "while read -r n device family address rest; do"
SILENCE = "sysctl -q -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield why packets to virtual addresses do not come here, or go to others, too."""
    if not facts.has_tables:
        return
    standby = standby_of(facts)
    missing = absent(vip for vip in facts.virtual_addresses if vip not in standby)
    if len(missing) > MOST_ALONE:
        yield _many_missing(missing)
    else:
        for address, device in missing.items():
            yield _missing(facts, address, device)
    held = {each.address: each for each in facts.addresses}
    devices = {each.index: each for each in facts.devices}
    for vip in facts.virtual_addresses:
        if vip in held and (device_of := devices.get(held[vip].index)):
            yield from _at_home(facts, held[vip], device_of)
    found = survey(facts)
    of_marks = (asked.endpoint.service.address for asked in found.seen if asked.endpoint.listed.mark)
    for vip in dict.fromkeys([*facts.virtual_addresses, *of_marks]):
        if vip not in standby:
            yield from _claims(facts, found, vip)


def _missing(facts: Facts, address: Address, device: str) -> Finding:
    device = _card(facts, address, device)
    command = command_to_add(address, device)
    evidence = f"no device has {address}, no local route leads to it, and no virtual router is master of it"
    path = f"net/ipv6/conf/{device}/disable_ipv6"
    if address.version == 6 and device.isascii() and facts.number(path):
        command = f"sysctl -q -w net.ipv6.conf.{device.replace('.', '/')}.disable_ipv6=0; {command}"
        evidence += f"; {path.replace('/', '.')} is 1"
    return Finding(
        id="vip_missing",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"{address} is not an address of this host",
        evidence=evidence,
        why="No host answers ARP or ND for it, so no packet of a client arrives.",
        fix="Add the address, let VRRP add it, or correct the address of the service.",
        fix_command=command,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _card(facts: Facts, address: Address, device: str) -> str:
    """Return the device for a missing address; if none has its network, a card without IPv6, or the only card."""
    if any(each.name == device for each in facts.devices):
        return device
    cards = [each.name for each in facts.devices if askable(each)]
    if address.version == 6:
        silent = [each for each in cards if facts.number(f"net/ipv6/conf/{each}/disable_ipv6")]
        cards = silent or cards
    return cards[0] if len(cards) == 1 else device


def _many_missing(missing: Mapping[Address, str]) -> Finding:
    commands = [command_to_add(address, device) for address, device in missing.items()]
    return Finding(
        id="vip_missing",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"{named(missing, 'VIP')} are not addresses of this host",
        evidence="no device has them, no local route leads to them, and no virtual router is master of them",
        why="No host answers ARP or ND for them, so no packet of a client arrives.",
        fix="Add the addresses, or let VRRP add them.",
        fix_command="; ".join(commands) if len(commands) <= MOST_COMMANDS else None,
        fix_host=HERE if len(commands) <= MOST_COMMANDS else None,
        about=frozenset(map(str, missing)),
    )


def _at_home(facts: Facts, held: AssignedAddress, device: Device) -> Iterator[Finding]:
    """Yield why an address that this host has is not reached by its link."""
    vip, name = held.address, device.name
    lowest = lowest_down(device, facts.devices)
    if lowest is not None and not _comes_otherwise(facts, held, device):
        why = f"Packets to {vip} come in by {name}, which has this address."
        yield link_down(lowest, device, facts.devices, Layer.ADDRESS, why, {str(vip)})
    elif held.flags & DAD_FAILED:
        again = f"ip -6 address del {vip}/{held.prefix} dev {name}; ip -6 address add {vip}/{held.prefix} dev {name}"
        yield Finding(
            id="vip_duplicate",
            severity=Severity.ERROR,
            layer=Layer.ADDRESS,
            title=f"duplicate address detection has refused {vip} on {name}",
            evidence=f"ip -6 address show dev {name}: {vip} is dadfailed",
            why="Another host had the address when it was added here, so this host does not use it.",
            fix="Take the address from the other host, then add it here again.",
            fix_command=again,
            fix_host=HERE,
            about=frozenset({str(vip)}),
        )
    elif seen := _routed_away(held, device):
        yield not_local("vip_routed_away", Layer.ADDRESS, held, name, seen)
    elif vip.version == 4:
        yield from _suppressed(facts, held, device)


def _routed_away(held: AssignedAddress, device: Device) -> str:
    with KernelRoutes() as routes:
        return routed_away(routes, held, device)


def _comes_otherwise(facts: Facts, held: AssignedAddress, device: Device) -> bool:
    """Return whether packets to an address come in by another device than that without a link which holds it.

    It has the address's network. Or the holder is a bridge that never had a port, and has no network: it is like lo.
    """
    own = own_addresses(facts)
    others = [each for each in facts.devices if each.index != device.index and works(each, facts.devices)]
    if device.up and any(own.has_network(each, held.address) for each in others if askable(each)):
        return True
    has_link = any(not each.address.is_link_local for each in own.networks.get(device.index, ()))
    return device.up and device.carrier and not has_link


def _suppressed(facts: Facts, held: AssignedAddress, device: Device) -> Iterator[Finding]:
    """Yield the device by which this host does not answer ARP for an address, although hosts there ask for it."""
    vip, own = held.address, own_addresses(facts)
    for link in filter(askable, facts.devices):
        if not own.concerns(link, vip) or device.lower == link.index:  # a macvlan (VMAC) answers beside the link
            continue
        ignore = max(facts.number(f"net/ipv4/conf/{each}/arp_ignore") or 0 for each in ("all", link.name))
        if answers_arp(ignore, here=link.index == device.index, is_alone=held.prefix == vip.max_prefixlen):
            continue
        names = [each for each in ("all", link.name) if facts.number(f"net/ipv4/conf/{each}/arp_ignore")]
        settings = " ".join(f"net.ipv4.conf.{each.replace('.', '/')}.arp_ignore=0" for each in names)
        yield Finding(
            id="vip_without_arp",
            severity=Severity.ERROR,
            layer=Layer.ADDRESS,
            title=f"this host does not answer ARP for {vip} on {link.name}",
            evidence=f"arp_ignore of {link.name} is {ignore}, and {vip}/{held.prefix} is on {device.name}",
            why="arp_ignore is for real servers. The director has to answer, or no client finds it.",
            fix="Set arp_ignore to 0.",
            fix_command=f"sysctl -q -w {settings}",
            fix_host=HERE,
            about=frozenset({str(vip)}),
        )


def answers_arp(ignore: int, here: bool, is_alone: bool) -> bool:
    """Return whether a device answers ARP for an address; `here`: it is on that device, `is_alone`: as /32.

    Values of arp_ignore: Documentation/networking/ip-sysctl.rst in the kernel.
    """
    if ignore in (0, 3):
        return True
    if ignore == 1:
        return here
    return here and not is_alone if ignore == 2 else ignore != 8


# --- others --------------------------------------------------------------------------------------------------------


def _claims(facts: Facts, found: Survey, vip: Address) -> Iterator[Finding]:
    """Yield other hosts that answer ARP or ND for a virtual address."""
    own = {each.mac for each in facts.devices}
    for reply in found.neighbours.macs(vip):
        if reply.mac in own:
            continue
        server = found.server_of(reply.mac) or _with_card(facts, found, reply)
        yield _of_server(found, vip, server, reply) if server else _of_other(facts, vip, reply)


def _with_card(facts: Facts, found: Survey, reply: Reply) -> Address | None:
    """Return the real server that has another card with a link address: it answers an echo to its own address there.

    The echo has the hop limit 1, so a router does not forward it.
    """
    device = next((each for each in facts.devices if each.index == reply.ifindex), None)
    if device is None or not askable(device):
        return None
    ways = dict.fromkeys(each.way for each in found.seen if each.way.on_link and each.way.device == device)
    numbers, questions = dict[int, Address](), list[Question]()
    with Exchange({each.address for each in facts.addresses}) as exchange:
        for way in list(ways)[:_MOST_ASKED]:
            if way.source is None or way.source.version != way.server.version:
                continue
            number = exchange.number()
            body = packets.packet(number, way.source, way.server, exchange.echo(number), hop_limit=1)
            questions.append(Question(device, packets.frame(reply.mac, device.mac, body), number))
            numbers[number] = way.server
        exchange.ask(questions, _ANSWER_S, _AGAIN_S)
        answered = (number for number in numbers if any(each.kind is Kind.ECHO for each in exchange.answers.to(number)))
        return next((numbers[number] for number in answered), None)


def _of_server(found: Survey, vip: Address, server: Address, reply: Reply) -> Finding:
    what = "ARP" if vip.version == 4 else "neighbour discovery"
    move = f"ip address del $address dev $device; ip address replace {vip}/{vip.max_prefixlen} dev lo"
    command = (
        f"ip -o address show to {vip} | while read -r n device family address rest; do"
        f' [ "$device" = lo ] || {{ {move}; }}; done'
    )
    return Finding(
        id="server_answers_arp",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"the real server {server} answers {what} for {vip}",
        evidence=f"{reply.mac.hex(':')}, {'the' if found.server_of(reply.mac) else 'another'} link address of {server},"
        f" answers a request for {vip}",
        why="Clients that learn its link address send to it directly, past this director.",
        fix=f"Hold {vip} on lo of {server}" + (", and suppress ARP for it." if vip.version == 4 else "."),
        fix_command=f"{SILENCE}; {command}" if vip.version == 4 else command,
        fix_host=str(server),
        about=frozenset({str(vip)}),
        explains=frozenset(
            server_subject(str(each.endpoint.listed), each.endpoint.server)
            for each in found.seen
            if each.endpoint.service.address == vip
        ),
    )


def _of_other(facts: Facts, vip: Address, reply: Reply) -> Finding:
    link = next((each for each in facts.devices if each.index == reply.ifindex), None)
    device = link.name if link else ""
    own = owner_of(facts, reply.mac, link, vip.version) if link else None
    own = None if own == vip else own
    name = f"{own}, {reply.mac.hex(':')}," if own else f"{reply.mac.hex(':')},"
    what = "ARP" if vip.version == 4 else "neighbour discovery"
    return Finding(
        id="vip_conflict",
        severity=Severity.ERROR,
        layer=Layer.ADDRESS,
        title=f"another host, {name} answers {what} for {vip}",
        evidence=f"{reply.mac.hex(':')} answers a request for {vip} on {device}; it is no real server",
        why="Clients send to the host that answered last. This may be another director, a machine with the same"
        " address, or a router with proxy ARP.",
        fix=f"Take {vip} from that host." if own else f"Take {vip} from that host. ip neigh here may name it.",
        fix_command=f"ip -o address show to {vip} | {_EACH} ip address del $address dev $device; done" if own else None,
        fix_host=str(own) if own else None,
        about=frozenset({str(vip)}),
        symptom=any(vip in router.addresses for router in routers_of(facts)),  # of two masters
    )
