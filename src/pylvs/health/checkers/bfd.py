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
        up, detail = await sessions.known(check.session, check.pace.timeout_s)
        text = f"session {check.session} is {'unknown' if up is None else 'up' if up else 'down'}"
        return Outcome(bool(up), f"{text}: {detail}" if detail else text, inconclusive=up is None)

    return ask
