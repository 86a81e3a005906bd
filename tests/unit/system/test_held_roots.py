"""pylvs-vrrp finds the tables from any mount namespace, also without the capability to enter others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import subprocess, sys
from pylvs.bpf import mounts
from pylvs.daemon.virtual_routers.process import LazyStandby
from pylvs.system import sandbox
from pylvs.vrrp.router_service import CAPABILITIES
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
LazyStandby().prepare()
sandbox.keep_only(*CAPABILITIES)
print(any(Path(f"{root}{sys.argv[1]}/file").exists() for root in mounts._roots()))
"""


def test_roots_stay_reachable_without_capabilities(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = ["unshare", "--mount", sys.executable, "-c", CODE, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"
