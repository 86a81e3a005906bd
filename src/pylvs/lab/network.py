"""What a lab consists of, as plain data: links, hosts, addresses, commands. Nothing here touches the machine.

Everything is text, so that `lab.json` is this and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pylvs.model.dataclass import dataclass, field

NETWORK_HOST = "net"  # the namespace that holds the bridges
PREFIX = "pylvs-"

CLIENT, ROUTER, DIRECTOR, SERVER = "client", "router", "director", "realserver"


@dataclass(frozen=True, slots=True)
class Link:
    """A switch: a bridge in the lab's own namespace."""

    name: str
    about: str  # its subnets, for the picture


@dataclass(frozen=True, slots=True)
class Interface:
    """A network card: which link it is plugged into, and its addresses as ADDRESS/PREFIX."""

    link: str
    device: str
    mac: str
    addresses: tuple[str, ...]
    notes: tuple[str, ...] = ()  # one for each address: DIP, RIP...


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab.

    `vip_device` is the director's device for the VIP, `shared_vip_device` that of one of two, which hold it by turns.
    `commands` finish the host's configuration and run inside it; the lab is up once `awaits` succeeds,
    and `commands` begin once `follows` does.
    """

    name: str
    role: str
    interfaces: tuple[Interface, ...]
    gateway: str = ""
    routes: tuple[str, ...] = ()  # more of them, as `ip route add` takes them
    forwarding: bool = False
    vip_device: str = ""
    commands: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)  # names that mean something else here than elsewhere
    shared_vip_device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # path -> content, besides what every host has
    awaits: str = ""
    follows: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A whole lab. `vip` is the virtual address, `entry` what a client asks for (a public address before a router)."""

    topology: str
    title: str
    path: str  # the way of a packet, in one line
    method: str  # ipvsadm's option: -g, -m, -i
    version: int  # of IP
    vip: str
    vip_prefix: int
    port: int
    scheduler: str
    links: tuple[Link, ...]
    hosts: tuple[Host, ...]
    entry: str

    def host(self, name: str) -> Host | None:
        """The host of this name, if there is one."""
        return next((host for host in self.hosts if host.name == name), None)

    def role(self, role: str) -> list[Host]:
        """All hosts of a role, in order."""
        return [host for host in self.hosts if host.role == role]

    def names(self) -> dict[str, str]:
        """Names that mean the same everywhere: VIP, DIP, rs1, client..."""
        table = {"VIP": self.vip}
        for host in self.hosts:
            if not host.interfaces[0].addresses:
                continue
            first = address_of(host.interfaces[0].addresses[0])
            if host.role == DIRECTOR and len(self.role(DIRECTOR)) == 1:
                table["DIP"] = first
            table[host.name] = first
        return table

    def endpoint(self, address: str) -> str:
        """ADDRESS:PORT as ipvsadm takes it."""
        return f"{address}:{self.port}" if self.version == 4 else f"[{address}]:{self.port}"

    def to_dict(self) -> dict[str, Any]:
        """For lab.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Network:
        """The inverse of `to_dict`."""
        hosts = tuple(
            Host(
                **{
                    **host,
                    "interfaces": tuple(
                        Interface(
                            **{**card, "addresses": tuple(card["addresses"]), "notes": tuple(card.get("notes", ()))}
                        )
                        for card in host["interfaces"]
                    ),
                    "routes": tuple(host["routes"]),
                    "commands": tuple(host["commands"]),
                }
            )
            for host in data["hosts"]
        )
        links = tuple(Link(**link) for link in data["links"])
        return cls(**{**data, "links": links, "hosts": hosts})


def address_of(text: str) -> str:
    """The address of ADDRESS/PREFIX."""
    return text.partition("/")[0]


def without_configuration(network: Network, addresses: bool) -> Network:
    """The same lab with the director's and the real servers' configuration left to the user.

    With `addresses` they keep their own (DIP, RIP, gateway); without, their devices are there, down and empty.
    """
    hosts = []
    table = network.names()  # the plan stands, whoever carries it out
    for host in network.hosts:
        host = replace(host, names={**table, **host.names}, awaits="", follows="")
        if host.role not in (DIRECTOR, SERVER):
            hosts.append(host)
            continue
        bare = replace(host, vip_device="", shared_vip_device="", commands=(), forwarding=False, files={})
        if not addresses:
            cards = tuple(replace(card, addresses=(), notes=()) for card in host.interfaces)
            bare = replace(bare, interfaces=cards, gateway="", routes=())
        hosts.append(bare)
    return replace(network, hosts=tuple(hosts))
