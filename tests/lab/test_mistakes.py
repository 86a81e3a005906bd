"""What a command reports on a real host: an address that no device has, files that are no namespaces, a daemon."""

from __future__ import annotations

from tests.lab.conftest import MakeLab

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
