"""Metrics of one name: values with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, help_: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """What goes up and down."""
    family = GaugeMetricFamily(name, help_, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


def counter(name: str, help_: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """What only goes up; `_total` comes behind the name."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family
