"""Which SYNs a real server does not answer."""

from __future__ import annotations

from itertools import permutations
from time import monotonic

import pytest

from pylvs.doctor.kernel.handshakes import Flows, Opening
from pylvs.doctor.kernel.sniffer import PACKET_HOST, PACKET_OUTGOING
from pylvs.model.addresses import Address
from tests.unit.doctor.segments import ACK, CLIENT, CLIENT_6, RST, SYN, SYN_ACK, VIP, VIP_6, tcp


@pytest.mark.parametrize(("client", "vip"), [(CLIENT, VIP), (CLIENT_6, VIP_6)])
def test_a_reply_counts_in_any_order(client: Address, vip: Address) -> None:
    """A packet of another device may be read first."""
    seen = [
        (tcp(client, 40000, vip, 80, SYN), PACKET_HOST),
        (tcp(vip, 80, client, 40000, SYN_ACK), PACKET_OUTGOING),
        (tcp(client, 40001, vip, 80, SYN), PACKET_HOST),
    ]
    for order in permutations(seen):
        flows = Flows([vip])
        for data, kind in order:
            flows.add(data, kind, is_outward=True)
        assert flows.unanswered(monotonic()) == [Opening(client, 40001, vip, 80)]


@pytest.mark.parametrize("flags", [SYN_ACK, RST, ACK])
def test_each_segment_is_a_reply(flags: int) -> None:
    """A SYN of a connection that exists gets an ACK, and one to a closed port an RST."""
    flows = Flows([VIP])
    flows.add(tcp(CLIENT, 40000, VIP, 80, SYN), PACKET_HOST, is_outward=True)
    flows.add(tcp(VIP, 80, CLIENT, 40000, flags), PACKET_OUTGOING, is_outward=False)
    assert flows.unanswered(monotonic()) == []


def test_what_is_no_question_to_this_host() -> None:
    """Other segments, other addresses, devices inside this host, and SYNs whose reply may still come."""
    flows, begin = Flows([VIP]), monotonic()
    flows.add(tcp(CLIENT, 40000, VIP, 80, ACK), PACKET_HOST, is_outward=True)
    flows.add(tcp(CLIENT, 40001, CLIENT, 80, SYN), PACKET_HOST, is_outward=True)
    flows.add(tcp(CLIENT, 40002, VIP, 80, SYN), PACKET_HOST, is_outward=False)
    assert flows.unanswered(monotonic()) == []
    flows.add(tcp(CLIENT, 40003, VIP, 80, SYN), PACKET_HOST, is_outward=True)
    assert flows.unanswered(begin) == []
    assert [found.client_port for found in flows.unanswered(monotonic())] == [40003]
