"""What topologies consist of: the client, the director, the real servers, and the network of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, SERVER, Host, Interface, Network, Switch
from pylvs.lab.plan import AddressPlan, AnyInterface
from pylvs.model.addresses import endpoint

_ROLE_OCTETS = {CLIENT: 0x0C, DIRECTOR: 0x0D, ROUTER: 0x0F}


def mac(role: str, card: int = 0, number: int = 0) -> str:
    """Return a link address with the role of its owner.

    ...:0c:00 client, ...:0d:00 director (:0e: the second), ...:01:03:00 third real server.
    """
    if role == SERVER:
        return f"02:00:00:01:{number:02x}:{card:02x}"
    return f"02:00:00:00:{_ROLE_OCTETS[role] + number:02x}:{card:02x}"


def card(
    role: str,
    link: str,
    addresses: Iterable[tuple[AnyInterface, str]],
    device: str = "eth0",
    index: int = 0,
    number: int = 0,
) -> Interface:
    """Return a network interface with (address, note) pairs."""
    pairs = list(addresses)
    return Interface(
        link,
        device,
        mac(role, index, number),
        tuple(str(one) for one, _ in pairs),
        tuple(note for _, note in pairs),
    )


def network(
    plan: AddressPlan,
    topology: str,
    title: str,
    path: str,
    links: Iterable[Switch],
    hosts: Iterable[Host],
    *,
    method: str = "-g",
    entry: str = "",
) -> Network:
    """Return the network of a plan, with these links and hosts; clients use `entry`, or else the VIP."""
    vip = str(plan.vip.ip)
    return Network(
        topology=topology,
        title=title,
        path=path,
        method=method,
        version=plan.version,
        vip=vip,
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=tuple(links),
        hosts=tuple(hosts),
        entry=entry or vip,
    )


def client(
    plan: AddressPlan, link: str, gateway: AnyInterface | None = None, names: Mapping[str, str] | None = None
) -> Host:
    """Return the client, on its own link or on that of the servers."""
    assert plan.client is not None
    return Host(
        "client", CLIENT, (card(CLIENT, link, [(plan.client, "CIP")]),), gateway=_ip(gateway), names=names or {}
    )


def director(
    plan: AddressPlan,
    link: str,
    gateway: AnyInterface | None = None,
    *,
    method: str = "-g",
    second_card: Interface | None = None,
) -> Host:
    """Return the director with its table: one virtual service, all real servers. With a second card it is a router."""
    first = card(DIRECTOR, link, [(plan.dip, "DIP")], plan.device)
    return Host(
        "director",
        DIRECTOR,
        (first, second_card) if second_card else (first,),
        gateway=_ip(gateway),
        forwarding=second_card is not None,
        vip_device=plan.device,
        commands=table(plan, method),
    )


def _ip(interface: AnyInterface | None) -> str:
    return str(interface.ip) if interface else ""


def table(plan: AddressPlan, method: str) -> tuple[str, ...]:
    """Return the ipvsadm commands of a plan."""
    service = endpoint(plan.vip.ip, plan.port)
    lines = [f"ipvsadm -A -t {service} -s {plan.scheduler}"]
    lines += [f"ipvsadm -a -t {service} -r {endpoint(server.ip, plan.port)} {method}" for server in plan.servers]
    return tuple(lines)


def servers(plan: AddressPlan, link: str, gateway: AnyInterface | None, realserver: str = "") -> list[Host]:
    """Return all real servers on one link; `realserver` are the arguments of `pylvs realserver up` ("" for NAT)."""
    return [
        server(plan, number, address, link, gateway, realserver) for number, address in enumerate(plan.servers, start=1)
    ]


def server(
    plan: AddressPlan, number: int, address: AnyInterface, link: str, gateway: AnyInterface | None, realserver: str
) -> Host:
    return Host(
        f"rs{number}",
        SERVER,
        (Interface(link, plan.device, mac(SERVER, 0, number), (str(address),), ("RIP",)),),
        gateway=_ip(gateway),
        commands=(f"pylvs realserver up {realserver}",) if realserver else (),
    )
