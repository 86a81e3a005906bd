"""Attached devices: whether packets reach the packet path, and whether another program takes them before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.dataplane.devices import attach
from pylvs.dataplane.devices.attachments import missing
from pylvs.dataplane.devices.modes import Attachment
from pylvs.dataplane.state import own_build
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.foreign_programs import Foreign, at_tc, at_xdp, syn
from pylvs.doctor.link_settings import link_settings
from pylvs.doctor.orphans import orphaned
from pylvs.model.addresses import Address
from pylvs.model.rows import DeviceProblem
from pylvs.netlink import tc
from pylvs.netlink.links import Device

_ROLE = f"{tc.NAME_PREFIX}{attach.ROLE}"
_OCCUPIED = "ingress qdisc of another program"
_CHANGEABLE = ("MTU", "mtu", "LRO", "lro")  # in a driver's reason to refuse XDP
_MAC_BYTES = 6
_MOST_VIPS = 8  # a filter that names one address of many


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what keeps packets from the packet path."""
    if not facts.has_tables:
        yield from _lost_tables(facts)
        return
    tables = facts.director.tables
    for problem in missing(tables):
        if problem.needed:
            yield _missing(problem, facts)
    there = attach.attached(facts.director.state, list(facts.devices))
    by_name = {each.name: each for each in facts.devices}
    for each in there:
        yield from _incomplete(each)
    yield from _before(facts, [by_name[each.device] for each in there if each.device in by_name])
    yield from _build(facts)


def _lost_tables(facts: Facts) -> Iterator[Finding]:
    """Yield the devices that still run the programs of tables that are gone."""
    if running := orphaned(facts):
        yield Finding(
            id="tables_lost",
            severity=Severity.WARNING,
            layer=Layer.HOST,
            title="the tables of this director are gone, but its programs run",
            evidence=f"{', '.join(running)} run pylvs at TC, and nothing is pinned for this network namespace",
            why="No command reaches the tables in use any more: ipvsadm -L lists none, and an edit makes new ones.",
            fix="Make the table again, as at the boot. pylvs down before ends the old connections.",
            fix_host=HERE,
            about=frozenset(running),
        )


def _missing(problem: DeviceProblem, facts: Facts) -> Finding:
    device, command = problem.device, f"pylvs attach {problem.device}"
    occupied = link_settings().has_ingress(device) or _OCCUPIED in problem.reason
    if problem.by_hand:
        identity, title = "device_detached", f"{device} was detached by hand"
        fix = "Attach it again."
    elif "next edit attaches it" in problem.reason and not occupied:
        identity, title = "program_taken_off", f"{device} does not run pylvs: another program has taken it off"
        fix = "Attach it again, and let the other program leave clsact and its filters alone."
    else:
        identity, title = "device_not_attached", f"{device} is not attached, and something is in the way"
        fix = "Remove the obstacle, and attach it."
        if occupied:
            title = f"{device} cannot be attached: another program's ingress qdisc has the place of clsact"
            command = f"tc qdisc del dev {device} ingress && {command}"
    return Finding(
        id=identity,
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=title,
        evidence=f"{device}: {problem.reason}",
        why="Packets of services that come in by it reach this host's own stack, which refuses or drops them.",
        fix=fix,
        fix_command=command,
        fix_host=HERE,
        about=frozenset({device}),
        explains=frozenset(map(str, facts.virtual_addresses)),
    )


def _incomplete(found: Attachment) -> Iterator[Finding]:
    """Yield an attachment that lost a part."""
    if not found.ingress:
        yield Finding(
            id="program_taken_off",
            severity=Severity.ERROR,
            layer=Layer.ATTACHMENT,
            title=f"{found.device} does not run pylvs at TC: another program has taken it off",
            evidence=f"{found.device} runs {'XDP' if found.xdp else 'TC egress'} alone",
            why="XDP leaves many packets to TC: with options, as fragments, and to neighbours that it does not know.",
            fix="Attach it again, and let the other program leave clsact and its filters alone.",
            fix_command=f"pylvs attach {found.device}",
            fix_host=HERE,
            about=frozenset({found.device}),
        )
    elif found.intended != found.mode and found.mode == "tc":
        yield Finding(
            id="xdp_taken_off",
            severity=Severity.WARNING,
            layer=Layer.ATTACHMENT,
            title=f"{found.device} has lost XDP: another program has taken it off",
            evidence=f"pylvs attached {found.intended} XDP; TC alone runs",
            why="TC forwards all packets, but more slowly.",
            fix="Attach it again.",
            fix_command=f"pylvs attach {found.device} --mode {found.intended}",
            fix_host=HERE,
            about=frozenset({found.device}),
        )
    elif found.mode == "tc" and "refuses native XDP" in found.reason and any(w in found.reason for w in _CHANGEABLE):
        yield Finding(
            id="xdp_refused",
            severity=Severity.INFO,
            layer=Layer.ADVICE,
            title=f"{found.device} runs TC alone, because of a setting of the device",
            evidence=found.reason,
            why="TC forwards all packets, but more slowly than XDP.",
            fix=f"Change the setting that the driver names, then: pylvs attach {found.device}.",
            about=frozenset({found.device}),
        )


# Programs of other tools.


def _before(facts: Facts, attached: Sequence[Device]) -> Iterator[Finding]:
    """Yield what takes packets of services before pylvs sees them, or behind it."""
    services = {row.service.key.address: row.service.key.port for row in facts.services if not row.service.key.mark}
    some = list(services.items())[:_MOST_VIPS]
    for device in attached:
        if device.loopback or len(device.mac) != _MAC_BYTES:
            continue
        found = dict[Foreign, Address]()
        for address, port in some:
            frame = syn(device, address, port or 80)
            for foreign in (*at_xdp(device, frame), *at_tc(device, frame, port or 80)):
                found.setdefault(foreign, address)
            for foreign in at_tc(device, frame, port or 80, egress=True):
                found.setdefault(foreign, address)
        yield from (_foreign(device, foreign, address) for foreign, address in found.items())
        yield from _queue(device)


def _foreign(device: Device, found: Foreign, address: Address) -> Finding:
    return Finding(
        id="foreign_program",
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=f"{found.what} of {device.name} {found.does} to {address}",
        evidence=f"{found.what} on {device.name} is not of pylvs; run with a SYN to {address}, it {found.does}",
        why="It decides before pylvs does, so pylvs does not see the packets, or they do not leave.",
        fix="Remove it, or let it continue with the next program.",
        fix_command=found.command,
        fix_host=HERE,
        about=frozenset({device.name, str(address)}),
    )


def _queue(device: Device) -> Iterator[Finding]:
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


def _build(facts: Facts) -> Iterator[Finding]:
    """Yield programs that are not those of this pylvs."""
    running, own = facts.director.state.build(), own_build()
    if running is None or running.digest == own.digest:
        return
    yield Finding(
        id="other_build",
        severity=Severity.INFO,
        layer=Layer.ADVICE,
        title=f"the programs that run are of pylvs {running.version}, not of this one, {own.version}",
        evidence=f"running: {running}; here: {own}",
        why="Corrections of the packet path take effect with the next edit of the table.",
        fix="Make an edit that changes nothing; connections stay.",
        fix_command="ipvsadm --set 0 0 0",
        fix_host=HERE,
    )
