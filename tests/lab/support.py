"""Shared parts of the lab tests: the command, names, and what a lab must remove."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from pylvs.lab.hosts import PINS, STATE, listed
from pylvs.lab.lab import Lab
from pylvs.lab.network import Network
from pylvs.system.namespaces import NAMED
from tests.waiting import PATIENCE_S

PYLVS = [sys.executable, "-c", "from pylvs.cli.main import main; main()"]


def pylvs(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run([*PYLVS, *arguments], input=text, capture_output=True, text=True, timeout=PATIENCE_S)


def endpoint(network: Network, address: str) -> str:
    """Return ADDRESS:PORT for ipvsadm."""
    return f"{address}:{network.port}" if network.version == 4 else f"[{address}]:{network.port}"


def parts(name: str) -> list[str]:
    """Return the files of a lab: their number grows while it is made, and falls while it is removed."""
    found = [str(path) for path in (*listed(NAMED, f"pylvs-{name}-"), *listed(PINS, f"{name}-"))]
    if (STATE / name).exists():
        found.append(str(STATE / name))
    return found


def remains(name: str) -> list[str]:
    """Return everything of a lab that is still on this machine."""
    found = parts(name)
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounts = (process / "mountinfo").read_text()
        except OSError:
            continue
        if f"/run/netns/pylvs-{name}-" in command or f"{STATE}/{name}/" in mounts:
            found.append(f"process {process.name}: {command}")
    return found


def answers(lab: Lab, count: int = 6, host: str = "client", url: str = "http://VIP/") -> list[str]:
    """Return the answers to this many requests, in order."""
    script = f'for each in $(seq {count}); do curl -s --max-time 30 "{url}" || echo "curl failed: $?"; done'
    return lab.sh(host, script).splitlines()


def shared_evenly(answers_seen: list[str], servers: int) -> bool:
    """Return whether every server answered equally often, and never twice in a row."""
    tally = Counter(answers_seen)
    wanted = {f"This is rs{number} server!": len(answers_seen) // servers for number in range(1, servers + 1)}
    return tally == wanted and all(first != second for first, second in pairwise(answers_seen))


def neighbours(lab: Lab, host: str) -> dict[str, str]:
    """Return address -> MAC as a host has learnt them."""
    lines = [line.split() for line in lab.sh(host, "ip neigh show").splitlines()]
    return {words[0]: words[words.index("lladdr") + 1] for words in lines if "lladdr" in words}


def unique(number: int) -> str:
    """Return a name that no other test run uses."""
    return f"t{os.getpid()}x{number}"
