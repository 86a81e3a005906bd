"""`pylvs status --check`: one line with performance data, and an exit status, as plugins of Nagios and Icinga have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pylvs.model.errors import PylvsError, counted
from pylvs.system.logs import one_line

# late: each command imports what it runs, so that the others start sooner

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_SEVERITIES = {"warning": WARNING, "critical": CRITICAL}
MOST_PROBLEMS = 5  # in the line
_LONGEST_TEXT = 160  # characters


class MonitoringCommand(click.Command):
    """A command with the option --check. With it, each failure is UNKNOWN: exit status 1 would be WARNING."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _unknown("--check" in args):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _unknown(ctx.params["check"]):
            return super().invoke(ctx)


@contextlib.contextmanager
def _unknown(check: bool) -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if not check:
            raise
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        named = isinstance(error, (click.ClickException, PylvsError, OSError))
        click.echo(line(UNKNOWN, text if named else f"{type(error).__name__}: {text}: this is a bug"))
        raise click.exceptions.Exit(UNKNOWN) from None


def checked(directory: Path | None) -> tuple[int, str]:
    """Query the daemon, and return exit status and line. Without a reply it is critical. Raises PylvsError."""
    from pylvs.daemon.api.client import Client, NoDaemon, NoReply
    from pylvs.daemon.api.schema import VERSION

    try:
        status, reply = Client(directory).ask("GET", "/v1/status")
    except (NoDaemon, NoReply) as error:
        return CRITICAL, line(CRITICAL, str(error))
    try:
        if status != 200:
            raise PylvsError(str(reply.get("error", status)))
        if _major(reply["schema"]) == _major(VERSION):
            return result(reply)
    except (AttributeError, LookupError, TypeError):
        pass
    raise PylvsError(f"the reply is not one of the version {VERSION} of the API: restart pylvs run")


def _major(version: str) -> str:
    return version.partition(".")[0]


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
