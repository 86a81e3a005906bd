"""What a command reports on a real host: an address that no device has, files that are no namespaces, a daemon."""

from __future__ import annotations

import json

from tests.lab.conftest import MakeLab
from tests.waiting import until

ELSEWHERE = "203.0.113.7"


def test_an_address_that_no_device_has_is_reported_by_each_command(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, bare=True)
    hint = f"no device has {ELSEWHERE}, so no packets to it come here: ip address add {ELSEWHERE}/32 dev "
    add = ["ipvsadm", "--hint", "-A", "-t", f"{ELSEWHERE}:80"]
    assert f"hint: {hint}" in lab.run("director", add).stderr
    shown = f"{ELSEWHERE}: no device has it, so no packets to it come here: ip address add {ELSEWHERE}/32 dev "
    assert shown in lab.sh("director", "pylvs show")
    lab.sh("director", f"ip route add local {ELSEWHERE} dev lo")
    assert shown not in lab.sh("director", "pylvs show")
    lab.sh("director", f"ip route del local {ELSEWHERE} dev lo; ip address add {ELSEWHERE}/32 dev eth0; ipvsadm -C")
    assert hint not in lab.run("director", add).stderr
    # A file in /run/netns that is no namespace makes each `ip addr` report an error.
    assert lab.run("client", ["ip", "addr"]).stderr == ""


def test_native_xdp_is_refused_on_a_veth_that_would_lose_its_frames(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1, bare=True)
    refused = lab.run("director", ["pylvs", "attach", "eth0", "--mode", "native"])
    if refused.returncode:  # before Linux 6.3 the kernel does not report what the other end takes
        assert refused.stderr.startswith("pylvs: eth0: native XDP would lose the frames that it sends")
        assert lab.sh("director", "pylvs show").count("eth0") == 0
    assert lab.sh("director", "pylvs attach eth0 --mode native --force").startswith("eth0: native")


def test_show_names_a_server_that_does_not_answer_as_long_as_it_is_so(make_lab: MakeLab) -> None:
    lab = make_lab("dr", servers=1)
    vip = lab.network.vip
    lab.sh("director", f"ipvsadm -a -t {vip}:80 -r 10.0.0.99 -g")
    text = "10.0.0.99: does not answer on eth0: is the address right, and the host up?\n"
    assert text not in lab.sh("director", "pylvs show")

    def shown(*options: str) -> str:
        """Return what it shows after two requests, one of which is forwarded to the mistyped server.

        The kernel forgets at any time that a neighbour did not answer, if all hosts here have more than 128.
        """
        for _ in range(2):
            lab.run("client", ["curl", "-s", "--max-time", "1", f"http://{vip}/"])
        return lab.sh("director", " ".join(["pylvs show", *options]))

    until(lambda: text in shown(), "the kernel asks for its link address")
    named = {"address": "10.0.0.99", "device": "eth0", "next_hop": "10.0.0.99"}
    until(lambda: json.loads(shown("--json"))["unresolved"] == [named], "no other server is named")
    lab.sh("rs1", "ip address add 10.0.0.99/24 dev eth0")
    until(lambda: text not in shown(), "the server is there")


def test_show_names_nat_without_routing_as_long_as_it_is_so(make_lab: MakeLab) -> None:
    lab = make_lab("nat", servers=1)
    text = "net.ipv4.ip_forward is 0, so replies of NAT are not forwarded: sysctl -w net.ipv4.ip_forward=1\n"
    hint = "hint: this host does not forward the replies of -m: sysctl -w net.ipv4.ip_forward=1\n"
    for value in 0, 1:
        lab.sh("director", f"sysctl -q -w net.ipv4.ip_forward={value}")
        assert (text in lab.sh("director", "pylvs show")) == (not value)
        assert (hint in lab.run("director", ["ipvsadm", "-Ln", "--hint"]).stderr) == (not value)
