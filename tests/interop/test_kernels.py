"""The objects load on the oldest release of the oldest supported kernel, and on a newer one, and forward real frames.

Each boots in qemu (tests/oracle/vm) with this machine's files, this Python and this tree. It runs
`kernel_in_guest.py`. Distribution kernels come from apt, so this needs Debian's package sources once.
"""

from __future__ import annotations

import sys

import pytest

from tests.interop import guests
from tests.packet.host import PREDICTABLE

SCENARIO = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.kernel_in_guest")
UNFINISHED = [f"unfinished checksums by {kind}" for kind in ("VLAN", "bond", "ipvlan", "WireGuard")]
FORWARDING = ["tc", "generic", "native", "card to card", "vlan", "vlan to vlan", "bond", "vlan on a bond"]
FORWARDING += ["bond after failover", "realserver"]
GUEST_S = 1200  # on a quiet machine half a minute without KVM


NEWER = pytest.mark.nightly("its verifier is between that of the oldest kernel and that of this machine")
TWO = pytest.mark.nightly("two emulated CPUs take twice the time of one; other tests run programs on this host's CPUs")
OLDEST, *OTHERS = guests.KERNELS


@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=TWO)])
@pytest.mark.parametrize("kernel", [OLDEST, *(pytest.param(each, marks=NEWER) for each in OTHERS)])
def test_every_scheduler_chooses_and_every_method_forwards_at_every_hook(kernel: str, cpus: int) -> None:
    release = guests.oldest(kernel)
    done = guests.run_or_skip(release, *SCENARIO, options=("--nics", "2", "--smp", str(cpus)), seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    lines = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert lines == [*PREDICTABLE, "other programs", "filters", "tracing", *UNFINISHED, *FORWARDING], done.stdout
    print(done.stderr, end="")  # what ran the guest
