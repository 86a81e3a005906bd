"""What a confined process may do, from /proc; commands of an ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

ORDINARY_USER = 65534
# CAP_DAC_READ_SEARCH: the user finds the clone and its Python, wherever they are, but writes nothing.
AS_ORDINARY_USER = (
    *("setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def assert_unprivileged(process: int) -> None:
    """Assert that it is not root, has no capability, can get none, and has a filter of system calls."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert status["Groups"].split() == []
    assert {status[name].strip() for name in CAPABILITIES} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"  # SECCOMP_MODE_FILTER


def assert_without_files(process: int) -> None:
    """Assert that its root directory is empty and removed."""
    assert os.readlink(f"/proc/{process}/root").endswith(" (deleted)")
    assert os.listdir(f"/proc/{process}/root") == []
