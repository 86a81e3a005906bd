"""BFD_CHECK: a BFD session is up."""

from __future__ import annotations

from pylvs.health.probes import CheckContext, Outcome, Probe, constant_probe
from pylvs.model.checks import BfdCheck


def probe(check: BfdCheck, context: CheckContext) -> Probe:
    """Return a probe that reads the session's result. It waits for a result that is not known yet."""
    sessions = context.sessions
    if sessions is None:
        return constant_probe(Outcome(False, "no BFD sessions run here", inconclusive=True))

    async def ask() -> Outcome:
        well, detail = await sessions.known(check.session, check.pace.timeout_s)
        text = f"session {check.session} is {'unknown' if well is None else 'up' if well else 'down'}"
        return Outcome(bool(well), f"{text}: {detail}" if detail else text, inconclusive=well is None)

    return ask
