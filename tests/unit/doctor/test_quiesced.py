"""The doctor's findings about servers of weight 0 that still get traffic."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.probes.checks import Attempt
from pylvs.doctor.probes.quiesced import down_by_checks, of_flows, of_templates
from pylvs.model.director import Connection
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    VirtualService,
)

SERVER, CLIENT, VIP = ip_address("198.51.100.1"), ip_address("203.0.113.1"), ip_address("192.0.2.1")
NAME = "198.51.100.1:80"


def quiesced(protocol: Protocol, persistent: int = 0) -> tuple[ServiceRow, DestinationRow]:
    """Return a service and its server of weight 0."""
    key = ServiceKey(protocol, VIP, 80)
    server = DestinationRow(Destination(DestinationKey(SERVER, 80), weight=0), persistent=persistent)
    flags = ServiceFlag.PERSISTENT if persistent else ServiceFlag(0)
    return ServiceRow(VirtualService(key, flags=flags, timeout_s=300), (server,)), server


def test_a_template_matters_if_its_server_does_not_answer() -> None:
    """A drained server serves its clients until they are gone."""
    for error, found in (("Connection refused", ["template_of_dead_server"]), ("", [])):
        attempts = {NAME: Attempt(error)}
        assert [each.id for each in of_templates([quiesced(Protocol.TCP, 3)], attempts.__getitem__)] == found
    assert list(of_templates([quiesced(Protocol.TCP)], lambda _: Attempt("refused"))) == []


def test_flows_of_udp_stay_at_a_server_that_is_down() -> None:
    """Only flows that have packets now, to a server whose checks fail."""

    def flow(expires_s: int) -> Connection:
        return Connection(Protocol.UDP, "UDP", expires_s, CLIENT, 5000, VIP, 80, SERVER, 80)

    servers = [quiesced(Protocol.UDP)]
    assert [each.id for each in of_flows(servers, [flow(299)], {NAME}, Timeouts())] == ["flows_of_dead_server"]
    assert list(of_flows(servers, [flow(200)], {NAME}, Timeouts())) == []
    assert list(of_flows(servers, [flow(299)], set(), Timeouts())) == []


def test_servers_that_stay_in_the_table_although_they_are_down() -> None:
    """By inhibit_on_failure."""
    servers = [{"server": NAME, "in_table": there, "up": up} for there in (True, False) for up in (True, False)]
    assert down_by_checks({"services": [{"servers": servers}]}) == {NAME}
    assert down_by_checks(None) == frozenset()
