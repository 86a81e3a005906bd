"""The doctor's findings about virtual routers: what two advertise, and what an editor of the file would change."""

from __future__ import annotations

import re
from ipaddress import IPv4Interface, ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.doctor.advertisements import Received, parse
from pylvs.doctor.configuration import File, read_file
from pylvs.doctor.probes.routers import compare, of_adverts, of_peers, of_status
from pylvs.doctor.processes import parsed
from pylvs.doctor.virtual_routers import Router
from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Authentication, Peer, VrrpInstance
from pylvs.vrrp.protocol.adverts import AdvertEncoder, Datagram

OWN, OTHER = ip_address("10.0.0.10"), ip_address("10.0.0.11")
VIP = HeldAddress(interface=IPv4Interface("10.0.0.100/32"), device="eth0")
SECOND = HeldAddress(interface=IPv4Interface("10.0.0.101/32"), device="eth0")
PLAIN = VrrpInstance(name="VI_1", interface="eth0", vrid=51, addresses=(VIP,))
SECRET = replace(PLAIN, authentication=Authentication.PASS, password=b"lab")


def received(instance: VrrpInstance, source: Address = OTHER, priority: int = 90, sent: bool = False) -> Received:
    """Return the advertisement of a router."""
    (datagram,) = AdvertEncoder(instance, source).packets(priority)
    return Received("eth0", sent, datagram)


@pytest.mark.parametrize(
    ("here", "there", "found"),
    [
        (PLAIN, PLAIN, None),
        (SECRET, SECRET, None),
        (PLAIN, replace(PLAIN, version=3), "vrrp_version_mismatch"),
        (replace(PLAIN, version=3), PLAIN, "vrrp_version_mismatch"),
        (PLAIN, SECRET, "vrrp_auth_mismatch"),
        (SECRET, PLAIN, "vrrp_auth_mismatch"),
        (SECRET, replace(SECRET, password=b"other"), "vrrp_auth_mismatch"),
        (SECRET, replace(SECRET, authentication=Authentication.AH), "vrrp_auth_mismatch"),
        (PLAIN, replace(PLAIN, advert_interval_s=2.0), "vrrp_interval_mismatch"),
        (replace(PLAIN, version=3), replace(PLAIN, version=3, advert_interval_s=2.0), None),
        (PLAIN, replace(PLAIN, addresses=(VIP, SECOND)), "vrrp_addresses_mismatch"),
        (PLAIN, replace(PLAIN, addresses=(SECOND,)), "vrid_clash"),
        (replace(PLAIN, addresses=(VIP, SECOND)), PLAIN, "vrrp_addresses_mismatch"),
        (PLAIN, replace(PLAIN, peers=(Peer(OWN),)), "vrrp_unicast_mismatch"),
        (replace(PLAIN, peers=(Peer(OTHER),)), PLAIN, "vrrp_unicast_mismatch"),
    ],
)
def test_the_first_difference_is_named(here: VrrpInstance, there: VrrpInstance, found: str | None) -> None:
    """Of all that routers must agree on."""
    mismatch = compare(Router(here, "BACKUP"), received(there))
    assert (mismatch and mismatch.id) == found


def test_a_packet_that_was_routed_or_damaged() -> None:
    """The TTL is 255, and the checksum is right."""
    advert = received(PLAIN)
    routed = replace(advert, datagram=replace(advert.datagram, ttl=254))
    damaged = replace(advert, datagram=replace(advert.datagram, payload=advert.datagram.payload[:-1] + b"x"))
    cut = replace(advert, datagram=replace(advert.datagram, payload=b"\x21\x33"))
    found = [compare(Router(PLAIN, "MASTER"), each) for each in (routed, damaged, cut)]
    assert [each and each.id for each in found] == ["vrrp_ttl", "vrrp_invalid", "vrrp_invalid"]


NO_FILE = File("", read_file("/nonexistent").document, ())


def findings(state: str, *adverts: Received, complete: bool = True, **status: Any) -> list[str]:
    router = Router(PLAIN, state, {"source": str(OWN), "priority": 100, **status})
    return [each.id for each in of_adverts(router, adverts, {OWN}, NO_FILE, complete)]


def test_a_second_master_is_found_by_the_master_alone() -> None:
    """A backup receives the master, and nothing is wrong."""
    own = received(PLAIN, OWN, 100, sent=True)
    assert findings("MASTER", own) == findings("BACKUP", received(PLAIN)) == []
    assert findings("MASTER", own, received(PLAIN)) == ["vrrp_two_masters"]
    assert findings("MASTER", own, received(PLAIN, priority=255), priority=255) == ["vrrp_two_owners"]


def test_one_address_with_two_vrids() -> None:
    """Two groups on a link have addresses of their own each."""
    own, other = received(PLAIN, OWN, 100, sent=True), replace(PLAIN, vrid=52)
    assert findings("MASTER", own, received(other)) == ["vrrp_vrid_mismatch"]
    assert findings("MASTER", own, received(replace(other, addresses=(SECOND,)))) == []
    assert findings("MASTER", own, received(other, OWN)) == []


def test_a_master_that_sends_nothing() -> None:
    """Only if the doctor has listened for a whole interval; other routers do not count."""
    assert findings("MASTER") == ["vrrp_not_sent"]
    assert findings("MASTER", complete=False) == findings("BACKUP") == []
    assert findings("MASTER", received(replace(PLAIN, vrid=52), OWN, sent=True)) == ["vrrp_not_sent"]


def test_a_fault_is_an_error_if_no_other_router_advertises() -> None:
    """Else the other one has the addresses."""
    router = Router(PLAIN, "FAULT", {"faults": ["interface eth1 is down"], "tracks": []})
    assert [each.severity.name for alone in (True, False) for each in of_status(router, alone)] == ["ERROR", "WARNING"]


@pytest.mark.parametrize("size", range(40))
def test_a_truncated_packet_is_no_advertisement(size: int) -> None:
    """Parsing does not fail."""
    (datagram,) = AdvertEncoder(PLAIN, OTHER).packets(90)
    packet = (datagram.header + datagram.payload)[:size]
    found = parse(packet)
    if size >= len(datagram.header):
        assert found == Datagram(OTHER, datagram.destination, 255, 112, datagram.header, packet[20:])
    else:
        assert found is None


CONF = """vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    advert_int 1   # often
    priority 100; state BACKUP
}
"""


@pytest.mark.parametrize(
    ("keyword", "line"),
    [("advert_int", "    advert_int 7\n"), ("version", "    version 7\n"), ("virtual_router_id", None)],
)
def test_the_command_edits_the_line_of_a_keyword(tmp_path: Path, keyword: str, line: str | None) -> None:
    """Or adds it; a line with a variable is left to the operator."""
    file = tmp_path / "keepalived.conf"
    file.write_text(CONF.replace("id 51", "id $VRID").replace("vrrp_instance", "$VRID=51\nvrrp_instance", 1))
    edit = read_file(str(file)).setting("vrrp_instance", "VI_1", keyword, "7")
    if line is None:
        assert edit is None
        return
    assert edit is not None
    found = re.fullmatch(r"sed -i '(\d+)(s/\.\*/|a\\)(.*?)/?' .*", edit)
    assert found is not None
    assert f"{found[3]}\n" == line


def test_a_comment_with_a_separator_of_unicode_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text("! a\u2028b\x85c\n" + CONF)
    first = tmp_path / "plain.conf"
    first.write_text("! a\n" + CONF)
    edits = [read_file(str(each)).setting("vrrp_instance", "VI_1", "priority", "7") or "" for each in (file, first)]
    assert edits[0].replace(str(file), str(first)) == edits[1] != ""


@pytest.mark.parametrize(
    ("words", "file", "routers", "services"),
    [
        ("", "/etc/keepalived/keepalived.conf", True, True),
        ("--vrrp --dont-fork", "/etc/keepalived/keepalived.conf", True, False),
        ("-P -f /a.conf", "/a.conf", True, False),
        ("-C --use-file=/a.conf", "/a.conf", False, True),
        ("-f/a.conf -D", "/a.conf", True, True),
        ("-f", "", True, True),
    ],
)
def test_what_a_keepalived_runs(words: str, file: str, routers: bool, services: bool) -> None:
    """By its command line."""
    found = parsed(7, words.split())
    assert (found.file, found.routers, found.services) == (file, routers, services)


def test_a_peer_that_is_not_reached() -> None:
    """Each peer by itself; without peers there is nothing to reach."""
    pair = Router(replace(PLAIN, peers=(Peer(OTHER), Peer(OWN))), "MASTER")
    assert [str(OTHER) in each.title for each in of_peers(pair, {OTHER})] == [True]
    assert list(of_peers(pair, ())) == list(of_peers(Router(PLAIN, "MASTER"), {OTHER})) == []
