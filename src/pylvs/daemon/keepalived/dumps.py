"""The files that keepalived 2.2.7 writes at signals: its data, its statistics and JSON, for monitoring that reads them.

| signal | files in /tmp, or in $TMPDIR |
|---|---|
| SIGUSR1 | keepalived_parent.data, keepalived.data (virtual routers), keepalived_check.data (services) |
| SIGUSR2 | keepalived.stats |
| SIGRTMIN+2 | keepalived.json |
| SIGRTMAX-1 | keepalived.stats, and the statistics begin again at 0 |

The lines of `.data` are those of keepalived that describe configuration and state. Those about its own sockets, timers
and buffers are absent.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pylvs.health.state import ServerSnapshot, ServiceSnapshot
from pylvs.model.routing import SCOPE_GLOBAL, TABLE_MAIN, HeldAddress, Route, RoutingRule
from pylvs.model.service import Protocol
from pylvs.model.vrrp import HIDDEN, VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, GlobalSettings, Placement, WantedServer, WantedService

SIGNALS: Mapping[str, int] = {  # by keepalived's names
    "STOP": signal.SIGTERM,
    "RELOAD": signal.SIGHUP,
    "DATA": signal.SIGUSR1,
    "STATS": signal.SIGUSR2,
    "STATS_CLEAR": signal.SIGRTMAX - 1,
    "JSON": signal.SIGRTMIN + 2,
}
STATES = {"INIT": 0, "BACKUP": 1, "MASTER": 2, "FAULT": 3}
AUTHENTICATIONS = {"PASS": (1, "SIMPLE_PASSWORD"), "AH": (2, "IPSEC_AH")}
_SCOPES = {SCOPE_GLOBAL: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_MODE = 0o600

Status = Mapping[str, Any]  # pylvs-vrrp's answer to `status`


def folder() -> Path:
    """Return the directory of the files."""
    given = os.environ.get("TMPDIR", "")
    return Path(given if given.startswith("/") else "/tmp")


def data_path(process: str, settings: GlobalSettings) -> Path:
    """Return the path of a .data file; `process` is "", "_parent" or "_check"."""
    names = (settings.placement.net_namespace, settings.placement.instance) if settings.data_use_instance else ()
    return folder() / ".".join(filter(None, (f"keepalived{process}", "_".join(filter(None, names)), "data")))


def mode(settings: GlobalSettings) -> int:
    """Return the permissions of the files: for their owner, unless `umask` gives others some."""
    return _MODE if settings.umask is None else 0o666 & ~settings.umask


class Statistics:
    """The counters of virtual routers since the start, or since they were last cleared."""

    def __init__(self) -> None:
        self._zero: dict[str, dict[str, int]] = {}

    def of(self, status: Status) -> dict[str, dict[str, int]]:
        """Return the counters by instance and by keepalived's names."""
        found = {each["name"]: _counters(each["counters"]) for each in status["instances"]}
        for name, counters in found.items():
            zero = self._zero.get(name, {})
            if any(counters[key] < value for key, value in zero.items()):  # another process counts from 0
                zero = self._zero[name] = {}
            for key, value in zero.items():
                counters[key] -= value
        return found

    def clear(self, status: Status) -> None:
        """Let the counters begin again."""
        self._zero = {each["name"]: _counters(each["counters"]) for each in status["instances"]}


def _counters(found: Mapping[str, Any]) -> dict[str, int]:
    dropped: Mapping[str, int] = found["dropped"]

    def errors(*names: str) -> int:
        return sum(dropped.get(name, 0) for name in names)

    return {
        "advert_rcvd": found["received"],
        "advert_sent": found["sent"],
        "become_master": found["became_master"],
        "release_master": found["released_master"],
        "packet_len_err": errors("truncated", "longer than its addresses"),
        "advert_interval_err": errors("another advertisement interval"),
        "ip_ttl_err": errors("wrong TTL"),
        "invalid_type_rcvd": errors("not an advertisement"),
        "addr_list_err": 0,  # such an advertisement is accepted
        "invalid_authtype": 0,
        "authtype_mismatch": errors("another kind of authentication"),
        "auth_failure": errors("wrong password", "wrong digest", "a sequence number that was there before"),
        "pri_zero_rcvd": found["zero_received"],
        "pri_zero_sent": found["zero_sent"],
    }


def json_text(vrrp: VrrpConfiguration, status: Status, statistics: Mapping[str, Mapping[str, int]]) -> str:
    """Return keepalived.json: a list of virtual routers with their data and statistics."""
    states = {each["name"]: each for each in status["instances"]}
    scripts = {each.name: f"'{each.script}'" for each in vrrp.scripts}
    found = [
        {"data": _json_data(each, states[each.name], scripts), "stats": statistics[each.name]}
        for each in vrrp.instances
        if each.name in states
    ]
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).replace("/", "\\/")


def _json_data(router: VrrpInstance, state: Status, scripts: Mapping[str, str]) -> dict[str, Any]:
    vmac, sent = router.vmac, router.announcements
    held = state["state"] == "MASTER"
    data: dict[str, Any] = {
        "iname": router.name,
        "dont_track_primary": int(not router.track_primary),
        "skip_check_adv_addr": int(router.skip_address_check),
        "strict_mode": int(router.strict),
        "vmac_ifname": (vmac.name or f"vrrp.{router.vrid}") if vmac is not None else "",
        "ifp_ifname": router.interface,
        "master_priority": 0 if held else state["master_priority"],
        "last_transition": state["since"] or 0.0,
        "garp_delay": sent.delay_s,
        "garp_refresh": sent.refresh_s,
        "garp_rep": sent.repeat,
        "garp_refresh_rep": sent.refresh_repeat,
        "garp_lower_prio_delay": sent.lower_priority_delay_s,
        "garp_lower_prio_rep": sent.lower_priority_repeat,
        "lower_prio_no_advert": int(router.lower_priority_unanswered),
        "higher_prio_send_advert": int(router.higher_priority_answered),
        "vrid": router.vrid,
        "base_priority": router.priority,
        "effective_priority": state["priority"],
        "vipset": held,
        "promote_secondaries": router.promote_secondaries,
        "adver_int": _number(router.advert_interval_s),
        "master_adver_int": _number(state["advert_interval_s"]),
        "accept": int(router.accept),
        "nopreempt": not router.preempt,
        "preempt_delay": _number(router.preempt_delay_s),
        "state": STATES.get(state["state"], 0),
        "wantstate": STATES.get(state["state"], 0),
        "version": router.version,
        "smtp_alert": router.notify.smtp_alert,
        "notify_deleted": router.notify.say_deleted,
    }
    notify = router.notify
    for name, script in (
        ("script_backup", notify.backup),
        ("script_master", notify.master),
        ("script_fault", notify.fault),
        ("script_stop", notify.stop),
        ("script", notify.every),
        ("script_master_rx_lower_pri", notify.lower_priority_received),
    ):
        if script is not None:
            data[name] = f"'{script}'"
    lists = {
        "vips": [_address(each, router, held) for each in router.addresses],
        "evips": [_address(each, router, held) for each in router.excluded],
        "vroutes": [_route(each) for each in router.routes],
        "vrules": [_rule(each) for each in router.rules],
        "track_ifp": [each.name for each in router.tracks.interfaces],
        "track_script": [scripts.get(each.name, each.name) for each in router.tracks.scripts],
    }
    data |= {name: values for name, values in lists.items() if values}
    kind, _ = AUTHENTICATIONS.get(_authentication(router), (0, ""))
    data["auth_type"] = kind
    if kind:
        data["auth_data"] = HIDDEN
    return data


def _authentication(router: VrrpInstance) -> str:
    return router.authentication.name if router.authentication is not None else ""


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _address(held: HeldAddress, router: VrrpInstance, is_set: bool) -> str:
    network = held.interface
    single = network.network.prefixlen == network.max_prefixlen
    parts = [str(network.ip) if single else str(network), "dev", held.device or router.interface]
    if held.peer is not None:
        parts += ["peer", str(held.peer)]
    if held.broadcast is not None:
        parts += ["brd", str(held.broadcast)]
    parts += ["scope", _SCOPES.get(held.scope, str(held.scope))]
    parts += ["label", held.label] if held.label else []
    if network.version == 6 and held.preferred_lft_s:
        parts += ["preferred_lft", "forever" if held.preferred_lft_s < 0 else str(held.preferred_lft_s)]
    return " ".join([*parts, *(["set"] if is_set else [])])


def _route(route: Route) -> str:
    parts = ["append" if route.append else "prepend"]
    parts += [str(route.destination)] if route.kind == "unicast" else [route.kind, str(route.destination)]
    for hop in route.next_hops:
        if len(route.next_hops) > 1:
            parts.append("nexthop")
        if hop.via is not None:
            parts += ["via", "inet6" if hop.via.version == 6 else "inet", str(hop.via)]
        parts += ["dev", hop.device] if hop.device else []
    parts += ["src", str(route.source)] if route.source is not None else []
    parts += ["table", str(route.table)] if route.table != TABLE_MAIN else []
    parts += ["metric", str(route.metric)] if route.metric else []
    return " ".join([*parts, "proto", str(route.protocol)])


def _rule(rule: RoutingRule) -> str:
    parts = ["not"] if rule.inverted else []
    parts += ["from", str(rule.source)] if rule.source is not None else []
    parts += ["to", str(rule.destination)] if rule.destination is not None else []
    parts += ["priority", str(rule.preference), "tos", f"{rule.tos:#x}"]
    for name, value in (("iif", rule.iif), ("oif", rule.oif), ("fwmark", f"{rule.mark:#x}" if rule.mark else "")):
        parts += [name, value] if value else []
    parts += ["protocol", str(rule.protocol)]
    return " ".join([*parts, *(["lookup", str(rule.table)] if rule.action == "table" else [rule.action])])


def stats_text(statistics: Mapping[str, Mapping[str, int]]) -> str:
    """Return keepalived.stats."""
    return "".join(f"{line}\n" for name, found in statistics.items() for line in _stats(name, found))


def _stats(name: str, found: Mapping[str, int]) -> Iterator[str]:
    yield f"VRRP Instance: {name}"
    yield "  Advertisements:"
    yield f"    Received: {found['advert_rcvd']}"
    yield f"    Sent: {found['advert_sent']}"
    yield f"  Became master: {found['become_master']}"
    yield f"  Released master: {found['release_master']}"
    yield "  Packet Errors:"
    yield f"    Length: {found['packet_len_err']}"
    yield f"    TTL: {found['ip_ttl_err']}"
    yield f"    Invalid Type: {found['invalid_type_rcvd']}"
    yield f"    Advertisement Interval: {found['advert_interval_err']}"
    yield f"    Address List: {found['addr_list_err']}"
    yield "  Authentication Errors:"
    yield f"    Invalid Type: {found['invalid_authtype']}"
    yield f"    Type Mismatch: {found['authtype_mismatch']}"
    yield f"    Failure: {found['auth_failure']}"
    yield "  Priority Zero:"
    yield f"    Received: {found['pri_zero_rcvd']}"
    yield f"    Sent: {found['pri_zero_sent']}"


def parent_text(configuration: Configuration) -> str:
    """Return keepalived_parent.data: global definitions."""
    return _lines(_global(configuration.settings))


def vrrp_text(configuration: Configuration, status: Status) -> str:
    """Return keepalived.data: global definitions and virtual routers."""
    vrrp = configuration.vrrp
    states = {each["name"]: each for each in status["instances"]}
    lines = [*_global(configuration.settings), "------< VRRP Topology >------"]
    for instance in vrrp.instances:
        if instance.name in states:
            lines += _router(instance, states[instance.name])
    if vrrp.groups:
        lines.append("------< VRRP Sync groups >------")
        groups = {each["name"]: each["state"] for each in status["groups"]}
        for group in vrrp.groups:
            lines += [
                f" VRRP Sync Group = {group.name}, {groups.get(group.name, 'INIT')}",
                "   VRRP member instances :",
            ]
            lines += [f"     {name}" for name in group.members]
            lines.append(f"   Using smtp notification = {_yes(group.notify.smtp_alert)}")
    if vrrp.scripts:
        lines.append("------< VRRP Scripts >------")
        results = {each["name"]: each["up"] for each in _tracks(status) if each["kind"] == "script"}
        for script in vrrp.scripts:
            up = results.get(script.name)
            lines += [
                f" VRRP Script = {script.name}",
                f"   Command = '{script.script}'",
                f"   Interval = {script.interval_s} sec",
                f"   Timeout = {script.timeout_s if script.timeout_s != script.interval_s else 0} sec",
                f"   Weight = {script.track.weight}{' reverse' if script.track.reverse else ''}",
                f"   Rise = {script.rise}",
                f"   Fall = {script.fall}",
                f"   Result = {0 if up is None or not up else script.rise}",
                f"   Status = {'INIT' if up is None else 'GOOD' if up else 'BAD'}",
            ]
    return _lines(lines)


def _tracks(status: Status) -> Iterator[Status]:
    for each in status["instances"]:
        yield from each["tracks"]


def _global(settings: GlobalSettings) -> Iterator[str]:
    placement: Placement = settings.placement
    yield "------< Global definitions >------"
    yield f" Network namespace = {placement.net_namespace or '(default)'}"
    tables = placement.net_namespace_ipvs
    yield f" Network namespace ipvs = {'(main namespace)' if tables is None else tables or '(default)'}"
    if placement.instance:
        yield f" Instance = {placement.instance}"
    yield f" Router ID = {settings.router_id or socket.gethostname()}"
    if settings.mail.recipients:
        yield f" Email notification from = {settings.mail.sender}"
        yield " Email notification to:"
        yield from (f"   {each}" for each in settings.mail.recipients)
    yield f" LVS flush = {_true(settings.lvs_flush)}"
    yield f" LVS flush on stop = {settings.lvs_flush_on_stop or 'disabled'}"
    yield f" Script security {'enabled' if settings.script_security else 'disabled'}"
    yield f" rs_init_notifies = {int(settings.rs_init_notifies)}"


def _router(router: VrrpInstance, state: Status) -> Iterator[str]:
    held, sent = state["state"] == "MASTER", router.announcements
    since = state["since"] or 0.0
    clock = time.strftime("%a %b %e %H:%M:%S", time.localtime(since))
    year, fraction = time.localtime(since).tm_year, f"{since % 1:.6f}"[1:]
    yield f" VRRP Instance = {router.name}"
    yield f"   VRRP Version = {router.version}"
    if state["group"]:
        yield f"   Sync group = {state['group']}"
    yield from ("   Using Native IPv6",) if router.family == 6 else ()
    yield f"   State = {state['state']}"
    yield f"   Wantstate = {state['state']}"
    yield f"   Number of interface and track script faults = {len(state['faults'])}"
    yield f"   Last transition = {since:.6f} ({clock}{fraction} {year})"
    yield f"   Master down timer = {int(state['master_down_s'] * 1_000_000)} usecs"
    yield f"   Interface = {router.interface}"
    yield f"   Gratuitous ARP delay = {sent.delay_s}"
    yield f"   Gratuitous ARP repeat = {sent.repeat}"
    yield f"   Gratuitous ARP refresh = {sent.refresh_s}"
    yield f"   Gratuitous ARP refresh repeat = {sent.refresh_repeat}"
    yield f"   Gratuitous ARP lower priority delay = {sent.lower_priority_delay_s}"
    yield f"   Gratuitous ARP lower priority repeat = {sent.lower_priority_repeat}"
    yield f"   Down timer adverts = {router.down_after_adverts}"
    yield f"   Send advert after receive lower priority advert = {_true(not router.lower_priority_unanswered)}"
    yield f"   Send advert after receive higher priority advert = {_true(router.higher_priority_answered)}"
    yield f"   Virtual Router ID = {router.vrid}"
    yield f"   Priority = {router.priority}"
    yield f"   Effective priority = {state['priority']}"
    interval = router.advert_interval_s
    yield (
        f"   Advert interval = {_number(interval)} sec"
        if router.version == 2
        else (f"   Advert interval = {_number(interval * 1000)} milli-sec")
    )
    yield f"   Accept = {_abled(router.accept)}"
    yield f"   Preempt = {_abled(router.preempt)}"
    yield from (f"   Preempt delay = {_number(router.preempt_delay_s)} secs",) if router.preempt_delay_s else ()
    yield f"   Promote_secondaries = {_abled(router.promote_secondaries)}"
    if kind := AUTHENTICATIONS.get(_authentication(router)):
        yield f"   Authentication type = {kind[1]}"
        yield f"   Password = {HIDDEN}"
    if router.addresses:
        yield f"   Virtual IP ({len(router.addresses)}):"
        yield from (f"     {_address(each, router, held)}" for each in router.addresses)
    for title, lines in (
        ("Virtual IP Excluded", [_address(each, router, held) for each in router.excluded]),
        ("Unicast Peers", [str(each.address) for each in router.peers]),
        ("Virtual Routes", [_route(each) for each in router.routes]),
        ("Virtual Rules", [_rule(each) for each in router.rules]),
        ("Tracked interfaces", [f"{each.name} weight {each.weight}" for each in router.tracks.interfaces]),
        ("Tracked scripts", [f"{each.name} weight {each.weight}" for each in router.tracks.scripts]),
    ):
        if lines:
            yield f"   {title} :"
            yield from (f"     {line}" for line in lines)
    yield f"   Using smtp notification = {_yes(router.notify.smtp_alert)}"


def check_text(configuration: Configuration, services: Iterable[ServiceSnapshot]) -> str:
    """Return keepalived_check.data: global definitions, services and their servers."""
    lines = [*_global(configuration.settings), "------< LVS Topology >------", " System is compiled with LVS v1.2.1"]
    states = {each.name: each for each in services}
    for service in configuration.services:
        if service.name in states:
            lines += _service(service, states[service.name])
    return _lines(lines)


def _service(service: WantedService, state: ServiceSnapshot) -> Iterator[str]:
    yield " ------< Virtual server >------"
    key = service.keys[0]
    if service.group_name:
        yield f"   VS GROUP = {service.group_name}"
    elif key.mark:
        yield f"   VS FWMARK = {key.mark}"
    else:
        yield f"   VS VIP = {key.address}, VPORT = {key.port}"
    yield from (f"   VirtualHost = {service.virtualhost}",) if service.virtualhost else ()
    yield f"   lvs_sched = {service.scheduler}"
    yield from (f"   persistence timeout = {service.timeout_s}",) if service.timeout_s else ()
    yield f"   protocol = {'none' if key.mark else Protocol(key.protocol).name}"
    yield f"   alpha is {'ON' if service.alpha else 'OFF'}"
    yield f"   omega is {'ON' if service.omega else 'OFF'}"
    yield f"   quorum = {service.quorum}, hysteresis = {service.hysteresis}"
    if service.sorry_server is not None:
        sorry = service.sorry_server.key
        yield f"   sorry server = [{sorry.address}]:{sorry.port}"
    yield f"   alive = {int(any(each.up for each in state.servers))}"
    yield f"   quorum_state_up = {int(state.has_quorum)}"
    wanted = {each.destination.key: each for each in service.servers}
    for reported in state.servers:
        if reported.server in wanted:
            yield from _server(wanted[reported.server], reported)


def _server(wanted: WantedServer, state: ServerSnapshot) -> Iterator[str]:
    key = state.server
    weight = state.configured_weight
    yield "   ------< Real server >------"
    yield f"   RIP = {key.address}, RPORT = {key.port}, WEIGHT = {weight} EFF WEIGHT = {state.weight}"
    yield f"     Inhibit on failure is {'ON' if wanted.inhibit_on_failure else 'OFF'}"
    yield f"     Alpha is {'ON' if wanted.alpha else 'OFF'}"
    yield f"     alive = {int(state.up)}"
    yield f"     num failed checkers = {sum(each.good is False for each in state.checks)}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _true(value: bool) -> str:
    return "true" if value else "false"


def _abled(value: bool) -> str:
    return "enabled" if value else "disabled"
