"""`pylvs status --check`: one line with performance data, and an exit status, as plugins of Nagios and Icinga have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.system.logs import counted, one_line

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_SEVERITIES = {"warning": WARNING, "critical": CRITICAL}
MOST_PROBLEMS = 5  # in the line
_LONGEST_TEXT = 160  # characters


def checked(directory: Path | None) -> tuple[int, str]:
    """Query the daemon, and return exit status and line. A daemon that does not reply is critical."""
    from pylvs.daemon.api.client import Client, NoDaemon, NoReply

    try:
        status, reply = Client(directory).ask("GET", "/v1/status")
    except (NoDaemon, NoReply) as error:
        return CRITICAL, line(CRITICAL, str(error))
    except PylvsError as error:
        return UNKNOWN, line(UNKNOWN, str(error))
    if status != 200:
        return UNKNOWN, line(UNKNOWN, str(reply.get("error", status)))
    return result(reply)


def result(reply: dict[str, Any]) -> tuple[int, str]:
    """Return exit status and line for the daemon's status."""
    problems = reply["problems"]
    status = max((_SEVERITIES.get(each["severity"], UNKNOWN) for each in problems), default=OK)
    texts = [_text(each) for each in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        texts.append(f"{len(problems) - MOST_PROBLEMS} more: pylvs status")
    if not problems:
        services, servers = len(reply["services"]), sum(len(each["servers"]) for each in reply["services"])
        texts = [f"{counted(services, 'service')}, {counted(servers, 'real server')}"]
    return status, line(status, "; ".join(texts), " ".join(performance(reply)))


def line(status: int, text: str, data: str = "") -> str:
    """Return the line; a bar separates text and performance data, so none may be in the text."""
    found = one_line(f"PYLVS {_NAMES[status]}: {text}").replace("|", "/")
    return f"{found} | {data}" if data else found


def _text(problem: dict[str, Any]) -> str:
    text = f"{problem['object']}: {problem['text']}" if problem["object"] else str(problem["text"])
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def performance(reply: dict[str, Any]) -> Iterator[str]:
    """Yield the performance data, as `servers_down=1;;;0;7`: value, no thresholds, least, most."""
    services = reply["services"]
    servers = [server for service in services for server in service["servers"]]
    problems = [each["kind"] for each in reply["problems"]]
    routers = reply["virtual_routers"]["instances"]
    yield _datum("services", len(services))
    yield _datum("quorums_lost", problems.count("quorum_lost"), len(services))
    yield _datum("servers", len(servers))
    yield _datum("servers_down", sum(not each["up"] for each in servers), len(servers))
    yield _datum("checks_inconclusive", problems.count("check_inconclusive"))
    yield _datum("connections", sum(each["active"] + each["inactive"] for each in servers))
    yield _datum("routers_master", sum(each["state"] == "MASTER" for each in routers), len(routers))
    yield _datum("routers_fault", sum(each["state"] == "FAULT" for each in routers), len(routers))


def _datum(name: str, value: int, most: int | None = None) -> str:
    return f"{name}={value};;;0;{'' if most is None else most}"
