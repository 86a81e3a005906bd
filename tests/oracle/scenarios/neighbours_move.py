"""Link addresses that are learnt, change and are forgotten in mid-connection: what of `neighbours` ends well."""

from families.neighbours import gateways, moves, replies
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here, found = plan(9), list[Facts]()
    for family in 4, 6:
        for method in "dr", "nat", "tun":
            found += moves(wire, here, family=family, method=method)
        found += replies(wire, here, family=family) + gateways(wire, here, family=family)
    return found
