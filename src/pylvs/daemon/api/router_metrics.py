"""The numbers of virtual routers.

Prometheus itself has a label `instance`, for what it reads from, so the name of a vrrp_instance is the label `router`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric

from pylvs.daemon.api.families import counter, gauge

STATES = {"BACKUP": 1, "MASTER": 2, "FAULT": 3}  # keepalived's numbers, as its exporters have them


def of(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Nothing where the configuration has no virtual routers."""
    instances = status.get("instances", ())
    trouble = bool(status.get("trouble"))
    if not instances and not trouble:
        return
    yield gauge("pylvs_vrrp_up", "Whether virtual routers run as configured.", [], [([], float(not trouble))])
    process = status.get("process")
    if process:
        text, late_s = "By how much anything was late at most.", process["longest_gap_ms"] / 1000
        yield gauge("pylvs_vrrp_latest_seconds", text, [], [([], late_s)])
    if not instances:
        return
    by_name = [([each["name"]], each) for each in instances]
    label = ["router"]

    text = "1 backup, 2 master, 3 fault."
    yield gauge("pylvs_vrrp_state", text, label, [(is_, STATES.get(each["state"], 0)) for is_, each in by_name])
    text = "The priority now, with what is tracked."
    yield gauge("pylvs_vrrp_priority", text, label, [(is_, each["priority"]) for is_, each in by_name])
    since = [(is_, each["since"]) for is_, each in by_name if each["since"]]
    yield gauge("pylvs_vrrp_since_seconds", "Since when it is in its state, seconds since 1970.", label, since)

    counts = [(is_, each["counters"]) for is_, each in by_name]
    entered = [
        ([*is_, state], found[f"became_{state}"]) for is_, found in counts for state in ("backup", "master", "fault")
    ]
    yield counter("pylvs_vrrp_transitions", "How often a state was entered.", ["router", "state"], entered)
    sent = [(is_, found["sent"]) for is_, found in counts]
    yield counter("pylvs_vrrp_adverts_sent", "Advertisements sent.", label, sent)
    heard = [(is_, found["received"]) for is_, found in counts]
    yield counter("pylvs_vrrp_adverts_received", "Advertisements that counted.", label, heard)
    dropped = [
        ([*is_, reason.replace(" ", "_")], count) for is_, found in counts for reason, count in found["dropped"].items()
    ]
    yield counter("pylvs_vrrp_adverts_dropped", "Advertisements dropped.", ["router", "reason"], dropped)
