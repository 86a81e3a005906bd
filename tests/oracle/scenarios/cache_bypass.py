"""cache_bypass: packets of a firewall mark go past a service that has no usable server."""

from families.marks import bypass
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here, found = plan(9), list[Facts]()
    for family in 4, 6:
        found += bypass(wire, here, family=family, weight=None)
        found += bypass(wire, here, family=family)
        found += bypass(wire, here, family=family, routed=False)
        found += bypass(wire, here, family=family, seconds=60)
        found += bypass(wire, here, family=family, cache_bypass=0)
    return found
