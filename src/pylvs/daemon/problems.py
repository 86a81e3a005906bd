"""What is wrong now: one list for `pylvs status`, its exit status for monitoring, the metrics and the events.

A problem has a kind of `KINDS`, which determines its severity. Problems of services and virtual routers are derived
from their state when a request needs it. Those of the daemon and its host are also published as events when they begin
and end, because nothing else reports them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from pylvs.health.events import Standing
from pylvs.health.state import ServiceSnapshot
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger
from pylvs.system.processes.notify_scripts import SLOW_S


class Severity(Enum):
    """The states of a monitoring check beside OK and UNKNOWN."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem; `logged`: other code logs it."""

    severity: Severity
    help: str
    logged: bool = True


W, C = Severity.WARNING, Severity.CRITICAL
KINDS: Mapping[str, Kind] = {
    "quorum_lost": Kind(C, "a virtual server has lost its quorum"),
    "table": Kind(C, "the table could not be read or edited"),
    "silent": Kind(C, "a part of the daemon makes no progress, so its state is unknown"),
    "failed": Kind(C, "a part of the daemon has failed, and is started again after each failure"),
    "api": Kind(C, "members of monitor_group get no reply: the group does not exist, or its socket cannot be made"),
    "device": Kind(C, "a device that services need could not be attached, or was detached by hand"),
    "vrrp": Kind(C, "virtual routers do not run as configured"),
    "vrrp_fault": Kind(C, "a virtual router is in the state FAULT"),
    "vrrp_conflict": Kind(C, "another host has an address of a virtual router that is master here"),
    "data_plane": Kind(C, "pylvs-vrrp does not know that packets are forwarded here"),
    "peer_differs": Kind(W, "a service, server or check is not the same at the other director", logged=False),
    "peer_connections": Kind(W, "connections of the other director are missing here, or copies are late", logged=False),
    "peer": Kind(W, "no connections are copied from the other director", logged=False),
    "announce": Kind(C, "an address could not be announced to the routing daemon of this host, or withdrawn"),
    "starting": Kind(W, "the first table is not complete yet"),
    "server_down": Kind(W, "a real server is down, and no operator has drained or disabled it"),
    "handshakes": Kind(W, "a real server completes fewer handshakes of clients than the others, or a service few"),
    "check_inconclusive": Kind(W, "this host cannot make a check, so a real server keeps its last state"),
    "check_left_out": Kind(W, "a check of the file cannot be made, and a real server counts as up without it"),
    "notify_script": Kind(W, "a notify script has not ended for 10 s, or was ended at its limit"),
    "prober": Kind(W, "the prober process was restarted more than twice within five minutes"),
    "edit_refused": Kind(W, "the packet path refused an edit"),
    "configuration": Kind(W, "the file in force has an error, or an unknown or surplus word, without effect"),
    "vip": Kind(W, "no device has a virtual address, and no virtual router adds it", logged=False),
    "check_path": Kind(W, "a check takes another path than the packets of clients", logged=False),
    "metrics_address": Kind(W, "metrics are not served at the metrics_address"),
    "web": Kind(W, "the web page is not served at the web_address"),
    "dbus": Kind(W, "virtual routers are not served on D-Bus, as enable_dbus requests"),
    "sync": Kind(W, "a sync daemon does not run, as lvs_sync_daemon requests"),
    "snmp": Kind(W, "the SNMP sub-agent ended or was silent, and no other one runs yet"),
    "bfd": Kind(W, "a BFD session is not up, or its neighbor has disabled it"),
    "vrrp_helper": Kind(W, "no helper process of pylvs-vrrp runs: no scripts, no mails"),
    "state": Kind(W, "overrides, drains or the owned services could not be saved: a crash would lose them"),
    "history": Kind(W, "events could not be saved: a restart would lose them"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; `object` names the service, server, device or file."""

    kind: str
    object: str
    text: str

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def __str__(self) -> str:
        return f"{self.object}: {self.text}" if self.object else self.text


def service_problems(services: Iterable[ServiceSnapshot]) -> Iterator[Problem]:
    """Yield lost quorums, servers that are down or do not reply to clients, and checks that were not made."""
    for service in services:
        if not service.has_quorum:
            sorry = ", the sorry server serves" if service.sorry_server_in else ""
            needed = f", {service.quorum} needed" if service.quorum else " (no server with a weight above 0 is up)"
            text = f"quorum lost: weight {service.weight_up} is up{needed}{sorry}"
            yield Problem("quorum_lost", service.name, text)
        if service.handshakes_low:
            yield Problem("handshakes", service.name, service.handshakes_low)
        for server in service.servers:
            name = f"{server.server} of {service.name}"
            if not server.up and server.override.standing is Standing.ENABLED:
                yield Problem("server_down", name, f"down: {server.reason}")
            if server.handshakes_low:
                yield Problem("handshakes", name, server.handshakes_low)
            for text in server.checks_left_out:
                yield Problem("check_left_out", f"{name}: {text.partition(':')[0]}", text.partition(": ")[2])
            for check in server.checks:
                if check.inconclusive:
                    yield Problem("check_inconclusive", name, f"{check.check.keyword} is inconclusive: {check.reason}")


def router_problems(status: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems in a status of the virtual routers."""
    if status.get("problem"):
        yield Problem("vrrp", "", str(status["problem"]))
    for router in status.get("instances", ()):
        if router["state"] == "FAULT":
            reasons = "; ".join(router.get("faults", ())) or router.get("why", "")
            yield Problem("vrrp_fault", router["name"], f"in the state FAULT: {reasons}")
        if router.get("rival"):
            yield Problem("vrrp_conflict", router["name"], router["rival"])
    for session in status.get("sessions", ()):
        if session["error"] or session["up"] is False or session["held"]:
            yield Problem("bfd", session["name"], f"{session['state']}: {session['error'] or session['reason']}")
    yield from script_problems(status.get("notify_scripts", {}))
    data_plane = status.get("data_plane")
    if data_plane and not data_plane["up"]:
        yield Problem("data_plane", "", f"pylvs-vrrp: forwarding: {data_plane.get('reason') or 'not known'}")
    if not status.get("process", {}).get("helper_running", True):
        yield Problem("vrrp_helper", "", "the helper process of pylvs-vrrp does not run")


def script_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the notify scripts of a report that do not end, or did not end in time."""
    for script in report.get("scripts", ()):
        text = script["reason"]
        if script["state"] == "running" and script["seconds"] >= SLOW_S:
            text = f"has not ended for {script['seconds']:.0f} s"
        if text:
            yield Problem("notify_script", script["object"], f"{script['keyword']} {script['script']} {text}")


class ProblemTracker:
    """Publishes the beginning and the end of problems."""

    def __init__(self, publish: Callable[..., None]) -> None:
        self._publish = publish
        self._present: dict[tuple[str, str], Problem] = {}
        self._log = get_logger()

    def update(self, problems: Sequence[Problem]) -> None:
        """Compare with the last list. A change of the text alone is no event."""
        found = {(each.kind, each.object): each for each in problems}
        for name in found.keys() - self._present.keys():
            self._begin(found[name])
        for name in self._present.keys() - found.keys():
            self._end(self._present[name])
        self._present = found

    def _begin(self, problem: Problem) -> None:
        if not KINDS[problem.kind].logged:
            self._log.warning(str(problem), problem=problem.kind)
        self._publish("problem_began", **_fields(problem))

    def _end(self, problem: Problem) -> None:
        if not KINDS[problem.kind].logged:
            self._log.info("problem ended", problem=problem.kind, object=problem.object)
        self._publish("problem_ended", **_fields(problem))


def _fields(problem: Problem) -> dict[str, str]:
    return {
        "problem": problem.kind,
        "severity": problem.severity.value,
        "object": problem.object,
        "reason": problem.text,
    }
