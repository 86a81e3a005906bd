"""The virtual address moves from pylvs to the real IPVS and back, and each download that is in flight continues."""

from __future__ import annotations

import json
import sys

import pytest

from tests.interop import guests
from tests.interop.failover_in_guest import DIRECTORS, DOWNLOADS, PORTS

GUEST_S = 3000  # as that of test_adoption.py: without KVM, beside other tests
SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "tests/interop/failover_in_guest.py")
OLDEST, NEWEST = guests.KERNELS


@pytest.mark.nightly("minutes in a guest; the gate adopts connections of the real IPVS, and stores its messages")
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.parametrize(
    ("kernel", "master"),
    [
        (NEWEST, "pylvs"),
        (NEWEST, "ipvs"),
        (OLDEST, "pylvs"),
        (OLDEST, "ipvs"),
    ],
)
def test_downloads_go_on_by_the_other_director(kernel: str, master: str) -> None:
    done = guests.run_or_skip(kernel, *SCENARIO, master, options=("--mem", "1500M"), seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])
    begun = len(PORTS) * DOWNLOADS
    assert found["in_flight"] == [begun, 2 * begun], done.stdout
    assert len(found["downloads"]) == len(DIRECTORS) * begun
    assert set(found["downloads"].values()) == {"whole"}, found["downloads"]
