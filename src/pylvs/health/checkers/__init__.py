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
    """What a checker needs besides its check: settings of the server and service, and the script runner."""

    weight: int = 1  # configured for the real server; relative weights ("75%", "5 more") start here
    virtualhost: str = ""  # of the real server, else of the service; the check's own counts first
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
