"""Two routers and a client on a switch: network namespaces around a bridge in its own namespace.

The bridge separates the routers' links, so that one may go down without a carrier change at the other.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pylvs.lab.processes import end_all, identity
from pylvs.system.namespaces import NAMED, inside_network
from tests.iproute import ip_batch
from tests.waiting import until_up

HOSTS = ("a", "b", "client")
LINKS = 2  # eth0 and eth1 of every host, each on a switch of its own
_SWITCH = "wire"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Segment:
    """Network namespaces with the names pylvs-NAME-HOST."""

    name: str

    def path(self, host: str) -> Path:
        """Return the namespace of a host, or of the switches."""
        return NAMED / f"pylvs-{self.name}-{host}"

    def inside(self, host: str) -> list[str]:
        """Return the words that run a command in a host."""
        return ["nsenter", f"--net={self.path(host)}", "--"]

    @property
    def switch(self) -> Path:
        """Return the namespace of the bridges."""
        return self.path(_SWITCH)

    def ip(self, host: str, words: str) -> str:
        """Return the output of `ip` in a host."""
        command = ["ip", "-n", self.path(host).name, *words.split()]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def cable(self, host: str, link: int, plugged: bool) -> None:
        """Set a link down or up at the switch's end."""
        self.ip(_SWITCH, f"link set {port(host, link)} {'up' if plugged else 'down'}")

    def addresses(self, host: str) -> set[str]:
        """Return all addresses of a host, on all devices."""
        lines = self.ip(host, "-o addr show").splitlines()
        return {line.split()[3].partition("/")[0] for line in lines}

    def neighbour(self, address: str) -> str:
        """Return the link address that the client has for an address; "" if none."""
        words = self.ip("client", f"neigh show {address}").split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def port(host: str, link: int = 0) -> str:
    """Return the switch's end of a host's link."""
    return f"{host}-{link}"


def address(host: str, link: int = 0, family: int = 4) -> str:
    """Return a host's own address on a link."""
    number = HOSTS.index(host) + 1
    return f"10.66.{link}.{number}" if family == 4 else f"fd00:66:0:{link}::{number}"


def mac(host: str, link: int = 0) -> str:
    """Return a host's link address."""
    return f"02:66:00:00:0{link}:0{HOSTS.index(host) + 1}"


@contextmanager
def segment() -> Iterator[Segment]:
    """Make a segment with all hosts up; remove it and its processes afterwards."""
    made = Segment(f"v{os.getpid()}x{next(_numbers)}")
    names = (_SWITCH, *HOSTS)
    try:
        ip_batch(f"netns add {made.path(host).name}" for host in names)
        with inside_network(made.switch):
            _set("ipv6/conf/all/disable_ipv6", 1)
            _set("ipv6/conf/default/disable_ipv6", 1)
        ip_batch(_wires(made), made.switch.name)
        for host in HOSTS:
            with inside_network(made.path(host)):
                _as_installed()
            ip_batch(_up(host), made.path(host).name)
        until_up(*(port(host, link) for host in HOSTS for link in range(LINKS)), namespace=made.switch.name)
        yield made
    finally:
        namespaces = [made.path(host) for host in names if made.path(host).exists()]
        end_all(each for path in namespaces if (each := identity(path)))
        for path in namespaces:
            subprocess.run(["ip", "netns", "del", path.name], check=True)


def _wires(made: Segment) -> Iterator[str]:
    for link in range(LINKS):
        yield f"link add switch{link} type bridge forward_delay 0 mcast_snooping 0"
        yield f"link set switch{link} up"
        for host in HOSTS:
            peer = f"peer name eth{link} address {mac(host, link)} netns {made.path(host).name}"
            yield f"link add {port(host, link)} type veth {peer}"
            yield f"link set {port(host, link)} master switch{link} up"


def _up(host: str) -> Iterator[str]:
    yield "link set lo up"
    for link in range(LINKS):
        yield f"link set eth{link} up"
        yield f"addr add {address(host, link)}/24 dev eth{link}"
        yield f"addr add {address(host, link, 6)}/64 dev eth{link} nodad"


def _as_installed() -> None:
    """Set sysctls so that addresses work at once, without duplicate address detection and router discovery."""
    for device in ("all", "default", *(f"eth{link}" for link in range(LINKS))):
        for name in ("rp_filter", "arp_ignore", "arp_announce"):
            _set(f"ipv4/conf/{device}/{name}", 0)
        for name in ("accept_dad", "dad_transmits", "accept_ra", "disable_ipv6"):
            _set(f"ipv6/conf/{device}/{name}", 0)


def _set(name: str, value: int) -> None:
    Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")
