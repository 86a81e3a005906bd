"""Traffic continues during any command: forwarding needs no process, and edits are atomic."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import time

import pytest

from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.support import answers, endpoint, shared_evenly
from tests.waiting import until

KILLS = 20
CONNECTIONS, REQUESTS = 8, 200


def load(lab: Lab) -> subprocess.Popen[str]:
    """Open new connections to the VIP, one after the other on each of several, until interrupted."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1h", "--timeout=60s", "-H", "Connection: close", "http://VIP/"]
    return subprocess.Popen(
        [*lab.host("client").inside(), *command], stdout=subprocess.PIPE, text=True, env=environment()
    )


def connections(lab: Lab) -> int:
    """Return how many connections the director has forwarded."""
    (row,) = [line.split() for line in lab.sh("director", "ipvsadm -Ln --stats --exact").splitlines() if "TCP" in line]
    return int(row[2])


def failures(output: str) -> list[str]:
    """Return the lines of wrk about failed requests; it prints them only if there are some."""
    return [line for line in output.splitlines() if "Socket errors" in line or "Non-2xx" in line]


@pytest.mark.parametrize("topology", ["dr", "nat", "tun"])
def test_killed_edits_lose_no_request(topology: str, make_lab: MakeLab) -> None:
    lab = make_lab(topology)
    servers = [host.interfaces[0].addresses[0].partition("/")[0] for host in lab.network.role("realserver")]
    chance = random.Random(topology)
    killed = 0
    with load(lab) as process:
        until(lambda: connections(lab) > 0, "there is traffic")
        while killed < KILLS:
            weight, server = chance.randint(1, 9), chance.choice(servers)
            words = [
                "-e",
                "-t",
                endpoint(lab.network, lab.network.vip),
                "-r",
                server,
                lab.network.method,
                "-w",
                str(weight),
            ]
            with subprocess.Popen(
                [*lab.host("director").inside(), "ipvsadm", *words], stderr=subprocess.DEVNULL, env=environment()
            ) as edit:
                time.sleep(chance.random() * 0.2)
                killed += edit.poll() is None
                edit.kill()
        until(lambda: connections(lab) > REQUESTS, "there was much traffic")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        output = process.stdout.read()
    assert failures(output) == []
    requests = re.search(r"(\d+) requests in", output)
    assert requests
    assert int(requests[1]) >= REQUESTS - CONNECTIONS
    rows = [line for line in lab.sh("director", "ipvsadm -Ln").splitlines() if "->" in line and "Remote" not in line]
    assert len(rows) == 3


def test_forwarding_needs_no_process_of_pylvs(make_lab: MakeLab) -> None:
    lab = make_lab("dr")
    living = lab.sh(
        "director", "for each in /proc/[0-9]*/ns/net; do [ $each -ef /proc/self/ns/net ] && echo $each; done; true"
    )
    assert len(living.splitlines()) <= 1  # the shell of this test
    assert shared_evenly(answers(lab, 6), 3)
