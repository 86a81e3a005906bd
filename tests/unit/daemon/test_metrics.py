"""Metrics as Prometheus reads them."""

from __future__ import annotations

import json
import math
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pylvs.daemon.api.metrics import MetricsInput, Selection, exposition
from pylvs.health.events import Override
from pylvs.health.prober.link import ProberCounts
from pylvs.health.state import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.model.checks import Target, TcpCheck
from pylvs.model.rows import (
    Counters,
    DestinationRow,
    Expiry,
    HookPackets,
    PacketCounts,
    ServiceRow,
    TableUse,
    TimerRuns,
)
from pylvs.model.service import FIRST_PROBE_MARK, Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from pylvs.system.processes.scripts import ScriptCounts

SERVER = DestinationKey(ip_address("10.0.0.2"), 80)
WEB = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)
MARK = ServiceKey.of_mark(0x1F)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

BOUNDS = ("0.0001", "0.0002", "+Inf")


def samples(facts: MetricsInput, selection: Selection = Selection()) -> Samples:  # noqa: B008  immutable
    """Return every sample of the page by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(facts, selection))
        for sample in family.samples
    }


def labels(**each: str) -> tuple[tuple[str, str], ...]:
    """Return labels as `samples` does."""
    return tuple(sorted(each.items()))


def row(key: ServiceKey, *, weight: int, active: int, counters: Counters) -> ServiceRow:
    """Return a service with one destination."""
    destination = DestinationRow(Destination(SERVER, weight=weight), active, 7, 2, counters)
    return ServiceRow(VirtualService(key), (destination,), counters)


def test_a_table_has_the_names_and_labels_of_node_exporter() -> None:
    rows = [
        row(WEB, weight=3, active=5, counters=Counters(10, 20, 30, 40, 50)),
        row(MARK, weight=0, active=1, counters=Counters(1, 2, 3, 4, 5)),
        row(ServiceKey.of_mark(FIRST_PROBE_MARK), weight=1, active=1, counters=Counters(9, 9, 9, 9, 9)),  # of a check
    ]
    found = samples(MetricsInput("1", rows, PacketCounts(totals=Counters(11, 22, 33, 44, 55))))
    assert found["node_ipvs_connections_total", ()] == 11
    assert found["node_ipvs_incoming_packets_total", ()] == 22
    assert found["node_ipvs_outgoing_packets_total", ()] == 33
    assert found["node_ipvs_incoming_bytes_total", ()] == 44
    assert found["node_ipvs_outgoing_bytes_total", ()] == 55
    remote = {"remote_address": "10.0.0.2", "remote_port": "80"}
    assert not [labelled for _, labelled in found if ("local_mark", f"{FIRST_PROBE_MARK:08X}") in labelled]
    web = labels(local_address="192.0.2.1", local_port="80", local_mark="", proto="TCP", **remote)
    mark = labels(local_address="", local_port="0", local_mark="0000001F", proto="FWM", **remote)
    assert (found["node_ipvs_backend_weight", web], found["node_ipvs_backend_weight", mark]) == (3, 0)
    assert found["node_ipvs_backend_connections_active", web] == 5
    assert found["node_ipvs_backend_connections_inactive", mark] == 7
    assert found["pylvs_backend_incoming_bytes_total", web] == 40


def test_packets_are_counted_by_reason() -> None:
    counts = {"table full dropped": 3, "no route": 0, "fragment queued": 7, "no service": 5, "to tc": 9}
    forwarded = {"eth0": HookPackets(90, 10), "eth1": HookPackets(0, 7)}
    verdicts = dict.fromkeys(counts, "dropped") | {
        "fragment queued": "held",
        "no service": "passed",
        "to tc": "note",
    }
    verdicts |= dict.fromkeys(("forwarded xdp", "forwarded tc"), "forwarded")
    packets = PacketCounts(counts, forwarded=forwarded, verdicts=verdicts, all_forwarded=HookPackets(93, 18))
    found = samples(MetricsInput("1", packets=packets))
    ends = {
        ("dropped", "table_full_dropped"): 3,
        ("dropped", "no_route"): 0,
        ("held", "fragment_queued"): 7,
        ("passed", "no_service"): 5,
        ("forwarded", "forwarded_xdp"): 93,  # a device that is gone received a part of them
        ("forwarded", "forwarded_tc"): 18,
    }
    for (verdict, reason), count in ends.items():
        assert found["pylvs_packets_total", labels(verdict=verdict, reason=reason)] == count
    assert found["pylvs_packet_notes_total", labels(reason="to_tc")] == 9
    assert not [name for name, labelled in found if ("reason", "to_tc") in labelled and name == "pylvs_packets_total"]


def test_the_cost_of_expiry_is_a_metric() -> None:
    found = samples(MetricsInput("1", packets=PacketCounts(expiry=Expiry(7, 3, 0.5, 0.25))))
    assert found["pylvs_expired_total", ()] == 7
    assert found["pylvs_expiry_seconds_total", ()] == 0.5
    assert found["pylvs_expiry_longest_seconds", ()] == 0.25


def test_the_use_of_the_connection_table_is_a_metric() -> None:
    reasons = {"refused index full": 3, "refused table copy": 2, "no route": 1}
    found = samples(MetricsInput("1", packets=PacketCounts(reasons, TableUse(1000, 800, 200))))
    assert found["pylvs_connections_limit", ()] == 1000
    assert found["pylvs_table_entries", ()] == 800
    assert found["pylvs_table_fill_ratio", ()] == 0.8
    assert found["pylvs_half_open_connections", ()] == 200
    assert found["pylvs_refused_connections_total", labels(reason="index_full")] == 3
    assert found["pylvs_refused_connections_total", labels(reason="table_copy")] == 2
    assert ("pylvs_refused_connections_total", labels(reason="no_route")) not in found


def test_forwarded_packets_are_counted_by_device_and_hook() -> None:
    forwarded = {"eth0": HookPackets(90, 10), "eth1": HookPackets(0, 7)}
    found = samples(MetricsInput("1", packets=PacketCounts(forwarded=forwarded)))
    assert found["pylvs_forwarded_packets_total", labels(device="eth0", hook="xdp")] == 90
    assert found["pylvs_forwarded_packets_total", labels(device="eth0", hook="tc")] == 10
    assert found["pylvs_forwarded_packets_total", labels(device="eth1", hook="xdp")] == 0
    assert found["pylvs_forwarded_packets_total", labels(device="eth1", hook="tc")] == 7


def test_the_runs_of_timers_are_a_histogram() -> None:
    runs = TimerRuns("expiry", ((0.0001, 3), (0.0002, 2), (math.inf, 1)), 0.5, 0.25)
    found = samples(MetricsInput("1", packets=PacketCounts(timers=(runs,))))
    buckets = {bound: found["pylvs_timer_run_seconds_bucket", labels(timer="expiry", le=bound)] for bound in BOUNDS}
    assert buckets == {"0.0001": 3, "0.0002": 5, "+Inf": 6}
    assert found["pylvs_timer_run_seconds_count", labels(timer="expiry")] == 6
    assert found["pylvs_timer_run_seconds_sum", labels(timer="expiry")] == 0.5
    assert found["pylvs_timer_longest_run_seconds", labels(timer="expiry")] == 0.25


def test_checks_servers_and_quorums_have_metrics() -> None:
    check = TcpCheck(target=Target(ip_address("10.0.0.2"), 80))
    made = CheckSnapshot(check, False, 4, None, "connection refused", False, 1.0, 0.25, 3.0, False, 1, 9, 4)
    unmade = CheckSnapshot(check, None, 0, None, "", True, None, None, 3.0, False, 1, 2, 0, 2)
    server = ServerSnapshot(
        "web", SERVER, Destination(SERVER), False, True, 99.5, "refused", 0, 4, Override(), False, (made, unmade)
    )
    service = ServiceSnapshot("web", (WEB,), False, 99.5, 2, 1, 0, None, False, False, (server,))
    reloads = {"done": 2, "refused": 1}
    found = samples(MetricsInput("1", services=[service], reloads=reloads, errors=3, edits={"restored": 5}))
    assert found["pylvs_configuration_errors", labels()] == 3
    assert found["pylvs_quorum_up", labels(service="web")] == 0
    is_ = {"service": "web", "server": "10.0.0.2:80"}
    assert found["pylvs_server_up", labels(**is_)] == 0
    assert found["pylvs_server_configured_weight", labels(**is_)] == 4
    assert found["pylvs_server_checks", labels(**is_)] == 2
    assert found["pylvs_server_since_seconds", labels(**is_)] == 99.5
    first = labels(**is_, check="TCP_CHECK", number="0")
    assert found["pylvs_check_up", first] == 0
    assert found["pylvs_check_duration_seconds", first] == 0.25
    assert found["pylvs_check_probes_total", first] == 9
    assert found["pylvs_check_failed_probes_total", first] == 4
    second = labels(**is_, check="TCP_CHECK", number="1")
    assert ("pylvs_check_up", second) not in found
    assert (found["pylvs_check_inconclusive", first], found["pylvs_check_inconclusive", second]) == (0, 1)
    assert found["pylvs_check_inconclusive_probes_total", second] == 2
    assert found["pylvs_reloads_total", labels(result="refused")] == 1
    assert found["pylvs_table_edits_total", labels(kind="restored")] == 5


def test_the_processes_that_make_checks_have_metrics() -> None:
    prober, scripts = ProberCounts("the prober process has ended", 3), ScriptCounts(200, 40, 7, 12.5, 2.5)
    found = samples(MetricsInput("1", prober=prober, scripts=scripts))
    assert found["pylvs_prober_up", ()] == 0
    assert found["pylvs_prober_restarts_total", ()] == 3
    assert found["pylvs_scripts_running", ()] == 200
    assert found["pylvs_scripts_waiting", ()] == 40
    assert found["pylvs_scripts_waited_total", ()] == 7
    assert found["pylvs_script_wait_seconds_total", ()] == 12.5
    assert found["pylvs_script_longest_wait_seconds", ()] == 2.5


def test_notify_scripts_have_metrics_by_process() -> None:
    ours = {"running": 3, "waiting": 2, "ended_early": 1, "scripts": []}
    routers = {"notify_scripts": {"running": 1, "waiting": 0, "ended_early": 4, "scripts": []}}
    found = samples(MetricsInput("1", notify_scripts=ours, routers=routers))
    assert found["pylvs_notify_scripts", labels(process="checks", state="running")] == 3
    assert found["pylvs_notify_scripts", labels(process="checks", state="waiting")] == 2
    assert found["pylvs_notify_scripts_ended_early_total", labels(process="checks")] == 1
    assert found["pylvs_notify_scripts", labels(process="vrrp", state="running")] == 1
    assert found["pylvs_notify_scripts_ended_early_total", labels(process="vrrp")] == 4


def test_the_dashboard_queries_existing_metrics() -> None:
    check = TcpCheck(target=Target(ip_address("10.0.0.2"), 80))
    made = CheckSnapshot(check, True, 0, None, "connected", False, 1.0, 0.25, 3.0, False, 1, 9, 4)
    server = ServerSnapshot(
        "web", SERVER, Destination(SERVER), True, True, 99.5, "connected", 4, 4, Override(), True, (made,)
    )
    service = ServiceSnapshot("web", (WEB,), True, 99.5, 2, 1, 0, None, False, False, (server,))
    rows = [row(WEB, weight=3, active=5, counters=Counters(10, 20, 30, 40, 50))]
    counts = PacketCounts({"no route": 1}, TableUse(2, 1, 0), verdicts={"no route": "dropped"})
    there = {name for name, _ in samples(MetricsInput("1", rows, counts, [service]))}
    board = json.loads((Path(__file__).parents[3] / "docs" / "reference" / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:pylvs|node)_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= there


def two_services() -> MetricsInput:
    """Return a service of the configuration with a checked server, and a service that another program has added."""
    check = TcpCheck(target=Target(SERVER.address, 80))
    made = CheckSnapshot(check, True, 0, None, "connected", False, 1.0, 0.25, 3.0, False, 1, 9, 4)
    server = ServerSnapshot(
        "web", SERVER, Destination(SERVER), True, True, 99.5, "connected", 4, 4, Override(), True, (made,)
    )
    service = ServiceSnapshot("web", (WEB,), True, 99.5, 2, 1, 0, None, False, False, (server,))
    rows = [row(each, weight=3, active=5, counters=Counters(10, 20, 30, 40, 50)) for each in (WEB, MARK)]
    return MetricsInput("1", rows, PacketCounts(), [service])


@pytest.mark.parametrize(
    ("series", "there", "absent"),
    [
        ("", "service_connections_total backend_connections_total quorum_up server_up check_up", ""),
        ("services", "service_connections_total quorum_up", "backend server check"),
        ("backends", "backend_connections_persistent", "service backend_connections_total quorum server check"),
        ("traffic", "backend_connections_total", "service backend_connections_persistent quorum server check"),
        ("servers checks", "server_up check_up check_probes_total", "service backend quorum"),
    ],
)
def test_a_selection_of_series_leaves_out_the_others(series: str, there: str, absent: str) -> None:
    given, selection = two_services(), Selection(tuple(series.split()))
    page = exposition(given, selection)
    names = {name.removeprefix("pylvs_") for name, _ in samples(given, selection)}
    assert set(there.split()) <= names
    assert [name for name in names for each in absent.split() if name.startswith(each)] == []
    assert {"connections", "info"} <= names, "the others stay"
    families = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert len(families) == len(set(families))


@pytest.mark.parametrize(
    ("pattern", "web", "mark"), [("web", True, False), ("w*", True, False), ("FWM 31", False, True)]
)
def test_a_selection_of_services_is_by_the_name_in_the_configuration_or_the_key(
    pattern: str, web: bool, mark: bool
) -> None:
    found = samples(two_services(), Selection(services=(pattern,)))
    shown = {dict(each).get("local_mark") for name, each in found if name == "pylvs_service_connections_total"}
    assert shown == ({""} if web else set()) | ({"0000001F"} if mark else set())
    assert (("pylvs_server_up", labels(service="web", server="10.0.0.2:80")) in found) is web
    assert found["pylvs_connections", ()] == 24, "totals are those of all"


def test_labels_of_any_text_are_read_as_they_are() -> None:
    names = ['a"b', "a\\b", "a\nb", "\\n", "ü{}"]
    services = [ServiceSnapshot(name, (), True, 1.0, 2, 1, 0, None, False, False, ()) for name in names]
    found = samples(MetricsInput("1", services=services))
    assert [name for name in names if ("pylvs_quorum_up", labels(service=name)) not in found] == []


def test_what_was_not_read_in_time_has_no_metrics() -> None:
    alone = {name for name, _ in samples(MetricsInput("1", None, None))}
    assert not [name for name in alone if name.startswith(("node_ipvs_", "pylvs_service_", "pylvs_connections"))]
    assert "pylvs_info" in alone
    rows = {name for name, _ in samples(MetricsInput("1", packets=None))}
    assert rows - alone == {"pylvs_connections"}
    packets = {name for name, _ in samples(MetricsInput("1", rows=None))}
    assert "node_ipvs_connections_total" in packets - alone
    assert "pylvs_connections" not in packets


def test_an_empty_table_has_metrics_too() -> None:
    found = samples(MetricsInput("1.2.3"))
    assert found["pylvs_info", labels(version="1.2.3")] == 1
    assert found["node_ipvs_connections_total", ()] == 0
