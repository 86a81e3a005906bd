"""Run a command in a mount namespace made on one CPU, from a process that may use only another CPU.

`python -m tests.lab.nested MADE_ON USED_ON COMMAND...`: the command has its own mounts and /run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pylvs.system.namespaces import ID_BATCH, Kind
from pylvs.system.syscalls import MS_PRIVATE, MS_REC, mount, unshare


def main() -> None:
    """Run the command. Each CPU numbers its namespaces; the first CPU begins a newer batch than all others."""
    made_on, used_on, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(made_on)})
    for _ in range(ID_BATCH):
        unshare(Kind.NAME)
    unshare(Kind.MOUNT)
    mount("", "/", flags=MS_PRIVATE | MS_REC)
    mount("run", "/run", "tmpfs")
    for name in ("netns", "lock"):
        Path("/run", name).mkdir()
    os.sched_setaffinity(0, {int(used_on)})
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
