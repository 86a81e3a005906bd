"""Questions about direct routing and the usual answers, each verified.

The questions are those of a well-known text about the principle of LVS/DR.
"""

from __future__ import annotations

import pytest

from pylvs.lab.capture import Frame, captured, changes
from pylvs.lab.demo import first_of_connection
from pylvs.lab.lab import Lab
from pylvs.lab.network import DIRECTOR
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, neighbours, shared_evenly
from tests.waiting import until

RS1_MAC, DIRECTOR_MAC = "02:00:00:01:01:00", "02:00:00:00:0d:00"


def through_the_director(lab: Lab) -> list[Frame]:
    """Return all frames of one request on the director's link."""
    director = lab.network.host(DIRECTOR)
    with captured(lab, director) as received:
        answers(lab, 1)
        frames: list[Frame] = []

        def complete() -> bool:
            """Return whether the client's FIN and the ACK after it were forwarded; curl does not wait for that."""
            frames.extend(frame for frame in received() if frame.flags)
            came, left = ([frame.flags for frame in frames if frame.to_host is way] for way in (True, False))
            return came == left and any("FIN" in flags for flags in came[:-1])

        until(complete, "all frames of the connection")
        return frames


@pytest.mark.parametrize("version", [4, 6])
def test_only_macs_ttl_and_the_checksum_of_the_header_change(version: int, make_lab: MakeLab) -> None:
    """Compare every byte in every frame of a connection."""
    lab = make_lab("dr", servers=1, version=version)
    answers(lab, 1)
    frames = through_the_director(lab)
    before = [frame for frame in frames if frame.to_host]
    after = [frame for frame in frames if not frame.to_host]
    assert len(before) == len(after) >= 5
    allowed = {*range(12), 22, 24, 25} if version == 4 else {*range(12), 21}
    for came, left in zip(before, after, strict=True):
        assert set(changes(came, left)) <= allowed
        assert left.data[:6].hex(":") == RS1_MAC
        assert left.data[6:12].hex(":") == DIRECTOR_MAC
        assert left.packets[0].ttl == came.packets[0].ttl - 1
        if version == 4:
            header = left.data[14:34]
            total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, 20, 2))
            assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_replies_do_not_pass_the_director(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1)
    assert {frame.packets[0].saddr for frame in through_the_director(lab)} == {bytes((10, 0, 0, 5))}


def test_a_real_server_answers_arp_for_a_vip_on_its_interface(make_lab: MakeLab) -> None:
    """This is why the VIP is on lo.

    With the same settings the host answers ARP for an address of the interface itself.
    """
    lab = make_lab("dr", servers=1, bare=True)
    lab.sh("rs1", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce")
    lab.sh("rs1", "ip addr add 10.0.0.100/32 dev eth0")
    lab.sh("client", "ping -c 1 -W 30 10.0.0.100")
    assert neighbours(lab, "client")["10.0.0.100"] == RS1_MAC


@pytest.mark.parametrize(("devices", "silent"), [(["lo"], False), (["all"], True), (["eth0"], True)])
def test_which_of_the_four_lines_matter(devices: list[str], silent: bool, make_lab: MakeLab) -> None:
    """Those about lo can be left out; those about all, or about the interface, cannot."""
    lab = make_lab("dr", servers=1, bare=True)
    for device in devices:
        lab.sh("rs1", f"cd /proc/sys/net/ipv4/conf/{device}; echo 1 >arp_ignore; echo 2 >arp_announce")
    lab.sh("rs1", "ip addr add 10.0.0.100/32 dev lo")
    wait = "1" if silent else "30"
    answered = lab.run("client", ["ping", "-c", "1", "-W", wait, "10.0.0.100"]).returncode == 0
    assert answered is not silent


def test_director_and_real_server_must_share_a_link(make_lab: MakeLab) -> None:
    """Behind a router a real server never gets a packet for the VIP: the router returns it until its TTL is 0."""
    lab = make_lab("tun", servers=1)
    assert answers(lab, 1) == ["This is rs1 server!"]
    lab.sh("director", "ipvsadm -C; ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.11.21 -g")
    director = lab.network.host(DIRECTOR)
    limits: list[int] = []

    def circled() -> bool:
        """Return whether a packet went in circles. On a busy machine curl may give up before it sends one."""
        assert lab.run("client", ["curl", "-s", "--max-time", "2", "http://VIP/"]).returncode in (7, 28)
        limits.extend(frame.packets[0].ttl for frame in received() if frame.flags and frame.to_host)
        return len(limits) > 10 and min(limits) <= 2

    with captured(lab, director) as received:
        until(circled, "the packet has gone in circles")


def test_what_a_director_needs_its_own_address_for(make_lab: MakeLab) -> None:
    """The director needs it for more than health checks.

    A real server takes an ARP request from the VIP for its own, and does not answer. With static neighbours the VIP is
    enough, even with the mask of the subnet.
    """
    lab = make_lab("dr")
    lab.sh("director", "ip addr flush dev eth0; ip addr add 10.0.0.100/24 dev eth0")
    assert lab.run("client", ["curl", "-s", "--max-time", "2", "http://VIP/"]).returncode == 28
    for number in (1, 2, 3):
        lab.sh("director", f"ip neigh replace 10.0.0.2{number} lladdr 02:00:00:01:0{number}:00 dev eth0 nud permanent")
    assert shared_evenly(answers(lab, 6), 3)


def test_forwarding_may_be_on_as_well(make_lab: MakeLab) -> None:
    lab = make_lab("dr")
    lab.sh("director", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert shared_evenly(answers(lab, 6), 3)


def test_direct_routing_does_not_change_ports(make_lab: MakeLab) -> None:
    """A destination's port is shown as configured and has no effect: the packet keeps its own."""
    lab = make_lab("dr", servers=1)
    lab.sh("director", "ipvsadm -d -t 10.0.0.100:80 -r 10.0.0.21; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.21:8080 -g")
    before, after = first_of_connection(through_the_director(lab))
    assert before.data[34:38] == after.data[34:38]
    assert after.data[36:38] == (80).to_bytes(2, "big")
