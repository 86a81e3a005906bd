"""Measure how long a client waits at a take-over: pylvs and keepalived, in the same run.

Two routers of one program share an address. The master is stopped, or fails with its machine: its link is down at
once. A client sends a request every millisecond; the outage is the longest time between two answered requests.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pylvs.lab.outage import watched
from pylvs.netlink.codec import IFF_UP, IFINFOMSG, NEWLINK, Netlink
from pylvs.netlink.links import device
from pylvs.system.namespaces import inside_network
from tests.interop.vrrp.cell import PATIENCE_S, POLL_S, CellFailed
from tests.interop.vrrp.observer import Observer
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS, Router, router
from tests.interop.vrrp.rows import Row
from tests.interop.vrrp.segment import Segment, port, segment

TRIALS = 10
PROGRAMS = (PYLVS, KEEPALIVED)
KILLED, STOPPED = "killed", "stopped"
INTERVAL_S = 0.001
BEFORE_S, AFTER_S = 0.3, 0.5  # that the client watches besides

CASES = (
    Row("v2, 1 s", 2, 4, 1.0, also="nopreempt", returns=False),
    Row("v3, 100 ms", 3, 4, 0.1, also="nopreempt", returns=False),
    Row("v3, 10 ms", 3, 4, 0.01, also="nopreempt", returns=False),
)
GOALS_MS = {("v3, 10 ms", KILLED): "60, then 35", ("v3, 10 ms", STOPPED): "30, then 11"}


@dataclass
class Times:
    """Outages in seconds, and the time until the other sent."""

    case: Row
    program: str
    how: str
    pauses: list[float] = field(default_factory=list)
    has_sent: list[float] = field(default_factory=list)


def measure(
    cases: Sequence[Row] = CASES,
    programs: Sequence[str] = PROGRAMS,
    trials: int = TRIALS,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Times]:
    """Run all trials, one after another, because two cores are few. Raises CellFailed."""
    found: list[Times] = []
    with tempfile.TemporaryDirectory(prefix="pylvs-times-") as name:
        for case in cases:
            for program in programs:
                progress(f"{case.name}: {program}")
                found += _pair(case, program, trials, Path(name, f"{len(found)}"))
    return found


def _pair(case: Row, program: str, trials: int, folder: Path) -> Iterator[Times]:
    killed, stopped = Times(case, program, KILLED), Times(case, program, STOPPED)
    with segment() as where, Observer(where) as observer, _switch(where) as unplug:
        routers = {host: router(program, where, host, folder / host) for host in ("a", "b")}
        for host, each in routers.items():
            each.configuration.write_text(case.configuration(host, each.folder))
        trial = _Trial(case, where, observer, routers, unplug)
        try:
            trial.begin()
            for _ in range(trials):
                for times in (killed, stopped):
                    pause, has_sent = trial.one(times.how)
                    times.pauses.append(pause)
                    times.has_sent.append(has_sent)
        finally:
            for each in routers.values():
                each.end()
    yield killed
    yield stopped


@contextmanager
def _switch(where: Segment) -> Iterator[Callable[[str], object]]:
    """Yield a function that sets a host's link down at once; a new command would take milliseconds to start."""
    with inside_network(where.switch):
        link = Netlink()
        down = {host: IFINFOMSG.pack(0, 0, device(port(host)).index, 0, IFF_UP) for host in ("a", "b")}
    with link:
        yield lambda host: link.request(NEWLINK, down[host])


@dataclass
class _Trial:
    case: Row
    where: Segment
    observer: Observer
    routers: dict[str, Router]
    unplug: Callable[[str], object]
    master: str = "a"

    def begin(self) -> None:
        """Start a master and a backup."""
        self.routers["a"].start()
        self.until(lambda: self.is_sending("a"), "a router alone speaks")
        self.routers["b"].start()
        self.ready("b")

    def one(self, how: str) -> tuple[float, float]:
        """Stop the master, wait for the take-over, and start the first again as the backup."""
        gone, taking = self.master, "b" if self.master == "a" else "a"
        with watched(self.where.inside("client"), self.case.vip, INTERVAL_S) as seen:
            time.sleep(BEFORE_S)
            begin = time.time()
            if how == KILLED:
                self.unplug(gone)
                self.routers[gone].kill()
            else:
                self.routers[gone].signal_process(signal.SIGTERM)
            self.until(lambda: self.is_sending(taking), f"{taking} has taken over from {gone}, which was {how}")
            time.sleep(AFTER_S)
        if how == KILLED:
            self.forget(gone)
            self.where.cable(gone, 0, True)
        else:
            self.routers[gone].stop()
        has_sent = next(each.at for each in self.observer.advertisements(taking, begin) if each.priority)
        self.routers[gone].start()
        self.ready(gone)
        self.master = taking
        return seen.outage(begin, has_sent + AFTER_S).seconds, has_sent - begin

    def forget(self, host: str) -> None:
        """Remove the addresses, as after a reboot."""
        if self.case.vip in self.where.addresses(host):
            self.where.ip(host, f"addr del {self.case.vip}/32 dev eth0")

    def ready(self, host: str) -> None:
        """Return whether it listens and has received the master."""
        self.until(self.routers[host].listens, f"{host} listens")
        time.sleep(max(0.5, 1.2 * self.case.advert_s))
        if self.is_sending(host):
            raise CellFailed(f"{self.case.name}: {host} came back and took over")

    def is_sending(self, host: str) -> bool:
        """Return whether it sends advertisements as the master."""
        since = time.time() - 2.5 * self.case.advert_s
        return any(each.priority for each in self.observer.advertisements(host, since))

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait. Raises CellFailed."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                logs = [f"{each.host}: {line}" for each in self.routers.values() for line in each.log()[-8:]]
                raise CellFailed("\n    ".join([f"{self.case.name}: after {PATIENCE_S:g} s still not: {what}", *logs]))
            time.sleep(POLL_S)


def table(found: Sequence[Times]) -> str:
    """Return a Markdown table: medians in milliseconds, the longest in brackets."""
    programs = list(dict.fromkeys(each.program for each in found))
    head = ["advertisements", "the master is", *(f"{program}: pause" for program in programs)]
    head += [*(f"{program}: until the other speaks" for program in programs), "goal, ms"]
    lines = [_line(head), "|---" * len(head) + "|"]
    for case in dict.fromkeys(each.case for each in found):
        for how in (KILLED, STOPPED):
            those = {each.program: each for each in found if each.case == case and each.how == how}
            cells = [_figure(those[program].pauses) for program in programs]
            cells += [_figure(those[program].has_sent) for program in programs]
            lines.append(_line([case.name, how, *cells, GOALS_MS.get((case.name, how), "")]))
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(seconds: Sequence[float]) -> str:
    return f"{median(seconds) * 1000:.0f} ms ({max(seconds) * 1000:.0f})"
