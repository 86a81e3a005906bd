"""Switch a host's power off and on, without a clean shutdown."""

from __future__ import annotations

import subprocess

from pylvs.lab.ip_commands import port_name
from pylvs.lab.lab import Lab
from pylvs.lab.network import Host
from pylvs.lab.processes import identity, kill_all
from pylvs.model.errors import Unsupported
from pylvs.system.namespaces import inside_network


def off(lab: Lab, host: str) -> None:
    """Cut the links, then kill the processes. What they configured stays until `on`."""
    namespace = identity(lab.host(host).network)
    spec = lab.network.host(host)
    assert spec
    assert namespace
    _set_links(lab, spec, "down")
    kill_all(namespace)


def on(lab: Lab, host: str) -> None:
    """Restore the host as after a boot: its addresses, no tables, its commands. Raises Unsupported."""
    spec = lab.network.host(host)
    assert spec
    if spec.shared_vip_device:
        lab.sh(host, f"ip addr flush to {lab.network.vip}")
    lab.sh(host, "pylvs down")
    _set_links(lab, spec, "up")
    for command in spec.commands:
        lab.sh(host, command)


def _set_links(lab: Lab, host: Host, state: str) -> None:
    lines = "".join(f"link set {port_name(host, number)} {state}\n" for number in range(len(host.interfaces)))
    with inside_network(lab.wire):
        done = subprocess.run(["ip", "-batch", "-"], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(f"{host.name}: its links: {done.stderr.strip()}")
