"""The descriptions of labs: every topology, any number of servers, both address families."""

from __future__ import annotations

import json
from ipaddress import ip_interface

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.lab.files import files_of
from pylvs.lab.hosts import wire_commands
from pylvs.lab.network import Host, Network, command_lines, draw, without_configuration
from pylvs.lab.plan import read_overrides
from pylvs.lab.topologies import TOPOLOGIES, design
from pylvs.model.errors import InvalidOperation
from tests.lab.support import endpoint
from tests.unit.config.vrrp_support import DEVICES

CASES = [(topology, servers, version) for topology in TOPOLOGIES for servers in (1, 3, 60) for version in (4, 6)]


@pytest.mark.parametrize(("topology", "servers", "version"), CASES)
def test_a_design_is_sound(topology: str, servers: int, version: int) -> None:
    network = design(topology, servers, version)
    cards = [card for host in network.hosts for card in host.interfaces]
    assert len({card.mac for card in cards}) == len(cards)
    addresses = [ip_interface(text) for card in cards for text in card.addresses]
    assert len({each.ip for each in addresses}) == len(addresses)
    assert {each.version for each in addresses} == {version}
    assert all(each.is_private for each in addresses)
    assert {card.link for card in cards} == {link.name for link in network.links}
    assert len(network.role("realserver")) == servers
    for host in network.hosts:
        if host.gateway:
            gateway = ip_interface(host.gateway).ip
            nets = [ip_interface(text).network for card in host.interfaces for text in card.addresses]
            assert any(gateway in net for net in nets), host.name
            assert gateway in {each.ip for each in addresses}, host.name


@pytest.mark.parametrize(("topology", "servers", "version"), CASES)
def test_a_description_read_again_is_the_same(topology: str, servers: int, version: int) -> None:
    network = design(topology, servers, version)
    assert Network.from_dict(json.loads(json.dumps(network.to_dict()))) == network


@pytest.mark.parametrize(("topology", "servers", "version"), CASES)
def test_the_diagram_shows_every_interface_and_address(topology: str, servers: int, version: int) -> None:
    network = design(topology, servers, version)
    drawn = draw("d1", network)
    for host in network.hosts:
        for card in host.interfaces:
            assert f"{card.mac}" in drawn
            assert all(f" {address} " in drawn for address in card.addresses)
    assert f"{network.vip}/" in drawn
    assert max(len(line) for line in drawn.splitlines()) <= 120
    typed = command_lines(network)
    if topology == "ha":
        assert [line.strip() for line in typed.splitlines()[:2]] == [
            "director1# service pylvs start",
            "director2# service pylvs start",
        ]
    elif topology == "ecmp":
        assert [line.strip() for line in typed.splitlines()[2:4]] == [
            "director1# service bird start",
            "director1# service pylvs start",
        ]
    else:
        assert f"ipvsadm -A -t {endpoint(network, network.vip)} -s rr" in typed


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_names_of_devices_fit_the_kernel(topology: str) -> None:
    network = design(topology, 60)
    names = [line.split()[2] for line in wire_commands("d1", network) if line.startswith("link add")]
    assert all(len(name) <= 15 for name in names)
    assert len(set(names)) == len(names)


def known_names(network: Network, host: Host) -> list[str]:
    """The lines of a host's /etc/hosts."""
    return {path: content for path, content, _ in files_of("d1", network, host)}["/etc/hosts"].splitlines()


def test_bare_and_blank_leave_the_configuration_to_others() -> None:
    network = design("dr-behind-router", 2)
    bare = without_configuration(network, addresses=True)
    blank = without_configuration(network, addresses=False)
    assert [host.commands for host in bare.hosts if host.role in ("director", "realserver")] == [()] * 3
    assert bare.host("router").commands == network.host("router").commands
    for name in ("director", "rs1"):
        bare_host, blank_host = bare.host(name), blank.host(name)
        assert bare_host.interfaces[0].addresses
        assert blank_host.interfaces[0].addresses == ()
        assert "10.0.0.100 VIP" in known_names(blank, blank_host)  # names stay valid
    assert "172.16.0.88 VIP" in known_names(blank, blank.host("client"))


def test_a_plan_of_ones_own_decides_family_and_servers() -> None:
    plan = {"vip": "fd01::5", "dip": "fd01::1/64", "servers": ["fd01::2/64"], "client": "fd01::9/64", "device": "ens3"}
    network = design("dr", 3, 4, read_overrides(plan))
    assert network.version == 6
    assert [host.interfaces[0].device for host in network.role("realserver")] == ["ens3"]
    assert network.names() == {
        "VIP": "fd01::5",
        "DIP": "fd01::1",
        "director": "fd01::1",
        "client": "fd01::9",
        "rs1": "fd01::2",
    }


def test_both_ends_of_a_tunnel_have_the_same_kind() -> None:
    network = design("tun", 1, 4, read_overrides({"tunnel": "gue"}))
    assert "-i --tun-type gue --tun-port 6080" in network.role("director")[0].commands[-1]
    assert network.role("realserver")[0].commands[0].endswith("--tun-type gue --tun-port 6080")
    with pytest.raises(InvalidOperation, match="tunnel = 'vxlan': must be one of ipip, gre, gue"):
        read_overrides({"tunnel": "vxlan"})
    with pytest.raises(InvalidOperation, match="dr: the topology has no tunnel; use gre with tun"):
        design("dr", 1, 4, {"tunnel": "gre"})


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("servers", [1, 60])
def test_two_directors_have_the_same_configuration_but_for_their_role(servers: int, version: int) -> None:
    network = design("ha", servers, version, read_overrides({"peer": "keepalived"}))
    first, second = network.role("director")
    assert (first.commands, second.commands) == (("service pylvs start",), ("service keepalived start",))
    texts = [host.files["/etc/keepalived/keepalived.conf"] for host in (first, second)]
    for text in texts:
        document, unread = read_text(text)
        assert (unread, compile_document(document, DEVICES).findings) == ((), ())
    different = [pair for pair in zip(*(text.splitlines() for text in texts), strict=True) if pair[0] != pair[1]]
    assert [[line.strip() for line in pair] for pair in different] == [
        ["state MASTER", "state BACKUP"],
        ["priority 100", "priority 90"],
    ]
    bare = without_configuration(network, addresses=True)
    assert [(host.files, host.commands, host.awaits) for host in bare.hosts if host.role != "realserver"] == [
        ({}, (), "")
    ] * 3
    with pytest.raises(InvalidOperation, match="dr: the topology has one director; use keepalived with ha"):
        design("dr", 1, 4, {"peer": "keepalived"})


def test_mixed_families_are_refused() -> None:
    with pytest.raises(InvalidOperation, match=r"dip = 10\.0\.0\.10/24: the VIP is IPv6, this is not"):
        design("dr", 3, 4, read_overrides({"vip": "fd01::5", "dip": "10.0.0.10/24"}))
    with pytest.raises(InvalidOperation, match="ring: no such topology; there are: dr, nat, tun"):
        design("ring")
