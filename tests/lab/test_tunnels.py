"""Connections through GRE and GUE: small, large, with segmentation offload, with each choice of checksum."""

from __future__ import annotations

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, endpoint, shared_evenly

CHOICES = {
    "gre": ("--tun-nocsum", "--tun-csum"),
    "gue": ("--tun-nocsum", "--tun-csum", "--tun-remcsum"),
}
UPLOAD = """
head -c 3000000 /dev/urandom >/var/tmp/body
curl -s --max-time 60 --data-binary @/var/tmp/body http://VIP/upload
rm -f /var/tmp/body
"""


def choose(lab: Lab, kind: str, choice: str) -> None:
    """Edit every real server's tunnel."""
    port = "--tun-port 6080" if kind == "gue" else ""
    for host in lab.network.role("realserver"):
        server = endpoint(lab.network, host.interfaces[0].addresses[0].partition("/")[0])
        service = endpoint(lab.network, lab.network.vip)
        lab.sh("director", f"ipvsadm -e -t {service} -r {server} -i --tun-type {kind} {port} {choice}")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", CHOICES)
def test_small_and_large_requests_are_forwarded(kind: str, version: int, make_lab: MakeLab) -> None:
    lab = make_lab("tun", servers=2, version=version, tunnel=kind)
    for choice in CHOICES[kind]:
        choose(lab, kind, choice)
        output = answers(lab, 4)
        assert shared_evenly(output, 2), output
        for _ in range(2):
            assert lab.sh("client", UPLOAD) == "3000000 bytes\n", choice
    shown = lab.sh("director", "pylvs show")
    assert "super" not in shown
