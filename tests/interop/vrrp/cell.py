"""Run one cell of the matrix: two routers start, and the better one is stopped, started again, and killed.

At every step only one router may send and have the addresses, and the client's packets must reach it.
"""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pylvs.lab.outage import Probe
from pylvs.system.namespaces import inside_network
from tests import ledger
from tests.interop.vrrp.observer import AH, IPV4, IPV6, Captured, Observer
from tests.interop.vrrp.routers import Router, router
from tests.interop.vrrp.rows import PRIORITY, SECOND_VRID, VRID, Event, Row
from tests.interop.vrrp.segment import Segment, mac, segment

PATIENCE_S = 60.0  # the machine may be busy with other tests
POLL_S, ANSWER_S = 0.05, 0.3
KILLS = 3  # attempts to measure on the wire how long the other waited
EARLY = 0.98  # of the master down interval: clocks of two processes differ
PLAYS = 3  # attempts to play a cell without a pause of the master
VIRTUAL_MAC = {4: "00:00:5e:00:01", 6: "00:00:5e:00:02"}


class CellFailed(Exception):
    """A step has a wrong result."""


@dataclass
class Result:
    """The result of a cell: seconds until the other sent, or an error; `spoken` is a frame of the master."""

    row: Row
    better: str
    other: str
    steps: dict[str, float] = field(default_factory=dict)
    error: str = ""
    frame: bytes = b""

    @property
    def name(self) -> str:
        """Return the name for logs."""
        return f"{self.row.name}: {self.better} → {self.other}"


def play(row: Row, better: str, other: str, folder: Path) -> Result:
    """Run a cell; `folder` must not exist yet.

    A master that pauses for the master down interval loses its role, and rightly so. A cell that fails after such a
    pause is played again.
    """
    for attempt in range(PLAYS):
        begin = time.monotonic()
        result, pause = _play_once(row, better, other, folder / str(attempt))
        if not result.error or not pause:
            break
        ledger.record(f"vrrp matrix: {result.name}", f"{pause}: {result.error}", time.monotonic() - begin)
    return result


def _play_once(row: Row, better: str, other: str, folder: Path) -> tuple[Result, str]:
    """Return the result, and which master paused; "" for none."""
    result = Result(row, better, other)
    with segment() as where, Observer(where) as observer:
        a, b = router(better, where, "a", folder / "a"), router(other, where, "b", folder / "b")
        try:
            _Cell(row, where, observer, a, b, result).run()
        except CellFailed as error:
            logs = [f"{each.host}: {line}" for each in (a, b) for line in each.log()[-8:]]
            result.error = "\n    ".join([str(error), *logs])
        finally:
            for each in (a, b):
                each.end()
        sent = [each for host in ("a", "b") for each in observer.advertisements(host, vrid=VRID)]
    return result, master_paused(row, sent, {"a": a.commanded, "b": b.commanded})


def master_paused(row: Row, sent: Iterable[Captured], commanded: Mapping[str, Sequence[float]]) -> str:
    """Return which master was silent until the other could know that it is down, though nothing had been done to it."""
    spoken = sorted((each for each in sent if each.priority), key=lambda each: each.at)
    for last, first in itertools.pairwise(spoken):
        silent_s = first.at - last.at
        if first.host == last.host or silent_s < row.down_s(PRIORITY[first.host]) * EARLY:
            continue
        if not any(last.at < at < first.at for at in commanded[last.host]):
            return f"{last.host} paused for {silent_s:.2f} s"
    return ""


@dataclass
class _Cell:
    row: Row
    where: Segment
    observer: Observer
    a: Router
    b: Router
    result: Result

    def run(self) -> None:
        """Run all steps in order."""
        for each in (self.b, self.a):
            each.configuration.write_text(self.row.configuration(each.host, each.folder))
        if not self.row.returns:
            self.a.start()  # the first master stays
            self.until(lambda: self.is_sending("a"), "a router alone speaks")
            self.b.start()
        else:
            self.b.start()
            self.a.start()
        self.settled("a", "election")
        self.until(self.b.listens, "the other listens")
        self.continues("a", "once the other listens")
        self.settled("a", "once the other listens")
        self.result.frame = self.frame()
        if self.row.event is not None:
            self.event()
        self.taken_over("stopped", self.a.stop)
        if not any(captured.priority == 0 for captured in self.observer.advertisements("a")):
            raise CellFailed("stopped: the master did not announce its stop")
        self.back()
        self.killed()
        self.back()
        for daemon in (self.a, self.b):
            if refusals := daemon.refusals():
                raise CellFailed(f"{daemon.host} complains: {refusals[0]}")

    # --- steps ---

    def taken_over(self, step: str, how: Callable[[], None], gone: str = "") -> None:
        """Check a take-over from `a` to `b`; return its duration on the wire."""
        begin = time.time()
        how()
        self.settled("b", step, gone=gone)
        self.result.steps[step] = self.first("b", begin).at - begin

    def killed(self) -> None:
        """Check that the other takes over when it can know that the master is down, and not before.

        A machine that stands still for longer makes the other master while the first still runs. Then the wire does not
        show how long the other waited, and the step is repeated.
        """
        for _ in range(KILLS):
            self.until(lambda: not self.has_sent("b"), "killed: the other is silent before")
            begin, since = time.monotonic(), time.time()
            self.taken_over("killed", self.a.kill, gone="a")
            last = self.observer.advertisements("a", vrid=VRID)[-1]
            if not any(since < each.at <= last.at for each in self.observer.advertisements("b", since, VRID)):
                self.not_too_soon(last)
                return
            took = time.monotonic() - begin
            ledger.record(f"vrrp matrix: {self.result.name}", "the other spoke before the master was killed", took)
            self.back()
        raise CellFailed(f"killed: in each of {KILLS} attempts the other spoke before")

    def back(self) -> None:
        """Start `a` again, and check the result."""
        begin = time.time()
        self.a.start()
        if self.row.returns:
            self.settled("a", "return")
            took = self.first("a", begin).at - begin
            if took < self.row.delay_s:
                raise CellFailed(f"return: after {took:.2f} s already, in spite of preempt_delay")
            return
        self.until(self.a.listens, "it listens again")
        self.continues("b", "return")
        self.settled("b", "return: the other stays master")
        if self.observer.advertisements("a", begin):
            raise CellFailed("return: it spoke in spite of nopreempt")
        self.b.stop()
        self.settled("a", "the other stopped")
        self.b.start()
        self.until(self.b.listens, "the other listens again")
        self.continues("a", "the other is back")
        self.settled("a", "the other is back")

    def event(self) -> None:
        """Fail what is tracked, and restore it."""
        begin = time.time()
        self.fail(True)
        self.settled("b", "failed")
        self.result.steps["failed"] = self.first("b", begin).at - begin
        self.fail(False)
        self.settled("a", "restored")

    def fail(self, failed: bool) -> None:
        """Fail what this row tracks."""
        self.a.commanded.append(time.time())
        if self.row.event is Event.CABLE:
            self.where.cable("a", 1, not failed)
        elif failed:
            (self.a.folder / "down").touch()
        else:
            (self.a.folder / "down").unlink()

    # --- conditions ---

    def settled(self, master: str, step: str, gone: str = "") -> None:
        """Check for one master: on the wire, by addresses, and for the client."""
        backup = "b" if master == "a" else "a"
        vips = {self.row.vip, *((self.row.other_vip,) if self.row.second else ())}
        self.until(lambda: self.is_sending(master) and not self.is_sending(backup), f"{step}: {master} alone speaks")
        self.until(lambda: vips <= self.where.addresses(master), f"{step}: {master} holds the addresses")
        if not gone:
            self.until(lambda: not vips & self.where.addresses(backup), f"{step}: {backup} holds no address")
        expected = f"{VIRTUAL_MAC[self.row.family]}:{VRID:02x}" if self.row.vmac else mac(master)
        self.until(lambda: bool(self.observer.claims(master, self.row.vip)), f"{step}: {master} claims the address")
        self.until(lambda: answered(self.where.path("client"), self.row.vip), f"{step}: the client is answered")
        self.until(
            lambda: self.where.neighbour(self.row.vip) == expected,
            f"{step}: the client knows {expected}",
            lambda: f", but {self.where.neighbour(self.row.vip) or 'none'}",
        )

    def continues(self, master: str, step: str) -> None:
        """Wait for one more advertisement than the other's master down interval has."""
        begin = time.time()
        self.until(lambda: len(self.observer.advertisements(master, begin, VRID)) > 4, f"{step}: {master} continues")

    def is_sending(self, host: str) -> bool:
        """Return whether a router recently sent advertisements of a master, for every instance."""
        since = time.time() - 2.5 * self.row.advert_s
        captured = {each.vrid for each in self.observer.advertisements(host, since) if each.priority}
        return captured == ({VRID, SECOND_VRID} if self.row.second else {VRID})

    def has_sent(self, host: str) -> bool:
        """Return whether a router recently sent any advertisement."""
        return bool(self.observer.advertisements(host, time.time() - 2.5 * self.row.advert_s))

    def first(self, host: str, since: float) -> Captured:
        """Return its first advertisement since a time."""
        captured = [each for each in self.observer.advertisements(host, since, VRID) if each.priority]
        if not captured:
            raise CellFailed(f"{host} spoke too soon")
        return captured[0]

    def not_too_soon(self, last: Captured) -> None:
        """Compare with the master down interval since the master's last advertisement.

        The other starts its timer after it has received that, so a delay of the machine cannot make it look early.
        """
        took = self.first("b", last.at).at - last.at
        if took < self.row.down_s(PRIORITY["b"]) * EARLY:
            raise CellFailed(f"killed: taken over after {took:.3f} s, before the master could be known to be down")

    def frame(self) -> bytes:
        """Return a frame of the master without the fields that always differ."""
        return without_numbers(self.observer.advertisements("a", vrid=VRID)[-1])

    def until(self, holds: Callable[[], bool], what: str, instead: Callable[[], str] = str) -> None:
        """Wait. Raises CellFailed, with what holds `instead`."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise CellFailed(f"after {PATIENCE_S:g} s still not: {what}{instead()}")
            time.sleep(POLL_S)


def answered(client: Path, address: str) -> bool:
    """Return whether an address answers a client at once."""
    with inside_network(client):
        probe = Probe(address)
    try:
        probe.ask()
        select.select([probe], [], [], ANSWER_S)
        return bool(list(probe.answers()))
    finally:
        probe.close()


def without_numbers(captured: Captured) -> bytes:
    """Return a frame with zeros for IPv4's identification and checksum, and AH's sequence number and digest.

    IPv6's flow label is zero, too, because the kernel derives it from a number of this boot. So is the hop limit of
    IPv6 unicast, which keepalived leaves at 64.
    """
    frame = bytearray(captured.frame)
    if captured.kind == IPV6:
        frame[15:18] = bytes((frame[15] & 0xF0, 0, 0))
        if frame[0] & 1 == 0:
            frame[21] = 0
    if captured.kind == IPV4:
        frame[18:20] = frame[24:26] = bytes(2)
        if captured.protocol == AH:
            frame[42:58] = bytes(16)
    return bytes(frame)
