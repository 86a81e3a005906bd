"""Every topology, in both families: requests to the VIP reach all real servers in turn, and nothing is left behind."""

from __future__ import annotations

import pytest

from pylvs.lab.lab import take_down
from pylvs.lab.topologies import TOPOLOGIES
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, remains, shared_evenly

ONE_DIRECTOR = [topology for topology in TOPOLOGIES if topology != "ha"]
METHODS = {"-g": "Route", "-m": "Masq", "-i": "Tunnel"}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("topology", ONE_DIRECTOR)
def test_requests_reach_all_real_servers_in_turn(topology: str, version: int, make_lab: MakeLab) -> None:
    lab = make_lab(topology, version=version)
    said = answers(lab, 6)
    assert shared_evenly(said, 3), said
    listing = lab.sh("director", "ipvsadm -Ln").splitlines()
    rows = [line.split() for line in listing if line.startswith("  ->") and "RemoteAddress" not in line]
    assert [row[2] for row in rows] == [METHODS[lab.network.method]] * 3
    assert [int(row[4]) + int(row[5]) for row in rows] == [2, 2, 2]
    assert take_down(lab.name)
    assert remains(lab.name) == []


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("topology", ONE_DIRECTOR)
def test_large_answers_arrive_whole(topology: str, version: int, make_lab: MakeLab) -> None:
    lab = make_lab(topology, servers=2, version=version)
    for _ in range(2):
        said = lab.sh("client", "curl -s --max-time 20 -o /dev/null -w '%{size_download}' http://VIP/big")
        assert said == str(10 << 20)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("topology", ONE_DIRECTOR)
def test_large_requests_arrive_whole(topology: str, version: int, make_lab: MakeLab) -> None:
    """A megabyte from the client goes through the director in segments as large as its cards can cut."""
    lab = make_lab(topology, servers=2, version=version)
    script = (
        "head -c 1000000 /dev/zero >/tmp/$$.body; "
        "curl -s --max-time 20 --data-binary @/tmp/$$.body http://VIP/upload; "
        "rm -f /tmp/$$.body"
    )
    assert [lab.sh("client", script) for _ in range(2)] == ["1000000 bytes\n"] * 2


@pytest.mark.parametrize("topology", ["dr", "dr-behind-router", "dr-routed", "tun"])
def test_direct_routing_and_tunnelling_need_no_forwarding(topology: str, make_lab: MakeLab) -> None:
    lab = make_lab(topology)
    assert lab.sh("director", "cat /proc/sys/net/ipv4/ip_forward") == "0\n"
    assert shared_evenly(answers(lab, 3), 3)
    assert lab.sh("director", "cat /proc/sys/net/ipv4/ip_forward") == "0\n"


def test_one_server_and_many(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=12)
    assert shared_evenly(answers(lab, 12), 12)
