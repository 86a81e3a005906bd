"""`ipvsadm` as a process: its streams may be full, broken or closed, and it must start quickly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHER = """
import sys
from pylvs.ipvsadm import main as program
from pylvs.ipvsadm.commands import Session
from tests.memory import MemoryDirector
director = MemoryDirector()
with open(sys.argv.pop(1)) as rules:
    Session(director, rules, sys.stdout, sys.stderr).run(["-R"])
program.open_director = lambda: director
sys.exit(program.main())
"""
HEAVY = {
    "argparse",
    "asyncio",
    "click",
    "logging",
    "multiprocessing",
    "rich",
    "subprocess",
    "typing_extensions",
}
MANY = 20_000  # lines: more than any buffer between the process and its reader holds
EXIT_ON_BROKEN_PIPE = 141


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file with a small table."""
    path = tmp_path / "rules"
    path.write_text("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 198.51.100.11 -g\n")
    return path


def command(rules: Path, *words: str | bytes) -> list[str | bytes]:
    """A command line that runs ipvsadm with these words on that table."""
    return [sys.executable, "-c", LAUNCHER, str(rules), *words]


def environment(**more: str) -> dict[str, str]:
    """This environment, in which the source tree is found as it was found here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more


def test_a_full_disk_is_one_line_and_a_failure(rules: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(rules, "-Sn"), stdout=full, stderr=subprocess.PIPE, env=environment(), text=True)
    assert done.returncode == 1
    assert done.stderr == "ipvsadm: cannot read or write: No space left on device\n"


def test_a_reader_that_has_seen_enough_ends_it_quietly(rules: Path) -> None:
    rules.write_text("".join(f"-A -f {mark}\n" for mark in range(1, MANY)))
    with subprocess.Popen(
        command(rules, "-Ln"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == EXIT_ON_BROKEN_PIPE


def test_closed_streams_are_no_reason_to_fail(rules: Path) -> None:
    script = '"$@" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, "sh", *command(rules, "-Ln")], env=environment())
    assert done.returncode == 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.UTF-8"])
def test_words_of_any_bytes_come_back_as_they_were(rules: Path, locale: str) -> None:
    for word in (b"-\xff", b"--\xc3\xa9", b"-\xc3\xa9"):
        done = subprocess.run(command(rules, "-L", word), capture_output=True, env=environment(LC_ALL=locale))
        assert (done.returncode, done.stdout) == (255, b"")
        assert done.stderr == word + b": unknown option\n"


def test_nothing_heavy_is_loaded_at_the_start(rules: Path) -> None:
    probe = "import sys; import pylvs.ipvsadm.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, text=True, env=environment())
    assert "pylvs.ipvsadm.main" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())
