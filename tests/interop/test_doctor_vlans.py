"""`pylvs doctor` and VLANs, on Debian's kernels: that of a machine may lack VLAN devices."""

from __future__ import annotations

import sys

import pytest

from tests.interop import guests
from tests.interop.doctor_vlans_in_guest import FAULTS

SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.doctor_vlans_in_guest")
GUEST_S = 2400


@pytest.mark.nightly("an emulated guest takes ten minutes; tests/lab/doctor has the same probes on other devices")
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
def test_healthy_labs_have_no_finding_and_the_cause_of_each_fault_comes_first() -> None:
    done = guests.run_or_skip(guests.KERNELS[1], *SCENARIO, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    names = [fault.name for fault in FAULTS]
    healthy = ["with XDP on the parent", "NAT to servers in a VLAN"]
    assert done.stdout.splitlines() == ["direct routing in a VLAN", *names, *healthy]
