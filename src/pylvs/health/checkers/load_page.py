"""A server's load out of a page of metrics: Prometheus's text format, or nothing but one number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pylvs.model.checks import LoadCheck, LoadSource
from pylvs.model.dataclass import dataclass, field

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

LOAD1, CPU_SECONDS = "node_load1", "node_cpu_seconds_total"
_LONGEST_NUMBER = 64  # bytes
_MOST_LINES = 20_000  # of one metric: 2048 processors in 8 modes are fewer
_NEEDED = {LoadSource.LOAD1_PER_CORE: (LOAD1, CPU_SECONDS), LoadSource.CPU_BUSY: (CPU_SECONDS,)}


class Unreadable(Exception):
    """What a page lacks, in a few words."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since the server's start, by processor: all, and those of them in which it had nothing to do."""

    total: Mapping[str, float]
    idle: Mapping[str, float]

    def busy_since(self, before: CpuTimes) -> float | None:
        """The busy share, 0 to 1, since an earlier page: waiting for disks counts as busy.

        None where none can be told: no time passed, the server was started again, or processors came or went.
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
    """A metric by its name and some of its labels, as Prometheus writes them: `queue{pool="web"}`."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Selector:
        """Raises Unreadable."""
        samples = list(_samples(f"{text} 0\n", f"'{text}'"))
        if len(samples) != 1:
            raise Unreadable(f"'{text}' names no metric")
        return cls(samples[0].name, samples[0].labels)

    def value(self, samples: Iterable[Sample]) -> float:
        """The sum of all samples that have the name and these labels. Raises Unreadable where there are none."""
        found = [
            sample.value
            for sample in samples
            if sample.name == self.name and self.labels.items() <= sample.labels.items()
        ]
        if not found:
            labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
            raise Unreadable(f"the page has no {self.name}" + (f"{{{labels}}}" if labels else ""))
        return _finite(sum(found), self.name)


def reading(page: bytes, check: LoadCheck, selector: Selector | None) -> float | CpuTimes:
    """The load that a page tells; of CPU time what a second page is compared with. Raises Unreadable.

    A page that is one number is the load itself, whatever the check asks for.
    """
    alone = _lone_number(page)
    if alone is not None:
        return alone
    names = (selector.name,) if selector else _NEEDED[check.source]
    samples = list(_samples(_lines_of(page, names), "the page"))
    if selector:
        return selector.value(samples)
    times = _cpu_times(samples)
    if check.source is LoadSource.CPU_BUSY:
        return times
    return Selector(LOAD1).value(samples) / len(times.total)


def _lone_number(page: bytes) -> float | None:
    text = page.strip()
    if not text or len(text) > _LONGEST_NUMBER:
        return None
    try:
        return _finite(float(text), "the page")
    except ValueError:
        return None


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value) or value < 0:
        raise Unreadable(f"{what} is {value:g}, which is no load")
    return value


def _lines_of(page: bytes, names: Iterable[str]) -> str:
    """The lines of these metrics alone: a page has thousands, and to read them all takes long."""
    beginnings = tuple(name.encode() + sign for name in names for sign in (b" ", b"{", b"\t"))
    lines = [line for line in page.split(b"\n") if line.startswith(beginnings)]
    if len(lines) > _MOST_LINES:
        raise Unreadable(f"the page has {len(lines)} lines of {' and '.join(names)}")
    return b"\n".join([*lines, b""]).decode(errors="replace")


def _samples(text: str, what: str) -> list[Sample]:
    """Raises Unreadable."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except Exception as error:  # whatever the parser stumbles over
        raise Unreadable(f"{what} is not in Prometheus's text format: {error}") from None


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
        raise Unreadable(f'the page has no {CPU_SECONDS}{{mode="idle"}} of each processor')
    return CpuTimes(total, idle)
