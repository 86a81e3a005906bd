"""The installed `ipvsadm` on real tables, compared with recordings of the real one: every byte and exit status.

`tests/unit/ipvsadm` replays the same cases on a table in memory in seconds. Here they run on the real tables with the
installed programs. Families that only test how arguments are read run in `./dev test-all`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylvs
from tests.oracle_support.command_server import command_server
from tests.processes import tools_first

CASES = Path(__file__).parents[1] / "oracle" / "cli"
FAMILIES = {path.stem for path in (CASES / "cases").glob("*.txt")}
_READ = "about how arguments are read: tests/unit/ipvsadm replays every case of it in memory"
WORDS_ALONE = dict.fromkeys(("addresses", "help", "matrix", "names", "parsing", "tunnels"), _READ)
WORDS_ALONE["daemons"] = "each start takes a second: tests/packet/test_sync_daemon.py has some, tests/unit/ipvsadm all"
# Families that start a process for each command. They test the start: the locale, the files and pipes of the three
# programs, and an ordinary user.
STARTED = {"environment", "wrappers"}
ORDINARY_USER = "privileges"  # the family of an ordinary user

# Cases that must differ, and why. Remove a case that no longer differs.
DIFFERENT: dict[str, dict[str, str]] = {}


def open_to_all(path: Path) -> bool:
    """Return whether every user can reach a file."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


@pytest.fixture
def open_command() -> Iterator[Path]:
    """Return an `ipvsadm` of this tree that an ordinary user can run, in any directory of the tree."""
    pythons = [Path(sys.executable).resolve(), Path("/usr/bin/python3")]
    python = next((path for path in pythons if path.exists() and open_to_all(path)), None)
    assert python, "no Python that an ordinary user can run"
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pylvs-open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(Path(pylvs.__file__).parent, folder / "pylvs", ignore=shutil.ignore_patterns("__pycache__"))
        # Bytecode beside the modules, as installed: this user can neither write nor read that of the tests.
        subprocess.run([python, "-X", "pycache_prefix=", "-m", "compileall", "-q", folder], check=True)
        command = folder / "ipvsadm"
        command.write_text(
            f"#!{python} -BXpycache_prefix=\n"
            f"import sys\nsys.path.insert(0, {name!r})\n"
            "from pylvs.ipvsadm.main import main\nsys.exit(main())\n"
        )
        command.chmod(0o755)
        yield command


def check(family: str, command: Path, commands: dict[str, str] | None = None) -> None:
    """Compare one family, and compare its differences with the list."""
    done = subprocess.run(
        [sys.executable, CASES / "compare", "--command", shlex.quote(str(command)), family],
        env=os.environ | {"PATH": tools_first()} | (commands or {}),
        capture_output=True,
        text=True,
    )
    failed = {line.removeprefix(f"FAIL {family}: ") for line in done.stdout.splitlines() if line.startswith("FAIL ")}
    assert failed == DIFFERENT.get(family, {}).keys(), f"{done.stdout}{done.stderr}"
    assert done.stdout.rstrip().endswith(f"{len(failed)} failed")


def test_the_lists_name_families() -> None:
    assert WORDS_ALONE.keys() < FAMILIES
    assert FAMILIES > STARTED
    assert DIFFERENT.keys() <= FAMILIES


@pytest.fixture(scope="module")
def commands() -> Iterator[dict[str, str]]:
    """Return an environment in which `ipvsadm` runs without a start of the interpreter."""
    with command_server() as environment:
        yield environment


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[pytest.mark.nightly(WORDS_ALONE[family])] if family in WORDS_ALONE else [])
        for family in sorted(FAMILIES - {ORDINARY_USER})
    ],
)
def test_ipvsadm_does_what_the_real_one_did(family: str, request: pytest.FixtureRequest) -> None:
    found = shutil.which("ipvsadm", path=tools_first())
    assert found
    check(family, Path(found), {} if family in STARTED else request.getfixturevalue("commands"))


def test_an_ordinary_user_gets_the_messages_of_the_real_one(open_command: Path) -> None:
    check(ORDINARY_USER, open_command)
