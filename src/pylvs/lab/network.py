"""The description of a lab as data: links, hosts, addresses, commands; its diagram. Nothing here touches the machine.

All values are text, so that `lab.json` holds exactly this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from pylvs.model.dataclass import dataclass, field

NETWORK_HOST = "net"  # the namespace that holds the bridges
PREFIX = "pylvs-"

CLIENT, ROUTER, DIRECTOR, SERVER = "client", "router", "director", "realserver"
DEVICE_WIDTH = 6  # in the diagram


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch: a bridge in the lab's own namespace."""

    name: str
    about: str  # its subnets, for the diagram


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface: its link, and its addresses as ADDRESS/PREFIX."""

    link: str
    device: str
    mac: str
    addresses: tuple[str, ...]
    notes: tuple[str, ...] = ()  # one for each address: DIP, RIP...


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab.

    `vip_device` is the director's device for the VIP; with two directors and VRRP it is `shared_vip_device`. `commands`
    finish the host's configuration inside it, once `follows` succeeds. The lab is up once `awaits` succeeds.
    """

    name: str
    role: str
    interfaces: tuple[Interface, ...]
    gateway: str = ""
    routes: tuple[str, ...] = ()  # arguments of `ip route add`
    forwarding: bool = False
    vip_device: str = ""
    commands: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)  # names with another address on this host
    shared_vip_device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # path -> content, besides the files of every host
    awaits: str = ""
    follows: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A whole lab. `vip` is the virtual address. Clients use `entry`, which a router may translate to the VIP."""

    topology: str
    title: str
    path: str  # the path of a packet, in one line
    method: str  # ipvsadm's option: -g, -m, -i
    version: int  # of IP
    vip: str
    vip_prefix: int
    port: int
    scheduler: str
    links: tuple[Switch, ...]
    hosts: tuple[Host, ...]
    entry: str

    def host(self, name: str) -> Host:
        """Return the host of this name, which must be there."""
        return next(host for host in self.hosts if host.name == name)

    def role(self, role: str) -> list[Host]:
        """Return all hosts of a role, in order."""
        return [host for host in self.hosts if host.role == role]

    def names(self) -> dict[str, str]:
        """Return the names that are the same everywhere: VIP, DIP, rs1, client..."""
        table = {"VIP": self.vip}
        for host in self.hosts:
            if not host.interfaces[0].addresses:
                continue
            first = address_of(host.interfaces[0].addresses[0])
            if host.role == DIRECTOR and len(self.role(DIRECTOR)) == 1:
                table["DIP"] = first
            table[host.name] = first
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the content of lab.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Network:
        """Return the network of a lab.json."""

        def fields(row: Mapping[str, Any]) -> dict[str, Any]:
            return {name: tuple(each) if isinstance(each, list) else each for name, each in row.items()}

        hosts = tuple(
            Host(**{**fields(host), "interfaces": tuple(Interface(**fields(card)) for card in host["interfaces"])})
            for host in data["hosts"]
        )
        return cls(**{**data, "links": tuple(Switch(**link) for link in data["links"]), "hosts": hosts})


def address_of(text: str) -> str:
    """Return the address of ADDRESS/PREFIX."""
    return text.partition("/")[0]


def without_configuration(network: Network, addresses: bool) -> Network:
    """Return the same lab without the configuration of director and real servers.

    With `addresses` they keep their own (DIP, RIP, gateway); without, their devices are down and have none.
    """
    hosts = []
    table = network.names()  # names stay valid, because the plan does
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


def draw(name: str, network: Network) -> str:
    """Return text of at most 80 to 100 columns."""
    return "\n".join(_diagram(name, network)) + "\n"


def _diagram(name: str, network: Network) -> Iterator[str]:
    yield f"lab {name}: {network.title}"
    yield f"  {network.path}"
    width = max(len(address) for host in network.hosts for address, _ in _rows(network, host)) + 1
    for link in network.links:
        yield ""
        yield f"  ║ {link.name}  {link.about}"
        plugged = [(host, card) for host in network.hosts for card in host.interfaces if card.link == link.name]
        for host, card in plugged:
            yield from _card(network, host, card, width)
    yield ""
    if network.entry != network.vip:
        yield f"  the router translates {network.entry} to the VIP {network.vip} and back"
    yield f"  clients ask for http://VIP/ (VIP is {network.entry}, as /etc/hosts of each client says)"


def _rows(network: Network, host: Host) -> list[tuple[str, str]]:
    """Return all (address, note) pairs of a host."""
    return [row for card in host.interfaces for row in _addresses(network, host, card)]


def _addresses(network: Network, host: Host, card: Interface) -> list[tuple[str, str]]:
    rows = list(zip(card.addresses, card.notes, strict=False))
    if host.role == DIRECTOR and host.vip_device == card.device:
        rows.append((f"{network.vip}/{network.vip_prefix}", "VIP"))
    if host.shared_vip_device == card.device:
        rows.append((f"{network.vip}/{network.vip_prefix}", "VIP while it is MASTER"))
    return rows or [("no address yet", "")]


def _card(network: Network, host: Host, card: Interface, width: int) -> Iterator[str]:
    (address, note), *more = _addresses(network, host, card)
    yield f"  ╟─ {host.name:<9} {card.device:<{DEVICE_WIDTH}} {address:<{width}} {card.mac}  {note}".rstrip()
    for address, note in more:
        yield f"  ║{'':<{12 + DEVICE_WIDTH + 1}} {address:<{width}} {'':<17}  {note}".rstrip()
    if host.role == SERVER and any(word.startswith("pylvs realserver") for word in host.commands):
        text = "VIP, no ARP for it" if network.version == 4 else "VIP"
        if any("--tunnel" in word for word in host.commands):
            text += ", decapsulates"
        bits = 32 if network.version == 4 else 128
        yield f"  ║{'':<12}{'lo':<{DEVICE_WIDTH}} {network.vip + f'/{bits}':<{width}} {'':<17}  {text}".rstrip()


def command_lines(network: Network) -> str:
    """Return the commands that configured the hosts, as HOST# COMMAND."""
    lines = []
    for host in network.hosts:
        if host.vip_device:
            lines.append(f"{host.name}# ip addr add {network.vip}/{network.vip_prefix} dev {host.vip_device}")
        lines += [f"{host.name}# {command}" for command in host.commands]
    return "".join(f"  {line}\n" for line in lines)


def address_list(network: Network) -> str:
    """Return one line for `pylvs lab list`."""
    servers = len(network.role(SERVER))
    dips = [address_of(card.addresses[0]) for host in network.role(DIRECTOR) if (card := host.interfaces[0]).addresses]
    dip = " and ".join(dips) or "none yet"
    return f"{network.topology:<17} VIP {network.entry}  DIP {dip}  {servers} real server{'s' if servers != 1 else ''}"
