"""ip(8) in tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable


def ip_batch(lines: Iterable[str], namespace: str = "") -> None:
    """Run lines of commands for `ip` in one process; `namespace` is a name of ip-netns(8), "" for this one.

    Raises AssertionError with the error output of the first line that fails.
    """
    where = ["-n", namespace] if namespace else []
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(["ip", *where, "-batch", "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
