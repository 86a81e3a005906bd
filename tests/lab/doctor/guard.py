"""Programs of another tool on a device: each returns one verdict."""

from __future__ import annotations

import shlex
import sys

PYTHON = shlex.quote(sys.executable)
# Attaches the program at XDP, or at a side of TC.
GUARD = """
import struct, sys
from pylvs.bpf import kernel
from pylvs.netlink import links, tc, xdp
from pylvs.netlink.codec import Netlink
where, verdict = sys.argv[1], int(sys.argv[2])
code = struct.pack("<BBhi", 0xB7, 0, 0, verdict) + struct.pack("<BBhi", 0x95, 0, 0, 0)
index = links.device("eth0").index
tc.PRIORITIES["guard"] = 1
with Netlink() as link:
    if where == "xdp":
        xdp.set_program(link, index, "generic", kernel.load_instructions(kernel.PROG_TYPE_XDP, "guard", code))
    else:
        side = tc.INGRESS if where == "ingress" else tc.EGRESS
        program = kernel.load_instructions(kernel.PROG_TYPE_SCHED_CLS, "guard", code)
        tc.set_filter(link, index, side, "guard", program)
"""


def guard(where: str, verdict: int) -> str:
    """Return the command that attaches a program: "xdp", "ingress" or "egress", with its verdict."""
    return f"{PYTHON} -c '{GUARD}' {where} {verdict}"
