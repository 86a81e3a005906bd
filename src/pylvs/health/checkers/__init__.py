"""The checkers: for each specification, the module whose `probe` makes its probes.

A module is imported when the first check of its type is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pylvs.health.outcome import Outcome, Probe, ProbeFailed
from pylvs.model import checks
from pylvs.model.dataclass import dataclass

if TYPE_CHECKING:
    from pylvs.system.processes.scripts import Processes


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The settings of the server and service for a checker, and the script runner."""

    weight: int = 1  # the real server's; the base of relative weights ("75%", "5 more")
    virtualhost: str = ""  # the real server's, else the service's; the check's own takes precedence
    processes: Processes | None = None  # None: scripts are not run


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
    """Return the probe of a check, made by `probe` of its checker's module. ProbeFailed becomes a failed outcome."""
    module = importlib.import_module(f"pylvs.health.checkers.{_MODULES[type(check)]}")
    maker = cast("Callable[[checks.Check, CheckContext], Probe]", module.probe)
    ask = maker(check, context)

    async def probe() -> Outcome:
        try:
            return await ask()
        except ProbeFailed as error:
            return Outcome(False, str(error), inconclusive=error.inconclusive)

    return probe
