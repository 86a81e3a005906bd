"""LOAD_CHECK: set the weight by the load that the server reports. It never removes a server.

The server has node_exporter's page of metrics, a page with a metric of the operator, or a page with one number.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO, cast

from pylvs.health.checkers.deadline import Deadline, in_thread
from pylvs.health.checkers.http import ResponseReader, read_body
from pylvs.health.checkers.sockets import Endpoint, TcpStream
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed, constant_probe, quoted
from pylvs.model.addresses import endpoint as written
from pylvs.model.checks import LoadCheck, LoadSource
from pylvs.model.dataclass import dataclass, field

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

LOAD1, CPU_SECONDS = "node_load1", "node_cpu_seconds_total"
_MAX_NUMBER = 64  # bytes
_MAX_LINES = 20_000  # of one metric: 2048 processors with 8 modes each have fewer
_MAX_LINE = 4096  # bytes of a sample with all its labels
_PARSE_IN_LOOP = 1 << 12  # bytes; longer pages are parsed in a thread
_METRICS = {LoadSource.LOAD1_PER_CORE: (LOAD1, CPU_SECONDS), LoadSource.CPU_BUSY: (CPU_SECONDS,)}


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since the server's start for each processor: in total, and idle."""

    total: Mapping[str, float]
    idle: Mapping[str, float]

    def busy_since(self, before: CpuTimes) -> float | None:
        """Return the busy share since an earlier page, 0 to 1; waiting for disks is busy.

        None if no time passed, the server was restarted, or its number of processors changed.
        """
        if self.total.keys() != before.total.keys():
            return None
        spent = [self.total[cpu] - before.total[cpu] for cpu in self.total]
        if min(spent, default=0.0) < 0 or sum(spent) <= 0:
            return None
        idle = sum(self.idle.values()) - sum(before.idle.values())
        return min(max(1 - idle / sum(spent), 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric by name and some of its labels, as in Prometheus: `queue{pool="web"}`."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Selector:
        """Parse a selector. Raises ProbeFailed."""
        samples = _samples([f"{text} 0"], f"'{text}'")
        if len(samples) != 1:
            raise ProbeFailed(f"'{text}' names no metric")
        return cls(samples[0].name, samples[0].labels)

    def value(self, samples: Iterable[Sample]) -> float:
        """Return the sum of all samples with the name and labels. Raises ProbeFailed if there are none."""
        found = [
            sample.value
            for sample in samples
            if sample.name == self.name and self.labels.items() <= sample.labels.items()
        ]
        if not found:
            labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
            raise ProbeFailed(f"the page has no {self.name}" + (f"{{{labels}}}" if labels else ""))
        return _finite(sum(found), self.name)


def parse_page(
    page: bytes, check: LoadCheck, selector: Selector | None, over: Callable[[], bool] = lambda: False
) -> float | CpuTimes:
    """Return the load of a page, or CPU times to be compared with those of a second page. Raises ProbeFailed.

    A page with one number is the load itself, for every source. It ends before the next line if `over` returns True.
    """
    number = _single_number(page)
    if number is not None:
        return number
    names = (selector.name,) if selector else _METRICS[check.source]
    samples = _samples(_until(over, _lines_of(page, names)), "the page")
    if selector:
        return selector.value(samples)
    times = _cpu_times(samples)
    if check.source is LoadSource.CPU_BUSY:
        return times
    return Selector(LOAD1).value(samples) / len(times.total)


def _single_number(page: bytes) -> float | None:
    text = page.strip()
    if not text or len(text) > _MAX_NUMBER:
        return None
    try:
        return _finite(float(text), "the page")
    except ValueError:
        return None


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value) or value < 0:
        raise ProbeFailed(f"{what} is {value:g}, which is not a load")
    return value


def _until(over: Callable[[], bool], lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if over():
            raise ProbeFailed("the page takes too long")
        yield line


def _lines_of(page: bytes, names: Iterable[str]) -> list[str]:
    """Return the lines of these metrics: parsing all of a page's thousands of lines takes long."""
    several = b"|".join(re.escape(name.encode()) for name in names)
    lines = []
    for found in re.finditer(rb"^(?:%b)[ {\t][^\n]*" % several, page, re.MULTILINE):
        if len(found[0]) > _MAX_LINE:
            raise ProbeFailed(f"the page has a line of more than {_MAX_LINE} bytes: {quoted(found[0])}")
        lines.append(found[0].decode(errors="replace"))
        if len(lines) > _MAX_LINES:
            raise ProbeFailed(f"the page has more than {_MAX_LINES:,} lines of {' and '.join(names)}")
    return lines


def _samples(lines: Iterable[str], what: str) -> list[Sample]:
    """Parse lines. Raises ProbeFailed."""
    from prometheus_client.parser import text_fd_to_metric_families  # late: few checks read metrics

    try:
        families = text_fd_to_metric_families(cast("TextIO", lines))  # it iterates over lines
        return [sample for family in families for sample in family.samples]
    except (ProbeFailed, MemoryError):
        raise
    except Exception as error:  # the parser does not document its exceptions
        raise ProbeFailed(f"{what} is not in Prometheus's text format: {quoted(str(error).encode())}") from None


def _cpu_times(samples: Iterable[Sample]) -> CpuTimes:
    total: dict[str, float] = {}
    idle: dict[str, float] = {}
    for sample in samples:
        if sample.name == CPU_SECONDS and "cpu" in sample.labels:
            cpu = sample.labels["cpu"]
            seconds = _finite(sample.value, CPU_SECONDS)
            total[cpu] = total.get(cpu, 0.0) + seconds
            if sample.labels.get("mode") == "idle":
                idle[cpu] = seconds
    if not total or total.keys() != idle.keys():
        raise ProbeFailed(f'the page has no {CPU_SECONDS}{{mode="idle"}} of each processor')
    return CpuTimes(total, idle)


_MAX_LOAD = 2.0  # times `full`: the limit of a reading, so that the smoothed load falls soon after a peak


@dataclass(frozen=True, slots=True)
class LoadRule:
    """The function from load to weight, for a server with this configured weight."""

    check: LoadCheck
    configured: int

    @property
    def least(self) -> int:
        """The lowest weight: the floor, and at least 1 if the configured weight is not 0."""
        return min(max(math.ceil(self.configured * self.check.floor), 1), self.configured)

    def aim(self, load: float) -> int:
        """Return the weight for this load, without history."""
        share = 1 - load / self.check.full
        return min(max(round(self.configured * max(share, 0.0)), self.least), self.configured)

    @property
    def step(self) -> int:
        """The smallest change, except for the last one to the lowest or the full weight."""
        return max(math.ceil(self.configured * self.check.hysteresis), 1)


@dataclass(frozen=True, slots=True)
class LoadState:
    """The state between readings; with weight None the configured weight counts."""

    load: float | None = None  # smoothed
    weight: int | None = None
    missed: int = 0  # failed readings in a row

    def after(self, load: float, rule: LoadRule) -> LoadState:
        """Return the state after a reading. It reaches both ends exactly, so that a server returns to full weight."""
        load = min(load, _MAX_LOAD * rule.check.full)
        share = rule.check.smoothing  # of the old value
        smoothed = load if self.load is None else share * self.load + (1 - share) * load
        aim = rule.aim(smoothed)
        now = rule.configured if self.weight is None else self.weight
        small = abs(aim - now) < rule.step and aim not in (rule.least, rule.configured)
        return LoadState(smoothed, now if small else aim)

    def without(self, rule: LoadRule) -> LoadState:
        """Return the state after a failed reading: as before, until `patience` readings have failed."""
        missed = self.missed + 1
        return LoadState(missed=missed) if missed > rule.check.patience else LoadState(self.load, self.weight, missed)


SECOND_PAGE_AFTER_S = 1.0  # at the first probe, if the load is a difference between two pages


def probe(check: LoadCheck, context: CheckContext) -> Probe:
    """Return a probe that keeps the load between calls."""
    try:
        selector = Selector.of(check.metric) if check.source is LoadSource.METRIC else None
    except ProbeFailed as error:
        return constant_probe(Outcome(True, str(error)))
    return _Load(check, context, selector)


class _Load:
    """The load of one server: a `StatefulProbe`."""

    def __init__(self, check: LoadCheck, context: CheckContext, selector: Selector | None) -> None:
        self._check = check
        self._selector = selector
        self._endpoint = Endpoint(check.target)
        self._rule = LoadRule(check, context.weight)
        self._state = LoadState()
        self._times: CpuTimes | None = None  # of the last page
        host = written(check.target.address, check.target.port)
        self._request = (
            f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pylvs\r\n"
            "Accept: text/plain\r\nConnection: close\r\n\r\n"
        ).encode(errors="surrogateescape")

    async def __call__(self) -> Outcome:
        """Get the page, and return the weight."""
        deadline = Deadline(self._check.pace.timeout_s)
        try:
            load = await self._load(deadline)
        except ProbeFailed as error:
            if error.inconclusive:
                raise
            self._state = self._state.without(self._rule)
            kept = "as it was" if self._state.weight is not None else "as configured"
            return Outcome(True, f"load unknown, weight {kept}: {error}", self._state.weight)
        if load is None:
            return Outcome(True, "load not known yet", self._state.weight)
        self._state = self._state.after(load, self._rule)
        smoothed = f", smoothed {self._state.load:.3g}" if self._check.smoothing else ""
        return Outcome(True, f"load {load:.3g}{smoothed}: weight {self._state.weight}", self._state.weight)

    def save(self) -> str:
        return json.dumps([self._state.load, self._state.weight, self._state.missed])

    def restore(self, saved: str) -> None:
        self._state = LoadState(*json.loads(saved))

    async def _load(self, deadline: Deadline) -> float | None:
        found = await self._parsed(await self._page(deadline), deadline)
        if not isinstance(found, CpuTimes):
            return found
        if self._times is None:
            self._times = found
            await asyncio.sleep(min(SECOND_PAGE_AFTER_S, self._check.pace.timeout_s / 2))
            return await self._load(deadline)
        before, self._times = self._times, found
        return found.busy_since(before)

    async def _parsed(self, page: bytes, deadline: Deadline) -> float | CpuTimes:
        if len(page) <= _PARSE_IN_LOOP:
            return parse_page(page, self._check, self._selector)
        return await in_thread(
            deadline, lambda over: parse_page(page, self._check, self._selector, over), "parsing the page"
        )

    async def _page(self, deadline: Deadline) -> bytes:
        with await TcpStream.open(self._endpoint, deadline) as stream:
            if self._check.tls:
                await stream.start_tls()
            await stream.send(self._request)
            reader = ResponseReader(stream)
            response = await reader.head()
            if not 200 <= response.status <= 299:
                raise ProbeFailed(f"status {response.status}")
            await read_body(reader, response, digest=False, keep=True)
            if response.remark:
                raise ProbeFailed(response.remark)
            return response.body
