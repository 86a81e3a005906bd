"""`pylvs stop` and `pylvs vrrp stop`: what ends, what stays for the next daemon, and what a hung process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pylvs.cli.stop import NOTHING
from tests.interop.namespaces import ip
from tests.lab.test_virtual_routers import INSTANCE, Node, pair, settled, steady
from tests.waiting import until, until_reaped

__all__ = ["pair", "settled", "steady"]  # fixtures

SERVICE = """
virtual_server 10.66.0.100 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.66.0.9 80 {{
    }}
}}
"""


@pytest.fixture
def serving(settled: tuple[Node, Node]) -> tuple[Node, Node]:
    """Return both nodes; the first has a service, too."""
    add_service(settled[0])
    return settled


def add_service(node: Node) -> None:
    node.write(text=INSTANCE + SERVICE)
    node.run("reload")
    assert services(node) == 1


def services(node: Node) -> int:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{node.name}", "ipvsadm", "-ln"], capture_output=True, text=True, check=True
    )
    return done.stdout.count("10.66.0.100:80")


def attempt(node: Node, *words: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        node.pylvs(*words), capture_output=True, text=True, timeout=120, env=dict(os.environ) | environment
    )
    return done.returncode, done.stdout, done.stderr


def ended(node: Node) -> int:
    """Return the exit status of its daemon, which has ended or will soon."""
    assert node.daemon is not None
    return node.daemon.wait(60)


def systemctl(folder: Path, output: str, status: int = 0) -> str:
    """Return a PATH on which systemctl prints this."""
    folder.mkdir()
    script = folder / "systemctl"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n")
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def changing(folder: Path) -> str:
    """Return a PATH on which systemctl prints the job `restart`, and then `stop`."""
    path = systemctl(folder, "")
    script = '#!/bin/sh\nkind=$(cat "$0.kind" 2>/dev/null || echo restart)\necho stop >"$0.kind"\n'
    (folder / "systemctl").write_text(f'{script}echo "15 pylvs.service $kind running"\n')
    return path


def test_stop_ends_daemon_virtual_routers_and_services(serving: tuple[Node, Node]) -> None:
    first, second = serving
    process, daemon = first.process(), first.daemon
    assert daemon is not None
    assert first.run("stop") == f"pylvs run, process {daemon.pid}, has ended\n"
    assert ended(first) == 0
    assert (first.holds(), services(first)) == (False, 0)
    until_reaped(process)
    until(second.holds, "the second holds the address")
    assert first.run("stop") == f"{NOTHING}\n"


def test_stop_keep_leaves_virtual_routers_and_services_to_the_next_daemon(steady: tuple[Node, Node]) -> None:
    first, second = steady
    add_service(first)
    process, since = first.process(), first.router()["since"]
    first.run("stop", "--keep")
    assert ended(first) == 0
    assert (first.holds(), services(first), first.process()) == (True, 1, process)
    first.start()
    assert (first.process(), first.router()["since"]) == (process, since)
    assert not second.holds()
    assert services(first) == 1


def test_what_a_killed_daemon_left_can_be_ended(serving: tuple[Node, Node]) -> None:
    first, second = serving
    process = first.process()
    status, _, error = attempt(first, "vrrp", "stop")
    assert (status, first.holds()) == (1, True)
    assert "would start them again: use pylvs stop, or pylvs vrrp yield" in error
    first.end(signal.SIGKILL)
    assert f"process {process} has given up its addresses and ended" in first.run("vrrp", "stop")
    assert (first.holds(), services(first)) == (False, 1)
    until_reaped(process)
    until(second.holds, "the second holds the address")
    assert first.run("vrrp", "stop") == "no virtual routers run here\n"
    assert first.run("stop") == "1 service deleted from the table\n"
    assert services(first) == 0


def test_the_addresses_of_a_hung_process_are_deleted(serving: tuple[Node, Node]) -> None:
    first, second = serving
    first.end(signal.SIGKILL)
    process = first.process()
    os.kill(process, signal.SIGSTOP)
    until(second.holds, "the second takes over, while the first has the address, too")
    assert first.holds()
    output = first.run("stop")
    assert f"process {process} was killed, and its addresses deleted: 10.66.0.100 of eth0" in output
    assert (first.holds(), services(first)) == (False, 0)
    assert "10.66.0.1/24" in ip(f"-n {first.name} addr show dev eth0")


def test_a_hung_daemon_keeps_no_address(serving: tuple[Node, Node]) -> None:
    first, second = serving
    assert first.daemon is not None
    os.kill(first.daemon.pid, signal.SIGSTOP)
    status, output, error = attempt(first, "stop")
    assert (status, error.count("\n")) == (1, 1)
    assert f"process {first.daemon.pid}, did not reply within 5 s" in error
    assert "has given up its addresses and ended" in output
    assert not first.holds()
    until(second.holds, "the second holds the address")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    first.run("stop")
    assert services(first) == 0


def test_for_a_unit_systemds_job_decides(serving: tuple[Node, Node], tmp_path: Path) -> None:
    first, _ = serving
    unit = ("stop", "--unit", "pylvs.service")
    crash = systemctl(tmp_path / "crash", "No jobs running.")
    other = systemctl(tmp_path / "other", "7 other.service stop running")
    broken = systemctl(tmp_path / "broken", "Failed to list jobs: Connection timed out", 1)
    first.end(signal.SIGKILL)
    for path in (crash, other):
        assert attempt(first, *unit, PATH=path) == (0, "", "")
    assert attempt(first, *unit, PATH=broken, SERVICE_RESULT="signal", EXIT_CODE="killed") == (0, "", "")
    cleanup = ("stop", "--unit", "pylvs-cleanup.service")
    assert attempt(first, *cleanup, PATH=broken, SERVICE_RESULT="success") == (0, "", ""), "it has no process"
    assert (first.holds(), services(first)) == (True, 1)
    first.start()
    restart = systemctl(tmp_path / "restart", "12 pylvs.service restart running\n13 x.service start waiting")
    assert attempt(first, *unit, PATH=restart)[0] == 0
    assert ended(first) == 0
    assert (first.holds(), services(first)) == (True, 1)
    stop = systemctl(tmp_path / "stop", "14 pylvs.service stop running")
    assert attempt(first, *unit, PATH=stop)[0] == 0
    assert (first.holds(), services(first)) == (False, 0)
    for path, more in ((changing(tmp_path / "changing"), {}), (broken, {"MAINPID": "7"})):
        first.start()
        assert attempt(first, *unit, PATH=path, **more)[0] == 0
        assert ended(first) == 0
        assert (first.holds(), services(first)) == (False, 0)
