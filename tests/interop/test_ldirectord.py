"""The real ldirectord keeps our table by our ipvsadm: servers come, go and come back, and its end empties the table."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pylvs.model.destination import Method
from pylvs.model.service import ServiceFlag
from tests.interop import ldirectord
from tests.interop.ldirectord import SERVERS

REASON = ldirectord.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

BY_ROUTE, BY_NAT, OF_IPV6 = "192.0.2.12", "192.0.2.14", "2001:db8::11"


def test_servers_that_die_leave_and_come_back_and_the_end_empties_the_table(tmp_path: Path) -> None:
    with ldirectord.site(tmp_path) as site:
        with ldirectord.started(site) as start:
            print(start)
            rows = {str(row.service.key): row for row in site.services()}
            persistent = rows["TCP 192.0.2.100:8080"].service
            assert (persistent.scheduler, persistent.timeout_s) == ("wlc", 60)
            assert persistent.netmask == int(IPv4Address("255.255.255.0"))
            assert rows["UDP 192.0.2.100:53"].service.flags & ServiceFlag.ONE_PACKET
            methods = {each.destination.method for row in rows.values() for each in row.destinations}
            assert methods == {Method.ROUTE, Method.MASQ, Method.TUNNEL}
            assert site.weights() == dict.fromkeys(SERVERS, 1) | {BY_ROUTE: 2}
            for address in BY_ROUTE, BY_NAT, OF_IPV6:
                site.die(address)
            left = SERVERS - {BY_ROUTE, OF_IPV6}
            weights = dict.fromkeys(left, 1) | {BY_NAT: 0}  # its service is quiescent
            site.await_that(lambda: site.weights() == weights, "dead real servers get no new connections")
            for address in BY_ROUTE, BY_NAT, OF_IPV6:
                site.begin(address)
            site.await_that(site.serves_all, "they come back")
        assert list(site.services()) == []
        assert {call.split()[0] for call in site.calls()} == {"0"}, "no ipvsadm call was refused"
