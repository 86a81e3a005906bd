"""Files and namespaces of lab hosts, and the commands that make, wire and enter them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_interface
from pathlib import Path

from pylvs.lab.network import NETWORK_HOST, PREFIX, Host, Network
from pylvs.model.errors import InvalidOperation
from pylvs.system.namespaces import NAMED
from pylvs.system.processes import COMPILED_MODULES
from pylvs.system.syscalls import unmount

RUN_PYLVS = Path("/run/pylvs")  # the only part of /run that hosts share with the machine
BPFFS = RUN_PYLVS / "bpf"
DAEMONS = RUN_PYLVS / "daemon"  # the state directories of `pylvs run`, by network namespace
STATE = Path("/run/pylvs/lab")  # one directory for each lab: lab.json and the mount points of its hosts
PINS = Path("/run/pylvs/lab-ns")  # files of mount and UTS namespaces; a private mount while there are labs
DESCRIPTION = "lab.json"
COMMAND = os.environ.get("PYLVS_COMMAND", "pylvs")  # from ./dev, whose pylvs is not on the PATH of its caller
MARK = Path("/etc/pylvs-lab")  # in a lab host, and nowhere else: "HOST of lab LAB"
# A script for the lab's own namespace, which disables IPv6 on bridges.
QUIET_SWITCHES = (
    "cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0; echo 1 >all/disable_ipv6; echo 1 >default/disable_ipv6\n"
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabHost:
    """A host of a lab: the files of its namespaces, and its disk."""

    def __init__(self, lab: str, host: str) -> None:
        self.network = NAMED / f"{PREFIX}{lab}-{host}"
        self.mounts = PINS / f"{lab}-{host}.mnt"
        self.name = PINS / f"{lab}-{host}.uts"
        self.disk = STATE / lab / host  # the mount point of what the host writes; only the host sees it

    def inside(self) -> list[str]:
        """Return the words that run a command in this host."""
        return ["nsenter", f"--net={self.network}", f"--uts={self.name}", f"--mount={self.mounts}", "--"]


def checked_name(name: str) -> str:
    """Return a lab's name if it is valid. A hyphen would separate the lab from the host."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,31}", name):
        raise InvalidOperation(f"{name!r}: not a name for a lab; use letters, digits and _, 32 at most")
    return name


def listed(folder: Path, prefix: str = "") -> list[Path]:
    """Return what is in a folder; nothing if it is missing, because the last lab removes the shared folders."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def environment(outer: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the user's environment for a host: with the system's PATH first, and without proxies."""
    variables = {
        name: value
        for name, value in (os.environ if outer is None else outer).items()
        if not name.lower().endswith("_proxy") and (not name.startswith("PYTHON") or name in COMPILED_MODULES)
    }
    variables["PATH"] = ":".join(dict.fromkeys([*SYSTEM_PATH.split(":"), *variables.get("PATH", "").split(":")])).strip(
        ":"
    )
    return variables


def namespace_commands(lab: str, network: Network) -> list[str]:
    """Return commands for ip that make all network namespaces."""
    return [f"netns add {LabHost(lab, name).network.name}" for name in (NETWORK_HOST, *(h.name for h in network.hosts))]


def wire_commands(lab: str, network: Network) -> list[str]:
    """Return commands for ip in the lab's own namespace: bridges, and a veth pair for each interface."""
    lines = []
    for link in network.links:
        lines.append(f"link add {link.name} type bridge forward_delay 0 mcast_snooping 0")
        lines.append(f"link set {link.name} up")
    for host in network.hosts:
        for number, card in enumerate(host.interfaces):
            port = port_name(host, number)
            peer = f"peer name {card.device} address {card.mac} netns {LabHost(lab, host.name).network.name}"
            lines.append(f"link add {port} type veth {peer}")
            lines.append(f"link set {port} master {card.link} up")
    return lines


def port_name(host: Host, number: int) -> str:
    """Return the name of the bridge's end of a link."""
    return f"{host.name}-{number}"


def address_commands(network: Network, host: Host) -> Iterator[str]:
    """Return commands for ip in a host: addresses and routes."""
    yield "link set lo up"
    for card in host.interfaces:
        if card.addresses:
            yield f"link set {card.device} up"
        yield from (_add(address, card.device) for address in card.addresses)
    if host.vip_device:
        yield _add(f"{network.vip}/{network.vip_prefix}", host.vip_device)
    if host.gateway:
        yield f"route add default via {host.gateway}"
    yield from (f"route add {route}" for route in host.routes)


def _add(address: str, device: str) -> str:
    is_ipv6 = ip_interface(address).version == 6
    return f"addr add {address} dev {device}" + (" nodad" if is_ipv6 else "")


def until(command: str) -> str:
    """Return a shell command that waits until another one succeeds."""
    return f"until {command} >/dev/null 2>&1; do sleep 0.1; done"


def unmount_all(path: Path) -> None:
    """Unmount everything that is mounted on a path."""
    with contextlib.suppress(OSError):
        while True:
            unmount(path)
