"""Commands of a lab's hosts keep compiled modules where the process that made the lab does, not in its source tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.lab.files import files_of
from pylvs.lab.hosts import environment
from pylvs.lab.topologies import design


@pytest.mark.parametrize("kept", [True, False])
def test_a_command_of_a_host_keeps_compiled_modules_where_this_process_does(
    kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled = tmp_path / "compiled"
    monkeypatch.setattr(sys, "pycache_prefix", str(compiled))
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    network = design("dr", 1)
    files = {path: content for path, content, _ in files_of("d1", network, network.host("director"))}
    command = tmp_path / "ipvsadm"
    command.write_text(files["/usr/sbin/ipvsadm"])
    command.chmod(0o755)
    assert subprocess.run([command, "--version"], capture_output=True, env=environment()).returncode == 0
    assert any(compiled.rglob("options.*.pyc")) is kept


def test_a_host_passes_this_on_to_the_programs_that_it_runs() -> None:
    """They are isolated from other variables of Python."""
    outer = {"PYTHONPATH": "/tree", "PYTHONPYCACHEPREFIX": "/compiled", "PYTHONDONTWRITEBYTECODE": "1"}
    passed = {name for name in environment(outer) if name.startswith("PYTHON")}
    assert passed == {"PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}
