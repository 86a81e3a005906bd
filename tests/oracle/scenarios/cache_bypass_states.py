"""cache_bypass: how the packets of a client move a connection that goes past its service."""

from families.marks import bypass_states
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here = plan(9)
    return [fact for family in (4, 6) for fact in bypass_states(wire, here, family=family)]
