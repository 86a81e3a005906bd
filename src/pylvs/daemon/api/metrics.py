"""Metrics in Prometheus's text format.

Metrics of the table have the names and labels of node_exporter's ipvs collector, because dashboards use them. All
others begin with `pylvs_`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import accumulate, chain
from math import isinf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from pylvs.model.dataclass import dataclass, field
from pylvs.model.rows import Counters, PacketCounts, ServiceRow, TimerRuns, refusals
from pylvs.model.service import ServiceKey, is_probe_mark

if TYPE_CHECKING:  # `pylvs metrics` without a daemon has no use for the health engine
    from pylvs.daemon.problems import Problem
    from pylvs.health.prober.link import ProberCounts
    from pylvs.health.state import ServerSnapshot, ServiceSnapshot
    from pylvs.system.processes.scripts import ScriptCounts


Object = TypeVar("Object")
Labelled = Sequence[tuple[Sequence[str] | str, Any]]  # labels, with a number or with the object that has it

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
VRRP_STATES = {"BACKUP": 1, "MASTER": 2, "FAULT": 3}  # the numbers of keepalived's exporters
# field of Counters: its name in node_exporter's metrics, and what it counts
_COUNTED = {
    "connections": ("connections", "connections"),
    "in_packets": ("incoming_packets", "packets to real servers"),
    "in_bytes": ("incoming_bytes", "bytes to real servers"),
    "out_packets": ("outgoing_packets", "packets from real servers, as far as they come through the director"),
    "out_bytes": ("outgoing_bytes", "bytes from real servers, as far as they come through the director"),
}
_SERVICE = ["local_address", "local_port", "local_mark", "proto"]
_BACKEND = [*_SERVICE, "remote_address", "remote_port"]
_CHECK = ["service", "server", "check", "number"]
# name, help, and the attribute of the object
_BACKEND_GAUGES = (
    ("node_ipvs_backend_connections_active", "Connections of a destination that are active.", "active"),
    ("node_ipvs_backend_connections_inactive", "Connections of a destination that are inactive.", "inactive"),
    ("node_ipvs_backend_weight", "The weight of a destination in the table.", "destination.weight"),
    ("pylvs_backend_connections_persistent", "The persistence templates of a destination.", "persistent"),
)
_QUORUM_GAUGES = (
    ("pylvs_quorum_up", "Whether a virtual server has its quorum.", "has_quorum"),
    ("pylvs_quorum_weight", "The weight that the quorum asks for.", "quorum"),
    ("pylvs_weight_up", "The weights of the real servers that are up.", "weight_up"),
    ("pylvs_sorry_server_in", "Whether the sorry server serves.", "sorry_server_in"),
)
_SERVER_GAUGES = (
    ("pylvs_server_up", "Whether a real server counts as up.", "up"),
    ("pylvs_server_checks", "How many checks a real server has; without one it always counts as up.", "check_count"),
    ("pylvs_server_in_table", "Whether a real server is in the table.", "in_table"),
    ("pylvs_server_weight", "The weight that a real server should have now.", "weight"),
    ("pylvs_server_configured_weight", "The weight of the configuration.", "configured_weight"),
    ("pylvs_server_since_seconds", "Since when it is up or down, seconds since 1970.", "since"),
)
_CHECK_GAUGES = (
    ("pylvs_check_up", "Whether a check counts as good; absent before it was made.", "good"),
    ("pylvs_check_inconclusive", "Whether this host could not make the last probe; the state stays.", "inconclusive"),
    ("pylvs_check_duration_seconds", "How long the last probe took.", "took_s"),
)
_CHECK_COUNTERS = (
    ("pylvs_check_probes", "Probes made.", "probes"),
    ("pylvs_check_failed_probes", "Probes that failed.", "failed_probes"),
    ("pylvs_check_inconclusive_probes", "Probes that this host could not make.", "inconclusive_probes"),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which metrics of services, servers and checks a page has; it has all others in any case.

    `series` are of METRIC_SERIES in the model, `services` shell patterns of names as `pylvs status` prints them. An
    empty one selects all.
    """

    series: tuple[str, ...] = ()
    services: tuple[str, ...] = ()

    def wants(self, series: str) -> bool:
        return not self.series or series in self.series

    def has(self, service: str) -> bool:
        return not self.services or any(fnmatchcase(service, each) for each in self.services)

    def keys(self, services: Sequence[ServiceSnapshot]) -> Callable[[ServiceKey], bool]:
        """Return whether a service of the table is selected: by the name that has its key, else by its key."""
        if not self.services:
            return lambda _: True
        names = {key: each.name for each in services for key in each.keys}
        return lambda key: self.has(names.get(key) or str(key))


@dataclass(frozen=True, slots=True)
class MetricsInput:
    """All that the metrics are computed from; what is absent has no metrics."""

    version: str
    rows: Sequence[ServiceRow] | None = ()  # None: not read in time
    packets: PacketCounts | None = field(default_factory=PacketCounts)  # None: the same
    services: Sequence[ServiceSnapshot] = ()
    reloads: Mapping[str, int] = field(default_factory=dict)  # by result
    reloaded_at: float | None = None  # Unix time of the last reload that was done
    errors: int | None = None  # in the file that was read then
    edits: Mapping[str, int] = field(default_factory=dict)  # of the table, by reason
    routers: Mapping[str, Any] = field(default_factory=dict)  # status of the virtual routers
    silent: Mapping[str, bool] = field(default_factory=dict)  # whether a part of the daemon makes no progress
    prober: ProberCounts | None = None
    scripts: ScriptCounts | None = None
    notify_scripts: Mapping[str, Any] = field(default_factory=dict)  # of services and servers
    problems: Sequence[Problem] | None = None


def exposition(given: MetricsInput, selection: Selection = Selection()) -> str:  # noqa: B008  immutable
    """Return the page of metrics."""
    return "".join(chain.from_iterable(map(Family.lines, _families(given, selection))))


def _families(given: MetricsInput, selection: Selection) -> Iterator[Family]:
    if given.packets is not None:
        yield from _total_metrics(given.packets.totals)
    if given.rows is not None:
        yield from _table_metrics(given.rows, selection, selection.keys(given.services))
    if given.packets is not None:
        yield from _packet_metrics(given.packets)
    yield from _health_metrics([each for each in given.services if selection.has(each.name)], selection)
    yield from _daemon_metrics(given)
    yield from vrrp_metrics(given.routers)
    yield from _process_metrics(given)
    yield from _notify_metrics(given)
    if given.problems is not None:
        yield _problem_metrics(given.problems)


@dataclass(slots=True)
class Family:
    """A metric with its samples: the text of the labels with the value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, float]]

    def lines(self) -> Iterator[str]:
        """Yield the text format's lines, in pieces."""
        name = self.name
        yield f"# HELP {name} {_escaped(self.help)}\n# TYPE {name} {self.kind}\n"
        yield "".join([f"{name}{labels} {value!r}\n" for labels, value in self.samples])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    """Return the text of labels, in the order of their names."""
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    texts = [f'{name}="{_escaped(value)}"' if '"' not in value else _quoted(name, value) for name, value in pairs]
    return f"{{{','.join(texts)}}}"


def _quoted(name: str, value: str) -> str:
    text = _escaped(value).replace('"', '\\"')
    return f'{name}="{text}"'


def _family(kind: str, name: str, help_: str, labels: Sequence[str], values: Labelled) -> Family:
    """Return a family. Labels are values in the order of `labels`, or their text, which several families share."""
    texts = [(each if isinstance(each, str) else _labels(labels, each), float(value)) for each, value in values]
    return Family(f"{name}_total" if kind == "counter" else name, kind, help_, texts)


_gauge = partial(_family, "gauge")
_counter = partial(_family, "counter")  # with the suffix `_total`


def _rendered(names: Sequence[str], objects: Sequence[tuple[Sequence[str], Object]]) -> list[tuple[str, Object]]:
    """Return the text of the labels of each object."""
    return [(_labels(names, values), each) for values, each in objects]


def _of(objects: Labelled, attribute: str) -> Labelled:
    """Replace each object by an attribute; leave out None."""
    get = attrgetter(attribute)
    values = ((labels, get(each)) for labels, each in objects)
    return [(labels, float(value)) for labels, value in values if value is not None]


def _one(value: float) -> Labelled:
    return [((), value)]


def _gauge_if_known(name: str, help_: str, value: float | None) -> Iterator[Family]:
    if value is not None:
        yield _gauge(name, help_, [], _one(value))


def _by_label(counts: Mapping[str, float]) -> Labelled:
    return [((label.replace(" ", "_"),), count) for label, count in sorted(counts.items())]


def _service_labels(key: ServiceKey) -> list[str]:
    """Return node_exporter's labels: an address, or a mark in eight hexadecimal digits."""
    if key.mark:
        return ["", "0", f"{key.mark:08X}", "FWM"]
    return [str(key.address), str(key.port), "", key.protocol.name]


def _total_metrics(totals: Counters) -> Iterator[Family]:
    for attribute, (suffix, help_) in _COUNTED.items():
        text = f"All {help_}, of the services that there are and were."
        yield _counter(f"node_ipvs_{suffix}", text, [], _one(getattr(totals, attribute)))


def _table_metrics(
    rows: Sequence[ServiceRow], selection: Selection, selected: Callable[[ServiceKey], bool]
) -> Iterator[Family]:
    connections = sum(each.active + each.inactive for row in rows for each in row.destinations)
    yield _gauge("pylvs_connections", "Connections in the table.", [], _one(connections))
    named = [
        (_service_labels(row.service.key), row)
        for row in rows
        if not is_probe_mark(row.service.key.mark) and selected(row.service.key)
    ]
    services = _rendered(_SERVICE, named)
    destinations = [
        ([*labels, str(each.destination.key.address), str(each.destination.key.port)], each)
        for labels, row in named
        for each in row.destinations
    ]
    backends = _rendered(_BACKEND, destinations)
    for name, help_, attribute in _BACKEND_GAUGES if selection.wants("backends") else ():
        yield _gauge(name, help_, _BACKEND, _of(backends, attribute))
    for attribute, (suffix, help_) in _COUNTED.items():
        if selection.wants("services"):
            of_services = _of(services, f"counters.{attribute}")
            yield _counter(f"pylvs_service_{suffix}", f"A service's {help_}.", _SERVICE, of_services)
        if selection.wants("traffic"):
            of_backends = _of(backends, f"counters.{attribute}")
            yield _counter(f"pylvs_backend_{suffix}", f"A destination's {help_}.", _BACKEND, of_backends)


def _packet_metrics(packets: PacketCounts) -> Iterator[Family]:
    text = "What happened to packets beyond being forwarded."
    yield _counter("pylvs_packets_by_reason", text, ["reason"], _by_label(packets.reasons))
    text = "Packets that a hook has forwarded, by ingress device: XDP is fast, TC is complete."
    by_hook = [
        ((device, hook), count)
        for device, each in sorted(packets.forwarded.items())
        for hook, count in (("xdp", each.xdp), ("tc", each.tc))
    ]
    yield _counter("pylvs_forwarded_packets", text, ["device", "hook"], by_hook)
    text = "New connections without an entry in the table, by reason."
    yield _counter("pylvs_refused_connections", text, ["reason"], _by_label(refusals(packets.reasons)))
    if use := packets.use:
        yield _gauge("pylvs_connections_limit", "Connections that the table holds.", [], _one(use.capacity))
        yield _gauge("pylvs_table_entries", "Connections and templates in the table.", [], _one(use.used))
        yield _gauge("pylvs_table_fill_ratio", "The used share of the table.", [], _one(use.fill))
        text = "Handshakes not completed, and unconfirmed connections of UDP."
        yield _gauge("pylvs_half_open_connections", text, [], _one(use.half_open))
    if expiry := packets.expiry:
        yield _counter("pylvs_expired", "Connections whose time was up.", [], _one(expiry.connections))
        yield _counter("pylvs_expiry_seconds", "Processor time of ending connections.", [], _one(expiry.spent_s))
        text = "The longest run of the timer that ends connections."
        yield _gauge("pylvs_expiry_longest_seconds", text, [], _one(expiry.longest_s))

    yield _timer_metrics(packets.timers)
    longest = [((each.timer,), each.longest_s) for each in packets.timers]
    yield _gauge("pylvs_timer_longest_run_seconds", "The longest of these runs.", ["timer"], longest)


def _timer_metrics(timers: Sequence[TimerRuns]) -> Family:
    runs = Family("pylvs_timer_run_seconds", "histogram", "How long a timer held a processor.", [])
    for each in timers:
        counts = list(accumulate(count for _, count in each.lengths))
        for (bound, _), count in zip(each.lengths, counts, strict=True):
            text = "+Inf" if isinf(bound) else repr(bound)
            runs.samples.append((f"_bucket{_labels(['timer', 'le'], [each.timer, text])}", float(count)))
        label = _labels(["timer"], [each.timer])
        runs.samples += [(f"_count{label}", float(counts[-1])), (f"_sum{label}", each.spent_s)]
    return runs


def _health_metrics(services: Sequence[ServiceSnapshot], selection: Selection) -> Iterator[Family]:
    quorums = _rendered(["service"], [([each.name], each) for each in services])
    servers = [([each.name, str(server.server)], server) for each in services for server in each.servers]
    for name, help_, attribute in _QUORUM_GAUGES if selection.wants("services") else ():
        yield _gauge(name, help_, ["service"], _of(quorums, attribute))
    if selection.wants("servers"):
        found = _rendered(["service", "server"], servers)
        for name, help_, attribute in _SERVER_GAUGES:
            yield _gauge(name, help_, ["service", "server"], _of(found, attribute))
    if selection.wants("checks"):
        yield from _check_metrics(servers)


def _check_metrics(servers: Sequence[tuple[list[str], ServerSnapshot]]) -> Iterator[Family]:
    numbered = [
        ([*labels, each.check.keyword, str(number)], each)  # the number distinguishes checks of one type on one server
        for labels, server in servers
        for number, each in enumerate(server.checks)
    ]
    checks = _rendered(_CHECK, numbered)
    for name, help_, attribute in _CHECK_GAUGES:
        yield _gauge(name, help_, _CHECK, _of(checks, attribute))
    for name, help_, attribute in _CHECK_COUNTERS:
        yield _counter(name, help_, _CHECK, _of(checks, attribute))


def _daemon_metrics(given: MetricsInput) -> Iterator[Family]:
    yield _gauge("pylvs_info", "The version that answers.", ["version"], [([given.version], 1)])
    yield _counter("pylvs_reloads", "Reloads of the configuration.", ["result"], _by_label(given.reloads))
    text = "When a configuration was last put in force, seconds since 1970."
    yield from _gauge_if_known("pylvs_configuration_since_seconds", text, given.reloaded_at)
    text = "Errors in the configuration in force: it does not do all that it says."
    yield from _gauge_if_known("pylvs_configuration_errors", text, given.errors)
    yield _counter("pylvs_table_edits", "Edits of the table, by what they were for.", ["why"], _by_label(given.edits))
    text = "Whether a part of the daemon makes no progress, so that its state is unknown."
    yield _gauge("pylvs_silent", text, ["part"], _by_label({name: float(each) for name, each in given.silent.items()}))


def _process_metrics(given: MetricsInput) -> Iterator[Family]:
    """Yield the metrics of the processes that make checks."""
    if prober := given.prober:
        text = "Whether the process that makes checks over the network runs, or was not needed yet."
        yield _gauge("pylvs_prober_up", text, [], _one(float(not prober.problem)))
        yield _counter("pylvs_prober_restarts", "Its unexpected ends.", [], _one(prober.restarts))
    if scripts := given.scripts:
        yield _gauge("pylvs_scripts_running", "Scripts of checks that run.", [], _one(scripts.running))
        yield _gauge("pylvs_scripts_waiting", "Scripts that wait because too many run.", [], _one(scripts.waiting))
        yield _counter("pylvs_scripts_waited", "Scripts that had to wait.", [], _one(scripts.waited))
        yield _counter("pylvs_script_wait_seconds", "How long they waited in total.", [], _one(scripts.waited_s))
        text = "The longest of these waits."
        yield _gauge("pylvs_script_longest_wait_seconds", text, [], _one(scripts.longest_wait_s))


def _notify_metrics(given: MetricsInput) -> Iterator[Family]:
    """Yield the metrics of notify scripts, by the process that runs them."""
    reports = [("checks", given.notify_scripts), ("vrrp", given.routers.get("notify_scripts", {}))]
    found = [(process, each) for process, each in reports if each]
    states = [((process, state), each[state]) for process, each in found for state in ("running", "waiting")]
    text = "Notify scripts that run, or wait for the one before."
    yield _gauge("pylvs_notify_scripts", text, ["process", "state"], states)
    ended = [((process,), each["ended_early"]) for process, each in found]
    text = "Notify scripts that did not end by themselves within their limit."
    yield _counter("pylvs_notify_scripts_ended_early", text, ["process"], ended)


def _problem_metrics(problems: Sequence[Problem]) -> Family:
    """Return the number of problems of each kind, 0 included: alerts need a series that exists."""
    from pylvs.daemon.problems import KINDS

    found = Counter(each.kind for each in problems)
    values = [((name, kind.severity.value), found[name]) for name, kind in KINDS.items()]
    return _gauge("pylvs_problems", "Problems that pylvs status --check reports.", ["kind", "severity"], values)


def vrrp_metrics(status: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the metrics of virtual routers, none without any.

    The label is `router`, because Prometheus itself adds a label `instance`.
    """
    instances = status.get("instances", ())
    failed = bool(status.get("problem"))
    yield from _session_metrics(status.get("sessions", ()))
    if not instances and not failed:
        return
    yield _gauge("pylvs_vrrp_up", "Whether virtual routers run as configured.", [], _one(float(not failed)))
    process = status.get("process")
    if process:
        text, late_s = "The largest delay of a timer.", process["longest_gap_ms"] / 1000
        yield _gauge("pylvs_vrrp_latest_seconds", text, [], _one(late_s))
        text = "How often the helper process ended by itself, or was killed because it hung."
        yield _counter("pylvs_vrrp_helper_lost", text, [], _one(process.get("helper_lost", 0)))
    if path := status.get("data_plane"):
        text = "Whether virtual routers know that services are forwarded: 1 yes, 0 no, -1 unknown."
        yield _gauge("pylvs_vrrp_data_plane", text, [], _one(-1 if path["up"] is None else int(path["up"])))
        text = "How often pylvs run did not report to virtual routers in time."
        yield _counter("pylvs_vrrp_data_plane_expired", text, [], _one(path.get("expired", 0)))
    if not instances:
        return
    routers = [([each["name"]], each) for each in instances]
    label = ["router"]

    states = [(name, VRRP_STATES.get(each["state"], 0)) for name, each in routers]
    yield _gauge("pylvs_vrrp_state", "1 backup, 2 master, 3 fault.", label, states)
    priorities = [(name, each["priority"]) for name, each in routers]
    yield _gauge("pylvs_vrrp_priority", "The priority now, with what is tracked.", label, priorities)
    since = [(name, each["since"]) for name, each in routers if each["since"]]
    yield _gauge("pylvs_vrrp_since_seconds", "Since when it is in its state, seconds since 1970.", label, since)

    counts = [(name, each["counters"]) for name, each in routers]
    entered = [
        ([*name, state], count[f"became_{state}"]) for name, count in counts for state in ("backup", "master", "fault")
    ]
    yield _counter("pylvs_vrrp_transitions", "How often a state was entered.", ["router", "state"], entered)
    sent = [(name, count["sent"]) for name, count in counts]
    yield _counter("pylvs_vrrp_adverts_sent", "Advertisements sent.", label, sent)
    received = [(name, count["received"]) for name, count in counts]
    yield _counter("pylvs_vrrp_adverts_received", "Advertisements that counted.", label, received)
    dropped = [
        ([*name, reason.replace(" ", "_")], number)
        for name, count in counts
        for reason, number in count["dropped"].items()
    ]
    yield _counter("pylvs_vrrp_adverts_dropped", "Advertisements dropped.", ["router", "reason"], dropped)


def _session_metrics(sessions: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Yield the metrics of BFD sessions; none while their process does not answer."""
    if not sessions:
        return
    labels = ["session", "neighbor"]
    named = [([each["name"], each["neighbor"]], each) for each in sessions]
    ups = [(name, float(each["state"] == "Up")) for name, each in named]
    yield _gauge("pylvs_bfd_session_up", "Whether a BFD session is up.", labels, ups)
    since = [(name, each["since"]) for name, each in named if each["since"]]
    yield _gauge("pylvs_bfd_since_seconds", "Since when it is in its state, seconds since 1970.", labels, since)
    flaps = [(name, each["flaps"]) for name, each in named]
    yield _counter("pylvs_bfd_flaps", "How often it left state Up.", labels, flaps)
    counts = [(name, each["counters"]) for name, each in named]
    sent = [(name, count["sent"]) for name, count in counts]
    yield _counter("pylvs_bfd_packets_sent", "Control packets sent.", labels, sent)
    received = [(name, count["received"]) for name, count in counts]
    yield _counter("pylvs_bfd_packets_received", "Control packets that counted.", labels, received)
    dropped = [
        ([*name, reason.replace(" ", "_")], number)
        for name, count in counts
        for reason, number in count["dropped"].items()
    ]
    yield _counter("pylvs_bfd_packets_dropped", "Control packets dropped.", [*labels, "reason"], dropped)
