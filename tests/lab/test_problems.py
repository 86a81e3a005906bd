"""Silent misconfigurations: `pylvs run` starts, and shows them in status, events and metrics."""

from __future__ import annotations

import json
import subprocess

from tests.interop.namespaces import ip
from tests.lab.test_virtual_routers import INSTANCE, Node, pair
from tests.waiting import until

__all__ = ["pair"]  # a fixture

TEXT = """
global_defs {{
    metrics_address 203.0.113.1 9100
}}
virtual_server 10.66.0.100 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.77.0.9 80 {{
        TCP_CHECK {{
        }}
    }}
    real_server 10.66.0.2 80 {{
        TCP_CHECK {{
            connect_ip 10.66.0.1
        }}
    }}
}}
virtual_server 10.66.0.200 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.66.0.2 80 {{
    }}
}}
"""
EXPECTED = {
    "device": "eth0 is not attached: an ingress qdisc of another program occupies the position of clsact; "
    "see: tc qdisc show dev eth0",
    "metrics_address": "metrics_address 203.0.113.1:9100: Cannot assign requested address",
    "vip": "no device has it, and no virtual router adds it; ARP and ND requests for it get no reply "
    "(10.66.0.200:80 tcp)",
    "10.77.0.9": "direct routing needs a server on the link, but the route leads to the gateway 10.66.0.2",
    "10.66.0.2": "TCP_CHECK connects to 10.66.0.1 instead",
}

SHOWN = (
    ("device", "critical", 1),
    ("vip", "warning", 1),
    ("check_path", "warning", 2),
    ("metrics_address", "warning", 1),
)


def test_each_is_in_status_events_and_metrics_until_it_is_repaired(pair: tuple[Node, Node]) -> None:
    first, _ = pair
    ip(f"-n {first.name} route add 10.77.0.0/24 via 10.66.0.2")
    tc(first, "add")
    first.write(text=INSTANCE + TEXT)
    first.start()

    def shown() -> dict[str, str]:
        problems = json.loads(first.run("status", "--json"))["problems"]
        kinds = ("device", "vip", "check_path", "metrics_address")
        return {_name(each): each["text"] for each in problems if each["kind"] in kinds}

    until(lambda: shown() == EXPECTED, lambda: str(shown()))
    done = subprocess.run(first.pylvs("status", "--check"), capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2), "servers without a listener may be down by now"
    until(lambda: first.run("events").count("problem began") >= len(EXPECTED), "events")
    metrics = first.run("metrics").splitlines()
    for kind, severity, count in SHOWN:
        assert f'pylvs_problems{{kind="{kind}",severity="{severity}"}} {count}.0' in metrics
    assert first.log().count("10.66.0.200: no device has it") == 1
    tc(first, "del")
    ip(f"-n {first.name} addr add 10.66.0.200/32 dev lo")
    ip(f"-n {first.name} route replace 10.77.0.0/24 dev eth0")
    until(lambda: shown().keys() == {"metrics_address", "10.66.0.2"}, "three are repaired")
    until(lambda: first.run("events").count("problem ended") >= 3, "events")


def tc(node: Node, what: str) -> None:
    """Add or delete what another program could have attached to the device."""
    subprocess.run(["tc", "-n", node.name, "qdisc", what, "dev", "eth0", "ingress"], check=True)


def _name(problem: dict[str, str]) -> str:
    return problem["object"].partition(":")[0] if problem["kind"] == "check_path" else problem["kind"]
