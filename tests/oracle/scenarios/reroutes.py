"""Replies of NAT where routing from the virtual address has another gateway, MTU, or no route."""

from families.reroutes import run as reroutes
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    return [step for family in (4, 6) for step in reroutes(wire, plan(9), family=family)]
