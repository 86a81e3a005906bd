"""The oldest kernel that must do, and a newer one: the objects load there, and real frames go through.

Each boots in qemu (tests/oracle/vm, software emulation) with this machine's files, this Python and this tree; the
scenario is `forwarding_in_guest.py`. Distribution kernels come by apt, so this needs Debian's package sources once:
where they are out of reach the test is skipped, and fails where CI is set.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.processes import tools_first

VM = Path(__file__).parents[1] / "oracle" / "vm"
SCENARIO = Path(__file__).with_name("forwarding_in_guest.py")
KERNELS = ("6.1", "6.12")
TOLD = ["tc", "generic", "native", "card to card", "vlan", "realserver"]  # how each line of the scenario begins
UNAVAILABLE = 69  # the exit status of `vm` for what is missing; its line says what
GUEST_S, FETCHING_S = 500, 300  # on a quiet machine half a minute, and as long to fetch a kernel
# The guest has a /tmp of its own over this machine's; a clone or an environment in there is seen without it.
IN_GUEST = f"umount /tmp; cd {shlex.quote(str(VM.parents[2]))} && exec "


def _missing(reason: str) -> NoReturn:
    """Say that there is no kernel to boot: loudly in continuous integration, where it would never be noticed."""
    if os.environ.get("CI"):
        pytest.fail(f"no kernel to boot: {reason}")
    pytest.skip(f"no kernel to boot: {reason}")


def _in_kernel(kernel: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a guest with two cables. Skips or fails where there is no such kernel."""
    if platform.machine() != "x86_64":
        _missing("the kernels to boot are those of x86-64")
    environment = os.environ | {
        "PATH": tools_first(),
        "ORACLE_TIMEOUT": str(GUEST_S),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [VM, "--kernel", kernel, "--nics", "2", "sh", "-c", IN_GUEST + shlex.join(command)],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=GUEST_S + FETCHING_S,
    )
    if done.returncode == UNAVAILABLE:
        _missing(done.stderr.strip().splitlines()[-1])
    return done


@pytest.mark.may_be_skipped
@pytest.mark.timeout(GUEST_S + FETCHING_S + 30)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_forwarding_method_works_at_every_hook(kernel: str) -> None:
    done = _in_kernel(kernel, sys.executable, str(SCENARIO))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == TOLD, done.stdout
