"""Which checker makes which check; a checker's module is imported when the first check of its kind is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pylvs.health.outcome import Probe
from pylvs.model import checks
from pylvs.model.dataclass import dataclass

# --- context ---------------------------------------------------------------------------------------------------------
# What a checker must know beside its own specification.


if TYPE_CHECKING:
    from pylvs.host.processes import Processes


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The surroundings of one check: its real server's and its service's settings, and who runs scripts."""

    weight: int = 1  # configured for the real server; what a check calls "75%" or "5 more" counts from here
    virtualhost: str = ""  # of the real server, or else of the service; a check's own goes before
    processes: Processes | None = None  # knows whom scripts run as that name nobody; None: none are run


# --- registry --------------------------------------------------------------------------------------------------------

_MODULES: dict[type[checks.Check], str] = {
    checks.TcpCheck: "tcp",
    checks.HttpCheck: "http",
    checks.SmtpCheck: "smtp",
    checks.DnsCheck: "dns",
    checks.UdpCheck: "udp",
    checks.PingCheck: "ping",
    checks.FileCheck: "file",
    checks.MiscCheck: "misc",
    checks.AgentCheck: "agent",
    checks.LoadCheck: "load",
}


def probe_of(check: checks.Check, context: CheckContext) -> Probe:
    """What makes this check each time it is called."""
    module = importlib.import_module(f"pylvs.health.checkers.{_MODULES[type(check)]}")
    maker = cast("Callable[[checks.Check, CheckContext], Probe]", module.probe)
    return maker(check, context)
