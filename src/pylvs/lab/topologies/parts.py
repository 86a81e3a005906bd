"""Hosts that topologies consist of: the client, the director, the real servers."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, SERVER, Host, Interface
from pylvs.lab.plan import AddressPlan, AnyInterface

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
        tuple(record for _, record in pairs),
    )


def client(plan: AddressPlan, link: str, gateway: AnyInterface | None = None) -> Host:
    """Return the client, on its own link or on that of the servers."""
    assert plan.client is not None
    via = str(gateway.ip) if gateway else ""
    return Host("client", CLIENT, (card(CLIENT, link, [(plan.client, "CIP")]),), gateway=via)


def director(
    plan: AddressPlan,
    method: str,
    cards: tuple[Interface, ...],
    gateway: AnyInterface | None = None,
    forwarding: bool = False,
) -> Host:
    """Return the director with its table: one virtual service, all real servers."""
    return Host(
        "director",
        DIRECTOR,
        cards,
        gateway=str(gateway.ip) if gateway else "",
        forwarding=forwarding,
        vip_device=plan.device,
        commands=table(plan, method),
    )


def table(plan: AddressPlan, method: str) -> tuple[str, ...]:
    """Return the ipvsadm commands of a plan."""
    service = _endpoint(plan.vip, plan.port)
    lines = [f"ipvsadm -A -t {service} -s {plan.scheduler}"]
    lines += [f"ipvsadm -a -t {service} -r {_endpoint(server, plan.port)} {method}" for server in plan.servers]
    return tuple(lines)


def _endpoint(interface: AnyInterface, port: int) -> str:
    return f"{interface.ip}:{port}" if interface.version == 4 else f"[{interface.ip}]:{port}"


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
        gateway=str(gateway.ip) if gateway else "",
        commands=(f"pylvs realserver up {realserver}",) if realserver else (),
    )
