"""MISC_CHECK: a program of the operator's own says how a real server is."""

from __future__ import annotations

import logging

from pylvs.health.checkers.context import Context
from pylvs.health.outcome import Outcome, Probe
from pylvs.model.checks import MiscCheck
from pylvs.system.processes.scripts import Ended

log = logging.getLogger(__name__)
_LOWEST_DYNAMIC = 2  # exit statuses from here on are weights, this one weight 0


def probe(check: MiscCheck, context: Context) -> Probe:
    """Runs the program. What it prints goes to the log, its first line into the reason where it fails."""

    async def ask() -> Outcome:
        if context.processes is None:
            return Outcome(False, "no scripts are run here")
        ended = await context.processes.run(check.script, check.pace.timeout_s)
        for line in ended.lines():
            log.debug("%s: %s", check.script, line)
        return outcome(ended, check.dynamic)

    return ask


def outcome(ended: Ended, dynamic: bool) -> Outcome:
    """What an end means: with `dynamic` the statuses 2 to 255 are weights, which hold for as long as they are said.

    Every other end, a timeout too, leaves the weight as configured. A machine that has no process for the program, or
    whose process that runs programs was killed, learns nothing of the real server.
    """
    if ended.unable:
        return Outcome(False, str(ended), inconclusive=True)
    status = None if ended.timed_out else ended.status
    if dynamic and status is not None and status >= _LOWEST_DYNAMIC:
        weight = status - _LOWEST_DYNAMIC
        return Outcome(True, f"exit status {status}: weight {weight}", weight)
    return Outcome(status == 0, str(ended))
