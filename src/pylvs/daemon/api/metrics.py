"""The numbers in Prometheus's text format.

The table's carry the names and labels of node_exporter's ipvs collector, so that boards made for it keep working;
what it has no name for begins with `pylvs_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from pylvs.daemon.api import router_metrics
from pylvs.daemon.api.families import counter, gauge
from pylvs.health.snapshots import ServerSnapshot, ServiceSnapshot
from pylvs.model.dataclass import dataclass, field
from pylvs.model.director import DestinationRow, ServiceRow
from pylvs.model.rows import Counters, Expiry
from pylvs.model.service import ServiceKey, is_probe_mark

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# field of Counters -> word in node_exporter's names, what it counts
_COUNTED = {
    "connections": ("connections", "connections"),
    "in_packets": ("incoming_packets", "packets to real servers"),
    "in_bytes": ("incoming_bytes", "bytes to real servers"),
    "out_packets": ("outgoing_packets", "packets from real servers, as far as they come through the director"),
    "out_bytes": ("outgoing_bytes", "bytes from real servers, as far as they come through the director"),
}
_SERVICE = ["local_address", "local_port", "local_mark", "proto"]
_BACKEND = [*_SERVICE, "remote_address", "remote_port"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that metrics are made of, as it was at one moment; what is not there has no metrics."""

    version: str
    rows: Sequence[ServiceRow] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    connections: int | None = None
    connections_limit: int | None = None
    services: Sequence[ServiceSnapshot] = ()
    reloads: Mapping[str, int] = field(default_factory=dict)  # by result
    reloaded_at: float | None = None  # the last time that one succeeded, wall clock
    errors: int | None = None  # in the file that was read then
    edits: Mapping[str, int] = field(default_factory=dict)  # of the table, by why
    routers: Mapping[str, Any] = field(default_factory=dict)  # virtual routers' status
    expiry: Expiry | None = None
    totals: Counters = Counters()


def exposition(facts: Facts) -> str:
    """The page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(facts))
    return generate_latest(registry).decode()


class _Given(Collector):
    """A collector that was given what there is."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        rows = [row for row in self._facts.rows if not is_probe_mark(row.service.key.mark)]
        yield from _table(rows, self._facts.totals)
        yield from _counts(self._facts)
        yield from _checks(self._facts.services)
        yield from _daemon(self._facts)
        yield from router_metrics.of(self._facts.routers)


def _labels(key: ServiceKey) -> list[str]:
    """A service as node_exporter labels it: an address, or a mark in eight hexadecimal digits."""
    if key.mark:
        return ["", "0", f"{key.mark:08X}", "FWM"]
    return [str(key.address), str(key.port), "", key.protocol.name]


def _backends(rows: Sequence[ServiceRow]) -> list[tuple[list[str], DestinationRow]]:
    return [
        ([*_labels(row.service.key), str(each.destination.key.address), str(each.destination.key.port)], each)
        for row in rows
        for each in row.destinations
    ]


def _table(rows: Sequence[ServiceRow], totals: Counters) -> Iterator[Metric]:
    backends = _backends(rows)
    for name, (word, help_) in _COUNTED.items():
        text = f"All {help_}, of the services that there are and were."
        yield counter(f"node_ipvs_{word}", text, [], [([], getattr(totals, name))])
    gauges = {"connections_active": "active", "connections_inactive": "inactive"}
    for word, attribute in gauges.items():
        text = f"The {attribute} connections of a destination."
        yield gauge(
            f"node_ipvs_backend_{word}", text, _BACKEND, [(is_, getattr(row, attribute)) for is_, row in backends]
        )
    weights = [(is_, row.destination.weight) for is_, row in backends]
    yield gauge("node_ipvs_backend_weight", "The weight of a destination in the table.", _BACKEND, weights)
    persistent = [(is_, row.persistent) for is_, row in backends]
    yield gauge(
        "pylvs_backend_connections_persistent", "The persistence templates of a destination.", _BACKEND, persistent
    )
    for name, (word, help_) in _COUNTED.items():
        of_services = [(_labels(row.service.key), getattr(row.counters, name)) for row in rows]
        yield counter(f"pylvs_service_{word}", f"A service's {help_}.", _SERVICE, of_services)
        of_backends = [(is_, getattr(row.counters, name)) for is_, row in backends]
        yield counter(f"pylvs_backend_{word}", f"A destination's {help_}.", _BACKEND, of_backends)


def _counts(facts: Facts) -> Iterator[Metric]:
    reasons = [([name.replace(" ", "_")], count) for name, count in sorted(facts.reasons.items())]
    yield counter("pylvs_packets_by_reason", "What happened to packets beyond being forwarded.", ["reason"], reasons)
    if facts.connections is not None:
        yield gauge("pylvs_connections", "Connections in the table.", [], [([], facts.connections)])
    if facts.connections_limit is not None:
        yield gauge("pylvs_connections_limit", "Connections that the table holds.", [], [([], facts.connections_limit)])
    if facts.expiry:
        expiry, one = facts.expiry, "The longest time that ending connections held a processor in one go."
        yield counter("pylvs_expired", "Connections whose time was up.", [], [([], expiry.connections)])
        yield counter("pylvs_expiry_seconds", "Processor time of ending connections.", [], [([], expiry.spent_s)])
        yield gauge("pylvs_expiry_longest_seconds", one, [], [([], expiry.longest_s)])


def _checks(services: Sequence[ServiceSnapshot]) -> Iterator[Metric]:
    def of_services(name: str, help_: str, attribute: str) -> Metric:
        return gauge(name, help_, ["service"], [([each.name], float(getattr(each, attribute))) for each in services])

    yield of_services("pylvs_quorum_up", "Whether a virtual server has its quorum.", "has_quorum")
    yield of_services("pylvs_quorum_weight", "The weight that the quorum asks for.", "quorum")
    yield of_services("pylvs_weight_up", "The weights of the real servers that are up.", "weight_up")
    yield of_services("pylvs_sorry_server_in", "Whether the sorry server serves.", "sorry_server_in")

    servers: list[tuple[list[str], ServerSnapshot]] = [
        ([each.service, str(each.server)], each) for service in services for each in service.servers
    ]

    def of_servers(name: str, help_: str, attribute: str) -> Metric:
        values = [(is_, float(getattr(each, attribute))) for is_, each in servers]
        return gauge(name, help_, ["service", "server"], values)

    yield of_servers("pylvs_server_up", "Whether a real server counts as up.", "up")
    yield of_servers("pylvs_server_in_table", "Whether a real server is in the table.", "in_table")
    yield of_servers("pylvs_server_weight", "The weight that a real server should have now.", "weight")
    yield of_servers("pylvs_server_configured_weight", "The weight of the configuration.", "configured_weight")
    yield of_servers("pylvs_server_since_seconds", "Since when it is up or down, seconds since 1970.", "since")

    # Two checks of one kind on one server are told apart by their number.
    checks = [
        ([*is_, each.check.word, str(number)], each)
        for is_, server in servers
        for number, each in enumerate(server.checks)
    ]
    labels = ["service", "server", "check", "number"]
    good = [(is_, float(each.good)) for is_, each in checks if each.good is not None]
    yield gauge("pylvs_check_up", "Whether a check counts as good; absent before it was made.", labels, good)
    took = [(is_, each.took_s) for is_, each in checks if each.took_s is not None]
    yield gauge("pylvs_check_duration_seconds", "How long the last probe took.", labels, took)
    probes = [(is_, each.probes) for is_, each in checks]
    yield counter("pylvs_check_probes", "Probes made.", labels, probes)
    failed = [(is_, each.failed_probes) for is_, each in checks]
    yield counter("pylvs_check_failed_probes", "Probes that failed.", labels, failed)


def _daemon(facts: Facts) -> Iterator[Metric]:
    yield gauge("pylvs_info", "The version that answers.", ["version"], [([facts.version], 1)])
    reloads = [([result], count) for result, count in sorted(facts.reloads.items())]
    yield counter("pylvs_reloads", "Reloads of the configuration.", ["result"], reloads)
    if facts.reloaded_at is not None:
        text = "When a configuration was last put in force, seconds since 1970."
        yield gauge("pylvs_configuration_since_seconds", text, [], [([], facts.reloaded_at)])
    if facts.errors is not None:
        text = "Errors in the configuration in force: it does not do all that it says."
        yield gauge("pylvs_configuration_errors", text, [], [([], facts.errors)])
    edits = [([why], count) for why, count in sorted(facts.edits.items())]
    yield counter("pylvs_table_edits", "Edits of the table, by what they were for.", ["why"], edits)
