"""`pylvs adopt` and `pylvs adopt --back` beside the real IPVS, in Debian's kernels, under traffic: nothing is lost."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.interop import guests

GUEST_S = 3000  # on a quiet machine six minutes without KVM; five times as many beside other tests
SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.adoption_in_guest")
OLDEST, NEWEST = guests.KERNELS
MANY = pytest.mark.nightly("10,000 connections of each method take ten minutes to open, and 4 GB")
OLD = pytest.mark.nightly("its tables are those of the newer kernel")


@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.parametrize(
    ("kernel", "connections"),
    [(NEWEST, 100), pytest.param(OLDEST, 100, marks=OLD), pytest.param(NEWEST, 10_000, marks=MANY)],
)
def test_no_connection_is_lost_on_the_way_and_back(kernel: str, connections: int) -> None:
    command = *SCENARIO, str(connections)
    done = guests.run_or_skip(kernel, *command, options=("--mem", "4G", "--smp", "2"), seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    shadowed = re.search(r"shadowed for 5 s: (\d+) packets? compared, (\d+) decided as by ip_vs", done.stdout)
    assert shadowed, done.stdout
    assert int(shadowed[1]) > 0
    assert int(shadowed[2]) >= 0.9999 * int(shadowed[1]), done.stdout
    assert re.search(r"adopted: 2 services, .* took \d+ ms\n", done.stdout), done.stdout
    assert re.search(r"given back: 2 services, .* waited for \d+ ms\n", done.stdout), done.stdout
    for group in json.loads(done.stdout.splitlines()[-1]):
        for counts in group.values():
            assert (counts["established"], counts["lost"], counts["refused"]) == (connections, 0, 0), done.stdout
            assert counts["answers"] >= connections
    print(done.stdout)
