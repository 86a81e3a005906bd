"""Virtual addresses and real servers that no interface holds, but that local routes deliver to the director."""

from families.places import routed
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    found: list[Facts] = []
    for family in 4, 6:
        for default in True, False:
            found += routed(wire, plan(9), family=family, default=default)
    return found
