"""Play one cell: pylvs has a BFD session with another program, which is reconfigured, disabled, stopped and killed.

Nothing here asserts how long something took. A cell waits for states, and for the events that must come between them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pylvs.system.namespaces import inside_network
from tests.interop.bfd.peers import BIRD, FRR, KEEPALIVED, PROGRAMS, PYLVS, Link, Peer, PylvsPeer
from tests.interop.vrrp.segment import Segment, address, segment

PATIENCE_S = 180.0  # some times the longest detection time
POLL_S = 0.2
PACKETS = 30  # that show that a session stays up
EXPIRED = "Control Detection Time Expired"
SIGNALED = "Neighbor Signaled Session Down"
OTHER_PROGRAMS = (KEEPALIVED, FRR, BIRD, PYLVS)


@dataclass(frozen=True)
class Cell:
    """A neighbor of pylvs, and the path to it."""

    program: str
    family: int
    multihop: bool

    @property
    def name(self) -> str:
        """Return the name for logs and tests."""
        return f"{self.program}, IPv{self.family}, {'multihop' if self.multihop else 'single hop'}"


CELLS = tuple(
    Cell(program, family, multihop) for program in OTHER_PROGRAMS for family in (4, 6) for multihop in (False, True)
)


class CellFailed(Exception):
    """A step has a wrong result."""


@dataclass
class Result:
    """The steps that succeeded, and the error of the one that did not."""

    cell: Cell
    steps: list[str] = field(default_factory=list)
    error: str = ""


@contextmanager
def hosts(cell: Cell) -> Iterator[tuple[Segment, Link, Link]]:
    """Make two hosts on one link, or on two links with a router between; yield both views of the session."""
    with segment() as where:
        far = int(cell.multihop)
        here, there = address("a", 0, cell.family), address("b", far, cell.family)
        if cell.multihop:
            _route(where, cell.family)
        yield where, Link(here, there, cell.multihop), Link(there, here, cell.multihop)


def _route(where: Segment, family: int) -> None:
    """Leave each host one link, and let the third host forward between them."""
    where.ip("a", "link set eth1 down")
    where.ip("b", "link set eth0 down")
    networks = ("10.66.0.0/24", "10.66.1.0/24") if family == 4 else ("fd00:66:0:0::/64", "fd00:66:0:1::/64")
    with inside_network(where.path("client")):
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", name).write_text("1", encoding="ascii")
    where.ip("a", f"-{family} route replace {networks[1]} via {address('client', 0, family)}")
    where.ip("b", f"-{family} route replace {networks[0]} via {address('client', 1, family)}")


def play(cell: Cell) -> Result:
    """Run a cell."""
    result = Result(cell)
    with tempfile.TemporaryDirectory(prefix="pylvs-bfd-") as name, hosts(cell) as (where, ours, theirs):
        Path(name).chmod(0o755)  # FRR runs as its own user
        folders = [Path(name, host) for host in ("a", "b")]
        for folder in folders:
            folder.mkdir(mode=0o755)
        rfc_port = cell.program in (FRR, BIRD)
        a = PylvsPeer(where, "a", folders[0], ours, rfc_port=rfc_port)
        b = PROGRAMS[cell.program](where, "b", folders[1], theirs)
        try:
            _Play(a, b, result).run()
        except (CellFailed, AssertionError, KeyError) as error:
            logs = [f"{each.host}: {line}" for each in (a, b) for line in each.log()[-12:]]
            text = str(error) if isinstance(error, CellFailed) else repr(error)
            result.error = "\n    ".join([text, str(a.session()), *logs])
        finally:
            for each in (a, b):
                each.end()
    return result


def is_up(session: Mapping[str, Any]) -> bool:
    return session.get("state") == "Up" and bool(session["up"])


@dataclass
class _Play:
    a: PylvsPeer
    b: Peer
    result: Result

    def run(self) -> None:
        """Run all steps in order."""
        for daemon in (self.a, self.b):
            daemon.write()
            daemon.start()
        self.both_up("up")
        self.stays("up")
        self.reload(self.a, 200, self.b)
        self.reload(self.b, 300, self.a)
        if self.b.disables:
            self.disabled()
        self.killed()
        self.a_stops()

    # --- steps ---

    def reload(self, changed: Peer, interval_ms: int, other: Peer) -> None:
        """Change the interval of one side, which a poll sequence makes known to the other."""
        before = other.detection()
        changed.interval_ms = interval_ms
        changed.write()
        changed.reload()
        step = f"{'pylvs' if changed is self.a else 'neighbor'} reloads"
        self.until(lambda: other.detection() != before, f"{step}: the other side has the interval")
        longest = float(max(self.a.interval_ms, self.b.interval_ms))
        self.until(lambda: self.a.session().get("interval_ms") == longest, f"{step}: pylvs sends each {longest:g} ms")
        self.until(lambda: self.a.session().get("polling") is False, f"{step}: the poll sequence ends")
        self.stays(step)

    def disabled(self) -> None:
        """Let the neighbor disable the session: it is down, but that says nothing about the path."""
        self.b.set_enabled(False)
        self.until(lambda: self.a.session().get("state") == "Down", "disabled: down")
        session = self.session()
        self.expect(session["remote_state"] == "AdminDown" or session["held"], "disabled: the neighbor is AdminDown")
        self.expect(session["up"] is True and session["held"] is True, "disabled: the result stays")
        self.b.set_enabled(True)
        self.both_up("enabled again")

    def killed(self) -> None:
        """Kill the neighbor: no packet follows, and the detection time ends the session."""
        flaps = self.session()["flaps"]
        self.b.kill()
        received = self.received_in_all("killed")
        self.until(lambda: self.a.session().get("state") == "Down", "killed: down")
        session = self.session()
        self.expect(session["diagnostic"] == EXPIRED, f"killed: {session['diagnostic']}")
        self.expect(session["up"] is False, "killed: the result is down")
        self.expect(session["flaps"] == flaps + 1, "killed: one flap")
        self.expect(session["counters"]["received"] - received <= 1, "killed: packets came from a dead neighbor")
        self.result.steps.append("killed")
        self.b.start()
        self.both_up("back")

    def a_stops(self) -> None:
        """Stop pylvs in good order: the neighbor learns it from a packet."""
        self.a.stop()
        self.until(lambda: not self.b.is_up(), "pylvs stops: the neighbor is down")
        self.result.steps.append("stopped")

    # --- conditions ---

    def both_up(self, step: str) -> None:
        self.until(lambda: is_up(self.a.session()), f"{step}: pylvs is up")
        self.until(self.b.is_up, f"{step}: the neighbor is up")
        self.result.steps.append(step)

    def stays(self, step: str) -> None:
        """Check that the session stays up for a number of packets, and is the same one."""
        session = self.session()
        flaps, enough = session["flaps"], session["counters"]["received"] + PACKETS
        self.until(lambda: self.session()["counters"]["received"] >= enough, f"{step}: packets arrive")
        self.expect(self.session()["flaps"] == flaps == 0, f"{step}: it went down")
        if step not in self.result.steps:
            self.result.steps.append(step)

    def received_in_all(self, step: str) -> int:
        """Return how many packets pylvs has received, when it has also counted those that were queued."""
        counts: list[int] = []

        def settled() -> bool:
            counts.append(self.session()["counters"]["received"])
            return len(counts) > 1 and counts[-1] == counts[-2]

        self.until(settled, f"{step}: pylvs has counted all packets")
        return counts[-1]

    def session(self) -> dict[str, Any]:
        """Return the status of pylvs's session, once its process answers."""
        found: list[dict[str, Any]] = []

        def answers() -> bool:
            found.append(self.a.session())
            return bool(found[-1])

        self.until(answers, "pylvs has the session")
        return found[-1]

    def until(self, holds: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > end:
                raise CellFailed(f"{what}: not within {PATIENCE_S:g} s")
            time.sleep(POLL_S)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            raise CellFailed(what)
