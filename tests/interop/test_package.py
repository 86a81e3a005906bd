"""The package in roots of Debian and Ubuntu: install, upgrade, remove, two boots; the demonstration in bare roots.

`./dev package-test` prints it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.roots import SUITES

SUITE_S, BOOT_S = 1800, 5400  # of one suite on a busy machine, with fetching; a boot without KVM
pytestmark = [
    pytest.mark.nightly("fetches 150 MB and takes minutes a root; the gate checks scripts, units, pages and versions"),
    pytest.mark.may_be_skipped,
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="no debootstrap here"),
]


def play(repository: Path, *words: str, seconds: int) -> None:
    command = [sys.executable, "-m", "tests.package", *words]
    done = subprocess.run(command, cwd=repository, env=os.environ, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("package-test: all steps passed\n"), done.stdout


@pytest.mark.timeout(SUITE_S + 30)
@pytest.mark.parametrize("suite", SUITES)
def test_install_upgrade_under_load_and_purge(suite: str, repository: Path) -> None:
    play(repository, suite, seconds=SUITE_S)


@pytest.mark.timeout(BOOT_S + 30)
@pytest.mark.parametrize("suite", SUITES)
def test_table_and_virtual_address_survive_a_reboot(suite: str, repository: Path) -> None:
    play(repository, suite, "--boot", seconds=BOOT_S)


@pytest.mark.timeout(SUITE_S + 30)
@pytest.mark.parametrize("suite", SUITES)
def test_the_demonstration_of_a_bare_root_can_be_undone(suite: str, repository: Path) -> None:
    play(repository, suite, "--demo", seconds=SUITE_S)
