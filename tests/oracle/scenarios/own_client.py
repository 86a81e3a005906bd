"""The director as client of its own NAT services, where its devices refuse sources that are its own."""

from families.places import strict_client
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    found: list[Facts] = []
    for rp_filter in 0, 1, 2:
        found += strict_client(wire, plan(9), rp_filter=rp_filter)
    return found
