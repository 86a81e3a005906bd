"""GRE and GUE on a real server: decapsulated with each choice of checksum, which is verified, in all families."""

from __future__ import annotations

import json
import struct
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import GRE
from scapy.utils import checksum

from pylvs.lab.lab import Lab
from pylvs.realserver.vip import memory_path
from pylvs.system.namespaces import inside_network, network_cookie
from tests.lab.conftest import MakeLab
from tests.lab.exchange import exchange, identifier

GUE_PORT = 6080


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Make a real server without a VIP, and a client, both with addresses of both families."""
    made = make_lab("dr", servers=1, bare=True)
    made.sh("rs1", "ip addr add fd00:10::21/64 dev eth0 nodad")
    made.sh("client", "ip addr add fd00:10::5/64 dev eth0 nodad")
    return made


# An echo request to the VIP in every kind of tunnel, by the headers in between. "-bad" has a flipped bit. With
# "remcsum" the receiver completes the inner checksum, whose field has the pseudo header's sum.
BETWEEN = (
    *("gre", "gre+csum", "gre+csum-bad", "gue", "gue+csum", "gue+csum-bad", "gue+remcsum", "gue+remcsum-bad"),
    *("gue-other-port", "gue-control", "gre+key"),
)
KINDS = list(product(BETWEEN, (4, 6), (4, 6)))


def inner(number: int, name: str, inside: int) -> bytes:
    """Return the echo request, whose id is its kind."""
    body = b"hello" * 150
    if inside == 4:
        packet = bytes(IP(src="10.0.0.5", dst="10.0.0.100") / ICMP(id=number + 1) / body)
        pseudo = bytes(2)
    else:
        packet = bytes(IPv6(src="fd00:10::5", dst="fd00:10::100") / ICMPv6EchoRequest(id=number + 1, data=body))
        ends = packet[8:40] + struct.pack("!II", len(packet) - 40, 58)
        pseudo = struct.pack("!H", ~checksum(ends) & 0xFFFF)
    if "remcsum" not in name:
        return packet
    at = 22 if inside == 4 else 42
    return packet[:at] + pseudo + packet[at + 2 :]


def encapsulated(number: int, name: str, out: int, inside: int) -> bytes:
    """Return the whole packet."""
    packet = inner(number, name, inside)
    ends = IP(src="10.0.0.10", dst="10.0.0.21") if out == 4 else IPv6(src="fd00:10::10", dst="fd00:10::21")
    if name.startswith("gre"):
        head = GRE(chksum_present=int("csum" in name), proto=0x0800 if inside == 4 else 0x86DD)
        if name == "gre+key":
            head = GRE(key_present=1, key=7, proto=head.proto)
        whole = bytes(ends / head / packet)
    else:
        start = 20 if inside == 4 else 40
        option = struct.pack("!IHH", 0x80000000, start, start + 2) if "remcsum" in name else b""
        gue = struct.pack("!BBH", len(option) // 4, 4 if inside == 4 else 41, bool(option)) + option
        if name == "gue-control":
            gue = b"\x20" + gue[1:]
        udp = UDP(sport=40000 + number, dport=GUE_PORT + (name == "gue-other-port"))
        if "csum" not in name:
            udp.chksum = 0
        whole = bytes(ends / udp / (gue + packet))
    if name.endswith("-bad"):
        whole = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    return whole


def answered(lab: Lab) -> list[str]:
    """Return the kinds that were answered, sorted."""
    replies = exchange(lab, [encapsulated(number, *kind) for number, kind in enumerate(KINDS)])
    return sorted(" ".join(map(str, (*KINDS[identifier(each) - 1], each.src))) for each in replies)


def every_mixture(*names: str) -> list[str]:
    return sorted(
        f"{name} {out} {inside} {'10.0.0.100' if inside == 4 else 'fd00:10::100'}"
        for name in names
        for out in (4, 6)
        for inside in (4, 6)
    )


def status(lab: Lab) -> str:
    found = json.loads(lab.run("rs1", ["pylvs", "realserver", "status", "--json"]).stdout)
    return str(next(each["text"] for each in found if "by a program" in each["text"]))


def test_gre_and_gue_are_decapsulated_and_their_checksums_verified(lab: Lab) -> None:
    words = f"pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre --tun-type gue --tun-port {GUE_PORT}"
    lab.sh("rs1", words)
    assert lab.sh("rs1", words) == "all was so already\n"
    assert answered(lab) == every_mixture("gre", "gre+csum", "gue", "gue+csum", "gue+remcsum")
    assert status(lab) == "by a program at eth0: 20 unwrapped, 12 corrupt"
    lab.sh("rs1", "pylvs realserver down")
    assert answered(lab) == []


def test_one_kind_alone_and_more_later(lab: Lab) -> None:
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre")
    assert answered(lab) == every_mixture("gre", "gre+csum")
    printed = lab.sh("rs1", f"pylvs realserver up 10.0.0.100 --tun-type gue --tun-port {GUE_PORT + 1}")
    assert "decapsulates gue, gre for 10.0.0.100\n" in printed
    assert f"decapsulates GUE at port {GUE_PORT + 1}\n" in printed
    assert f"decapsulates GUE at port {GUE_PORT + 1}\n" in lab.sh("rs1", "pylvs realserver status")
    assert answered(lab) == every_mixture("gre", "gre+csum", "gue-other-port")


def test_tunnels_of_other_sources_than_the_directors_are_dropped(lab: Lab) -> None:
    known = "pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre --director"
    assert "accepts tunnels of director 10.0.0.9/32\n" in lab.sh("rs1", f"{known} 10.0.0.9 --director fd00:10::9")
    assert answered(lab) == []
    assert status(lab) == "by a program at eth0: 0 unwrapped, 12 foreign"
    lab.sh("rs1", f"{known} 10.0.0.10")
    assert answered(lab) == [each for each in every_mixture("gre", "gre+csum") if each.split()[1] == "4"]
    lab.sh("rs1", f"{known} fd00:10::/64")
    assert answered(lab) == every_mixture("gre", "gre+csum")
    lab.sh("rs1", "pylvs realserver down; pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre")
    assert answered(lab) == every_mixture("gre", "gre+csum")


@pytest.mark.parametrize("words", ["up 10.0.0.100 fd00:10::100 --tun-type gre", "down fd00:10::100"])
def test_a_removed_device_does_not_matter(lab: Lab, words: str) -> None:
    lab.sh("rs1", "ip link add e0 type veth peer name e1; ip link set e0 up")
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre")
    gone = "the program at e0 has gone"
    assert gone not in lab.run("rs1", ["pylvs", "realserver", "status"]).stdout
    lab.sh("rs1", "ip link del e0")
    assert gone in lab.run("rs1", ["pylvs", "realserver", "status"]).stdout
    assert "e0 is gone, and the program at its ingress" in lab.sh("rs1", f"pylvs realserver {words}")
    assert gone not in lab.run("rs1", ["pylvs", "realserver", "status"]).stdout
    assert status(lab).startswith("by a program at eth0: ")
    lab.sh("rs1", "pylvs realserver down")
    assert answered(lab) == []


def programs(lab: Lab, *names: str) -> list[str]:
    """Return the number of the program at the ingress of each of these devices; "" without one."""
    listed = [json.loads(lab.sh("rs1", f"tc -j filter show dev {name} ingress")) for name in names]
    return [next((str(each["options"]["prog"]["id"]) for each in found if "options" in each), "") for found in listed]


@pytest.mark.parametrize("before", ["true", "tc qdisc add dev e0 clsact"])
@pytest.mark.parametrize("words", ["up 10.0.0.101 --tun-type gre", "down fd00:10::100", ""])
def test_a_renamed_device_is_found(lab: Lab, words: str, before: str) -> None:
    """A change applies to it, and `down` leaves it as it was."""
    lab.sh("rs1", f"ip link add e0 type veth peer name e1; ip link set e0 up; {before}")
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre")
    (former,) = set(programs(lab, "e0", "eth0"))
    lab.sh("rs1", "ip link set e0 down; ip link set e0 name e9; ip link set e9 up")
    found = lab.sh("rs1", "pylvs realserver status")
    assert "by a program at e9: 0 unwrapped\n" in found
    if words:
        assert "e0" not in lab.sh("rs1", f"pylvs realserver {words}").split()
        (program,) = set(programs(lab, "e9", "eth0"))
        assert program not in ("", former)
    assert "the program at the ingress of e9 is off\n" in lab.sh("rs1", "pylvs realserver down")
    assert programs(lab, "e9", "eth0") == ["", ""]
    assert ("clsact" in lab.sh("rs1", "tc qdisc show dev e9")) == (before != "true")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tun-type gue", "--tun-type gue: needs the director's tunnel port; add --tun-port PORT"),
        ("--tun-type gre --tun-port 7", "--tun-port 7: only GUE has a port; add --tun-type gue"),
    ],
)
def test_a_port_is_valid_for_gue_alone(lab: Lab, words: str, message: str) -> None:
    done = lab.run("rs1", ["pylvs", "realserver", "up", "10.0.0.100", *words.split()])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"pylvs: {message}\n")


def recorded(lab: Lab) -> str:
    """Return the undo log of the real server."""
    with inside_network(lab.host("rs1").network):
        return memory_path(network_cookie()).read_text(encoding="utf-8")


REFUSALS = {
    "tc qdisc add dev e1 ingress": "a program at the ingress of e1",  # no device has ingress and clsact
    "tc qdisc add dev e1 clsact; tc filter add dev e1 ingress prio 4 u32 match u32 0 0": "e1: the filter u32 has",
}


@pytest.mark.parametrize("obstacle", REFUSALS)
def test_a_failed_up_leaves_a_running_program_as_it_was(lab: Lab, obstacle: str) -> None:
    """The program that runs at eth0 keeps its VIPs, tunnels and counters if a further device refuses the new one."""
    lab.sh("rs1", "ip link add e1 type veth peer name e2; ip link set e1 up; ip link set e2 up")
    lab.sh("rs1", obstacle)
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --tun-type gre --device eth0")
    wanted = [f"{name} {out} 4 10.0.0.100" for name in ("gre", "gre+csum") for out in (4, 6)]
    assert answered(lab) == sorted(wanted)
    snapshot = "pylvs realserver status --json; ip -o addr; tc qdisc; tc filter show dev eth0 ingress"
    before, log = lab.run("rs1", ["sh", "-c", snapshot]).stdout, recorded(lab)
    more = f"pylvs realserver up fd00:10::100 --tun-type gue --tun-port {GUE_PORT} --director 10.0.0.9"
    for devices in ("", " --device eth0 --device e1", " --device e1 --device eth0"):
        done = lab.run("rs1", (more + devices).split())
        assert (done.returncode, done.stdout) == (1, "")
        assert REFUSALS[obstacle] in done.stderr
        assert (lab.run("rs1", ["sh", "-c", snapshot]).stdout, recorded(lab)) == (before, log)
    lab.sh("rs1", "ip addr add fd00:10::100/128 dev lo")
    assert answered(lab) == sorted(wanted)
    lab.sh("rs1", "ip addr del fd00:10::100/128 dev lo")
    lab.sh("rs1", f"pylvs realserver up fd00:10::100 --tun-type gue --tun-port {GUE_PORT} --device eth0")
    assert answered(lab) == every_mixture("gre", "gre+csum", "gue", "gue+csum", "gue+remcsum")
    lab.sh("rs1", "pylvs realserver down")
    assert answered(lab) == []


TUN = "ip tuntap add mode tun name t0; ip link set t0 up; ip addr add 10.9.0.21/24 dev t0"
NO_ETHERNET = (
    "without Ethernet headers pylvs decapsulates nothing; use tunnel devices of the kernel there: "
    "ip-link(8) (ipip, gre), ip-fou(8) (gue)"
)


def test_devices_without_ethernet_headers_are_left_out(lab: Lab) -> None:
    lab.sh("rs1", TUN)
    printed = lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tun-type gre")
    assert f"t0 is left out: {NO_ETHERNET}\n" in printed
    found = lab.sh("rs1", "pylvs realserver status")
    assert "by a program at eth0" in found
    assert "t0" not in found
    assert lab.sh("rs1", "tc filter show dev t0 ingress") == ""
    assert answered(lab) == every_mixture("gre", "gre+csum")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tun-type gre --device t0", f"--device t0: {NO_ETHERNET}"),
        ("--tun-type gre --device eth0 --device t0", f"--device t0: {NO_ETHERNET}"),
        (
            "--tun-type gre --director 10.9.0.10",
            (
                f"--director 10.9.0.10/32: its route leads by t0, and {NO_ETHERNET}; "
                "or name the device of its tunnels with --device"
            ),
        ),
    ],
)
def test_a_program_is_refused_where_it_would_do_nothing(lab: Lab, words: str, message: str) -> None:
    lab.sh("rs1", TUN)
    snapshot = "pylvs realserver status; ip -o addr; tc qdisc; grep -r . /proc/sys/net/ipv4/conf/*/arp_ignore; true"
    for earlier in ("true", "pylvs realserver up 10.0.0.101 --tun-type gre --device eth0"):
        lab.sh("rs1", earlier)
        before = lab.sh("rs1", snapshot)
        done = lab.run("rs1", ["pylvs", "realserver", "up", "10.0.0.100", *words.split()])
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"pylvs: {message}\n")
        assert lab.sh("rs1", snapshot) == before
    lab.sh("rs1", "pylvs realserver down; pylvs realserver up 10.0.0.100 --device t0")  # nothing to decapsulate


@pytest.mark.parametrize("director", ["10.9.0.10", "10.0.0.10"])
def test_a_failed_up_leaves_the_kernels_tunnel_devices(lab: Lab, director: str) -> None:
    """A program that accepts some directors replaces them, but not if it would do nothing, nor if it is refused.

    Not every kernel has tunnel devices: a tun device has the name of one.
    """
    lab.sh("rs1", "ip link add e1 type veth peer name e2; ip link set e1 up; tc qdisc add dev e1 ingress")
    lab.sh("rs1", f"ip tuntap add mode tun name tunl0 || ip link show tunl0; {TUN}")
    snapshot = "pylvs realserver status; ip -o addr; ip -br link; tc qdisc show dev eth0; true"
    before = lab.sh("rs1", snapshot)
    failing = ["pylvs", "realserver", "up", "10.0.0.100", "--tunnel"]
    assert lab.run("rs1", [*failing, "--tun-type", "gre"]).returncode == 1
    assert lab.sh("rs1", snapshot) == before
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --tunnel")
    before, log = lab.sh("rs1", snapshot), recorded(lab)
    assert "unwrapped by tunl0" in before
    assert lab.run("rs1", [*failing, "--director", director]).returncode == 1
    assert (lab.sh("rs1", snapshot), recorded(lab)) == (before, log)
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --director 10.0.0.10 --device eth0")
    after = lab.sh("rs1", "pylvs realserver status")
    assert "by a program at eth0" in after
    assert "unwrapped by tunl0" not in after


def test_a_host_without_ethernet_is_refused(lab: Lab) -> None:
    lab.sh("rs1", f"{TUN}; ip link set eth0 down")
    done = lab.run("rs1", ["pylvs", "realserver", "up", "10.0.0.100", "--tun-type", "gre"])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"pylvs: t0: {NO_ETHERNET}\n")
