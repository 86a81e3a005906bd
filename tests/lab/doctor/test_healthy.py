"""`pylvs doctor` finds nothing in healthy labs of each topology."""

from __future__ import annotations

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.doctor.exam import diagnosed
from tests.lab.support import answers, shared_evenly

TOPOLOGIES = {
    "dr-behind-router": ("dr-behind-router", 4, {}),
    "dr-routed": ("dr-routed", 4, {}),
    "ha": ("ha", 4, {}),
    "nat, IPv6": ("nat", 6, {}),
    "ipip, IPv6": ("tun", 6, {"tunnel": "ipip"}),
    "gre, IPv6": ("tun", 6, {"tunnel": "gre"}),
}


MACVLAN = (
    "ip link add link eth0 name mv0 type macvlan mode bridge; ip link set mv0 up;"
    " ip address del {address} dev eth0; ip address add {address} dev mv0"
)


def test_a_lab_of_macvlans_has_no_finding(make_lab: MakeLab) -> None:
    """The virtual address is on a macvlan of the director, and a real server is one."""
    lab = make_lab("dr", 2)
    lab.sh("director", f"{MACVLAN.format(address='10.0.0.100/32')}; ipvsadm --set 0 0 0")
    lab.sh("rs1", f"{MACVLAN.format(address='10.0.0.21/24')}; pylvs realserver up 10.0.0.100")
    lab.sh("client", "ip neigh flush all")
    seen = answers(lab)
    assert shared_evenly(seen, 2), seen
    assert diagnosed(lab) == []
    assert diagnosed(lab, "rs1") == []


def directors(lab: Lab) -> list[str]:
    """Return the names of a lab's directors."""
    return [host.name for host in lab.network.role("director")]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_healthy_lab_has_no_finding(make_lab: MakeLab, topology: str) -> None:
    """Every director and every real server is healthy, one in standby as well."""
    name, version, plan = TOPOLOGIES[topology]
    lab = make_lab(name, 2, version, **plan)
    for host in [*directors(lab), "rs1"]:
        assert diagnosed(lab, host) == [], host
