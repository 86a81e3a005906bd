"""Run in a guest: every scheduler beside its reference, so that what that kernel's verifier leaves out shows.

It prints a line for each scheduler, or how the choices differ.
"""

from __future__ import annotations

import sys

from pylvs.model.scheduler import SCHEDULERS
from pylvs.model.service import ServiceFlag
from tests.packet.host import Host, new_host
from tests.packet.test_schedulers_reference import Twin

WEIGHTS = (2, 1, 3, 0, 3)  # the first added is the last listed: neither end has the greatest
CONNECTIONS = 16


def choices(host: Host, scheduler: str) -> list[tuple[int | None, int | None]]:
    """Of each connection, the server that got it and the one the reference says."""
    made: list[tuple[int | None, int | None]] = []
    twin = Twin(host, host.new_key(), scheduler, ServiceFlag(0))
    for number, weight in enumerate(WEIGHTS, 1):
        twin.add(number, weight)
    for client in range(CONNECTIONS):
        twin.connect(0xC6120000 + client, lambda *both: made.append(both))
        if client % 3 == 2:
            twin.finish(client // 2)
    return made


def main() -> int:
    """0 if all choices are the reference's."""
    differing = False
    with new_host() as host:
        for scheduler in SCHEDULERS:
            made = choices(host, scheduler)
            wrong = any(got != wanted for got, wanted in made)
            differing |= wrong
            print(f"{scheduler}: {f'not as the reference: {made}' if wrong else 'as the reference'}", flush=True)
    return int(differing)


if __name__ == "__main__":
    sys.exit(main())
