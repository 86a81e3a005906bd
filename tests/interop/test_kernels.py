"""The oldest kernel that must do, and a newer one: the objects load there, and real frames go through.

Each boots in qemu (tests/oracle/vm, software emulation) with this machine's files, this Python and this tree; the
scenarios are `forwarding_in_guest.py` and `scheduling_in_guest.py`. Distribution kernels come by apt, so this needs
Debian's package sources once: where they are out of reach the test is skipped, and fails where CI is set.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pylvs.model.scheduler import SCHEDULERS
from tests.interop import guests

SCENARIO = Path(__file__).with_name("forwarding_in_guest.py")
SCHEDULING = ("env", "PYTHONPATH=src", sys.executable, "-m", "tests.interop.scheduling_in_guest")
TOLD = ["tc", "generic", "native", "card to card", "vlan", "realserver"]  # how each line of the scenario begins
GUEST_S = 500  # on a quiet machine half a minute


@pytest.mark.may_be_skipped
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.parametrize("kernel", guests.KERNELS)
def test_every_forwarding_method_works_at_every_hook(kernel: str) -> None:
    done = guests.run_or_skip(kernel, sys.executable, str(SCENARIO), options=("--nics", "2"), seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == TOLD, done.stdout


@pytest.mark.may_be_skipped
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
@pytest.mark.parametrize("kernel", guests.KERNELS)
def test_every_scheduler_chooses_as_its_reference(kernel: str) -> None:
    done = guests.run_or_skip(kernel, *SCHEDULING, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(SCHEDULERS), done.stdout
