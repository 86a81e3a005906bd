"""`pylvs doctor` where traffic alone shows the fault: connections, counters, and the connection table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import DIRECTOR, Fault, built, diagnosed, examine, healthy, request
from tests.waiting import until

PYTHON = f"{shlex.quote(sys.executable)} -c"
LISTENER = f"""setsid {PYTHON} '
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("", 5353))
while True:
    end.recv(2000)
' >/dev/null 2>&1 &"""
# One flow of UDP that does not end. It has begun when the command ends.
FLOW = f"""setsid {PYTHON} '
import socket, time
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    end.sendto(b"x", ("10.0.0.100", 5353))
    open("/run/flow-began", "w").close()
    time.sleep(0.02)
' >/dev/null 2>&1 & echo $! >/run/flow; until [ -e /run/flow-began ]; do sleep 0.05; done"""
MANY = f"""{PYTHON} '
import socket
for _ in range(1100):
    socket.create_connection(("10.0.0.100", 80)).close()
'"""
DELETED = "ipvsadm -d -u VIP:5353 -r rs1; ipvsadm -a -u VIP:5353 -r rs2 -g"
FILTER = "add table ip t; add chain ip t in { type filter hook input priority 0; }"

FAULTS = [
    Fault(
        name="the connection table is full",
        host="client",
        script=MANY,
        cause="connections_full",
        words=("1024",),
    ),
    Fault(
        name="one server drops packets of one network",
        host="rs2",
        script=f"nft '{FILTER}; add rule ip t in ip saddr 10.0.0.5 tcp dport 80 drop'",
        requests=8,
        steady=True,  # only recent attempts count, and the machine may be busy
        cause="handshake_incomplete",
        words=("10.0.0.22", "SYN_RECV"),
        cure="nft delete table ip t",
        settled="ipvsadm -e -t VIP:80 -r rs1 -g -w 0",  # so that a client reaches rs2 again
    ),
    Fault(
        name="a flow of a deleted server",
        host="client",
        script=FLOW,
        noticed=DELETED,
        cause="packets_dropped",
        words=("unavailable", "expire_nodest_conn"),
        rest="kill $(cat /run/flow)",
    ),
    Fault(
        name="sh of one address",
        host="director",
        script="ipvsadm -e -t VIP:80 -r rs1 -g -w 1; ipvsadm -E -t VIP:80 -s sh",
        requests=120,
        cause="one_client_address",
        words=("10.0.0.5", "sh-port"),
        rest="ipvsadm -E -t VIP:80 -s rr",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab with a service of UDP, and a connection table of the smallest size."""
    with built() as made:
        for server in ("rs1", "rs2"):
            made.sh(server, LISTENER)
        service = "ipvsadm -A -u VIP:5353 -s rr; ipvsadm -a -u VIP:5353 -r rs1 -g"
        made.sh("director", f"pylvs sysctl -w net.ipv4.vs.conn_max=1024; {service}")
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


def test_what_was_mended_is_a_warning_until_a_client_connects_again(lab: Lab) -> None:
    """The connections that failed stay in the table. The rule keeps replies from ending them before."""
    lab.sh("rs1", "nft add table ip f; nft add chain ip f o '{ type filter hook output priority 0; }'")
    lab.sh("rs1", "nft add rule ip f o ip daddr 10.0.0.5 tcp sport 80 drop")

    def warned() -> list[dict[str, Any]]:
        found = diagnosed(lab)
        if not found:  # at first, or they have ended on a busy machine
            request(lab, 8)
        return [each for each in found if each["severity"] == "warning"]

    found = until(warned)
    lab.sh("rs1", "nft delete table ip f")
    assert [each["id"] for each in found] == ["handshake_incomplete"]
    assert " s ago" in found[0]["title"]
    healthy(lab, DIRECTOR)
