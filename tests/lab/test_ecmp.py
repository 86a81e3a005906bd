"""Several directors behind a router: connections stay, ICMP errors find their server, addresses come and go."""

from __future__ import annotations

import re
import signal
from collections import Counter
from contextlib import closing

import pytest

from pylvs.lab.demo import KEPT, LongConnections
from pylvs.lab.lab import Lab, power_off, power_on
from tests.lab.conftest import MakeLab
from tests.waiting import PATIENCE_S, until

CONNECTIONS = 120
DIRECTORS = [f"director{number}" for number in range(1, 5)]
SERVERS = 4


def paths(lab: Lab) -> set[str]:
    """Return the directors to which the router sends packets to the VIP."""
    six = "-6 " if lab.network.version == 6 else ""
    found = lab.sh("router", f"ip {six}route show {lab.network.vip}")
    names = {address: name for name, address in lab.network.names().items() if name in DIRECTORS}
    return {names[address] for address in re.findall(r"via (\S+)", found)}


def until_paths(lab: Lab, *directors: str) -> None:
    until(lambda: paths(lab) == set(directors), f"routes to {', '.join(directors)}, not {paths(lab)}")


def assert_all_kept(connections: LongConnections) -> None:
    assert Counter(connections.ask()) == {KEPT: CONNECTIONS}


def log_of(lab: Lab, director: str) -> str:
    return lab.sh(director, "cat /var/log/pylvs.log")


@pytest.mark.parametrize(
    "routing",
    ["bird", *(pytest.param(each, marks=pytest.mark.nightly("the gate plays BIRD")) for each in ("frr", "gobgp"))],
)
def test_connections_stay_while_directors_die_join_and_leave(make_lab: MakeLab, routing: str) -> None:
    """Theory: all stay. mh gives a client the same server on each director, and sloppy_tcp takes the packet."""
    lab = make_lab("ecmp", SERVERS, routing=routing)
    until_paths(lab, *DIRECTORS)
    with closing(LongConnections(lab, CONNECTIONS)) as connections:
        power_off(lab, "director2")
        until_paths(lab, "director1", "director3", "director4")
        assert_all_kept(connections)
        power_on(lab, "director2")
        until_paths(lab, *DIRECTORS)
        assert_all_kept(connections)
        lab.run("director1", ["pylvs", "director", "leave"], seconds=PATIENCE_S)
        until_paths(lab, "director2", "director3", "director4")
        assert_all_kept(connections)
        before = log_of(lab, "director1")
        lab.sh("director1", "service pylvs stop; service pylvs start")
        left = f"{lab.network.vip}: withdrawn (pylvs director leave)"
        until(lambda: left in lab.sh("director1", "pylvs status"), f"pylvs status: {left}")
        until_paths(lab, "director2", "director3", "director4")
        assert f"{lab.network.vip} is announced" not in log_of(lab, "director1").removeprefix(before)
        lab.sh("director1", "pylvs director join")
        until_paths(lab, *DIRECTORS)
        assert_all_kept(connections)
        lab.run("director3", ["service", "pylvs", "stop"], seconds=PATIENCE_S)
        until_paths(lab, "director1", "director2", "director4")
        assert_all_kept(connections)
    assert f"{lab.network.vip} is announced" in log_of(lab, "director1")
    assert f"{lab.network.vip} is leaving: pylvs director leave" in log_of(lab, "director1")
    assert f"{lab.network.vip} is leaving: pylvs stops" in log_of(lab, "director3")


@pytest.mark.parametrize(
    ("version", "megabytes"),
    [
        (4, 10),
        *(pytest.param(each, 100, marks=pytest.mark.nightly("the gate downloads 10 MB by IPv4")) for each in (4, 6)),
    ],
)
def test_a_download_survives_an_icmp_error_that_reaches_another_director(
    make_lab: MakeLab, version: int, megabytes: int
) -> None:
    """The client's path takes 1,400 bytes, the servers send 1,500. Errors are routed to a director without connections.

    Linux hashes an ICMPv6 error as its connection, unlike other routers. So the test routes errors itself.
    """
    lab = make_lab("ecmp", SERVERS, version)
    until_paths(lab, *DIRECTORS)
    for server in lab.network.role("realserver"):
        lab.sh(server.name, f"truncate -s {megabytes}M /var/www/html/large")
    names, vip = lab.network.names(), lab.network.vip
    ip, icmp = ("ip", "icmp") if version == 4 else ("ip -6", "ipv6-icmp")
    hops = " ".join(f"nexthop via {names[director]}" for director in DIRECTORS[1:])
    lab.sh("router", f"{ip} route add {vip} table 100 {hops} && {ip} rule add to {vip} ipproto tcp lookup 100")
    lab.sh("router", f"{ip} route add {vip} table 101 via {names['director1']}")
    lab.sh("router", f"{ip} rule add to {vip} ipproto {icmp} lookup 101 && ip link set eth0 mtu 1400")
    download = ["curl", "-s", "--max-time", "120", "-o", "/dev/null", "-w", "%{size_download}", "http://VIP/large"]
    assert lab.run("client", download, seconds=PATIENCE_S).stdout == str(megabytes << 20)
    assert "icmp by hash" in lab.sh("director1", "pylvs drops")
    assert len(lab.sh("director1", "ipvsadm -Lnc").splitlines()) == 2, "titles alone, no connection"


@pytest.mark.nightly("it waits for a lease of 10 s")
def test_a_killed_daemon_withdraws_at_the_end_of_its_lease(make_lab: MakeLab) -> None:
    lab = make_lab("ecmp", 2)
    until_paths(lab, *DIRECTORS)
    with closing(LongConnections(lab, CONNECTIONS)) as connections:
        lab.sh("director1", "kill -KILL $(cat /var/lib/pylvs-lab/pylvs.pid)")
        until_paths(lab, *DIRECTORS[1:])
        assert_all_kept(connections)
        lab.sh("director1", "service pylvs start")
        until_paths(lab, *DIRECTORS)


@pytest.mark.nightly("it waits for a lease of 10 s")
def test_a_daemon_that_hangs_withdraws_too_and_returns(make_lab: MakeLab) -> None:
    lab = make_lab("ecmp", 2)
    until_paths(lab, *DIRECTORS)
    lab.sh("director1", f"kill -{signal.SIGSTOP.name[3:]} $(cat /var/lib/pylvs-lab/pylvs.pid)")
    until_paths(lab, *DIRECTORS[1:])
    lab.sh("director1", f"kill -{signal.SIGCONT.name[3:]} $(cat /var/lib/pylvs-lab/pylvs.pid)")
    until_paths(lab, *DIRECTORS)


@pytest.mark.nightly("the gate plays it in a daemon without a lab")
def test_without_quorum_every_director_withdraws(make_lab: MakeLab) -> None:
    lab = make_lab("ecmp", 2)
    until_paths(lab, *DIRECTORS)
    for server in "rs1", "rs2":
        lab.sh(server, "service nginx stop")
    until_paths(lab)
    assert f"{lab.network.vip}: withdrawn" in lab.sh("director1", "pylvs status")
    lab.sh("rs1", "service nginx start")
    until_paths(lab, *DIRECTORS)
