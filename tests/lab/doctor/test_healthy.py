"""`pylvs doctor` finds nothing in healthy labs of each topology."""

from __future__ import annotations

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.doctor.exam import diagnosed

TOPOLOGIES = {
    "dr-behind-router": ("dr-behind-router", 4, {}),
    "dr-routed": ("dr-routed", 4, {}),
    "ha": ("ha", 4, {}),
    "nat, IPv6": ("nat", 6, {}),
    "ipip, IPv6": ("tun", 6, {"tunnel": "ipip"}),
    "gre, IPv6": ("tun", 6, {"tunnel": "gre"}),
}


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
