"""The doctor's findings about this host's own addresses: ports of bridges, and checks from a virtual address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.doctor.facts import Facts
from pylvs.doctor.probes import own_addresses
from pylvs.model.addresses import Address
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.netlink.links import AssignedAddress, Device

DIP, VIP, OTHER_VIP = map(ip_address, ("10.0.0.10", "10.0.0.100", "10.0.0.101"))
SERVER, NEIGHBOUR = ip_address("10.0.0.21"), ip_address("10.0.0.22")


class Routes:
    """Routes by which packets of this host have one source."""

    def source_to(self, daddr: Address) -> Address:
        return VIP


@pytest.fixture
def _from_vip(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def routes() -> Iterator[Routes]:
        yield Routes()

    monkeypatch.setattr(own_addresses, "KernelRoutes", routes)


def service(vip: Address, *servers: Address) -> dict[str, Any]:
    """Return a service of pylvs status whose servers are down."""
    rows = [{"server": f"{server}:80", "up": False, "standing": "enabled"} for server in servers]
    return {"keys": [f"TCP {vip}:80"], "servers": rows}


def row(vip: Address, method: Method, *servers: Address) -> ServiceRow:
    destinations = tuple(DestinationRow(Destination(DestinationKey(server, 80), method)) for server in servers)
    return ServiceRow(VirtualService(ServiceKey(Protocol.TCP, vip, 80)), destinations)


def examined(
    monkeypatch: pytest.MonkeyPatch, rows: list[ServiceRow], *services: dict[str, Any], file: str = ""
) -> list[tuple[str, frozenset[str]]]:
    """Return id and explained subjects of the findings about checks from a virtual address."""
    status = {"services": list(services), "files": [file] if file else []}
    monkeypatch.setattr(own_addresses, "status_of", lambda facts: status)
    facts = Facts()
    facts.once("addresses", lambda: [AssignedAddress(2, each, each, 24, "") for each in (DIP, VIP)])
    facts.once("has_tables", lambda: True)
    facts.once("services", lambda: rows)
    return [(each.id, each.explains) for each in own_addresses._virtual_sources(facts)]


@pytest.mark.parametrize(
    ("addresses", "sender"),
    [
        ([(VIP, 24, 0), (DIP, 24, 1)], VIP),  # the second one is secondary
        ([(DIP, 24, 0), (VIP, 24, 1)], DIP),
        ([(VIP, 32, 0), (DIP, 24, 0)], DIP),  # the first one has no neighbours
        ([(VIP, 32, 0)], VIP),
        ([], None),
    ],
)
def test_the_kernel_asks_for_a_neighbour_from_the_first_address_of_its_network(
    addresses: list[tuple[Address, int, int]], sender: Address | None
) -> None:
    """As `inet_select_addr` chooses it."""
    held = [AssignedAddress(2, address, address, prefix, "", 0, flags) for address, prefix, flags in addresses]
    assert own_addresses.arp_sender(held, 2, SERVER) == sender


@pytest.mark.usefixtures("_from_vip")
@pytest.mark.parametrize(
    ("method", "found"),
    [
        (Method.ROUTE, ["source_is_virtual"]),
        (Method.TUNNEL, ["source_is_virtual"]),
        (Method.MASQ, []),
    ],
)
def test_a_server_of_nat_does_not_have_the_virtual_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: Method, found: list[str]
) -> None:
    """The table has the method, or the file if the server is not in the table."""
    down = service(VIP, SERVER)
    assert [name for name, _ in examined(monkeypatch, [row(VIP, method, SERVER)], down)] == found
    kind = {Method.ROUTE: "DR", Method.TUNNEL: "TUN", Method.MASQ: "NAT"}[method]
    file = tmp_path / "pylvs.conf"
    file.write_text(
        f"virtual_server {VIP} 80 {{\n protocol TCP\n lb_kind {kind}\n real_server {SERVER} 80 {{\n }}\n}}\n"
    )
    assert [name for name, _ in examined(monkeypatch, [], down, file=str(file))] == found
    assert examined(monkeypatch, [], down) == []


@pytest.mark.usefixtures("_from_vip")
def test_the_servers_of_other_services_are_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has the addresses of its own services alone, and one that is this host drops no packet of its own."""
    rows = [row(VIP, Method.ROUTE, SERVER), row(OTHER_VIP, Method.ROUTE, NEIGHBOUR, SERVER)]
    services = service(VIP, SERVER, DIP), service(OTHER_VIP, NEIGHBOUR, SERVER)
    ((_, explains),) = examined(monkeypatch, rows, *services)
    assert explains == {f"TCP {vip}:80 -> {SERVER}" for vip in (VIP, OTHER_VIP)}
    assert examined(monkeypatch, rows, service(OTHER_VIP, NEIGHBOUR)) == []
    assert examined(monkeypatch, [row(VIP, Method.ROUTE, DIP)], service(VIP, DIP)) == []


@pytest.mark.parametrize(
    ("name", "kind", "target", "command"),
    [
        (
            "br0",
            "bridge",
            "br0",
            "ip address del 10.0.0.10/24 dev eth0; ip address replace 10.0.0.10/24 dev br0",
        ),
        ("ovs-system", "openvswitch", "an internal port of the switch", None),
    ],
)
def test_an_address_moves_to_a_device_that_carries_it(name: str, kind: str, target: str, command: str | None) -> None:
    """The master of a port of Open vSwitch is the device of the datapath, not of the bridge."""
    facts = Facts()
    port = Device(2, "eth0", bytes(6), "", True, False, 1500, 3, 0, (DIP,))
    facts.once("devices", lambda: [port, Device(3, name, bytes(6), kind, True, False, 1500, 0, 0, ())])
    facts.once("addresses", lambda: [AssignedAddress(2, DIP, DIP, 24, "")])
    facts.once("has_tables", lambda: False)
    (found,) = own_addresses._on_ports(facts)
    assert (found.id, found.fix_command) == ("address_on_port", command)
    assert found.fix.startswith(f"Move the addresses to {target}, ")
    assert "ovs-system" not in found.fix
