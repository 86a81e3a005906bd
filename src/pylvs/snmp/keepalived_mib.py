"""KEEPALIVED-MIB, its global and VRRP parts, from a configuration and the status of the virtual routers. Pure.

Tables, columns and indices are those of keepalived 2.2.7: a row is numbered by its place in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import pylvs
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import PROTOCOL_KEEPALIVED, HeldAddress, Route
from pylvs.model.sync.daemons import SyncWanted
from pylvs.model.vrrp import Authentication, Notify, Track, TrackProcess, Tracks, VrrpGroup, VrrpInstance, VrrpScript
from pylvs.model.wanted import Configuration
from pylvs.snmp.agentx import Kind, Oid, Value, VarBind
from pylvs.snmp.values import (
    MICROSECONDS,
    Row,
    Rows,
    command,
    family,
    integer,
    numbered,
    octets,
    table,
    text,
    trap_named,
    truth,
    unsigned,
)

KEEPALIVED: Oid = (1, 3, 6, 1, 4, 1, 9586, 100, 5)
GLOBAL, VRRP = (*KEEPALIVED, 1), (*KEEPALIVED, 2)
GROUP_TRAP, INSTANCE_TRAP = (*VRRP, 10, 0, 1), (*VRRP, 10, 0, 2)
STATES = {"INIT": 0, "BACKUP": 1, "MASTER": 2, "FAULT": 3, "STOP": 5, "DELETED": 6}
UNKNOWN_STATE = 4
SCOPES = {0: 14, 255: 0, 254: 1, 253: 2, 200: 5}  # InetScopeType of the kernel's scopes
ROUTE_TYPES = ("blackhole", "anycast", "multicast", "broadcast", "unreachable", "prohibit", "throw", "nat", "xresolve")
AUTHENTICATIONS = {None: 0, Authentication.PASS: 1, Authentication.AH: 2}


def no_index(_: str) -> int:
    return 0


def no_link_address(_: str) -> bytes:
    return b""


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """What the virtual routers report: their answer to `status`, and the results of tracked objects."""

    instances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)  # state by name
    devices: Mapping[str, str] = field(default_factory=dict)  # by instance: its VMAC, or its interface
    index_of: Callable[[str], int] = no_index  # of a device; 0 for none
    link_address_of: Callable[[str], bytes] = no_link_address  # of a device
    unknown: int = 0  # advertisements of virtual routers that are not configured
    now: float = 0.0  # Unix time

    def tracked(self, kind: str, name: str) -> Mapping[str, Any]:
        """Return the result of a tracked object, which any instance may have."""
        for instance in self.instances.values():
            for track in instance["tracks"]:
                if (track["kind"], track["name"]) == (kind, name):
                    found: Mapping[str, Any] = track
                    return found
        return {"up": None, "number": None}

    def device_of(self, instance: VrrpInstance) -> str:
        """Return the VMAC of a virtual router, or its interface."""
        return self.devices.get(instance.name, instance.interface)

    def state(self, instance: VrrpInstance) -> str:
        """Return the state of a virtual router."""
        return str(self.instances.get(instance.name, {}).get("state", "FAULT"))


def objects(configuration: Configuration, status: RouterStatus) -> dict[Oid, Value]:
    """Return the objects of the global part, and with enable_snmp_vrrp of the VRRP part."""
    found = {(*GLOBAL, *name, 0): value for name, value in _scalars(configuration) if value is not None}
    recipients = configuration.settings.mail.recipients
    found |= table((*GLOBAL, 3, 5), [((at,), {2: text(each)}) for at, each in enumerate(recipients, 1)])
    if configuration.settings.snmp.vrrp:
        for number, rows in _tables(configuration, status).items():
            found |= table((*VRRP, number), rows)
    return found


def _scalars(configuration: Configuration) -> Iterator[tuple[Oid, Value | None]]:
    settings = configuration.settings
    snmp, mail = settings.snmp, settings.mail
    yield (1,), text(f"pylvs {pylvs.__version__}")
    yield (2,), text(settings.router_id) if settings.router_id else None
    server = _address(mail.server)
    yield (3, 1), family(server) if server else None
    yield (3, 2), octets(server) if server else None
    yield (3, 3), unsigned(mail.connect_timeout_s)
    yield (3, 4), text(mail.sender) if mail.sender else None
    yield (3, 6), unsigned(mail.port)
    yield (3, 7), truth(not configuration.vrrp.settings.no_fault_mails)
    alerts = (snmp.smtp_alert, snmp.smtp_alert_vrrp, snmp.smtp_alert_checker)
    for number, alert in enumerate(alerts, 8):
        yield (3, number), integer(3) if alert is None else truth(alert)
    yield (4,), truth(snmp.traps)
    yield (5,), integer(2 if snmp.linkbeat else 1)
    yield (6,), truth(settings.lvs_flush)
    yield (7,), truth(True)  # counters have 64 bits
    yield (8,), text("")
    yield (9,), truth(settings.dbus.enabled)
    yield (10,), truth(configuration.vrrp.settings.dynamic_interfaces)
    yield (11,), integer({"": 2, "all": 1, "vs": 3}[settings.lvs_flush_on_stop])


def _address(server: str) -> Address | None:
    """Return the address of a mail server; None for a name, which is looked up when mail is sent."""
    try:
        return ip_address(server)
    except ValueError:
        return None


def _tables(configuration: Configuration, status: RouterStatus) -> dict[int, Rows]:
    vrrp = configuration.vrrp
    instances, groups = vrrp.instances, vrrp.groups
    group_of = {member: each.name for each in groups for member in each.members}
    held = [(0, vrrp.addresses, ()), *((at, each.addresses, each.excluded) for at, each in numbered(instances))]
    routes = [(0, vrrp.routes), *((at, each.routes) for at, each in numbered(instances))]
    found: dict[int, Rows] = {
        1: [((at,), _group(each, status)) for at, each in numbered(groups)],
        2: [((at, n), {2: text(name)}) for at, each in numbered(groups) for n, name in numbered(each.members)],
        3: [
            ((at,), _instance(each, group_of.get(each.name), status, configuration.settings.sync))
            for at, each in numbered(instances)
        ],
        6: [row for at, addresses, excluded in held for row in _addresses(at, addresses, excluded, vrrp, status)],
        7: [((at, n), _route(each, at, vrrp, status)) for at, several in routes for n, each in numbered(several)],
        9: [((at,), _script(each, status)) for at, each in numbered(vrrp.scripts)],
        13: [((at,), _file(each.track, each.path, status)) for at, each in numbered(vrrp.files)],
        21: [((at,), _process(each, status)) for at, each in numbered(vrrp.processes)],
    }
    defined = {("files", each.name): each.track for each in vrrp.files}
    defined |= {("processes", each.name): each.track for each in vrrp.processes}
    for number, owners, kind, first in TRACKED:
        tracks = [each.tracks for each in (instances if owners == "instances" else groups)]
        found[number] = list(_tracked(tracks, kind, first, defined))
    return found


# The tables of tracked objects: number, whose they are, the field of Tracks, and the first column.
TRACKED = (
    (4, "instances", "interfaces", 1),
    (5, "instances", "scripts", 2),
    (12, "instances", "files", 2),
    (20, "instances", "processes", 2),
    (14, "groups", "interfaces", 1),
    (15, "groups", "scripts", 2),
    (16, "groups", "files", 2),
    (22, "groups", "processes", 2),
)


def _tracked(
    owners: Sequence[Tracks], kind: str, first: int, defined: Mapping[tuple[str, str], Track]
) -> Iterator[tuple[Oid, Row]]:
    for at, tracks in numbered(owners):
        for n, track in numbered(getattr(tracks, kind)):
            shown = defined.get((kind, track.name), track)  # files and processes: keepalived shows the definition's
            yield (at, n), {first: text(track.name), first + 1: integer(shown.weight), first + 2: truth(shown.reverse)}


def _group(group: VrrpGroup, status: RouterStatus) -> Row:
    notify = group.notify
    return {
        2: text(group.name),
        3: integer(STATES.get(status.groups.get(group.name, ""), UNKNOWN_STATE)),
        4: truth(notify.smtp_alert),
        5: truth(_runs_scripts(notify)),
        6: command(notify.master),
        7: command(notify.backup),
        8: command(notify.fault),
        9: command(notify.every),
        10: truth(group.member_weights),
        11: command(notify.stop),
    }


def _runs_scripts(notify: Notify) -> bool:
    return any((notify.master, notify.backup, notify.fault, notify.stop, notify.every))


def _instance(instance: VrrpInstance, group: str | None, status: RouterStatus, sync: SyncWanted | None) -> Row:
    notify, state = instance.notify, status.state(instance)
    report = status.instances.get(instance.name, {})
    configured = STATES["MASTER" if instance.starts_as_master else "BACKUP"]
    is_synced = sync is not None and sync.instance == instance.name
    waits = state == "BACKUP" and not report.get("counters", {}).get("became_master")
    return {
        2: text(instance.name),
        3: unsigned(instance.vrid),
        4: integer(STATES.get(state, UNKNOWN_STATE)),
        5: integer(configured),
        6: integer(configured if waits else STATES.get(state, UNKNOWN_STATE)),
        7: integer(instance.priority),
        8: integer(int(report.get("priority", instance.priority))),
        9: truth(state == "MASTER"),
        10: text(status.device_of(instance)) if instance.interface else None,
        11: truth(instance.tracks.interfaces),
        12: unsigned(instance.advert_interval_s * (1 if instance.version == 2 else 100) + 0.5),
        13: truth(instance.preempt),
        14: unsigned(instance.preempt_delay_s),
        15: integer(AUTHENTICATIONS[instance.authentication]),
        16: truth(is_synced),
        17: text(sync.interface) if sync and is_synced else None,
        18: text(group) if group else None,
        19: unsigned(instance.announcements.delay_s),
        20: truth(notify.smtp_alert),
        21: truth(_runs_scripts(notify)),
        22: command(notify.master),
        23: command(notify.backup),
        24: command(notify.fault),
        25: command(notify.stop),
        26: command(notify.every),
        27: truth(instance.accept) if instance.version == 3 else integer(0),
        28: truth(instance.promote_secondaries),
        29: truth(instance.linkbeat),
        30: integer(instance.version),
        31: command(notify.lower_priority_received),
        32: command(notify.deleted),
        33: truth(notify.say_deleted),
        34: None if instance.peers else family(instance.multicast),
        35: None if instance.peers else octets(instance.multicast),
    }


def _addresses(
    at: int, addresses: Sequence[HeldAddress], excluded: Sequence[HeldAddress], vrrp: Any, status: RouterStatus
) -> Iterator[tuple[Oid, Row]]:
    owner = vrrp.instances[at - 1] if at else None
    present = owner is None or status.state(owner) == "MASTER"
    for n, address in numbered((*addresses, *excluded)):
        device = address.device or (status.device_of(owner) if owner else "")
        ip = address.interface.ip
        none = bytes(4)
        broadcast = Value(Kind.OCTETS, address.broadcast.packed if address.broadcast else none)
        yield (
            (at, n),
            {
                2: family(ip),
                3: octets(ip),
                4: broadcast if ip.version == 4 else None,
                5: unsigned(address.interface.network.prefixlen),
                6: integer(SCOPES.get(address.scope, 0)),
                7: integer(status.index_of(device)),
                8: text(device),
                9: text(address.label) if address.label else None,
                10: truth(present),
                11: truth(owner is not None and n <= len(addresses)),
                12: octets(address.peer) if address.peer else None,
            },
        )


def _route(route: Route, at: int, vrrp: Any, status: RouterStatus) -> Row:
    alone = route.next_hops[0] if len(route.next_hops) == 1 else None
    device = alone.device if alone else ""
    options = dict(route.options)
    several = len(route.next_hops) > 1
    kind = 2 if several else 3 + ROUTE_TYPES.index(route.kind) if route.kind in ROUTE_TYPES else 1
    present = at == 0 or status.state(vrrp.instances[at - 1]) == "MASTER"
    return {
        2: family(route.destination.network_address),
        3: octets(route.destination.network_address),
        4: unsigned(route.destination.prefixlen),
        5: octets(alone.via) if alone and alone.via else None,
        7: octets(route.source) if route.source else None,
        8: unsigned(route.metric),
        9: integer(SCOPES.get(route.scope or 0, 0)),
        10: integer(kind),
        11: integer(status.index_of(device)) if device else None,
        12: text(device) if device else None,
        13: unsigned(route.table),
        14: truth(present),
        17: unsigned(route.tos) if route.tos else None,
        18: integer(route.protocol + 1) if route.tracked or route.protocol != PROTOCOL_KEEPALIVED else None,
        19: truth("ecn" in options.get("features", "")),
        20: truth(options.get("quickack") == "1"),
    }


def _script(script: VrrpScript, status: RouterStatus) -> Row:
    up = status.tracked("script", script.name)["up"]
    first = 5 if script.down_at_start else 1
    return {
        2: text(script.name),
        3: command(script.script),
        4: integer(int(script.interval_s)),
        5: integer(script.track.weight),
        6: integer(first if up is None else 3 if up else 2),
        7: unsigned(script.rise),
        8: unsigned(script.fall),
        9: truth(script.track.reverse),
    }


def _file(track: Track, path: str, status: RouterStatus) -> Row:
    number = status.tracked("file", track.name)["number"]
    return {
        2: text(track.name),
        3: text(path),
        4: integer(number or 0),
        5: integer(track.weight),
        6: truth(track.reverse),
    }


def _process(process: TrackProcess, status: RouterStatus) -> Row:
    result = status.tracked("process", process.name)
    match_of = 2 if process.arguments_partly else 3 if process.arguments_begin else 1 if process.match_arguments else 0
    count = str(result.get("reason", "")).split(" ")[0]  # "3 of them"
    most = process.most if process.most < 2**31 else -1
    return {
        2: text(process.name),
        3: text(process.command[0]),
        4: text(" ".join(process.command[1:])),
        5: integer(match_of),
        6: integer(process.track.weight),
        7: truth(process.track.reverse),
        8: unsigned(process.least),
        9: integer(most),
        10: unsigned(process.fork_delay_s * MICROSECONDS),
        11: unsigned(process.terminate_delay_s * MICROSECONDS),
        12: truth(process.full_command),
        13: integer(int(count) if count.isdigit() else 0),
        14: truth(result["up"]),
    }


def trap(kind: str, name: str, state: str, configuration: Configuration) -> list[VarBind]:
    """Return the notification of a transition of an instance or a group; no variables if neither is configured."""
    router_id = (*GLOBAL, 2, 0), text(configuration.settings.router_id)
    number = integer(STATES.get(state, UNKNOWN_STATE))
    if kind == "GROUP":
        return trap_named(GROUP_TRAP, ((*VRRP, 1, 1, 2), text(name)), ((*VRRP, 1, 1, 3), number), router_id)
    instance = next((each for each in configuration.vrrp.instances if each.name == name), None)
    if instance is None:
        return []
    return trap_named(
        INSTANCE_TRAP,
        ((*VRRP, 3, 1, 2), text(name)),
        ((*VRRP, 3, 1, 4), number),
        ((*VRRP, 3, 1, 5), integer(STATES["MASTER" if instance.starts_as_master else "BACKUP"])),
        router_id,
    )
