"""What the doctor's packet socket takes of handshakes, and that a reply which it loses makes no finding."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.lab.doctor.handshakes_in_namespace import MANY
from tests.waiting import PATIENCE_S


def test_handshakes_in_a_namespace_of_their_own() -> None:
    """Of each second SYN the reply is seen; with a buffer for a few packets nothing is known."""
    command = ["unshare", "--net", sys.executable, "-m", "tests.lab.doctor.handshakes_in_namespace"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = "SYN", "RST", "tunnel ipip", "tunnel gue", "tunnel gre", "reply", "ACK of a reply"
    assert sorted(found["taken"]) == sorted(f"{kind} of IPv{version}" for kind in kinds for version in (4, 6))
    assert (found["unanswered"], found["lossy"]) == (MANY // 2, 0)
