"""The doctor's findings about packet filters that drop advertisements."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from pylvs.doctor.packet_filter.host import INPUT
from pylvs.doctor.packet_filter.packet import PASSED, Decision, Packet, Verdict
from pylvs.doctor.probes.router_filter import of_filter
from pylvs.doctor.virtual_routers import Router
from pylvs.model.vrrp import MULTICAST_V4, Peer, VrrpInstance
from pylvs.netlink.links import AssignedAddress

OWN, PEER = ip_address("10.0.0.10"), ip_address("10.0.0.11")
HELD = AssignedAddress(2, OWN, OWN, 24, "")
DROPPED = Decision(Verdict.DROP, "a rule", accept="accept it", remove="remove it")


def asked(state: str, dropped: Sequence[str], *peers: Peer) -> tuple[list[tuple[str, str, str]], list[Packet]]:
    """Return the findings if these hooks drop all, and the packets that the filter was asked about."""
    packets = list[Packet]()

    def decide(hooks: Sequence[str], packet: Packet) -> Decision:
        packets.append(packet)
        return DROPPED if hooks == dropped else PASSED

    router = Router(VrrpInstance(name="VI_1", interface="eth0", vrid=51, peers=peers), state, {"source": str(OWN)})
    found = list(of_filter(router, (), [HELD], decide))
    return [(each.id, each.severity.name, str(each.fix_command)) for each in found], packets


@pytest.mark.parametrize("peers", [(), (Peer(PEER),)])
def test_packets_in_both_directions(peers: tuple[Peer, ...]) -> None:
    """To the group, or to each peer."""
    _, (incoming, outgoing) = asked("BACKUP", (), *peers)
    group = PEER if peers else MULTICAST_V4
    assert (incoming.daddr, incoming.iif, outgoing.saddr) == (OWN if peers else group, "eth0", OWN)
    assert (outgoing.daddr, outgoing.oif) == (group, "eth0")
    assert incoming.saddr not in (OWN, MULTICAST_V4)
    assert {incoming.protocol, outgoing.protocol} == {112}


def test_a_backup_that_receives_nothing_has_a_warning() -> None:
    """The command accepts these packets, rather than that it removes a rule that may drop more."""
    found, _ = asked("BACKUP", INPUT)
    assert found == [("vrrp_filtered", "WARNING", "accept it")]
