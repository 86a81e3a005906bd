"""Let directors of the lab `ecmp` die, return, leave and join, and count the connections that keep their server."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise

from bench.program import expect
from pylvs.lab.demo import KEPT, LongConnections
from pylvs.lab.files import CONFIGURATION
from pylvs.lab.lab import Lab, power_off, power_on
from pylvs.lab.network import DIRECTOR
from pylvs.model.sync.daemons import ROLES

SERVERS = 4
DIRECTORS = tuple(f"{DIRECTOR}{number}" for number in range(1, 5))
CHANGED = DIRECTORS[1]  # the director that dies, returns, leaves and joins
OTHERS = tuple(each for each in DIRECTORS if each != CHANGED)
KILLED, ADDED, LEFT, JOINED = "killed", "added", "left", "joined again"
EVENTS = (KILLED, ADDED, LEFT, JOINED)
SYNC = "lvs_sync_daemon eth0 id 7"
_TURN_ON = f"sed -i 's/^global_defs {{/&\\n    {SYNC}/' {CONFIGURATION} && pylvs reload"


@dataclass(frozen=True, slots=True)
class Found:
    """How many established connections kept their server in an event."""

    event: str
    scheduler: str
    sync: bool
    established: int
    kept: int

    @property
    def theory(self) -> int:
        """Return how many should: all with mh or with sync, else those that stay or meet their server by chance."""
        if self.sync or self.scheduler == "mh":
            return self.established
        lost = moved(DIRECTORS, OTHERS) * (1 - Fraction(1, SERVERS))
        return round(self.established * (1 - lost))


def moved(before: Sequence[str], after: Sequence[str]) -> Fraction:
    """Return the share of flows that Linux moves to another next hop: each has an equal interval of hashes."""
    bounds = sorted({Fraction(i, len(hops)) for hops in (before, after) for i in range(len(hops) + 1)})
    found = Fraction(0)
    for low, high in pairwise(bounds):
        first, second = (hops[int(low * len(hops))] for hops in (before, after))
        found += high - low if first != second else 0
    return found


def paths(lab: Lab) -> set[str]:
    """Return the directors to which the router sends packets to the VIP."""
    six = "-6 " if lab.network.version == 6 else ""
    found = lab.sh("router", f"ip {six}route show {lab.network.vip}")
    names = {address: name for name, address in lab.network.names().items() if name in DIRECTORS}
    return {names[address] for address in re.findall(r"via (\S+)", found)}


def play(lab: Lab, sync: bool, count: int, say: Callable[[str], None] = lambda _: None) -> Iterator[Found]:
    """Yield what each event did to so many established connections. Raises PylvsError."""
    if sync:
        for director in DIRECTORS:
            lab.sh(director, _TURN_ON)
        for director in DIRECTORS:
            expect(partial(_syncs, lab, director), f"sync daemons of {director}")
    for event in EVENTS:
        adds = event in (ADDED, JOINED)
        before, after = (OTHERS, DIRECTORS) if adds else (DIRECTORS, OTHERS)
        expect(partial(_leads_to, lab, before), f"routes before a director is {event}")
        with closing(LongConnections(lab, count)) as connections:
            if sync:
                expect(partial(_hold, lab, before, connections.ports()), "copies of the connections")
            _change(lab, event)
            if sync and adds:
                expect(partial(_hold, lab, after, connections.ports()), "copies at the added director")
            expect(partial(_leads_to, lab, after), f"routes after a director is {event}")
            kept = Counter(connections.ask())[KEPT]
        found = Found(event, lab.network.scheduler, sync, count, kept)
        say(f"{found.scheduler}, {'with' if sync else 'without'} sync, {event}: {kept:,} of {count:,}")
        yield found


def _change(lab: Lab, event: str) -> None:
    if event == KILLED:
        power_off(lab, CHANGED)
    elif event == ADDED:
        power_on(lab, CHANGED)
    else:
        lab.sh(CHANGED, f"pylvs director {'leave' if event == LEFT else 'join'}")


def _leads_to(lab: Lab, directors: Sequence[str]) -> bool:
    return paths(lab) == set(directors)


def _syncs(lab: Lab, director: str) -> bool:
    return len(json.loads(lab.sh(director, "pylvs sync --json"))) == len(ROLES)


def _hold(lab: Lab, directors: Sequence[str], ports: set[int]) -> bool:
    """Return whether these directors have the connections of all ports of the client."""
    client = lab.network.role("client")[0].interfaces[0].addresses[0].partition("/")[0]
    return all(
        ports <= {int(each) for each in re.findall(rf"ESTABLISHED \[?{re.escape(client)}\]?:(\d+)", listing)}
        for listing in (lab.sh(each, "ipvsadm -Lnc") for each in directors)
    )
