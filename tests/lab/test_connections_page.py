"""The remedies of docs/reference/connections.md, each beside what happens without it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import IO

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab

# Prints the server's answer to one request from this port, or the error.
REQUEST = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", int(sys.argv[2])))
s.settimeout(float(sys.argv[3]))
try:
    s.connect((sys.argv[1], 80))
    s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    answer = b""
    while part := s.recv(4096):
        answer += part
    print(answer.split()[-2].decode())
except OSError as error:
    print(type(error).__name__)
"""
# Answers each datagram with the name of the server.
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
print("ready", flush=True)
while True:
    s.sendto(sys.argv[1].encode(), s.recvfrom(99)[1])
"""
UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
s.settimeout(0.2)
for line in sys.stdin:
    for _ in range(int(line)):
        try:
            s.send(b"x")
            print(s.recv(99).decode(), flush=True)
            break
        except TimeoutError:
            pass
    else:
        print("nothing", flush=True)
"""


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Make a lab of NAT with two servers, whose network the client reaches through the director."""
    made = make_lab("nat", servers=2)
    made.sh("client", "ip route add 10.0.0.0/24 via 172.16.0.10")
    return made


def asked(lab: Lab, host: str, address: str, port: int, patience_s: float = 30.0) -> str:
    return lab.run(host, ["python3", "-c", REQUEST, address, str(port), str(patience_s)]).stdout.strip()


def test_a_server_by_a_second_address_does_not_meet_the_connection_of_a_service(lab: Lab) -> None:
    vip = lab.network.vip
    lab.sh("director", f"ipvsadm -d -t {vip}:80 -r 10.0.0.22")
    lab.sh("rs1", "ip address add 10.0.0.121/24 dev eth0")
    assert asked(lab, "client", vip, 43000) == "rs1"
    assert asked(lab, "client", "10.0.0.21", 43000, 1) == "TimeoutError"
    assert asked(lab, "client", "10.0.0.121", 43000) == "rs1"
    assert asked(lab, "client", "10.0.0.21", 43001) == "rs1"


def test_a_real_server_with_the_virtual_address_on_lo_answers_itself(lab: Lab) -> None:
    vip = lab.network.vip
    assert asked(lab, "rs1", vip, 43000, 1) == "TimeoutError"
    lab.sh("rs1", f"ip address add {vip}/32 dev lo")
    assert [asked(lab, "rs1", vip, 43001 + number) for number in range(2)] == ["rs1", "rs1"]
    assert {asked(lab, "client", vip, 43001 + number) for number in range(2)} == {"rs1", "rs2"}


@contextlib.contextmanager
def program(lab: Lab, host: str, *words: str) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run a program of Python in a host; yield its input and its output."""
    command = [*lab.host(host).inside(), "python3", "-c", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


def test_a_flow_of_udp_leaves_a_deleted_server_and_not_one_of_weight_0(lab: Lab) -> None:
    service = f"-u {lab.network.vip}:53"
    lab.sh("director", f"ipvsadm -A {service} -s rr; pylvs sysctl -w expire_nodest_conn=1")
    with contextlib.ExitStack() as running:
        for number in 1, 2:
            lab.sh("director", f"ipvsadm -a {service} -r 10.0.0.2{number} -m")
            _, output = running.enter_context(program(lab, f"rs{number}", UDP_SERVER, f"rs{number}"))
            assert output.readline() == "ready\n"
        attempts, answers = running.enter_context(program(lab, "client", UDP_CLIENT, lab.network.vip))

        def answer() -> str:
            attempts.write("100\n")
            return answers.readline().strip()

        first = answer()
        server = f"{service} -r 10.0.0.2{first[-1]}"
        lab.sh("director", f"ipvsadm -e {server} -m -w 0")
        assert {answer() for _ in range(5)} == {first}, "weight 0 keeps it"
        lab.sh("director", f"ipvsadm -d {server}")
        assert answer() in {"rs1", "rs2"} - {first}
