"""Persistence by Call-ID: every character in one, and behind the short name of its header."""

from families.sip import characters
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    return list(characters(wire, plan(9)))
