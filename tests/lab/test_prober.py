"""The prober process of `pylvs run` in a lab: killed, stopped, and beside hostile real servers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pylvs
from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.test_daemon import web_lab
from tests.waiting import until

LEASE_TICKS = 10  # instead of 5: a pause on a busy machine is shorter, those of these tests are longer
CODE = f"""
import sys
sys.path.insert(0, {str(Path(pylvs.__file__).parents[1])!r})
from pylvs.system.processes import child
child.LEASE_S = {LEASE_TICKS}
from pylvs.cli.main import main
main()
"""
PATIENT = (sys.executable, "-c", CODE)
HOSTILE_PORT = 8443
HOSTILE = """
virtual_server VIP 8443 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    connect_timeout 2
    retry 0
    real_server RS1 8443 {
        HTTP_GET {
            url {
                path /
                digest 00000000000000000000000000000000
            }
        }
    }
}
"""
# Runs in a real server: a response whose chunks have one byte, without end.
ENDLESS = """
import socket, sys, threading
def serve(made):
    try:
        made.recv(4096)
        made.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
        while True:
            made.sendall(b"1\\r\\nx\\r\\n" * 4000)
    except OSError:
        made.close()
listener = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def prober_of(running: Daemon) -> int:
    """Return the PID of the daemon's prober process."""
    assert running.process is not None
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    found = [int(each) for each in children if Path(f"/proc/{each}/comm").read_text() == "pylvs-prober\n"]
    return found[0] if found else 0


def awaited_prober_of(running: Daemon) -> int:
    """Return the PID once the process runs; never 0, which kill(2) would take for the caller's process group."""
    return until(lambda: prober_of(running), "the prober process runs")


def restarts(running: Daemon) -> int:
    return running.log().count("the prober process runs again")


def has_restarted(running: Daemon, before: int) -> bool:
    return restarts(running) > before


def has_servers(running: Daemon, number: int) -> bool:
    return len(running.servers()) == number


@contextlib.contextmanager
def endless(lab: Lab, host: str) -> Iterator[None]:
    """Run a hostile server on a host."""
    command = [*lab.host(host).inside(), sys.executable, "-c", ENDLESS, str(HOSTILE_PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def test_no_server_leaves_the_table_because_of_the_prober(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    with daemon(lab, tmp_path, text, command=PATIENT) as running:
        awaited_prober_of(running)
        up, edition = running.servers(), running.edition()
        assert len(up) == 3
        for number in (signal.SIGKILL, signal.SIGSTOP):
            times = restarts(running)
            os.kill(awaited_prober_of(running), number)
            until(partial(has_restarted, running, times), "another prober process runs")
        assert running.servers() == up
        assert running.edition() == edition, "no server left the table for a moment"
        lab.sh("rs3", "service nginx stop")
        until(lambda: len(running.servers()) == 2, "rs3 has left the table")
        assert "the prober process has ended" in running.log()
        assert f"the prober process has been silent for {LEASE_TICKS} s" in running.log()


def test_a_pause_of_all_processes_takes_no_server_out(make_lab: MakeLab, tmp_path: Path) -> None:
    """As of a virtual machine: the pause is longer than timeouts and leases."""
    lab, text = web_lab(make_lab)
    text = text.replace("connect_timeout 30", "connect_timeout 2\n    retry 0")
    with daemon(lab, tmp_path, text, command=PATIENT) as running:
        prober = awaited_prober_of(running)
        assert running.process is not None
        both = [running.process.pid, prober]
        edition = running.edition()
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(LEASE_TICKS + 2)
        for pid in reversed(both):  # the daemon must not wait for the prober
            os.kill(pid, signal.SIGCONT)
        lab.sh("rs3", "service nginx stop")
        until(lambda: len(running.servers()) == 2, "rs3 has left the table")
        assert running.edition() == edition + 1, "only rs3 left"
        assert prober_of(running) == both[1]


def test_a_hostile_server_does_not_keep_others_from_being_checked(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    address = lab.network.role("realserver")[0].interfaces[0].addresses[0].partition("/")[0]
    hostile = HOSTILE.replace("VIP", lab.network.vip).replace("RS1", address)
    with endless(lab, "rs1"), daemon(lab, tmp_path, text + hostile) as running:
        bad = f"{address}:{HOSTILE_PORT}"
        until(lambda: bad not in running.servers(), "the hostile server has left the table")
        for action, number in (("stop", 2), ("start </dev/null >/dev/null 2>&1", 3)):
            lab.sh("rs3", f"service nginx {action}")
            until(partial(has_servers, running, number), f"{number} servers are in the table")
