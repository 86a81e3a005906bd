"""Silent tunnels: one finding about the way if all servers behind a next hop are alike."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.probes.tunnel import joined
from pylvs.doctor.servers import Way

ROUTER, OTHER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
FIRST, SECOND, THIRD = (
    Way(ip_address(server), hop=hop)
    for server, hop in (("10.0.11.21", ROUTER), ("10.0.12.22", ROUTER), ("10.0.13.23", OTHER))
)


def silent(way: Way) -> Finding:
    subject = frozenset({str(way.server)})
    return Finding("tunnel_rp_filter", Severity.ERROR, Layer.SERVER, str(way.server), "e", "w", "f", about=subject)


def test_servers_behind_one_hop_that_are_all_silent_are_one_finding_about_it() -> None:
    (found,) = joined([(FIRST, silent(FIRST)), (SECOND, silent(SECOND))], [FIRST, SECOND, THIRD])
    assert (found.id, str(ROUTER) in found.title) == ("tunnel_way_silent", True)
    assert found.about == {"10.0.11.21", "10.0.12.22"}


def test_one_silent_server_among_others_has_a_finding_of_its_own() -> None:
    assert [*joined([(FIRST, silent(FIRST))], [FIRST, SECOND])] == [silent(FIRST)]
    assert [*joined([(THIRD, silent(THIRD))], [FIRST, SECOND, THIRD])] == [silent(THIRD)]


def test_what_a_server_has_answered_is_its_own() -> None:
    refused = replace(silent(FIRST), id="server_not_decapsulating"), replace(silent(SECOND), id="not_listening")
    assert [*joined([(FIRST, refused[0]), (SECOND, refused[1])], [FIRST, SECOND])] == [*refused]
