"""A host's power, off and on again: at once and without a word, as machines die."""

from __future__ import annotations

import subprocess

from pylvs.lab.lab import Lab
from pylvs.lab.network import Host
from pylvs.lab.processes import identity, kill_all
from pylvs.lab.setup import port_name
from pylvs.model.errors import Unsupported
from pylvs.system.namespaces import inside_network


def off(lab: Lab, host: str) -> None:
    """Its cables are dead, then its processes; what they set up stays until it is on again."""
    here = identity(lab.place(host).network)
    known = lab.network.host(host)
    assert known
    assert here
    _cables(lab, known, "down")
    kill_all(here)


def on(lab: Lab, host: str) -> None:
    """As after a start: its own addresses, no tables, and its commands run. Raises Unsupported."""
    known = lab.network.host(host)
    assert known
    if known.shared_vip_device:
        lab.sh(host, f"ip addr flush to {lab.network.vip}")
    lab.sh(host, "pylvs down")
    _cables(lab, known, "up")
    for command in known.commands:
        lab.sh(host, command)


def _cables(lab: Lab, host: Host, state: str) -> None:
    lines = "".join(f"link set {port_name(host, number)} {state}\n" for number in range(len(host.interfaces)))
    with inside_network(lab.wire):
        done = subprocess.run(["ip", "-batch", "-"], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(f"{host.name}: its cables: {done.stderr.strip()}")
