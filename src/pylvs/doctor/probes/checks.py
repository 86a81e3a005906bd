"""Health checks: the servers that are down by them, and those that an operator has taken out."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping
from shlex import quote

from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject, server_subject
from pylvs.doctor.probes.table import NO_SERVER, first_of_each
from pylvs.doctor.running import Status, address_of, status_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.service import DestinationKey, server_named

_CONNECT_S = 1.0
_MOST_CONNECTIONS = 16  # to servers that are down


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what checks and operators have taken out."""
    status = status_of(facts)
    if status is None:
        return
    yield from first_of_each(of_servers(status, connected(status), probed(facts)))
    yield from first_of_each(of_overrides(status))


@dataclass(frozen=True, slots=True)
class Attempt:
    """The end of a connection from here to a real server: "" if it accepted, else the error."""

    error: str
    refused: bool = False


def connected(status: Status) -> dict[str, Attempt]:
    """Return the results of connections to servers of TCP that are down, by ADDRESS:PORT."""
    down = {
        server["server"]: None
        for service in status["services"]
        if any(key.startswith("TCP ") for key in service["keys"])
        for server in service["servers"]
        if not server["up"]
    }
    if not down:
        return {}
    from concurrent.futures import ThreadPoolExecutor  # late: only with servers that are down

    with ThreadPoolExecutor(max_workers=_MOST_CONNECTIONS) as pool:
        asked = {name: pool.submit(connect, name) for name in list(down)[:_MOST_CONNECTIONS]}
        return {name: each.result() for name, each in asked.items()}


def connect(name: str) -> Attempt:
    """Connect to ADDRESS:PORT, and close the connection."""
    key = server_named(name)
    assert isinstance(key, DestinationKey)
    try:
        with socket.create_connection((str(key.address), key.port), _CONNECT_S):
            return Attempt("")
    except TimeoutError:
        return Attempt(f"no reply within {_CONNECT_S:g} s")
    except OSError as error:
        return Attempt(os.strerror(error.errno or 0), refused=isinstance(error, ConnectionRefusedError))


def probed(facts: Facts) -> frozenset[Subject]:
    """Return the servers of the table that get connections: the way to them is examined, too."""
    return frozenset(
        server_subject(str(row.service.key), each.destination.key.address)
        for row in facts.services
        for each in row.destinations
        if each.destination.weight
    )


def of_servers(
    status: Status, connections: Mapping[str, Attempt], probed: Collection[Subject] = frozenset()
) -> Iterator[Finding]:
    """Yield the servers that are down, and the checks that this host cannot make.

    For a server that is `probed`, a finding about the way to it is likelier the cause.
    """
    for service in status["services"]:
        serves = any(each["up"] and each["weight"] and each["standing"] == "enabled" for each in service["servers"])
        sorry = bool(service["sorry_server"] and service["sorry_server"]["in"])
        for server in service["servers"]:
            if not server["up"] and server["standing"] == "enabled":
                severity = Severity.WARNING if serves or sorry else Severity.ERROR
                found = _down(service, server, severity, connections.get(server["server"]), sorry and not serves)
                yield replace(found, symptom=bool(found.about & frozenset(probed)))
            for check in server["checks"]:
                if check["inconclusive"]:
                    yield _inconclusive(service, server, f"{check['check']}: {check['reason']}")
            for text in server["checks_left_out"]:
                yield _left_out(service, server, text)


def subjects(service: Status, server: Status) -> frozenset[Subject]:
    """Return those of a server of a service."""
    address = address_of(server["server"])
    return frozenset(server_subject(key, address) for key in service["keys"])


def _down(service: Status, server: Status, severity: Severity, connection: Attempt | None, sorry: bool) -> Finding:
    name, reason = server["server"], server["reason"]
    evidence = f"pylvs status: {reason}"
    if connection is not None:
        evidence += f"; a connection from here to {name}: {connection.error or 'accepted'}"
    if connection is None or (connection.error and not connection.refused):
        id, title, fix = "server_down", f"{name} of {service['name']} is down: {reason}", "Look why it does not answer."
    elif connection.refused:
        id, title, fix = "not_listening", f"nothing listens on {name} of {service['name']}", "Start the server there."
    else:
        id, title = "check_disagrees", f"{name} of {service['name']} accepts connections, but its check fails: {reason}"
        fix = "Correct what the server replies, or what the check expects."
    return Finding(
        id=id,
        severity=severity,
        layer=Layer.SERVER,
        title=title,
        evidence=evidence,
        why="No server is left: each new connection is refused."
        if severity is Severity.ERROR
        else f"The {'sorry server serves' if sorry else 'other servers serve'} all clients.",
        fix=fix,
        about=subjects(service, server),
        explains=frozenset() if service["quorum"]["up"] else frozenset({*service["keys"], NO_SERVER}),
    )


def _inconclusive(service: Status, server: Status, text: str) -> Finding:
    program = text.split()[-1] if "Permission denied" in text else ""
    return Finding(
        id="check_inconclusive",
        severity=Severity.WARNING,
        layer=Layer.SERVER,
        title=f"a check of {server['server']} of {service['name']} cannot be made here: {text}",
        evidence=f"pylvs status: {text}",
        why="The server keeps its last state, also if it fails.",
        fix="Correct the program's path or permissions, or the limits of this host.",
        fix_command=f"chmod +x {program}" if program.startswith("/") else None,
        fix_host=HERE if program.startswith("/") else None,
    )


def _left_out(service: Status, server: Status, text: str) -> Finding:
    return Finding(
        id="check_left_out",
        severity=Severity.WARNING,
        layer=Layer.SERVER,
        title=f"{server['server']} of {service['name']} counts as up without its {text}",
        evidence=f"pylvs status: {text}",
        why="A server that fails stays in the table.",
        fix="Correct the check, and reload: pylvs check names the line.",
    )


def of_overrides(status: Status) -> Iterator[Finding]:
    """Yield the servers that an operator has taken out; it is an error if none is left."""
    for service in status["services"]:
        out = [each for each in service["servers"] if each["standing"] != "enabled" or each["operator_weight"] == 0]
        serves = [each for each in service["servers"] if each not in out and each["up"] and each["weight"]]
        sorry = bool(service["sorry_server"] and service["sorry_server"]["in"])
        if not out:
            continue
        names = [each["server"] for each in out]
        commands = []
        for server in out:
            name = server["server"]
            verb = f"weight {name} auto" if server["standing"] == "enabled" else f"enable {name}"
            commands.append(f"pylvs {verb} --service {quote(service['name'])}")
        which = "all servers" if len(out) == len(service["servers"]) else named(names, "server")
        none_left = not serves and not sorry and any(each["up"] for each in out)
        yield Finding(
            id="servers_taken_out",
            severity=Severity.ERROR if none_left else Severity.INFO,
            layer=Layer.TABLE if none_left else Layer.ADVICE,
            title=f"an operator has taken out {which} of {service['name']}",
            evidence="pylvs status: " + ", ".join(f"{each['server']} {_standing(each)}" for each in out[:3]),
            why="No server is left: each new connection is refused."
            if none_left
            else "The override stays until an operator cancels it, also through restarts.",
            fix="Cancel it, if the maintenance is over.",
            fix_command=" && ".join(commands),
            fix_host=HERE,
            about=frozenset(service["keys"]) if none_left else frozenset(),
            explains=frozenset({NO_SERVER}) if none_left else frozenset(),
        )


def _standing(server: Status) -> str:
    return "has weight 0" if server["standing"] == "enabled" else str(server["standing"])
