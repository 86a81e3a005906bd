"""The sweep removes what a killed test run left, and nothing of a live run or of a user."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.lab.lab import build, labs
from pylvs.lab.topologies import design
from pylvs.system.namespaces import NAMED
from pylvs.system.syscalls import mount
from tests import sweep
from tests.lab.support import remains

# A test run: it registers, makes a lab and a network namespace with a director's tables, and waits to be killed.
RUN = """
import os, subprocess, sys
from pylvs.lab.lab import build
from pylvs.lab.topologies import design
from tests.running import register
register()
lab = build(f"t{os.getpid()}x1", design("dr", 1), bare=True)
lab.sh("director", "ipvsadm -A -t 10.0.0.100:80")
subprocess.run(["ip", "netns", "add", f"pylvs-at{os.getpid()}a"], check=True)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def a_run() -> Iterator[subprocess.Popen[str]]:
    """Start a test run that makes everything; kill it afterwards."""
    repository = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_only_what_a_killed_run_left_is_removed(lab_name: str) -> None:
    build(lab_name, design("dr", 1), bare=True)
    before = labs()
    with a_run() as process:
        name, namespace = f"t{process.pid}x1", NAMED / f"pylvs-at{process.pid}a"
        sweep.sweep()
        assert (name, "up") in labs()
        assert namespace.exists()
    assert (name, "up") in labs()
    assert {f"lab {name}", f"network namespace {namespace.name}"} <= set(sweep.sweep())
    assert labs() == before
    assert remains(name) == []
    assert not namespace.exists()
    assert sweep.sweep() == []


def test_names_of_users_are_not_names_of_tests() -> None:
    for name in ("pylvs-d12-client", "pylvs-t12-net", "pylvs-h12-rs1", "pylvs-t123x1-rs1", "vpn12", "pylvs-12"):
        assert not re.fullmatch(sweep.NAMESPACE.format(12), name), name
    for name in ("pylvs-at12a", "pylvs-vr12s", "pylvs-pk12-3", "pylvs-td12-br", "pylvs-v12x3-client", "pylvs-cli-12"):
        assert re.fullmatch(sweep.NAMESPACE.format(12), name), name
    for name in ("d12", "demo12", "t12", "t123x1"):
        assert not re.fullmatch(sweep.LAB.format(12), name), name


def test_every_folder_that_tests_make_can_be_swept() -> None:
    """The names are in the calls that make them, in Python and in shell."""
    made = re.compile(r"""(?:TemporaryDirectory|mkdtemp)\([^)\n]*prefix="([^"]+)"|mktemp -d /var/tmp/([\w-]+\.)""")
    texts = [
        path.read_bytes().decode(errors="replace") for path in Path(sweep.__file__).parent.rglob("*") if path.is_file()
    ]
    found = {one or other for text in texts for one, other in made.findall(text)}
    assert len(found) > 10
    assert not [name for name in found if not name.startswith(sweep.PREFIXES)]


def test_an_old_unused_directory_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "FOLDERS", (tmp_path,))
    names = ("oracle.left", "oracle.used", "oracle.new", "pylvs-conformance.left", "others")
    left, used, new, mounted, others = folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
        (folder / "file").touch()
    (mounted / "below").mkdir()
    mount("sweep", mounted / "below", "tmpfs")
    for folder in (left, used, mounted, others):
        long_ago = time.time() - 2 * sweep.OLD_S
        os.utime(folder, (long_ago, long_ago))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=used) as process:
        assert process.stdin is not None
        swept = sweep.sweep()
        process.stdin.close()
    assert {str(left), str(mounted)} <= set(swept)
    assert sorted(tmp_path.iterdir()) == sorted([used, new, others])
