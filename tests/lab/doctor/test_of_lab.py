"""`pylvs doctor --lab` sees all hosts, and names them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.doctor.exam import LIMIT_S, built
from tests.lab.support import pylvs
from tests.waiting import until

VIP = "10.0.0.100"
FILTER = "nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; }'; nft add rule inet f i"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab with two directors, which every fault of this file uses."""
    with built("ha") as made:
        yield made


def diagnosed(lab: Lab) -> list[dict[str, Any]]:
    """Return the findings about a lab."""
    done = pylvs("doctor", "--lab", lab.name, "--limit", LIMIT_S, "--json")
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["findings"]
    assert isinstance(found, list)
    return found


FAULTS = [
    ("rs1", f"ip address del {VIP}/32 dev lo", "rs1: this real server does not have 10.0.0.100"),
    ("client", f"ip neigh replace {VIP} lladdr 02:00:00:01:01:00 dev eth0 nud permanent", "client: it sends packets"),
]


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """Two directors, real servers and the client: nothing is wrong with any of them."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize(("host", "script", "title"), FAULTS, ids=[title for _, _, title in FAULTS])
def test_a_fault_is_one_finding_that_names_its_host(lab: Lab, host: str, script: str, title: str) -> None:
    """Both directors infer it, and the host itself knows it; its command mends it on the host of its address."""
    lab.sh(host, script)
    (found,) = diagnosed(lab)
    assert found["title"].startswith(title)
    assert found["fix_host"] == lab.network.names()[host]
    lab.sh(host, found["fix_command"])
    assert diagnosed(lab) == []


def test_a_client_without_an_answer_is_a_finding_although_no_host_shows_a_cause(lab: Lab) -> None:
    """The client's own firewall drops replies."""
    lab.sh("client", f"{FILTER} tcp sport 80 drop")
    found = diagnosed(lab)
    lab.sh("client", "nft delete table inet f")
    assert found[0]["id"] == "client_unanswered"
    until(lambda: diagnosed(lab) == [])  # handshakes that failed count for a while


def test_a_backup_whose_table_differs_is_named_before_the_take_over(lab: Lab) -> None:
    """Each director is healthy in itself."""
    lab.sh(
        "director2", "ipvsadm -A -t VIP:81 -s rr; ipvsadm -a -t VIP:81 -r rs1:80 -m; sysctl -w net.ipv4.ip_forward=1"
    )
    found = [each["title"] for each in diagnosed(lab) if each["id"] == "directors_differ"]
    lab.sh("director2", "ipvsadm -D -t VIP:81")
    assert found == ["director1: the table lacks TCP 10.0.0.100:81, which director2 has"]


def test_an_unknown_lab_is_one_line() -> None:
    done = pylvs("doctor", "--lab", "nosuch")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nosuch" in done.stderr


def test_a_server_without_a_route_to_clients_is_named(make_lab: MakeLab) -> None:
    """Neither the director nor the server itself knows where clients are before they ask."""
    lab = make_lab("dr-routed", 2)
    assert diagnosed(lab) == []
    lab.sh("rs1", "ip route del default")
    (found,) = diagnosed(lab)
    assert found["id"] == "server_reply_unroutable"
    lab.sh("rs1", found["fix_command"])
    assert diagnosed(lab) == []
