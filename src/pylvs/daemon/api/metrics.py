"""Metrics in Prometheus's text format.

Metrics of the table have the names and labels of node_exporter's ipvs collector, because dashboards use them. All
others begin with `pylvs_`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate, chain
from math import isinf
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pylvs.daemon.api import families
from pylvs.daemon.problems import KINDS, Problem
from pylvs.model.dataclass import dataclass, field
from pylvs.model.rows import NOTE, Counters, PacketCounts, ServiceRow, TimerRuns, refusals
from pylvs.model.service import ServiceKey, is_probe_mark

if TYPE_CHECKING:  # `pylvs metrics` without a daemon has no use for the health engine
    from pylvs.health.prober.link import ProberCounts
    from pylvs.health.state import ServerSnapshot, ServiceSnapshot
    from pylvs.system.processes.scripts import ScriptCounts


Labelled = Sequence[tuple[Sequence[str] | str, Any]]  # labels, with a number or with the object that has it

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
VRRP_STATES = {"BACKUP": 1, "MASTER": 2, "FAULT": 3}  # the numbers of keepalived's exporters


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
    peer: Mapping[str, Any] | None = None  # the other director


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
    if given.peer is not None:
        yield from _peer_metrics(given.peer)
    if given.problems is not None:
        yield _problem_metrics(given.problems)


@dataclass(slots=True)
class Family:
    """A metric with its samples: the text of the labels with the value."""

    name: str
    samples: list[tuple[str, float]]

    def lines(self) -> Iterator[str]:
        """Yield the text format's lines, in pieces."""
        name = self.name
        yield f"# HELP {name} {_escaped(families.FAMILIES[name][1])}\n# TYPE {name} {families.type_of(name)}\n"
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


def _family(name: str, values: Labelled) -> Family:
    """Return a family. Labels are values in the order of the family's, or their text, which several families share."""
    names, _ = families.FAMILIES[name]
    texts = [(each if isinstance(each, str) else _labels(names, each), float(value)) for each, value in values]
    return Family(name, texts)


def _single(name: str, value: float) -> Family:
    """Return a family with one sample, without labels."""
    return Family(name, [("", float(value))])


def _attributes(labels: tuple[str, ...], objects: Labelled) -> Iterator[Family]:
    """Yield the families of the attributes of objects that have these labels, rendered."""
    for name, (attribute, _) in families.ATTRIBUTES[labels].items():
        yield _family(name, _of(objects, attribute))


def _rendered(names: Sequence[str], objects: Labelled) -> Labelled:
    """Return the text of the labels of each object."""
    return [(_labels(names, values), each) for values, each in objects]


def _of(objects: Labelled, attribute: str) -> Labelled:
    """Replace each object by an attribute; leave out None."""
    get = attrgetter(attribute)
    values = ((labels, get(each)) for labels, each in objects)
    return [(labels, float(value)) for labels, value in values if value is not None]


def _by_label(counts: Mapping[str, float]) -> Labelled:
    return [((label.replace(" ", "_"),), count) for label, count in sorted(counts.items())]


def _service_labels(key: ServiceKey) -> list[str]:
    """Return node_exporter's labels: an address, or a mark in eight hexadecimal digits."""
    if key.mark:
        return ["", "0", f"{key.mark:08X}", "FWM"]
    return [str(key.address), str(key.port), "", key.protocol.name]


def _total_metrics(totals: Counters) -> Iterator[Family]:
    for attribute, (name, _) in families.COUNTED.items():
        yield _single(f"node_ipvs_{name}_total", getattr(totals, attribute))


def _table_metrics(
    rows: Sequence[ServiceRow], selection: Selection, selected: Callable[[ServiceKey], bool]
) -> Iterator[Family]:
    connections = sum(each.active + each.inactive for row in rows for each in row.destinations)
    yield _single("pylvs_connections", connections)
    named = [
        (_service_labels(row.service.key), row)
        for row in rows
        if not is_probe_mark(row.service.key.mark) and selected(row.service.key)
    ]
    services = _rendered(families.SERVICE, named)
    destinations = [
        ([*labels, str(each.destination.key.address), str(each.destination.key.port)], each)
        for labels, row in named
        for each in row.destinations
    ]
    backends = _rendered(families.BACKEND, destinations)
    if selection.wants("backends"):
        yield from _attributes(families.BACKEND, backends)
    for attribute, (name, _) in families.COUNTED.items():
        if selection.wants("services"):
            yield _family(f"pylvs_service_{name}_total", _of(services, f"counters.{attribute}"))
        if selection.wants("traffic"):
            yield _family(f"pylvs_backend_{name}_total", _of(backends, f"counters.{attribute}"))


def _packet_metrics(packets: PacketCounts) -> Iterator[Family]:
    yield from _end_metrics(packets)
    by_hook = [
        ((device, hook), count)
        for device, each in sorted(packets.forwarded.items())
        for hook, count in (("xdp", each.xdp), ("tc", each.tc))
    ]
    yield _family("pylvs_forwarded_packets_total", by_hook)
    yield _family("pylvs_refused_connections_total", _by_label(refusals(packets.reasons)))
    if use := packets.use:
        yield _single("pylvs_connections_limit", use.capacity)
        yield _single("pylvs_table_entries", use.used)
        yield _single("pylvs_table_fill_ratio", use.fill)
        yield _single("pylvs_half_open_connections", use.half_open)
    if expiry := packets.expiry:
        yield _single("pylvs_expired_total", expiry.connections)
        yield _single("pylvs_expiry_seconds_total", expiry.spent_s)
        yield _single("pylvs_expiry_longest_seconds", expiry.longest_s)

    yield _timer_metrics(packets.timers)
    yield _family("pylvs_timer_longest_run_seconds", [((each.timer,), each.longest_s) for each in packets.timers])


def _end_metrics(packets: PacketCounts) -> Iterator[Family]:
    """Yield what became of packets, and notes besides; nothing without tables."""
    counts, verdicts = {**packets.reasons}, packets.verdicts
    if verdicts:
        counts |= {"forwarded xdp": packets.all_forwarded.xdp, "forwarded tc": packets.all_forwarded.tc}
    ends = {name: count for name, count in counts.items() if verdicts.get(name, NOTE) != NOTE}
    yield _family(
        "pylvs_packets_total",
        sorted(((verdicts[name], name.replace(" ", "_")), count) for name, count in ends.items()),
    )
    yield _family("pylvs_packet_notes_total", _by_label({name: counts[name] for name in counts.keys() - ends.keys()}))


def _timer_metrics(timers: Sequence[TimerRuns]) -> Family:
    runs = Family(families.HISTOGRAM, [])
    for row in timers:
        counts = list(accumulate(count for _, count in row.lengths))
        for (bound, _), count in zip(row.lengths, counts, strict=True):
            text = "+Inf" if isinf(bound) else repr(bound)
            runs.samples.append((f"_bucket{_labels(['timer', 'le'], [row.timer, text])}", float(count)))
        label = _labels(["timer"], [row.timer])
        runs.samples += [(f"_count{label}", float(counts[-1])), (f"_sum{label}", row.spent_s)]
    return runs


def _health_metrics(services: Sequence[ServiceSnapshot], selection: Selection) -> Iterator[Family]:
    if selection.wants("services"):
        yield from _attributes(families.QUORUM, [((each.name,), each) for each in services])
    servers = [([each.name, str(server.server)], server) for each in services for server in each.servers]
    if selection.wants("servers"):
        yield from _attributes(families.SERVER, _rendered(families.SERVER, servers))
        yield _handshake_metrics(servers)
    if selection.wants("checks"):
        numbered = [
            ([*labels, each.check.keyword, str(number)], each)  # the number distinguishes checks of one type
            for labels, server in servers
            for number, each in enumerate(server.checks)
        ]
        yield from _attributes(families.CHECK, _rendered(families.CHECK, numbered))


def _handshake_metrics(servers: Sequence[tuple[list[str], ServerSnapshot]]) -> Family:
    counts = [(labels, server.handshakes_total) for labels, server in servers]
    by_result = [
        ([*labels, result], getattr(total, result))
        for labels, total in counts
        if total is not None
        for result in ("begun", "completed")
    ]
    return _family("pylvs_server_handshakes_total", by_result)


def _daemon_metrics(given: MetricsInput) -> Iterator[Family]:
    yield _family("pylvs_info", [((given.version,), 1)])
    yield _family("pylvs_reloads_total", _by_label(given.reloads))
    if given.reloaded_at is not None:
        yield _single("pylvs_configuration_since_seconds", given.reloaded_at)
    if given.errors is not None:
        yield _single("pylvs_configuration_errors", given.errors)
    yield _family("pylvs_table_edits_total", _by_label(given.edits))
    yield _family("pylvs_part_silent", _by_label({name: float(each) for name, each in given.silent.items()}))


def _process_metrics(given: MetricsInput) -> Iterator[Family]:
    """Yield the metrics of the processes that make checks."""
    if prober := given.prober:
        yield _single("pylvs_prober_up", not prober.problem)
        yield _single("pylvs_prober_restarts_total", prober.restarts)
    if scripts := given.scripts:
        yield _single("pylvs_scripts_running", scripts.running)
        yield _single("pylvs_scripts_waiting", scripts.waiting)
        yield _single("pylvs_scripts_waited_total", scripts.waited)
        yield _single("pylvs_script_wait_seconds_total", scripts.waited_s)
        yield _single("pylvs_script_longest_wait_seconds", scripts.longest_wait_s)


def _notify_metrics(given: MetricsInput) -> Iterator[Family]:
    """Yield the metrics of notify scripts, by the process that runs them."""
    reports = [("checks", given.notify_scripts), ("vrrp", given.routers.get("notify_scripts", {}))]
    found = [(process, each) for process, each in reports if each]
    states = [((process, state), each[state]) for process, each in found for state in ("running", "waiting")]
    yield _family("pylvs_notify_scripts", states)
    ended = [((process,), each["ended_early"]) for process, each in found]
    yield _family("pylvs_notify_scripts_ended_early_total", ended)


def _peer_metrics(peer: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the metrics of the other director; what is not known yet has none."""
    yield _single("pylvs_peer_connected", peer["connected"])
    if peer["complete"]:
        yield _single("pylvs_peer_connections", peer["records"])
        yield _single("pylvs_peer_connections_held", peer["held"])
    if peer["age_s"] is not None:
        yield _single("pylvs_peer_age_seconds", peer["age_s"])
    other = peer["other"]
    if other and other["records"] is not None:
        yield _single("pylvs_peer_other_connections", other["records"])
        yield _single("pylvs_peer_other_connections_held", other["held"])
    if peer["compared"]:
        yield _single("pylvs_peer_differences", len(peer["differences"]))


def _problem_metrics(problems: Sequence[Problem]) -> Family:
    """Return the number of problems of each kind, 0 included: alerts need a series that exists."""
    found = Counter(each.kind for each in problems)
    return _family("pylvs_problems", [((name, kind.severity.value), found[name]) for name, kind in KINDS.items()])


def vrrp_metrics(status: Mapping[str, Any]) -> Iterator[Family]:
    """Yield the metrics of virtual routers, none without any.

    The label is `router`, because Prometheus itself adds a label `instance`.
    """
    instances = status.get("instances", ())
    failed = bool(status.get("problem"))
    yield from _session_metrics(status.get("sessions", ()))
    if not instances and not failed:
        return
    yield _single("pylvs_vrrp_up", not failed)
    process = status.get("process")
    if process:
        yield _single("pylvs_vrrp_timer_longest_delay_seconds", process["longest_gap_ms"] / 1000)
        yield _single("pylvs_vrrp_helper_lost_total", process.get("helper_lost", 0))
    if path := status.get("data_plane"):
        yield _single("pylvs_vrrp_data_plane", -1 if path["up"] is None else path["up"])
        yield _single("pylvs_vrrp_data_plane_expired_total", path.get("expired", 0))
    if not instances:
        return
    routers = [((each["name"],), each) for each in instances]
    yield _family("pylvs_vrrp_state", [(name, VRRP_STATES.get(each["state"], 0)) for name, each in routers])
    yield _family("pylvs_vrrp_priority", [(name, each["priority"]) for name, each in routers])
    yield _family("pylvs_vrrp_since_seconds", [(name, each["since"]) for name, each in routers if each["since"]])

    counts = [(name, each["counters"]) for name, each in routers]
    entered = [
        ((*name, state), count[f"became_{state}"]) for name, count in counts for state in ("backup", "master", "fault")
    ]
    yield _family("pylvs_vrrp_transitions_total", entered)
    yield from _packets_of("pylvs_vrrp_adverts", counts)


def _session_metrics(sessions: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Yield the metrics of BFD sessions; none while their process does not answer."""
    if not sessions:
        return
    named = [((each["name"], each["neighbor"]), each) for each in sessions]
    yield _family("pylvs_bfd_session_up", [(name, each["state"] == "Up") for name, each in named])
    yield _family("pylvs_bfd_since_seconds", [(name, each["since"]) for name, each in named if each["since"]])
    yield _family("pylvs_bfd_flaps_total", [(name, each["flaps"]) for name, each in named])
    yield from _packets_of("pylvs_bfd_packets", [(name, each["counters"]) for name, each in named])


def _packets_of(prefix: str, counts: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> Iterator[Family]:
    """Yield the packets that were sent, received, and dropped by reason."""
    for what in "sent", "received":
        yield _family(f"{prefix}_{what}_total", [(name, count[what]) for name, count in counts])
    dropped = [
        ((*name, reason.replace(" ", "_")), number)
        for name, count in counts
        for reason, number in count["dropped"].items()
    ]
    yield _family(f"{prefix}_dropped_total", dropped)
