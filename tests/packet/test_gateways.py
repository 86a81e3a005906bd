"""Routes of IPv4 whose next hop has an address of IPv6 alone (RFC 8950), as on unnumbered links of a data centre."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.model.service import Destination, DestinationKey, Method, VirtualService
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import VIP4, Host, ip, new_host
from tests.packet.wire import wire

GATEWAY, GATEWAY_MAC = "fd77::99", "02:00:00:00:09:99"
SERVER = "10.88.0.5"


@pytest.fixture(params=["generic", "tc"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a director whose server is behind such a route, which runs XDP and TC, or TC alone."""
    with new_host(mode=request.param, recycled=True) as made:
        ip("neigh", "add", GATEWAY, "lladdr", GATEWAY_MAC, "nud", "permanent", "dev", "d0")
        ip("route", "add", f"{SERVER}/32", "via", "inet6", GATEWAY, "dev", "d0")
        yield made


@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL, Method.MASQ], ids=lambda method: method.name)
def test_requests_are_sent_to_the_next_hop(host: Host, method: Method) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr"))
    port = 8080 if method is Method.MASQ else service.port
    host.director.add_destination(service, Destination(DestinationKey(ip_address(SERVER), port), method))
    with wire() as link:
        for flags in "S", "A", "A":
            link.send(tcp(flags, 4000, service.port, CLIENT4, VIP4))
            assert [each[:6].hex(":") for each in link.came()] == [GATEWAY_MAC]


def test_replies_are_sent_to_the_next_hop(host: Host) -> None:
    service = host.new_key()
    (server,) = host.serve(service, 1, Method.MASQ, port=8080)
    ip("route", "add", f"{CLIENT4}/32", "via", "inet6", GATEWAY, "dev", "d0")
    with wire() as link:
        link.send(tcp("S", 4000, service.port, CLIENT4, VIP4))
        link.came()
        for flags in "SA", "A", "A":
            link.send(tcp(flags, 8080, 4000, str(server.address), CLIENT4))
            assert [each[:6].hex(":") for each in link.came()] == [GATEWAY_MAC]
