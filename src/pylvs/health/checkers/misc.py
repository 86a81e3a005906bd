"""MISC_CHECK: run a program. Its exit status is the outcome."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pylvs.health.probes import CheckContext, Outcome, Probe
from pylvs.model.checks import MiscCheck

if TYPE_CHECKING:
    from pylvs.system.processes.scripts import Ended

log = logging.getLogger(__name__)
_LOWEST_DYNAMIC = 2  # this exit status is weight 0, the next weight 1 ...


def probe(check: MiscCheck, context: CheckContext) -> Probe:
    """Return a probe that runs the program and logs its output; a failure's reason has one line of it.

    The log has the output of the first run and of each with another end than the one before; at level debug, of all.
    """
    before = ""

    async def ask() -> Outcome:
        nonlocal before
        if context.processes is None:
            return Outcome(False, "scripts are not run")
        ended = await context.processes.run(check.script, check.pace.timeout_s)
        level = logging.DEBUG if ended.how == before else logging.INFO
        before = ended.how
        for line in ended.lines():
            log.log(level, "output of %s %s (%s): %s", check.keyword, check.script, ended.how, line)
        return outcome(ended, check.dynamic)

    return ask


def outcome(ended: Ended, dynamic: bool) -> Outcome:
    """Return the outcome of a program. With `dynamic`, exit statuses from 2 to 255 are weights.

    Any other exit keeps the configured weight. If this host could not start the program, or its script runner was
    killed, the outcome is inconclusive.
    """
    if ended.unable:
        return Outcome(False, str(ended), inconclusive=True)
    status = None if ended.timed_out else ended.status
    if dynamic and status is not None and status >= _LOWEST_DYNAMIC:
        weight = status - _LOWEST_DYNAMIC
        return Outcome(True, f"exit status {status}: weight {weight}", weight)
    return Outcome(status == 0, str(ended))
