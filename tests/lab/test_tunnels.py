"""Connections through GRE and GUE: small, large, with segmentation offload, with each choice of checksum."""

from __future__ import annotations

import socket

import pytest

from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, endpoint, shared_evenly
from tests.waiting import PATIENCE_S

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


UDP_PORT, UDP_SEGMENT, SEGMENT = 7000, 103, 1200
SO_RCVBUFFORCE = 33


def udp_socket(lab: Lab, host: str) -> socket.socket:
    with inside_network(lab.host(host).network):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    return made


@pytest.mark.parametrize("choice", CHOICES["gue"])
def test_datagrams_that_the_client_sends_as_one_packet_arrive_one_by_one(choice: str, make_lab: MakeLab) -> None:
    """UDP_SEGMENT, as programs of QUIC send: the client's kernel hands over twenty datagrams in one packet."""
    lab = make_lab("tun", servers=1, tunnel="gue")
    service, server = f"-u {lab.network.vip}:{UDP_PORT}", f"-r 10.0.11.21:{UDP_PORT}"
    tunnel = f"-i --tun-type gue --tun-port 6080 {choice}"
    lab.sh("director", f"ipvsadm -A {service} -s rr; ipvsadm -a {service} {server} {tunnel}")
    sent = [bytes([number]) * SEGMENT for number in range(20)]
    with udp_socket(lab, "rs1") as receiver, udp_socket(lab, "client") as sender:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)  # one CPU sends all before it reads
        receiver.bind((lab.network.vip, UDP_PORT))
        sender.connect((lab.network.vip, UDP_PORT))
        sender.send(b"first")  # waits for the server's link address
        assert receiver.recv(SEGMENT) == b"first"
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT)
        sender.send(b"".join(sent))
        assert [receiver.recv(1 << 16) for _ in sent] == sent


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
    assert "gso unsupported" not in shown
