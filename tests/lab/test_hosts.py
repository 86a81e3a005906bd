"""Lab hosts are machines of their own: names, files, ARP, network configuration, commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from pylvs.lab.topologies import TOPOLOGIES
from tests.lab.conftest import MakeLab
from tests.lab.support import neighbours
from tests.waiting import until

DIRECTOR_MAC = "02:00:00:00:0d:00"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("topology", list(TOPOLOGIES))
def test_all_hosts_reach_each_other_by_name(topology: str, version: int, make_lab: MakeLab) -> None:
    """The network works without a virtual service: each host gets each server's page."""
    lab = make_lab(topology, servers=2, version=version, bare=True)
    asking = [host.name for host in lab.network.hosts if (topology, host.name) != ("nat", "client")]
    for host in asking:
        output = lab.sh(host, "curl -s --max-time 30 http://rs1/; curl -s --max-time 30 http://rs2/")
        assert output == "This is rs1 server!\nThis is rs2 server!\n", host


@pytest.mark.parametrize("version", [4, 6])
def test_only_the_director_answers_for_the_vip(version: int, make_lab: MakeLab) -> None:
    """A hundred requests on the switch where three real servers have the VIP, too."""
    lab = make_lab("dr", version=version)
    vip = lab.network.vip
    for _ in range(100):
        lab.sh("client", f"ip neigh flush all; ping -c 1 -W 30 {vip} >/dev/null")
        assert neighbours(lab, "client")[vip] == DIRECTOR_MAC


def test_without_the_arp_settings_a_real_server_answers(make_lab: MakeLab) -> None:
    """Without the settings the test above must fail."""
    lab = make_lab("dr", servers=1, bare=True)
    lab.sh("rs1", "ip addr add 10.0.0.100/32 dev lo")
    lab.sh("client", "ping -c 1 -W 30 10.0.0.100")
    assert neighbours(lab, "client")["10.0.0.100"] == "02:00:00:01:01:00"


def test_a_real_server_does_not_answer_for_an_ipv6_address_on_lo(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, version=6, bare=True)
    lab.sh("rs1", "ip addr add fd00:10::100/128 dev lo")
    assert lab.run("client", ["ping", "-c", "1", "-W", "1", "fd00:10::100"]).returncode == 1
    assert "fd00:10::100" not in neighbours(lab, "client")


def test_names_and_files_are_its_own(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, bare=True)
    for host in ("client", "director", "rs1"):
        assert lab.sh(host, "hostname; cat /etc/hostname") == f"{host}\n{host}\n"
    mark = f"/etc/{lab.name}-mark"
    script = f"echo x >{mark}; mkdir -p /usr/local/sbin /var/www/html; echo hello >/usr/local/sbin/{lab.name}"
    lab.sh("rs1", script)
    for path in (mark, f"/usr/local/sbin/{lab.name}"):
        assert not os.path.exists(path)
        assert lab.run("director", ["test", "-e", path]).returncode == 1
        assert lab.run("rs1", ["test", "-e", path]).returncode == 0
    lab.sh("rs1", "echo web1 >/var/www/html/index.html")
    assert lab.sh("client", "curl -s http://rs1/") == "web1\n"


def test_the_machine_keeps_its_own_ipvsadm(make_lab: MakeLab) -> None:
    path = Path("/usr/sbin/ipvsadm")
    before = path.read_bytes() if path.exists() else None
    lab = make_lab("dr", servers=1, bare=True)
    assert "pylvs.ipvsadm" in lab.sh("director", "cat /usr/sbin/ipvsadm")
    assert (path.read_bytes() if path.exists() else None) == before
    names = ["ipvsadm", "ipvsadm-save", "ipvsadm-restore", "pylvs"]
    output = lab.sh("director", f"for name in {' '.join(names)}; do command -v $name; done").splitlines()
    assert output == [f"/usr/sbin/{name}" for name in names]
    assert lab.sh("director", "/usr/sbin/ipvsadm --version 2>&1").startswith("ipvsadm v1.31")


@pytest.mark.parametrize("version", [4, 6])
def test_ifdown_and_ifup_restore_a_device(version: int, make_lab: MakeLab) -> None:
    lab = make_lab("dr-behind-router", servers=1, version=version, bare=True, device="ens32")
    before = _state(lab, "director")
    lab.sh("director", "ip addr add 10.9.9.9/32 dev ens32 label ens32:7; ifdown ens32")
    down = _state(lab, "director")
    assert "10.9.9.9" not in down
    assert lab.network.role("director")[0].interfaces[0].addresses[0] not in down
    lab.sh("director", "ifup ens32")
    until(lambda: _state(lab, "director") == before, "the kernel has noticed the carrier")
    lab.sh("director", "ip addr add 10.9.9.9/32 dev lo; ifdown lo; ifup lo")
    until(lambda: _state(lab, "director") == before, "as before")
    done = lab.run("director", ["ifup", "nope0"])
    assert (done.returncode, done.stderr) == (1, "ifup: unknown interface nope0\n")


def _state(lab: Lab, host: str) -> str:
    return lab.sh(host, "ip -br addr; ip route; ip -6 route | sort")


def test_the_usual_tools_are_installed(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, bare=True)
    lab.sh("director", "ifconfig eth0:1 10.0.0.99 netmask 255.255.255.255 up; route add -host 10.0.0.99 dev eth0:1")
    assert "eth0:1" in lab.sh("director", "ip addr show eth0")
    lab.sh("director", "iptables -A INPUT -p tcp --dport 81 -j DROP; nft list ruleset")
    assert "dpt:81" in lab.sh("director", "iptables -L INPUT -n")
    assert "dpt:81" not in lab.sh("rs1", "iptables -L INPUT -n")


def test_the_web_server_is_a_service(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, bare=True)
    lab.sh("rs1", "service nginx status; service nginx stop")
    assert lab.run("client", ["curl", "-s", "--max-time", "30", "http://rs1/"]).returncode == 7
    assert lab.run("rs1", ["service", "httpd", "status"]).returncode == 3
    lab.sh("rs1", "service httpd start; service httpd restart")
    assert (
        lab.sh("client", "curl -s --retry 5 --retry-connrefused --retry-delay 1 http://rs1/") == "This is rs1 server!\n"
    )
