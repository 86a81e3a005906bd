"""`pylvs doctor` where the table itself is the mistake: weights, schedulers, persistence, marks, settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, mend, request, table_of
from tests.lab.support import answers

SERVICE = "ipvsadm -E -t VIP:80 -s rr"
WEIGHTS = "ipvsadm -e -t VIP:80 -r rs1 -g -w 1; ipvsadm -e -t VIP:80 -r rs2 -g -w 1"
MARKED = "ipvsadm -A -f 7 -s rr; ipvsadm -a -f 7 -r rs1 -g; ipvsadm -a -f 7 -r rs2 -g"
RULE = "pylvs mark add --dst 10.0.0.100 --proto tcp --dports 80 7"
UNMARKED = "ipvsadm -D -f 7; pylvs mark del --all"
NETFILTER = """nft -f - <<end
table ip marks {
    chain in {
        type filter hook prerouting priority mangle
        ip daddr 10.0.0.100 tcp dport 80 meta mark set 7
    }
}
end
"""

FAULTS = [
    Fault(
        name="weight 0 everywhere",
        host="director",
        script="ipvsadm -e -t VIP:80 -r rs1 -g -w 0; ipvsadm -e -t VIP:80 -r rs2 -g -w 0",
        cause="weights_zero",
        words=("TCP 10.0.0.100:80", "10.0.0.21:80"),
    ),
    Fault(
        name="no service",
        host="director",
        script="ipvsadm -Sn >/run/table; ipvsadm -C",
        cause="table_empty",
        words=("10.0.0.100",),
        cure="ipvsadm -R </run/table",
    ),
    Fault(
        name="a service without servers",
        host="director",
        script="ipvsadm -d -t VIP:80 -r rs1; ipvsadm -d -t VIP:80 -r rs2",
        cause="service_empty",
        words=("TCP 10.0.0.100:80",),
        cure="ipvsadm -a -t VIP:80 -r rs1 -g; ipvsadm -a -t VIP:80 -r rs2 -g",
    ),
    Fault(
        name="client rules that deny every client",
        host="director",
        script="pylvs filter add -t 10.0.0.100:80 deny 0.0.0.0/0",
        cause="all_clients_denied",
        words=("TCP 10.0.0.100:80",),
    ),
    Fault(
        name="the port of the service is wrong",
        host="director",
        script="ipvsadm -Sn >/run/table; ipvsadm -C; sed s/:80/:8080/ /run/table | ipvsadm -R",
        cause="not_listening",
        words=("all real servers of TCP 10.0.0.100:8080",),
        cure="ipvsadm -C; ipvsadm -R </run/table",
    ),
    Fault(
        name="the address of the service is wrong",
        host="director",
        script="ipvsadm -Sn >/run/table; ipvsadm -C; sed s/10.0.0.100/10.0.0.101/ /run/table | ipvsadm -R",
        cause="vip_missing",
        words=("10.0.0.101",),
        cure="ipvsadm -C; ipvsadm -R </run/table",
    ),
    Fault(
        name="thresholds that are reached",
        host="director",
        script="ipvsadm -e -t VIP:80 -r rs1 -g -x 1; ipvsadm -e -t VIP:80 -r rs2 -g -x 1",
        requests=4,
        cause="servers_overloaded",
        words=("10.0.0.21:80 has", "of 1"),
    ),
    Fault(
        name="no scheduler",
        host="director",
        script="ipvsadm -E -t VIP:80 -s none",
        cause="no_scheduler",
        words=("TCP 10.0.0.100:80",),
        rest=SERVICE,
    ),
    Fault(
        name="dh of one virtual address",
        host="director",
        script="ipvsadm -E -t VIP:80 -s dh",
        cause="one_destination_address",
        words=("dh",),
        rest=SERVICE,
    ),
    Fault(
        name="fo with equal weights",
        host="director",
        script="ipvsadm -E -t VIP:80 -s fo",
        cause="failover_without_order",
        words=("fo",),
        rest=f"{SERVICE}; {WEIGHTS}",
    ),
    Fault(
        name="ovf with weight 1",
        host="director",
        script="ipvsadm -E -t VIP:80 -s ovf",
        cause="overflow_of_one",
        words=("ovf",),
        rest=SERVICE,
    ),
    Fault(
        name="persistence of half of the Internet",
        host="director",
        script=f"{SERVICE} -p 300 -M 128.0.0.0",
        cause="persistence_mask_wide",
        words=("/1 network",),
        rest=SERVICE,
    ),
    Fault(
        name="a mark that no rule sets",
        host="director",
        script=MARKED,
        cause="mark_unset",
        words=("FWM 7",),
        cure="ipvsadm -D -f 7",
    ),
    Fault(
        name="a mark that nftables sets",
        host="director",
        script=f"{MARKED}; {NETFILTER}",
        cause="mark_in_netfilter",
        words=("--dport", "10.0.0.100"),
        rest=f"{UNMARKED}; nft delete table ip marks",
    ),
    Fault(
        name="a mark rule for another address",
        host="director",
        script=f"{MARKED}; pylvs mark add --dst 10.0.0.101 --proto tcp --dports 80 7",
        cause="mark_rule_elsewhere",
        words=("10.0.0.101",),
        cure=UNMARKED,
    ),
    Fault(
        name="a mark rule that another one overrules",
        host="director",
        script=f"{MARKED}; {RULE}; pylvs mark add --dst 10.0.0.0/24 0",
        cause="mark_rule_overruled",
        words=("rule 1", "have 0"),
        rest=UNMARKED,
    ),
    Fault(
        name="a mark rule without a service",
        host="director",
        script="pylvs mark add --dst 10.0.0.100 --proto tcp --dports 443 9",
        cause="mark_without_service",
        words=("mark 9", "443"),
    ),
    Fault(
        name="drop_packet",
        host="director",
        script="pylvs sysctl -w net.ipv4.vs.drop_packet=3; pylvs sysctl -w net.ipv4.vs.am_droprate=1",
        cause="drop_packet_on",
        words=("am_droprate = 1",),
        rest="pylvs sysctl -w net.ipv4.vs.am_droprate=10",
    ),
    Fault(
        name="a timeout of seconds",
        host="director",
        script="ipvsadm --set 5 0 0",
        cause="tcp_timeout_short",
        words=("5 s",),
    ),
    Fault(
        name="counters that stand still",
        host="director",
        script="pylvs sysctl -w net.ipv4.vs.run_estimation=0",
        cause="counters_stand",
        words=("run_estimation",),
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("ipvsadm -e -t VIP:80 -r rs1 -g -w 0", id="one of two servers has weight 0"),
        pytest.param("ipvsadm -E -t VIP:80 -s sh -b sh-port", id="a scheduler that hashes"),
        pytest.param("ipvsadm -E -t VIP:80 -s rr -p 300 -M 255.255.255.0", id="persistence of small networks"),
        pytest.param(
            f"{MARKED}; pylvs mark add --dst 10.0.0.100 --proto tcp --dports 80,443 7", id="a mark of two ports"
        ),
        pytest.param("ipvsadm -e -t VIP:80 -r rs1 -g -x 1000 -y 900", id="thresholds that are far"),
    ],
)
def test_what_is_meant_so_has_no_finding(lab: Lab, script: str) -> None:
    """These tables work as their operator means."""
    lab.sh("director", script)
    found = diagnosed(lab)
    lab.sh("director", f"{SERVICE}; {WEIGHTS}; ipvsadm -D -f 7 2>&1; pylvs mark del --all 2>&1; :")
    assert found == []


def test_persistent_clients_of_a_dead_server(lab: Lab) -> None:
    """A server of weight 0 that has stopped: the template of a client still leads there."""
    lab.sh("director", f"{SERVICE} -p 300; ipvsadm -e -t VIP:80 -r rs1 -g -w 0")
    request(lab, 1)
    lab.sh("rs2", "service nginx stop")
    lab.sh("director", "ipvsadm -e -t VIP:80 -r rs1 -g -w 1; ipvsadm -e -t VIP:80 -r rs2 -g -w 0")
    first = diagnosed(lab)[0]
    assert first["id"] == "template_of_dead_server"
    mend(lab, Fault("", "director", "", ""), first)
    seen = answers(lab, 2)
    assert seen == ["This is rs1 server!"] * 2, table_of(lab)
    lab.sh("rs2", "service nginx start")
    assert diagnosed(lab) == []
    lab.sh("director", f"{SERVICE}; {WEIGHTS}")
