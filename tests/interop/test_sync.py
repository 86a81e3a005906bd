"""A director of pylvs and one of the real IPVS synchronize their connections, in Debian's kernel, each way."""

from __future__ import annotations

import json
import sys

import pytest

from tests.interop import guests
from tests.interop.sync_in_guest import KINDS

GUEST_S = 1500
CONNECTIONS = 1000  # of each kind


@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.nightly("minutes in a guest; the gate replays the messages of the real IPVS, and stores such ones")
@pytest.mark.parametrize("kernel", guests.KERNELS)
@pytest.mark.parametrize("master", ["pylvs", "ipvs"])
def test_the_backup_has_the_connections_of_the_master_and_forwards_them(kernel: str, master: str) -> None:
    words = (sys.executable, "tests/interop/sync_in_guest.py", master, str(CONNECTIONS))
    done = guests.run_or_skip(kernel, *words, options=("--mem", "1500M"), seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])
    templates = min(CONNECTIONS, 250)  # one for each client
    assert found == {
        "connections": len(KINDS) * CONNECTIONS + templates,
        "equal": len(KINDS) * CONNECTIONS + templates,
        "missing": [],
        "surplus": [],
        "forwarded_by_master": 3 * len(KINDS) * CONNECTIONS,
        "forwarded_by_backup": len(KINDS) * CONNECTIONS,
    }
