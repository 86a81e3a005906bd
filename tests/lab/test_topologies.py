"""In every topology and family, requests to the VIP reach all real servers in turn, and labs are removed completely."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.topologies import TOPOLOGIES, design
from tests.lab.conftest import MakeLab, new_name
from tests.lab.support import answers, remains, shared_evenly

ONE_DIRECTOR = [topology for topology in TOPOLOGIES if topology not in ("ha", "ecmp")]
METHODS = {"-g": "Route", "-m": "Masq", "-i": "Tunnel"}


@pytest.fixture(
    scope="module", params=[(topology, version) for topology in ONE_DIRECTOR for version in (4, 6)], ids=str
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Make one of each, and remove it without a trace."""
    topology, version = request.param
    name = new_name()
    try:
        yield build(name, design(topology, version=version))
        assert take_down(name)
    finally:
        take_down(name)
        assert remains(name) == []


def connections(lab: Lab) -> list[int]:
    """Return the number of connections of each server."""
    listing = lab.sh("director", "ipvsadm -Ln").splitlines()
    rows = sorted(line.split() for line in listing if line.startswith("  ->") and "RemoteAddress" not in line)
    assert [row[2] for row in rows] == [METHODS[lab.network.method]] * 3
    return [int(row[4]) + int(row[5]) for row in rows]


def test_requests_reach_all_real_servers_in_turn(lab: Lab) -> None:
    """Direct routing and tunnelling need no forwarding."""
    before = connections(lab)
    nat = lab.network.method == "-m"
    assert lab.sh("director", "cat /proc/sys/net/ipv4/ip_forward") == f"{int(nat)}\n"
    output = answers(lab, 6)
    assert shared_evenly(output, 3), output
    assert [after - count for after, count in zip(connections(lab), before, strict=True)] == [2, 2, 2]


def test_large_replies_arrive_complete(lab: Lab) -> None:
    for _ in range(2):
        output = lab.sh("client", "curl -s --max-time 60 -o /dev/null -w '%{size_download}' http://VIP/big")
        assert output == str(10 << 20)


def test_large_requests_arrive_complete(lab: Lab) -> None:
    """The client sends a megabyte through the director in the largest segments that its devices can split."""
    script = (
        "head -c 1000000 /dev/zero >/var/tmp/body; "
        "curl -s --max-time 60 --data-binary @/var/tmp/body http://VIP/upload; "
        "rm -f /var/tmp/body"
    )
    assert [lab.sh("client", script) for _ in range(2)] == ["1000000 bytes\n"] * 2


@pytest.mark.parametrize("version", [4, 6])
def test_the_director_is_a_client_of_nat(make_lab: MakeLab, version: int) -> None:
    lab = make_lab("nat", version=version)
    script = (
        "curl -s --max-time 60 http://VIP/; curl -s --max-time 60 -o /dev/null -w '%{size_download}' http://VIP/big"
    )
    assert lab.sh("director", script).endswith(f" server!\n{10 << 20}")


def test_one_server_and_many(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=12)
    assert shared_evenly(answers(lab, 12), 12)
