"""Two directors in two network namespaces copy connections over TLS, by the processes that `pylvs run` starts."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.waiting import PATIENCE_S


def test_all_connections_arrive() -> None:
    command = [sys.executable, "-m", "bench.directors", "--connections", "20000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["connections"], found["held"]) == (20000, 20000)
