"""The worked examples of CONTRIBUTING.md: each diff applies to the present tree, and its result works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^## Example: (.*?)\n.*?^````diff\n(.*?)^````$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text()))
SCHEDULER, CHECKER, DROP_REASON = "a scheduler", "a health checker", "a drop reason"
NOT_COPIED = "tests/golden/"  # recordings, half of the tree
CONFIGURATION = """\
virtual_server 192.0.2.1 22 {
    lb_algo wlc
    lb_kind DR
    protocol TCP
    real_server 10.0.0.1 22 {
        SSH_CHECK {
        }
    }
}
"""


class Tree:
    """A copy of the tracked files."""

    def __init__(self, at: Path) -> None:
        self.at = at
        names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if not name.startswith(NOT_COPIED) and (ROOT / name).exists():
                (at / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, at / name)

    def apply(self, example: str, *options: str) -> None:
        """Apply an example's diff. Fails with what git reports."""
        command = ["git", "apply", *options, "-"]
        done = subprocess.run(command, cwd=self.at, input=EXAMPLES[example], capture_output=True, text=True)
        assert done.returncode == 0, f"{example}: {done.stderr}"

    def python(self, *arguments: str) -> str:
        """Run Python on the copy, and return its output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["PYTHONPATH"] = f"{self.at / 'src'}:{self.at}"
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.at, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pylvs(self, *arguments: str) -> str:
        """Run `pylvs` of the copy."""
        return self.python("-c", "from pylvs.cli.group import pylvs; pylvs()", *arguments)

    def test(self, *arguments: str) -> None:
        """Run unit tests of the copy."""
        self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


def test_all_examples_are_found() -> None:
    assert list(EXAMPLES) == [SCHEDULER, CHECKER, DROP_REASON]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_applies(tree: Tree, example: str) -> None:
    tree.apply(example, "--check")


def test_the_checker_is_a_keyword_and_checks(tree: Tree) -> None:
    tree.apply(CHECKER)
    configuration = tree.at / "keepalived.conf"
    configuration.write_text(CONFIGURATION)
    assert "SSH_CHECK {" in tree.pylvs("check", "--show", str(configuration))
    tree.test("tests/unit/health/test_ssh.py")


def test_the_packet_path_compiles_with_all_examples(tree: Tree) -> None:
    """The scheduler and the drop reason are what the compiled object has, wherever the rest of pylvs needs them."""
    for example in EXAMPLES:
        tree.apply(example)
    tree.python("hatch_build.py")
    configuration = tree.at / "keepalived.conf"
    configuration.write_text(CONFIGURATION.replace("wlc", "la"))
    assert "lvs_sched la" in tree.pylvs("check", "--show", str(configuration))
    table = tree.at / "table.txt"
    table.write_text("-A -t 192.0.2.1:80 -s la\n-a -t 192.0.2.1:80 -r 10.0.0.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.2:80\n")
    shares = tree.pylvs("simulate", str(table), "--clients", "10.1.0.0/24", "--count", "8")
    assert shares.count("50.0%") == 2
    tree.test("tests/unit/reference/test_schedulers.py", "tests/unit/test_documents.py", "-k", "scheduler")
    names = tree.python("-c", "from pylvs.bpf.abi import shipped; print(*shipped().enum('reason'))").split()
    assert names[-2:] == ["REASON_NO_CHUNK", "REASONS"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_needs_three_files(example: str) -> None:
    assert EXAMPLES[example].count("diff --git") <= 3
