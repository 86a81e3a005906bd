"""Run commands in Debian's kernels, which `tests/oracle/vm` boots with this machine's files and this tree."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.processes import tools_first

VM = Path(__file__).parents[1] / "oracle" / "vm"
KERNELS = ("6.1", "6.12")
UNAVAILABLE = 69  # the exit status of `vm` for what is missing; its line says what
FETCHING_S = 1200  # of a kernel, by apt; `vm` waits as long while another one fetches
# The guest mounts its own /tmp. A clone or an environment in /tmp is visible without it.
IN_GUEST = f"umount /tmp; cd {shlex.quote(str(VM.parents[2]))} && exec "


class NoKernel(Exception):
    """There is no kernel to boot; the text is the reason."""


def oldest(series: str) -> str:
    """Return the oldest release of a series that is here or that apt offers. Corrections change the verifier, too."""
    done = subprocess.run([VM, "--list"], env=os.environ | {"PATH": tools_first()}, capture_output=True, text=True)
    releases = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(f"{series}.")]
    return releases[0] if releases else series


def start(kernel: str, *command: str, options: tuple[str, ...] = (), seconds: int) -> subprocess.Popen[str]:
    """Start a command in a guest, which ends after this many seconds. Raises NoKernel; see `finish`."""
    if platform.machine() != "x86_64":
        raise NoKernel("the kernels to boot are those of x86-64")
    environment = os.environ | {
        "PATH": tools_first(),
        "ORACLE_TIMEOUT": str(seconds),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.Popen(
        [VM, "--kernel", kernel, *options, "sh", "-c", IN_GUEST + shlex.join(command)],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(guest: subprocess.Popen[str], seconds: int) -> subprocess.CompletedProcess[str]:
    """Return the result; the guest has ended in any case.

    Raises NoKernel if the guest could not boot, and TimeoutExpired.
    """
    try:
        output, errors = guest.communicate(timeout=seconds + FETCHING_S)
    finally:
        guest.terminate()  # `vm` ends its machine
        guest.wait()
    if guest.returncode == UNAVAILABLE:
        raise NoKernel(errors.strip().splitlines()[-1])
    return subprocess.CompletedProcess(guest.args, guest.returncode, output, errors)


def run_or_skip(
    kernel: str, *command: str, options: tuple[str, ...] = (), seconds: int
) -> subprocess.CompletedProcess[str]:
    """Run a test's command in a guest.

    Without such a kernel the test is skipped; `./dev test` makes a failure of that.
    """
    try:
        return finish(start(kernel, *command, options=options, seconds=seconds), seconds)
    except NoKernel as error:
        pytest.skip(f"no kernel to boot: {error}")
