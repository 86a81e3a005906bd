"""A flood of BFD packets in the name of the neighbor ends no session with the real keepalived."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pylvs.bfd.flood_guard import MOST, SLICE_S
from pylvs.bfd.packet import Packet, State
from pylvs.system.namespaces import inside_network
from tests.interop import keepalived
from tests.interop.bfd.cell import PACKETS, Cell, hosts
from tests.interop.bfd.peers import KEEPALIVED, KeepalivedPeer, PylvsPeer
from tests.interop.vrrp.segment import mac
from tests.interop.vrrp.test_floods import A_SECOND, flood
from tests.waiting import until

OTHER_TTLS = (1, 64, 254)


def frames(source: str, destination: str) -> list[bytes]:
    """Return garbage, packets with unknown discriminators, and forged ends of the session."""
    generator = random.Random(3)

    def number() -> int:
        return generator.randrange(1, 1 << 32)

    def packet(state: State, yours: int = 0) -> bytes:
        return Packet(state=state, multiplier=3, mine=number(), yours=yours, min_tx_us=10**5, min_rx_us=10**5).encoded()

    payloads = [generator.randbytes(generator.choice((0, 10, 24, 60))) for _ in range(60)]
    payloads += [packet(State.UP, number()) for _ in range(60)]
    payloads += [packet(generator.choice((State.DOWN, State.ADMIN_DOWN))) for _ in range(60)]
    found = []
    for index, payload in enumerate(payloads):
        ttl = OTHER_TTLS[index % len(OTHER_TTLS)] if index % 4 == 0 else 255
        link = Ether(src=mac("client"), dst=mac("a"))
        found.append(bytes(link / IP(src=source, dst=destination, ttl=ttl) / UDP(sport=50000, dport=3784) / payload))
    return found


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(900)
def test_a_flood_in_the_name_of_the_neighbor_ends_no_session(tmp_path: Path) -> None:
    with hosts(Cell(KEEPALIVED, 4, False)) as (where, ours, theirs):
        for host in ("a", "b"):
            (tmp_path / host).mkdir()
        here = PylvsPeer(where, "a", tmp_path / "a", ours)
        there = KeepalivedPeer(where, "b", tmp_path / "b", theirs)
        try:
            for daemon in (here, there):
                daemon.write()
                daemon.start()
            until(lambda: here.is_up() and there.is_up(), here.program.log)
            before, lines = here.session(), len(here.program.log())
            with inside_network(where.path("client")):
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                raw.bind(("eth0", 0))
            with raw, flood(raw.sendall, frames(theirs.here, ours.here), A_SECOND) as sent:
                enough = before["counters"]["received"] + PACKETS
                until(lambda: here.session()["counters"]["received"] > enough, here.program.log)
            after, seconds = here.session(), 1 + sent.total() / A_SECOND
            print(f"{sent.total()} sent: {after['counters']}")
            assert (after["state"], after["flaps"], after["since"]) == ("Up", before["flaps"], before["since"])
            assert there.is_up()
            dropped = sum(after["counters"]["dropped"].values())
            assert 0 < dropped < sent.total() / 4, "the kernel drops the rest"
            assert dropped < 20 * MOST * (seconds / SLICE_S + 1)
            assert len(here.program.log()) - lines < 10
        finally:
            there.end()
            here.end()
