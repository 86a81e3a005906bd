"""Play examples on a wire inside the guest that has the real IPVS, and record what leaves.

    guest.py INPUT OUTPUT

INPUT is a JSON array of examples; an example is an array of steps: ["ipvsadm", LINE], ["sysctl", NAME, VALUE],
["frame", HEX] or ["frames", [HEX, ...]]. OUTPUT has for each example the seconds and the frames of each step, the
tables at its end, and the time of reading them. This program uses only the oracle's modules.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan import Addresses, Plan
from wire import Hooks, Wire

TICK_S = 0.03  # IPVS defers some work to the next tick, a hundredth of a second later
IDLE_S = 0.013
TOGETHER = 200  # frames that are sent at once


@dataclass(frozen=True)
class Here(Addresses):
    """The addresses of tests/packet/host.py."""

    def _two(self, v4: str, v6: str) -> str:
        return f"10.77.0.{v4}" if self.family == 4 else f"fd77::{v6}"

    @property
    def dip(self) -> str:
        return self._two("1", "1")

    @property
    def gateway(self) -> str:
        return self._two("254", "fe")

    def vip(self, n: int) -> str:
        return self._two("100", "100")

    def real(self, n: int) -> str:
        return self._two(str(10 + n), str(10 + n))

    def client(self, n: int) -> str:
        return self._two(str(200 + n), f"c:{n:x}")


def play(wire: Wire, steps: list[Any]) -> dict[str, Any]:
    """Play an example with a new director."""
    plan = Plan(Here(4, "", ""), Here(6, "", ""))
    wire.fresh(plan=plan, ip_forward=1, vips=1, loose=False, extra=["addr change fd77::100/128 dev d0 preferred_lft 0"])
    for name, value in (("ipv4/icmp_ratemask", "0"), ("ipv6/icmp/ratemask", "0")):  # without a rate limit of errors
        Path("/proc/sys/net", name).write_text(value)
    began = time.monotonic()
    done = []
    for step in steps:
        at = time.monotonic() - began
        out: list[str] = []
        if step[0] == "ipvsadm":
            refused = wire.command("ipvsadm", *step[1].split(), check=False).returncode
            out = ["refused"] if refused else []
            time.sleep(TICK_S)
        elif step[0] == "sysctl":
            wire.sysctl(**{step[1]: step[2]})
        elif step[0] == "frame":
            out = [frame.hex() for frame in wire.emit([bytes.fromhex(step[1])])]
        else:
            frames = [bytes.fromhex(frame) for frame in step[1]]
            for first in range(0, len(frames), TOGETHER):
                out += [frame.hex() for frame in wire.emit(frames[first : first + TOGETHER])]
        done.append([at, out])
    at = time.monotonic() - began
    rows, connections = wire.rows(), wire.connections()
    return {"steps": done, "at": at, "rows": rows, "connections": connections, "read": time.monotonic() - began}


def main() -> int:
    """Play all examples."""
    subprocess.run(
        ["rmmod", "ip_vs_ftp"], check=False
    )  # without the FTP helper, which checks checksums on port 21 and rewrites packets
    examples = json.loads(Path(sys.argv[1]).read_text())
    with Wire(Hooks(idle=IDLE_S)) as wire:
        Path(sys.argv[2]).write_text(json.dumps([play(wire, steps) for steps in examples]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
