"""The PATH with the commands of this tree."""

from __future__ import annotations

import os
import sysconfig


def tools_first() -> str:
    """Return a PATH with the environment's `pylvs` and `ipvsadm` first.

    It also has the directories of `ip` and `tc`.
    """
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"], "/usr/sbin", "/sbin"])
