"""The families of metrics: labels, type and help of each, by its name in Prometheus.

A test compares names and labels with docs/reference/verbs.md.
"""

from __future__ import annotations

from collections.abc import Mapping

# field of Counters: its name in node_exporter's metrics, and what it counts
COUNTED = {
    "connections": ("connections", "connections"),
    "in_packets": ("incoming_packets", "packets to real servers"),
    "in_bytes": ("incoming_bytes", "bytes to real servers"),
    "out_packets": ("outgoing_packets", "packets from real servers, as far as they come through the director"),
    "out_bytes": ("outgoing_bytes", "bytes from real servers, as far as they come through the director"),
}
_NAMED = COUNTED.values()
SERVICE = ("local_address", "local_port", "local_mark", "proto")
BACKEND = (*SERVICE, "remote_address", "remote_port")
QUORUM, SERVER = ("service",), ("service", "server")
CHECK = (*SERVER, "check", "number")
HISTOGRAM = "pylvs_timer_run_seconds"
_SINCE = "Since when it is in its state, seconds since 1970."

# By labels: help by name.
_HELP: Mapping[tuple[str, ...], Mapping[str, str]] = {
    (): {
        **{f"node_ipvs_{name}_total": f"All {each}, of the services that there are and were." for name, each in _NAMED},
        "pylvs_connections": "Connections in the table.",
        "pylvs_connections_limit": "Connections that the table holds.",
        "pylvs_table_entries": "Connections and templates in the table.",
        "pylvs_table_fill_ratio": "The used share of the table.",
        "pylvs_half_open_connections": "Handshakes not completed, and unconfirmed connections of UDP.",
        "pylvs_expired_total": "Connections whose time was up.",
        "pylvs_expiry_seconds_total": "Processor time of ending connections.",
        "pylvs_expiry_longest_seconds": "The longest run of the timer that ends connections.",
        "pylvs_configuration_since_seconds": "When a configuration was last put in force, seconds since 1970.",
        "pylvs_configuration_errors": "Errors in the configuration in force: it does not do all that it says.",
        "pylvs_prober_up": "Whether the process that makes checks over the network runs, or was not needed yet.",
        "pylvs_prober_restarts_total": "Its unexpected ends.",
        "pylvs_scripts_running": "Scripts of checks that run.",
        "pylvs_scripts_waiting": "Scripts that wait because too many run.",
        "pylvs_scripts_waited_total": "Scripts that had to wait.",
        "pylvs_script_wait_seconds_total": "How long they waited in total.",
        "pylvs_script_longest_wait_seconds": "The longest of these waits.",
        "pylvs_peer_connected": "Whether connections of the other director are copied to this one.",
        "pylvs_peer_connections": "Connections of the other director in the last copy of all, and in changes since.",
        "pylvs_peer_connections_held": "Of these, those that this director holds.",
        "pylvs_peer_age_seconds": "How far this director is behind the other one.",
        "pylvs_peer_other_connections": "Connections of this director in the last copy for the other one.",
        "pylvs_peer_other_connections_held": "Of these, those that the other director holds.",
        "pylvs_peer_differences": "Services, servers and checks that are not the same at the other director.",
        "pylvs_vrrp_up": "Whether virtual routers run as configured.",
        "pylvs_vrrp_timer_longest_delay_seconds": "The largest delay of a timer.",
        "pylvs_vrrp_helper_lost_total": "How often the helper process ended by itself, or was killed because it hung.",
        "pylvs_vrrp_data_plane": "Whether virtual routers know that services are forwarded: 1 yes, 0 no, -1 unknown.",
        "pylvs_vrrp_data_plane_expired_total": "How often pylvs run did not report to virtual routers in time.",
    },
    SERVICE: {f"pylvs_service_{name}_total": f"A service's {each}." for name, each in _NAMED},
    BACKEND: {f"pylvs_backend_{name}_total": f"A destination's {each}." for name, each in _NAMED},
    ("reason",): {
        "pylvs_packet_notes_total": "Events beside the ends of packets, by reason.",
        "pylvs_refused_connections_total": "New connections without an entry in the table, by reason.",
    },
    ("verdict", "reason"): {
        "pylvs_packets_total": "Packets that attached devices received: each ends by one verdict and reason.",
    },
    ("device", "hook"): {
        "pylvs_forwarded_packets_total": (
            "Packets that a hook has forwarded, by ingress device: XDP is fast, TC is complete."
        ),
    },
    ("timer",): {
        HISTOGRAM: "How long a timer held a processor.",
        "pylvs_timer_longest_run_seconds": "The longest of these runs.",
    },
    ("version",): {"pylvs_info": "The version that answers."},
    ("result",): {"pylvs_reloads_total": "Reloads of the configuration."},
    ("kind",): {"pylvs_table_edits_total": "Edits of the table: desired, restored, refused."},
    (*SERVER, "result"): {
        "pylvs_server_handshakes_total": "Handshakes of known clients with a real server: begun, completed."
    },
    ("part",): {"pylvs_part_silent": "Whether a part of the daemon makes no progress, so that its state is unknown."},
    ("process", "state"): {"pylvs_notify_scripts": "Notify scripts that run, or wait for the one before."},
    ("process",): {
        "pylvs_notify_scripts_ended_early_total": "Notify scripts that did not end by themselves within their limit.",
    },
    ("kind", "severity"): {"pylvs_problems": "Problems that pylvs status --check reports."},
    ("router",): {
        "pylvs_vrrp_state": "1 backup, 2 master, 3 fault.",
        "pylvs_vrrp_priority": "The priority now, with what is tracked.",
        "pylvs_vrrp_since_seconds": _SINCE,
        "pylvs_vrrp_adverts_sent_total": "Advertisements sent.",
        "pylvs_vrrp_adverts_received_total": "Advertisements that counted.",
    },
    ("router", "state"): {"pylvs_vrrp_transitions_total": "How often a state was entered."},
    ("router", "reason"): {"pylvs_vrrp_adverts_dropped_total": "Advertisements dropped."},
    ("session", "neighbor"): {
        "pylvs_bfd_session_up": "Whether a BFD session is up.",
        "pylvs_bfd_since_seconds": _SINCE,
        "pylvs_bfd_flaps_total": "How often it left state Up.",
        "pylvs_bfd_packets_sent_total": "Control packets sent.",
        "pylvs_bfd_packets_received_total": "Control packets that counted.",
    },
    ("session", "neighbor", "reason"): {"pylvs_bfd_packets_dropped_total": "Control packets dropped."},
}
# Metrics by labels, each with the attribute of the object that has the labels.
ATTRIBUTES: Mapping[tuple[str, ...], Mapping[str, tuple[str, str]]] = {
    BACKEND: {
        "node_ipvs_backend_connections_active": ("active", "Connections of a destination that are active."),
        "node_ipvs_backend_connections_inactive": ("inactive", "Connections of a destination that are inactive."),
        "node_ipvs_backend_weight": ("destination.weight", "The weight of a destination in the table."),
        "pylvs_backend_connections_persistent": ("persistent", "The persistence templates of a destination."),
    },
    QUORUM: {
        "pylvs_quorum_up": ("has_quorum", "Whether a virtual server has its quorum."),
        "pylvs_quorum_weight": ("quorum", "The weight that the quorum asks for."),
        "pylvs_weight_up": ("weight_up", "The weights of the real servers that are up."),
        "pylvs_sorry_server_in": ("sorry_server_in", "Whether the sorry server serves."),
    },
    SERVER: {
        "pylvs_server_up": ("up", "Whether a real server counts as up."),
        "pylvs_server_checks": (
            "check_count",
            "How many checks a real server has; without one it always counts as up.",
        ),
        "pylvs_server_in_table": ("in_table", "Whether a real server is in the table."),
        "pylvs_server_weight": ("weight", "The weight that a real server should have now."),
        "pylvs_server_configured_weight": ("configured_weight", "The weight of the configuration."),
        "pylvs_server_handshakes_low": (
            "handshakes_are_low",
            "Whether a real server completes far fewer handshakes of clients than the others; absent with UDP.",
        ),
        "pylvs_server_since_seconds": ("since", "Since when it is up or down, seconds since 1970."),
    },
    CHECK: {
        "pylvs_check_up": ("good", "Whether a check counts as good; absent before it was made."),
        "pylvs_check_inconclusive": (
            "inconclusive",
            "Whether this host could not make the last probe; the state stays.",
        ),
        "pylvs_check_duration_seconds": ("took_s", "How long the last probe took."),
        "pylvs_check_probes_total": ("probes", "Probes made."),
        "pylvs_check_failed_probes_total": ("failed_probes", "Probes that failed."),
        "pylvs_check_inconclusive_probes_total": ("inconclusive_probes", "Probes that this host could not make."),
    },
}

# labels and help
FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    **{name: (labels, text) for labels, each in _HELP.items() for name, text in each.items()},
    **{name: (labels, text) for labels, each in ATTRIBUTES.items() for name, (_, text) in each.items()},
}


def type_of(name: str) -> str:
    """Return the type of a family."""
    return "counter" if name.endswith("_total") else "histogram" if name == HISTOGRAM else "gauge"
