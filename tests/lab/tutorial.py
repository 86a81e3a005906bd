"""The machines of a tutorial, and how its commands and scripts in seeds/ get onto a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab

SEEDS = Path(__file__).parent / "seeds"
VIP = "192.168.67.100"
KEEPALIVED = SEEDS / "keepalived/keepalived.conf"


def machines(make_lab: MakeLab, topology: str = "dr", **plan: Any) -> Lab:
    """Make director .127 and real servers .129 and .130 with device ens32, as the tutorial's lvs_rs.sh does."""
    lab = make_lab(
        topology,
        bare=True,
        vip=VIP,
        dip="192.168.67.127/24",
        servers=["192.168.67.129/24", "192.168.67.130/24"],
        client="192.168.67.1/24",
        device="ens32",
        **plan,
    )
    for host in ("rs1", "rs2"):
        lab.sh(host, install(lab, host, "two_scripts/lvs_rs.sh"))
    return lab


def follow(lab: Lab, host: str, seed: str, shell: str = "sh -e") -> str:
    """Run a document's commands in a host, as a script that stops at the first failure."""
    done = lab.run(host, shell.split(), text=(SEEDS / seed).read_text())
    assert (done.returncode, done.stderr) == (0, ""), f"{seed}: {done.stdout}{done.stderr}"
    return done.stdout


def install(lab: Lab, host: str, seed: str) -> str:
    """Put a script where the document wants it, and make it a command."""
    path = f"/usr/local/sbin/{Path(seed).name}"
    assert (
        lab.run(host, ["sh", "-c", f"cat >{path}; chmod 755 {path}"], text=(SEEDS / seed).read_text()).returncode == 0
    )
    return path
