"""Which checker makes which check; a checker's module is imported when the first check of its kind is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from pylvs.health.checkers.context import Context
from pylvs.health.outcome import Probe
from pylvs.model import checks

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


def probe_of(check: checks.Check, context: Context) -> Probe:
    """What makes this check each time it is called."""
    module = importlib.import_module(f"pylvs.health.checkers.{_MODULES[type(check)]}")
    maker = cast("Callable[[checks.Check, Context], Probe]", module.probe)
    return maker(check, context)
