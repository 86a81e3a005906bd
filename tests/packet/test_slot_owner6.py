"""A CPU that has found an IPv6 connection of NAT does not end the one that took its slot at the same moment."""

from __future__ import annotations

import struct

from pylvs.bpf import abi
from pylvs.model.service import Method
from tests.packet.frames import CLIENT6, tcp
from tests.packet.host import DROPPED, VIP6, Host, new_host


def opened(host: Host, port: int, sport: int) -> bytes:
    """Make a connection that a SYN may replace, and return its key in the table."""
    before = set(host.director.tables.connections6.keys())
    for flags in "S", "A", "RA":
        host.run(tcp(flags, sport=sport, dport=port, source=CLIENT6, target=VIP6), "tc")
    (key,) = set(host.director.tables.connections6.keys()) - before
    return key


def test_the_connection_in_a_reused_slot_stays() -> None:
    with new_host(expires=False) as host:
        service = host.new_key(vip=VIP6)
        host.serve(service, 1, Method.MASQ)
        former, present = (opened(host, service.port, sport) for sport in (2000, 2001))
        table, words = host.director.tables.connections6, host.director.tables.words6.words
        slot_at = abi.struct("connection6").offset("slot")
        value, of_present = (bytearray(table.get(key) or b"") for key in (former, present))
        (slot,) = struct.unpack_from("<I", of_present, slot_at)
        struct.pack_into("<I", value, slot_at, slot)  # as it was read before the slot changed hands
        table.put(former, bytes(value))
        before = list(words)
        syn = tcp("S", sport=2000, dport=service.port, source=CLIENT6, target=VIP6)
        assert host.run(syn, "tc").verdict == DROPPED["tc"]
        assert list(words) == before
        assert host.pool("used") > 0
