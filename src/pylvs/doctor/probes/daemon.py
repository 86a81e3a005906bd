"""The daemon: whether it should run and does, whether it replies, and its problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pylvs.daemon import DEFAULT_FILE
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import load_owned
from pylvs.doctor.commands import named
from pylvs.doctor.configuration import services_of
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject
from pylvs.doctor.probes.checks import subjects
from pylvs.doctor.probes.table import NO_SERVER, kept_by_daemon, unserved
from pylvs.doctor.processes import Keepalived, keepaliveds
from pylvs.doctor.running import PATIENCE_S, Status, is_hanging, process_of, status_of
from pylvs.doctor.virtual_routers import routers_of
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey

START = "service pylvs start"
_SEVERITIES = {"critical": Severity.ERROR, "warning": Severity.WARNING}


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with the daemon and its checks."""
    process = process_of(facts)
    if is_hanging(facts):
        yield hangs(process, unserved(facts.services, kept_by_daemon(facts)))
        return
    others = facts.once("keepaliveds", keepaliveds)
    yield from beside(process, others, has_routers=any(router.status for router in routers_of(facts)))
    if not process:
        yield from absent(facts, others)
    elif (status := status_of(facts)) is not None:
        yield from of_problems(status)


def hangs(process: int, empty: frozenset[str]) -> Finding:
    """Return that a daemon does not reply, and why if the kernel knows; `empty`: its services without a server."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        state = "?"
    stopped = state in ("T", "t")
    return Finding(
        id="daemon_hangs",
        severity=Severity.ERROR if empty else Severity.WARNING,
        layer=Layer.HOST,
        title=f"pylvs run, process {process}, {'is stopped by a signal' if stopped else 'does not reply'}",
        evidence=f"no reply within {PATIENCE_S:g} s; the state of the process is {state}{_without_server(empty)}",
        why="No server is checked: dead ones stay in the table, and others do not return.",
        fix="Let it continue." if stopped else "End the process, and start pylvs run again.",
        fix_command=f"kill -CONT {process}" if stopped else f"kill -KILL {process}; {START}",
        fix_host=HERE,
        explains=empty,
    )


def _without_server(empty: frozenset[str]) -> str:
    """Return what the evidence adds about services without a server."""
    names = sorted(empty - {NO_SERVER})
    return f"; {named(names, 'service')} {'has' if len(names) == 1 else 'have'} no server" if names else ""


def beside(process: int, others: Sequence[Keepalived], has_routers: bool) -> Iterator[Finding]:
    """Yield each keepalived that does what pylvs run does."""
    for other in others:
        both = [
            what
            for what, is_there in (
                ("virtual routers", other.routers and has_routers),
                ("virtual servers", other.services and bool(process)),
            )
            if is_there
        ]
        if both:
            yield Finding(
                id="keepalived_beside",
                severity=Severity.ERROR if "virtual routers" in both else Severity.WARNING,
                layer=Layer.HOST,
                title=f"keepalived, process {other.process}, runs beside pylvs run",
                evidence=f"both run {' and '.join(both)} in this network namespace; keepalived reads {other.file}",
                why="Both add and remove the same addresses, and one of them checks servers for a table of its own.",
                fix="End keepalived, and disable its unit. Or give it --vrrp, and pylvs run --no-vrrp.",
                fix_command=f"kill {other.process}",
                fix_host=HERE,
            )


def absent(facts: Facts, others: Sequence[Keepalived]) -> Iterator[Finding]:
    """Yield why a daemon should run here and does not."""
    state = StateDirectory(facts.state_dir)
    if any(each.services for each in others):
        return  # keepalived runs the services, in the kernel's table
    owned: Sequence[ServiceKey] = ()
    with suppress(PylvsError):
        owned = list(load_owned(state))
    present = {row.service.key for row in facts.services}
    if left := [key for key in owned if key in present]:
        empty = unserved(facts.services, list(map(str, left)))
        yield _no_daemon(
            id="daemon_ended",
            severity=Severity.ERROR if empty else Severity.WARNING,
            explains=empty,
            title=f"pylvs run has ended, and has left {named(left, 'service')} in the table",
            evidence=f"{state.path} has {named(left, 'service')}; no process holds its lock{_without_server(empty)}",
            why="No server is checked: dead ones stay in the table, and others do not return.",
        )
        return
    wanted = _wanted(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else []
    if not wanted:
        return
    if missing := [key for key in wanted if key not in present]:
        master = any(router.state == "MASTER" for router in routers_of(facts))
        routers = [each.process for each in others if each.routers]
        who = f"keepalived, process {routers[0]}, runs virtual routers, and no" if routers else "no"
        yield _no_daemon(
            id="services_missing",
            severity=Severity.ERROR if master or not routers else Severity.WARNING,
            title=f"the table lacks {named(missing, 'service')} of {DEFAULT_FILE}",
            evidence=f"{who} pylvs run keeps the services of {DEFAULT_FILE}",
            why="Packets to these services are not forwarded"
            + (" by the master." if master else ", also after a take-over." if routers else "."),
        )
    else:
        yield _no_daemon(
            id="daemon_missing",
            title=f"no pylvs run checks the servers of {DEFAULT_FILE}",
            evidence=f"the table has {named(wanted, 'service')} of {DEFAULT_FILE}, and no pylvs run is there",
            why="Dead servers stay in the table.",
        )


def _wanted(file: str) -> list[ServiceKey]:
    """Return the services of a file."""
    return [key for service in services_of(file) for key in service.keys]


def _no_daemon(
    *,
    id: str,
    title: str,
    evidence: str,
    why: str,
    severity: Severity = Severity.WARNING,
    explains: frozenset[Subject] = frozenset(),
) -> Finding:
    return Finding(
        id=id,
        severity=severity,
        layer=Layer.HOST,
        title=title,
        evidence=evidence,
        why=why,
        fix="Start pylvs run, as a service that starts at boot, too.",
        fix_command=START,
        fix_host=HERE,
        explains=explains,
    )


# Kinds of problems that other findings are about.
_ELSEWHERE = ("server_down", "check_inconclusive", "check_left_out", "vip", "device", "starting", "vrrp_fault")


def of_problems(status: Status) -> Iterator[Finding]:
    """Yield the other problems of pylvs status."""
    services = {service["name"]: frozenset(service["keys"]) for service in status["services"]}
    of_handshakes = any(problem["kind"] == _HANDSHAKES for problem in status["problems"])
    clients = _with_servers(status["services"]) if of_handshakes else {}
    for problem in status["problems"]:
        kind, subject, text = problem["kind"], problem["object"], problem["text"]
        if kind in _ELSEWHERE:
            continue
        yield Finding(
            id=_ID.get(kind, "daemon_problem"),
            severity=_SEVERITIES.get(problem["severity"], Severity.WARNING),
            layer=_LAYERS.get(kind, Layer.HOST),
            title=f"{subject}: {text}" if subject else text,
            evidence=f"pylvs status: {kind}: {text}",
            why=_WHY.get(kind, "pylvs run does not do all of its work."),
            fix=_FIX.get(kind, "Remove the cause that the text names."),
            about=(clients if kind == _HANDSHAKES else services).get(subject, frozenset({subject})),
            symptom=kind in ("quorum_lost", "vrrp_conflict", _HANDSHAKES),
        )


def _with_servers(services: Sequence[Status]) -> dict[str, frozenset[Subject]]:
    """Return what handshakes of clients are about, by the name of the server or of the service.

    Few of a service are completed if a server does not complete its own.
    """
    found = dict[str, frozenset[Subject]]()
    for service in services:
        servers = {f"{each['server']} of {service['name']}": subjects(service, each) for each in service["servers"]}
        found |= servers
        found[service["name"]] = frozenset(service["keys"]).union(*servers.values())
    return found


_HANDSHAKES = "handshakes"
_ID = {
    "quorum_lost": "quorum_lost",
    _HANDSHAKES: "handshakes_low",
    "check_path": "check_elsewhere",
    "configuration": "configuration_error",
    "edit_refused": "edit_refused",
    "state": "state_not_saved",
    "history": "state_not_saved",
    "vrrp_conflict": "vip_conflict",
    "bfd": "bfd_down",
}
_LAYERS = {
    "quorum_lost": Layer.TABLE,
    _HANDSHAKES: Layer.SERVER,
    "check_path": Layer.ADVICE,
    "vrrp_conflict": Layer.ADDRESS,
    "bfd": Layer.LINK,
}
_WHY = {
    "quorum_lost": "The servers that are up weigh less than the quorum. The sorry server serves, or none.",
    _HANDSHAKES: "Their first packets are forwarded, and clients get no reply, or none that they accept.",
    "check_path": "The check shows nothing about the way of clients' packets.",
    "configuration": "This part of the file has no effect.",
    "edit_refused": "The table differs from the file.",
    "state": "A crash of the daemon would lose overrides, drains or what it owns.",
    "history": "A restart of the daemon would lose the events.",
    "vrrp_conflict": "Clients reach now this host, now the other one.",
    "bfd": "What tracks the session counts it as down.",
}
_FIX = {
    "quorum_lost": "Lower the quorum, or let more servers come up.",
    _HANDSHAKES: "Run pylvs doctor on the server: it drops packets of clients, or its replies are lost.",
    "check_path": "Check the real server itself, or through the virtual address (via_vip).",
    "configuration": "Correct the line, and reload: pylvs check names it.",
    "state": "Free space on the disk of the state directory, or make it writable.",
    "history": "Free space on the disk of the state directory, or make it writable.",
    "vrrp_conflict": "Find the other host, and remove the address there.",
}
