"""XDP at the ports of a bond: packets come with the index of a port, but belong to the bond.

d0 stands for the bond, and its far end d1 for a port. `tests/interop/test_kernels.py` has a real bond.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pylvs.bpf import abi
from pylvs.model.service import Method
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import VIP4, VIP6, XDP_PASS, XDP_TX, Host, key, new_host, server_mac
from tests.waiting import until

VIPS = {4: VIP4, 6: VIP6}


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(expires=False, recycled=True) as made:
        yield made


def frame(version: int, flags: str, sport: int) -> bytes:
    client = CLIENT4 if version == 4 else CLIENT6
    return tcp(flags, sport, 80, source=client, target=VIPS[version])


def sent(host: Host, packet: bytes) -> bool:
    """Return whether XDP sends the packet to the real server by the device on which it came."""
    done = host.run(packet)
    return done.verdict == XDP_TX and done.data[:6] == bytes.fromhex(server_mac(1).replace(":", ""))


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_sends_by_its_bond_on_both_paths(host: Host, version: int) -> None:
    host.serve(key(80, vip=VIPS[version]), 1, Method.ROUTE)
    bond, port = host.ifindex, socket.if_nametoindex("d1")
    syn, ack = frame(version, "S", 4000), frame(version, "A", 4000)
    host.ifindex = port
    assert host.run(syn).verdict == XDP_PASS  # XDP does not know the port
    host.write_device(port, bond)
    assert sent(host, syn)
    assert sent(host, ack)

    def sent_by_the_fast_path() -> bool:
        """Return whether a packet is sent although the general path does not know the bond any more."""
        host.write_device(bond)
        sent(host, ack)
        host.director.tables.devices.clear(bond % abi.constant("DEVICES"))
        return sent(host, ack)

    # Each CPU has its own fast path, and looks up the next hop again after a second.
    until(sent_by_the_fast_path, "a packet on the fast path")
    assert host.run(frame(version, "S", 4001)).verdict == XDP_PASS
    host.write_device(bond)
    assert sent(host, frame(version, "S", 4001))
    forwarded = host.director.packet_counts().forwarded
    assert {name for name, packets in forwarded.items() if packets.xdp} == {"d0"}
    assert forwarded["d0"].xdp == host.director.service(key(80, vip=VIPS[version])).counters.in_packets
