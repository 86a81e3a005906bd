"""Attached devices: whether packets reach the packet path, and whether another program takes them before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.dataplane.devices import attach, plan
from pylvs.dataplane.devices.advice import loses_frames
from pylvs.dataplane.devices.attachments import missing
from pylvs.dataplane.devices.modes import Attachment
from pylvs.dataplane.state import own_build
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.foreign_programs import Foreign, at_tc, at_xdp, syn
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.doctor.kernel.orphans import orphaned
from pylvs.doctor.probes.devices import foreign_finding, losses, works
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
    loops = [each.name for each in facts.devices if each.loopback]
    down = {each.name for each in facts.devices if not works(each, facts.devices)}  # no packet comes in by them
    for problem in missing(tables):
        if problem.needed and problem.device not in down:
            yield _missing(problem, facts)
        elif problem.device in loops and not problem.by_hand:
            yield _lo_taken_off(problem)
    commanded = plan.Facts(facts.devices, notes=facts.director.state.notes()).commanded
    for device in facts.devices:
        if device.loopback and commanded.get(device.index, "") is None:
            yield _lo_detached(device)
    there = attach.attached(facts.director.state, list(facts.devices))
    by_name = {each.name: each for each in facts.devices}
    for found in there:
        yield from _incomplete(found)
        if found.mode == "native" and (loss := loses_frames(by_name[found.device])):
            yield _losing(found, loss)
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
        identity, title = "program_taken_off", f"{device} does not run pylvs: it is new, or another program took it off"
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


def _lo_detached(device: Device) -> Finding:
    return _of_lo("lo_detached", device.name, f"{device.name} was detached by hand", "pylvs detach took it out")


def _lo_taken_off(problem: DeviceProblem) -> Finding:
    title = f"{problem.device} does not run pylvs: another program has taken it off"
    return _of_lo("program_taken_off", problem.device, title, f"{problem.device}: {problem.reason}")


def _of_lo(identity: str, device: str, title: str, evidence: str) -> Finding:
    return Finding(
        id=identity,
        severity=Severity.WARNING,
        layer=Layer.ATTACHMENT,
        title=title,
        evidence=evidence,
        why="Clients on this host, and checks through virtual addresses, do not reach the services.",
        fix="Attach it again.",
        fix_command=f"pylvs attach {device}",
        fix_host=HERE,
        about=frozenset({device}),
    )


def _losing(found: Attachment, loss: str) -> Finding:
    return Finding(
        id="xdp_loses_frames",
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=f"native XDP loses the frames that {found.device} sends",
        evidence=loss,
        why="The other end of a veth takes frames of XDP only under conditions, and drops others silently.",
        fix="Let TC forward there, or switch GRO on at the other end.",
        fix_command=f"pylvs attach {found.device} --mode tc",
        fix_host=HERE,
        about=frozenset({found.device}),
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
        yield from (foreign_finding(device, foreign, address) for foreign, address in found.items())
        yield from losses(device)


def _build(facts: Facts) -> Iterator[Finding]:
    """Yield programs that are not those of this pylvs."""
    running, own = facts.director.state.build(), own_build()
    if running is None or running.digest == own.digest:
        return
    yield Finding(
        id="other_build",
        severity=Severity.INFO,
        layer=Layer.ADVICE,
        title=f"the programs that run are of another build, of pylvs {running.version}",
        evidence=f"running: {running}; here: {own}",
        why="Corrections of the packet path take effect with the next edit of the table.",
        fix="Make an edit that changes nothing; connections stay.",
        fix_command="ipvsadm --set 0 0 0",
        fix_host=HERE,
    )
