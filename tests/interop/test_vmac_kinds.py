"""Virtual routers on an ipvlan and in a VRF, on Debian's kernels: those of a machine may lack both."""

from __future__ import annotations

import sys

import pytest

from tests.interop import guests

SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.vmac_in_guest")
GUEST_S = 1200


@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
def test_an_ipvlan_and_a_vrf() -> None:
    done = guests.run_or_skip(guests.KERNELS[0], *SCENARIO, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout.splitlines() == ["ipvlan", "vrf", "macvlan in a vrf", "removed"], done.stderr
