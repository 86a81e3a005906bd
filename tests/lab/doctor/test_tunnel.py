"""`pylvs doctor` where real servers behind a router do not answer in their tunnels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, healthy, plant, settle
from tests.waiting import until

VIP, RIP = "10.0.0.100", "10.0.11.21"
FILTER = (
    "nft add table inet f; nft add chain inet f c '{ type filter hook forward priority 0; }'; nft add rule inet f c"
)
NO_FILTER = "nft delete table inet f"

FAULTS = [
    Fault(
        name="not a real server",
        host="rs1",
        script="pylvs realserver down",
        cause="server_not_decapsulating",
        words=(RIP, "IPIP"),
    ),
    Fault(
        name="tunnels of another director alone",
        host="rs1",
        script=f"pylvs realserver down; pylvs realserver up {VIP} --tunnel --director 10.0.0.11",
        cause="server_tunnel_source",
        words=(RIP, "10.0.0.10"),
        rest=f"pylvs realserver down; pylvs realserver up {VIP} --tunnel",
    ),
    Fault(
        name="no virtual address",
        host="rs1",
        script=f"ip address del {VIP}/32 dev lo",
        cause="server_lacks_vip",
        words=(VIP, RIP),
    ),
    Fault(
        name="the application is down",
        host="rs1",
        script="service nginx stop",
        cause="not_listening",
        words=(RIP, "80"),
        cure="service nginx start",
    ),
    Fault(
        name="the server is down",
        host="rs1",
        script="ip link set eth0 down",
        cause="server_silent",
        words=(RIP,),
        cure="ip link set eth0 up; ip route replace default via 10.0.11.1",
    ),
    Fault(
        name="no default route",
        host="director",
        script="ip route del default",
        cause="no_route",
        words=("10.0.11.21",),
        cure="ip route add default via 10.0.0.1",
    ),
    Fault(
        name="the gateway is down",
        host="router",
        script="ip link set eth1 down",
        cause="neighbour_silent",
        words=("10.0.0.1", "eth0"),
        cure="ip link set eth1 up",
    ),
    Fault(
        name="another kind of tunnels than the server's",
        host="director",
        script=f"ipvsadm -e -t {VIP}:80 -r {RIP} -i --tun-type gre",
        cause="tunnel_kind_differs",
        words=(RIP, "GRE", "--tun-type ipip"),
    ),
    Fault(
        name="a link with a smaller MTU",
        host="router",
        script="ip link set eth2 mtu 1400",
        cause="tunnel_mtu",
        words=(RIP, "1400", "mtu 1400"),
        rest="ip link set eth2 mtu 1500",
    ),
    Fault(
        name="the router drops long packets",
        host="router",
        script=f"{FILTER} ip protocol 4 ip daddr 10.0.12.22 meta length \\> 1440 drop",
        cause="tunnel_mtu",
        words=("10.0.12.22", "1440"),
        rest=NO_FILTER,
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab with IPIP, which every fault of this file uses."""
    with built("tun", tunnel="ipip") as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize("kind", ["gre", "gue"])
def test_tunnels_of_other_kinds(kind: str) -> None:
    """A healthy lab has no finding; a server that stops to decapsulate is named, and the doctor's command mends it."""
    with built("tun", tunnel=kind) as lab:
        assert diagnosed(lab) == []
        examine(
            lab,
            Fault(
                name=kind,
                host="rs1",
                script="pylvs realserver down",
                cause="server_not_decapsulating",
                words=(RIP, kind.upper()),
            ),
        )


def test_a_real_server_names_another_kind_of_tunnels(lab: Lab) -> None:
    """It sees the director's packets."""
    lab.sh("director", f"ipvsadm -e -t {VIP}:80 -r {RIP} -i --tun-type gre")
    fault = Fault("", "rs1", "", "tunnel_kind_differs", ("gre", "10.0.0.10"), on="rs1", steady=True)
    plant(lab, fault)
    until(lambda: any(each["id"] == fault.cause for each in diagnosed(lab, "rs1")))
    settle(lab, fault)
    lab.sh("director", f"ipvsadm -e -t {VIP}:80 -r {RIP} -i")
    healthy(lab, "director")
