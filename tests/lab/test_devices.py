"""Packets may come by any device of the director, as with IPVS, and connections survive changes of the table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.waiting import PATIENCE_S, until

SERVER, CLIENT = "10.0.0.21", "172.16.0.5"  # of the lab "nat"
TUNNELLED = "10.9.0.21"
NARROW = 1400
UPLOADED = 900_000
UPLOAD = f"head -c {UPLOADED} /dev/zero | curl -s --max-time 50 --data-binary @- http://VIP/upload"
PORT, PIECE = 8099, 50_000
# A server that sends a piece twenty times a second, and prints the number, until its standard input ends.
SLOW = f"""
import select, socket, sys
listener = socket.create_server(("", {PORT}))
print("ready", flush=True)
peer, _ = listener.accept()
peer.recv(65536)
number = 0
while not select.select([sys.stdin], [], [], 0.05)[0]:
    peer.sendall(b"x" * {PIECE})
    print(number, flush=True)
    number += 1
"""


def cable(lab: Lab, one: str, other: str, device: str, addresses: tuple[str, str]) -> None:
    """Make another link between two hosts of the lab."""
    near, far = (lab.host(host).network.name for host in (one, other))
    words = f"ip link add {device} netns {near} type veth peer name {device} netns {far}"
    subprocess.run(words.split(), check=True)
    for host, address in zip((one, other), addresses, strict=True):
        lab.sh(host, f"ip addr add {address}/24 dev {device}; ip link set {device} up")
        lab.sh(host, "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$each; done")


def serve(lab: Lab, server: str, port: int = 80) -> None:
    """Make a table of one service with one real server."""
    lab.sh("director", f"ipvsadm -C; ipvsadm -A -t VIP:{port} -s rr; ipvsadm -a -t VIP:{port} -r {server}")


def test_replies_of_nat_come_in_by_any_device(make_lab: MakeLab) -> None:
    lab = make_lab("nat", 1)
    cable(lab, "director", "rs1", "eth7", ("10.7.0.1", "10.7.0.21"))
    lab.sh("rs1", "ip route replace default via 10.7.0.1")
    serve(lab, f"{SERVER} -m")
    assert lab.sh("client", "curl -s --max-time 30 http://VIP/") == "This is rs1 server!\n"


def test_a_tunnels_path_mtu_is_learnt_by_any_device(make_lab: MakeLab) -> None:
    """The path: client, director, rs2 as a router, a narrow link, rs1, which answers the client by another link."""
    lab = make_lab("nat", 2)
    cable(lab, "rs2", "rs1", "eth8", ("10.9.0.1", TUNNELLED))
    cable(lab, "rs1", "client", "eth9", ("10.8.0.21", "10.8.0.5"))
    lab.sh("rs2", f"ip link set eth8 mtu {NARROW}; sysctl -qw net.ipv4.ip_forward=1")
    lab.sh("rs1", f"ip link set eth8 mtu {NARROW}; ip route add {CLIENT} via 10.8.0.5 dev eth9")
    lab.sh("rs1", f"pylvs realserver up {lab.network.vip} --tunnel --device eth8")
    lab.sh("director", "ip route add 10.9.0.0/24 via 10.0.0.22")
    serve(lab, f"{TUNNELLED} -i")
    assert lab.sh("client", UPLOAD) == f"{UPLOADED} bytes\n"
    assert f"mtu {NARROW - 20}" in lab.sh("client", f"ip route get {lab.network.vip}")


@contextmanager
def slow_server(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """Run on rs1; its lines are numbers of pieces."""
    words = [*lab.host("rs1").inside(), sys.executable, "-c", SLOW]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_download_by_nat_survives_a_moment_without_its_server(make_lab: MakeLab) -> None:
    lab = make_lab("nat", 1)
    serve(lab, f"{SERVER} -m", PORT)
    lab.sh("client", "ip route replace default via 172.16.0.10")  # the device to which a reset would be sent
    received = f"curl -s --http0.9 --max-time {PATIENCE_S} http://VIP:{PORT}/ | wc -c"
    with slow_server(lab) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with subprocess.Popen(
            [*lab.host("client").inside(), "sh", "-c", received], stdout=subprocess.PIPE, text=True
        ) as client:
            assert server.stdout.readline() == "0\n"
            lab.sh("director", f"ipvsadm -d -t VIP:{PORT} -r {SERVER}")
            until(lambda: "retrans:" in lab.sh("rs1", f"ss -Htin sport = :{PORT}"), "answers find no host")
            lab.sh("director", f"ipvsadm -a -t VIP:{PORT} -r {SERVER} -m")
            server.stdin.close()
            got = client.communicate(timeout=PATIENCE_S)[0]
            last = int(server.stdout.read().split()[-1])
            assert got == f"{(last + 1) * PIECE}\n"
