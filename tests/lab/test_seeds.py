"""Tutorials of the field, followed to the letter in a lab: their commands and scripts are in seeds/, unchanged.

- one_card: all servers have one network card, a router maps a public address to the VIP
- nat: NAT with a public VIP; its part for real servers has misprints
- one_address: one public address; director and real servers in another subnet (the copy had lost its addresses)
- two_scripts: lvs_dr.sh and lvs_rs.sh, which are widely used
"""

from __future__ import annotations

import pytest

from pylvs.lab.capture import captured
from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, neighbours, shared_evenly
from tests.lab.tutorial import SEEDS, follow, install, machines

HEAD = [
    "IP Virtual Server version 1.2.1 (size=4096)",
    "Prot LocalAddress:Port Scheduler Flags",
    "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
]


def listing(service: str, method: str, servers: list[tuple[str, int, int]]) -> list[str]:
    """Return the part of `ipvsadm -ln` for one service, in the columns of the documents."""
    rows = [f"  -> {server:<28} {method:<7} 1      {active:<10} {inactive:<10}" for server, active, inactive in servers]
    return [*HEAD, service, *rows]


def counted(lab: Lab) -> list[str]:
    """Return `ipvsadm -ln` once all connections are closed."""
    return lab.sh("director", "ipvsadm -ln").splitlines()


def test_one_card_behind_a_router(make_lab: MakeLab) -> None:
    lab = make_lab(
        "dr-behind-router",
        blank=True,
        vip="10.10.24.88",
        dip="10.10.24.10/24",
        servers=["10.10.24.21/24", "10.10.24.22/24", "10.10.24.23/24"],
        gateway="10.10.24.1/24",
        outside="112.2.21.88/24",
        public="112.2.21.88",
        client="112.2.21.50/24",
    )
    for host in ("rs1", "rs2", "rs3"):
        follow(lab, host, f"one_card/{host}.sh")
    shown = follow(lab, "director", "one_card/director.sh")
    servers = ["10.10.24.23:80", "10.10.24.22:80", "10.10.24.21:80"]
    fresh = sorted(listing("TCP  10.10.24.88:80 rr", "Route", [(server, 0, 0) for server in servers]))
    assert sorted(shown.splitlines()) == fresh
    assert shared_evenly(answers(lab, 6, url="http://112.2.21.88/"), 3)
    used = sorted(listing("TCP  10.10.24.88:80 rr", "Route", [(server, 0, 2) for server in servers]))
    assert sorted(counted(lab)) == used


def nat_lab(make_lab: MakeLab) -> Lab:
    """Make a lab with VIP 8.8.8.8 and real servers 192.168.10.2 and .3."""
    return make_lab(
        "nat",
        bare=True,
        vip="8.8.8.8",
        dip="8.8.8.8/24",
        client="8.8.8.50/24",
        inside="192.168.10.1/24",
        servers=["192.168.10.2/24", "192.168.10.3/24"],
    )


def test_nat_with_a_public_address(make_lab: MakeLab) -> None:
    lab = nat_lab(make_lab)
    lab.sh("director", "iptables -F")
    follow(lab, "director", "nat/director.sh")
    assert shared_evenly(answers(lab, 4, url="http://8.8.8.8/"), 2)
    rows = [("192.168.10.2:80", 0, 2), ("192.168.10.3:80", 0, 2)]
    assert sorted(counted(lab)) == sorted(listing("TCP  8.8.8.8:80 rr", "Masq", rows))


def test_the_misprints_of_the_nat_document_are_misprints(make_lab: MakeLab) -> None:
    """/proc/sysy does not exist, and a VIP on eth0 itself removes the real server's own address."""
    lab = nat_lab(make_lab)
    done = lab.run("rs1", ["bash"], text=(SEEDS / "nat/realserver.sh").read_text())
    wrong = [line for line in done.stderr.splitlines() if "/proc/sysy/" in line]
    assert len(wrong) == len(done.stderr.splitlines()) == 5
    assert "192.168.10.2" not in lab.sh("rs1", "ip addr show eth0")
    assert lab.run("director", ["curl", "-s", "--max-time", "1", "http://192.168.10.2/"]).returncode != 0


# The apparent meaning of the part about real servers, which only tunnelling and direct routing need.
MEANT = {
    "/proc/sysy/": "/proc/sys/",
    "ifconfig eth0 8.8.8.8": "ifconfig lo:0 8.8.8.8",
    "route add -host 8.8.8.8 dev eth0": "route add -host 8.8.8.8 dev lo:0",
}


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc"])
def test_tunnels_as_the_nat_document_explains_them(scheduler: str, make_lab: MakeLab) -> None:
    """Its table with -i, with each scheduler that it describes and that exists; real servers in one distant subnet."""
    lab = make_lab(
        "tun",
        bare=True,
        vip="8.8.8.8",
        dip="8.8.8.7/24",
        client="9.9.9.50/24",
        outside="9.9.9.1/24",
        servers=["192.168.10.2/24", "192.168.10.3/24"],
    )
    lab.sh("director", "ip addr add 8.8.8.8/32 dev eth0")
    commands = (SEEDS / "nat/director.sh").read_text().replace(" -m ", " -i ").replace("-s rr", f"-s {scheduler}")
    assert lab.run("director", ["sh", "-e"], text=commands).stderr == ""
    script = (SEEDS / "nat/realserver.sh").read_text()
    for printed, meant in MEANT.items():
        assert printed in script
        script = script.replace(printed, meant)
    for host in ("rs1", "rs2"):
        done = lab.run(host, ["bash", "-e"], text=script)
        assert (done.returncode, done.stderr) == (0, "")
        lab.sh(host, "pylvs realserver up 8.8.8.8 --tunnel")
    assert shared_evenly(answers(lab, 4, url="http://8.8.8.8/"), 2)
    rows = [("192.168.10.2:80", 0, 2), ("192.168.10.3:80", 0, 2)]
    assert sorted(counted(lab)) == sorted(listing(f"TCP  8.8.8.8:80 {scheduler}", "Tunnel", rows))


def test_one_public_address(make_lab: MakeLab) -> None:
    """The client is the gateway with an address in both subnets; the test captures frames as the document does."""
    lab = make_lab(
        "dr-routed",
        blank=True,
        vip="192.168.1.100/24",
        dip="10.0.0.10/24",
        servers=["10.0.0.21/24", "10.0.0.22/24"],
        client="",
        gateway="10.0.0.1/24",
        gateway_vip="192.168.1.1/24",
    )
    for host in ("director", "rs1", "rs2"):
        follow(lab, host, f"one_address/{host}.sh")
    assert sorted(answers(lab, 4, url="http://192.168.1.100/")) == ["web1", "web1", "web2", "web2"]
    rows = [("10.0.0.21:80", 0, 2), ("10.0.0.22:80", 0, 2)]
    assert sorted(counted(lab)) == sorted(listing("TCP  192.168.1.100:80 rr", "Route", rows))
    client, server = lab.network.role("client")[0], lab.network.role("realserver")
    with captured(lab, client) as received:
        answers(lab, 2, url="http://192.168.1.100/")
        frames = [frame for frame in received() if frame.flags]
    asked = {frame.data[:6].hex(":") for frame in frames if not frame.to_host}
    answered = {frame.data[6:12].hex(":") for frame in frames if frame.to_host}
    assert asked == {"02:00:00:00:0d:00"}
    assert answered == {host.interfaces[0].mac for host in server}
    assert {frame.packets[0].saddr for frame in frames if frame.to_host} == {bytes((192, 168, 1, 100))}


def two_scripts_lab(make_lab: MakeLab) -> Lab:
    """Make the tutorial's machines, with its script on the director, too."""
    lab = machines(make_lab)
    lab.sh("director", install(lab, "director", "two_scripts/lvs_dr.sh"))
    lab.sh("director", "ipvsadm --set 0 3600 0")  # closed connections are still counted on a slow machine
    return lab


def test_the_two_scripts(make_lab: MakeLab) -> None:
    lab = two_scripts_lab(make_lab)
    output = answers(lab, 8, url="192.168.67.100")
    assert shared_evenly(output, 2)
    rows = [("192.168.67.129:80", 0, 4), ("192.168.67.130:80", 0, 4)]
    assert sorted(counted(lab)) == sorted(listing("TCP  192.168.67.100:80 wrr", "Route", rows))
    assert "192.168.67.100" in lab.sh("director", "ifconfig ens32:2")
    assert "192.168.67.100" in lab.sh("rs1", "ifconfig lo:0")
    assert neighbours(lab, "client")["192.168.67.100"] == "02:00:00:00:0d:00"


def test_the_two_scripts_repeatedly(make_lab: MakeLab) -> None:
    """ifdown and ifup remove devices; afterwards the result is that of the first run."""
    lab = two_scripts_lab(make_lab)
    assert shared_evenly(answers(lab, 2, url="192.168.67.100"), 2)
    for _ in range(2):
        lab.sh("director", "/usr/local/sbin/lvs_dr.sh")
        for host in ("rs1", "rs2"):
            lab.sh(host, "/usr/local/sbin/lvs_rs.sh")
        assert shared_evenly(answers(lab, 4, url="192.168.67.100"), 2)
    # The script clears the table and fills it again. A server that is added again has its connections (IPVS's trash).
    rows = [("192.168.67.129:80", 0, 5), ("192.168.67.130:80", 0, 5)]
    assert sorted(counted(lab)) == sorted(listing("TCP  192.168.67.100:80 wrr", "Route", rows))
