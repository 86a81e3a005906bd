"""The real IPVS draws by twos as the specification says; `tests/packet/test_twos.py` shows that pylvs does."""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest

from tests.interop import guests
from tests.packet.host import server4
from tests.packet.test_twos import MOST, chances, chi_squared, servers_of

GUEST_S = 600
# Of each server: weight, and connections of UDP, which are inactive. The last one is at the head of the list.
SITES = (
    ((1, 0), (1, 0), (1, 0)),
    ((1, 0), (2, 0), (5, 0)),
    ((1, 3), (2, 5), (5, 14), (1, 9)),
    ((1, 0), (1, 20)),
    ((3, 0), (0, 0), (4, 6)),
)


@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.nightly("the real IPVS of a kernel does not change; the gate compares pylvs with the specification")
def test_the_real_ipvs_has_the_distribution_of_the_specification() -> None:
    words = (sys.executable, "tests/interop/twos_in_guest.py", json.dumps(SITES))
    done = guests.run_or_skip("6.12", *words, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])
    for site, counts in zip(SITES, found, strict=True):
        chosen = Counter({server4(int(each.rpartition(".")[2])): count for each, count in counts.items() if count})
        assert chosen.total() == 2000
        servers = servers_of(tuple((weight, 0, connections) for weight, connections in site))
        assert chi_squared(chosen, chances(servers)) < MOST, site
