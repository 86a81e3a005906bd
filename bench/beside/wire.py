"""A wire with a director at one end, a client and a server at the other: each in a network namespace of its own.

Client and server have macvlan devices on the far end of the director's veth pair, as hosts on a switch. All three
are on one link, so the director sends by the device it received from. Native XDP can do that on every kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bench.processes import ip_batch, run
from bench.site import DEVICE, PREFIX, deferred, has_ipv6, remove_namespace, undisturbed
from pylvs.model.dataclass import dataclass
from pylvs.system import proc
from pylvs.system.namespaces import inside_network

FAR = "w0"
ROLES = ("director", "wire", "client", "server")
MACS = {"director": "02:00:00:00:00:01", "client": "02:00:00:00:02:01", "server": "02:00:00:00:02:02"}
VIP = "10.67.3.100"
CLIENT, DIRECTOR_CLIENTS = "10.67.1.2", "10.67.1.1"
DIRECTOR_SERVERS = "10.67.2.1"
ANSWERS_BY_DIRECTOR, ANSWERS_DIRECTLY = "10.67.2.2", "10.67.2.3"  # the server's addresses
_DIRECT_TABLE = "100"
_SYSCTLS = {"ip_forward": "1"} | {
    f"conf/{device}/{name}": value
    for device in ("all", "default")
    for name, value in (("rp_filter", "0"), ("send_redirects", "0"), ("accept_redirects", "0"))
}
_UNFINISHED = ("tx", "tso", "gso", "gro")
_REAL_SERVER_SYSCTLS = {"conf/all/arp_ignore": "1", "conf/all/arp_announce": "2"}


@dataclass(frozen=True, slots=True)
class Wire:
    """The namespaces of a wire, by role."""

    name: str

    def netns(self, role: str) -> str:
        """Return the name of the namespace of a role."""
        return f"{self.name}-{role}"

    def path(self, role: str) -> str:
        """Return the file of that namespace."""
        return f"/run/netns/{self.netns(role)}"

    def inside(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run the block in that namespace."""
        return inside_network(self.path(role))

    # --- making it ---

    def make(self) -> None:
        """Make namespaces, devices, addresses, permanent neighbours and routes. Raises Unsupported."""
        for role in ROLES:
            with deferred():
                run("ip", "netns", "add", self.netns(role))
            with self.inside(role):
                for name, value in _SYSCTLS.items():
                    proc.write(f"net/ipv4/{name}", value)
                if has_ipv6():
                    proc.write("net/ipv6/conf/all/disable_ipv6", "1")
                    proc.write("net/ipv6/conf/default/disable_ipv6", "1")
        with self.inside("director"):
            peer = f"peer name {FAR} netns {self.netns('wire')}"
            ip_batch("link set lo up", f"link add {DEVICE} address {MACS['director']} type veth {peer}")
        with self.inside("wire"):
            ip_batch(*(line for role in ("client", "server") for line in self._far_device(role)))
            _finished_frames(FAR)
            ip_batch(f"link set {FAR} up")
        self._address()

    def _far_device(self, role: str) -> Iterator[str]:
        yield f"link add link {FAR} name {role} address {MACS[role]} type macvlan mode bridge"
        yield f"link set {role} netns {self.netns(role)}"

    def _address(self) -> None:
        with self.inside("director"):
            _finished_frames(DEVICE)
            ip_batch(
                f"link set {DEVICE} up",
                f"addr add {DIRECTOR_CLIENTS}/24 dev {DEVICE}",
                f"addr add {DIRECTOR_SERVERS}/24 dev {DEVICE}",
                f"addr add {VIP}/32 dev {DEVICE}",
                _neighbour(CLIENT, "client", DEVICE),
                *(_neighbour(each, "server", DEVICE) for each in (ANSWERS_BY_DIRECTOR, ANSWERS_DIRECTLY)),
            )
        with self.inside("client"):
            _finished_frames("client")
            ip_batch(
                "link set lo up",
                "link set client up",
                f"addr add {CLIENT}/24 dev client",
                _neighbour(DIRECTOR_CLIENTS, "director", "client"),
                f"route add default via {DIRECTOR_CLIENTS}",
            )
        with self.inside("server"):
            for name, value in _REAL_SERVER_SYSCTLS.items():
                proc.write(f"net/ipv4/{name}", value)
            _finished_frames("server")
            ip_batch(
                "link set lo up",
                f"addr add {VIP}/32 dev lo",
                "link set server up",
                f"addr add {ANSWERS_BY_DIRECTOR}/24 dev server",
                f"addr add {ANSWERS_DIRECTLY}/24 dev server",
                _neighbour(DIRECTOR_SERVERS, "director", "server"),
                _neighbour(CLIENT, "client", "server"),
                f"route add default via {DIRECTOR_SERVERS}",
                f"route add {CLIENT}/32 dev server scope link table {_DIRECT_TABLE}",
                *(f"rule add from {each} table {_DIRECT_TABLE}" for each in (VIP, ANSWERS_DIRECTLY)),
            )

    def remove(self) -> None:
        """Remove every part that exists."""
        for role in ROLES:
            remove_namespace(self.netns(role))


def _neighbour(address: str, role: str, device: str) -> str:
    return f"neigh add {address} lladdr {MACS[role]} dev {device} nud permanent"


def _finished_frames(device: str) -> None:
    """Switch offloads off, so that frames are as on a cable: with checksums, and at most of the MTU."""
    run("ethtool", "-K", device, *(word for each in _UNFINISHED for word in (each, "off")))


@contextlib.contextmanager
def new_wire() -> Iterator[Wire]:
    """Make a wire, and remove it afterwards. Raises Unsupported."""
    wire = Wire(f"{PREFIX}{os.getpid()}")
    try:
        wire.make()
        yield wire
    finally:
        with undisturbed():
            wire.remove()
