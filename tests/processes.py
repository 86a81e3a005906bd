"""How tests find the commands of this tree."""

from __future__ import annotations

import os
import sysconfig


def tools_first() -> str:
    """PATH with the environment's own `pylvs` and `ipvsadm` before the machine's, and the places of `ip` and `tc`."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"], "/usr/sbin", "/sbin"])
