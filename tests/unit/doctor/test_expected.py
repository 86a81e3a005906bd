"""What each host of a lab is to know of the others."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor import lab_expects
from pylvs.doctor.expected import NOTHING, Expected, Flow
from pylvs.lab.topologies import design

CLIENT, VIP, PUBLIC = (ip_address(text) for text in ("172.16.0.5", "10.0.0.100", "172.16.0.88"))


def test_a_router_forwards_requests_to_the_public_address_and_replies() -> None:
    network = design("dr-behind-router", 1)
    found = lab_expects.of(network, network.host("router"))
    assert found.flows == (
        Flow(CLIENT, VIP, "eth0", "eth1", dport=80, public=PUBLIC),
        Flow(VIP, CLIENT, "eth1", "eth0", sport=80),
    )


def test_a_router_forwards_tunnels() -> None:
    network = design("tun", 1, 4, {"tunnel": "gre"})
    *_, tunnel = lab_expects.of(network, network.host("router")).flows
    assert (str(tunnel.saddr), str(tunnel.daddr), tunnel.iif, tunnel.oif) == ("10.0.0.10", "10.0.11.21", "eth1", "eth2")
    assert tunnel.protocol == 47
    assert lab_expects.behind_routers(network) == {"router": ["rs1"]}


def test_a_real_server_of_nat_knows_the_director() -> None:
    network = design("nat", 1)
    server = network.host("rs1")
    assert lab_expects.of(network, server) == Expected((CLIENT,), ip_address("10.0.0.1"))
    assert lab_expects.own_addresses(network, server) == [ip_address("10.0.0.21")]


def test_what_is_expected_passes_through_json() -> None:
    network = design("dr-behind-router", 2)
    for host in network.hosts:
        found = lab_expects.of(network, host)
        assert Expected.from_dict(found.as_dict()) == found
    assert lab_expects.of(network, network.host("director")) == NOTHING
