"""IP-in-IP tunnels of one family inside the other: a whole connection, header fields, sizes around the MTU."""

from families.forwarding import Path
from families.forwarding import run as forwarding
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    found: list[Facts] = []
    for family, real_family in (4, 6), (6, 4):
        found += forwarding(wire, Path(plan(9), "tun", family, real_family, name=f"ipip v{family} in v{real_family}"))
    return found
