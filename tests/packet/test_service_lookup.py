"""Which service gets a packet, where a setting of this host decides."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest

from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import PASSED, SENT, VIP4, VIP6, Host, new_host, server4, server6

FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")  # IPv6 follows it, too


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True) as made:
        yield made


@pytest.mark.parametrize(("client", "vip", "server"), [(CLIENT4, VIP4, server4(1)), (CLIENT6, VIP6, server6(1))])
def test_data_ports_of_ftp_begin_where_this_host_is_configured(host: Host, client: str, vip: str, server: str) -> None:
    """IPVS-SEMANTICS 1.2: port 20, and those that need no privilege."""
    ftp = ServiceKey(Protocol.TCP, ip_address(vip), 21)
    host.director.add_service(VirtualService(ftp, "rr", ServiceFlag.PERSISTENT, 300))
    host.director.add_destination(ftp, Destination(DestinationKey(ip_address(server), 21)))
    host.run(tcp(source=client, target=vip, dport=21), "tc")  # has the next hop looked up

    clients = count(5000)  # each packet is that of a new connection

    def served(port: int) -> bool:
        verdict = host.run(tcp("S", next(clients), port, client, vip), "tc").verdict
        assert verdict in SENT["tc"] or verdict == PASSED["tc"]
        return verdict in SENT["tc"]

    assert [served(port) for port in (20, 443, 1023, 1024, 5000)] == [True, False, False, True, True]
    for first, expected in (("0", [True] * 5), ("5000", [True, False, False, False, True]), ("1024", None)):
        FIRST_UNPRIVILEGED.write_text(first)
        host.director.follow_host()
        if expected:
            assert [served(port) for port in (20, 443, 1023, 1024, 5000)] == expected
