"""The order at the start of `pylvs run`: virtual routers run before the daemon has its modules, tables and names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.system import lock, syscalls
from pylvs.vrrp.router_service import CAPABILITIES
from tests.interop.namespaces import ip
from tests.lab.test_silence import children
from tests.lab.test_virtual_routers import INSTANCE, Node, pair
from tests.waiting import PATIENCE_S, until, until_reaped

__all__ = ["pair"]

# The import of asyncio is the daemon's first one behind the start of the virtual routers. It waits for the test.
GATED = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "asyncio" and open({gate!r}).read() == "fail":
            raise ImportError("no modules here")

sys.meta_path.insert(0, Gate())
from pylvs.cli.main import main
main()
"""
SERVICE = """
virtual_server 10.66.0.100 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.66.0.21 80 {{
    }}
}}
"""
STARTUP_SCRIPT = "global_defs {{\n    script_user root\n    startup_script /bin/true\n}}\n"


@pytest.fixture
def node(pair: tuple[Node, Node], tmp_path: Path) -> Node:
    """Return a node whose daemon waits at the gate."""
    first, _ = pair
    os.mkfifo(tmp_path / "gate")
    code = GATED.format(gate=str(tmp_path / "gate"))
    first.pylvs = lambda *words: [  # type: ignore[method-assign]
        *("nsenter", f"--net=/run/netns/{first.name}", sys.executable, "-c", code, *words),
        *("--state-dir", str(first.state)),
    ]
    return first


def begin(node: Node) -> None:
    """Start the daemon; do not wait for it."""
    with open(node.folder / "log", "ab") as log:
        command = node.pylvs("run", "-f", str(node.file))
        node.daemon = subprocess.Popen(command, stderr=log, start_new_session=True)


def open_gate(node: Node, tmp_path: Path) -> None:
    """Let the daemon import the rest of itself, and wait until it is ready."""
    (tmp_path / "gate").write_text("")
    until(lambda: " info: ready " in node.log(), node.log)


def test_the_owner_advertises_before_the_daemon_has_its_modules(node: Node, tmp_path: Path) -> None:
    node.priority = 255
    node.write()
    begin(node)
    until(lambda: node.is_in("MASTER") and node.router()["counters"]["sent"], "it advertises")
    process = node.process()
    assert node.holds()
    assert not (node.state / "control").exists(), "the daemon has not begun"
    assert Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0") == b"pylvs-vrrp\0" + bytes(node.state)
    open_gate(node, tmp_path)
    assert node.process() == process
    kept, mine = sum(1 << syscalls.CAPABILITIES[each] for each in CAPABILITIES), capabilities(os.getpid())
    assert capabilities(process) == kept & mine != mine
    (helper,) = children(process)
    assert capabilities(helper) == mine, "scripts that run as root need all"
    assert f"started the process of the virtual routers (process={process})" in node.log()
    assert [each["state"] for each in node.ask("why", name="VI_1")["VI_1"]] == ["MASTER"], "no second configuration"
    events = node.state / "events.jsonl"
    until(events.exists, "the daemon saves events")
    until(lambda: '"vrrp_transition"' in events.read_text(), "the daemon receives what happened before")


def test_a_backup_listens_before_the_daemon_has_its_modules(node: Node, tmp_path: Path) -> None:
    begin(node)
    until(lambda: node.is_in("BACKUP"), "it listens")
    assert not (node.state / "control").exists()
    open_gate(node, tmp_path)


def test_an_owner_with_services_is_no_master_before_the_first_table(node: Node, tmp_path: Path) -> None:
    """Else it draws the packets, and they meet no service."""
    node.priority = 255
    node.write(text=INSTANCE + SERVICE)
    begin(node)
    until(lambda: node.is_in("BACKUP"), "it waits")
    open_gate(node, tmp_path)
    until(lambda: node.is_in("MASTER"), "it is master")
    assert [each["state"] for each in node.ask("why", name="VI_1")["VI_1"]] == ["BACKUP", "MASTER"]


def test_an_owner_whose_table_a_killed_daemon_left_does_not_wait(node: Node, tmp_path: Path) -> None:
    node.priority = 255
    node.write(text=INSTANCE + SERVICE)
    begin(node)
    open_gate(node, tmp_path)
    until(lambda: node.is_in("MASTER"), "it is master")
    process = node.process()
    node.end(signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    until_reaped(process)
    begin(node)
    until(lambda: node.is_in("MASTER"), "it is master")
    assert node.process() != process
    assert [each["state"] for each in node.ask("why", name="VI_1")["VI_1"]] == ["MASTER"]
    open_gate(node, tmp_path)


def test_the_startup_script_runs_first(node: Node, tmp_path: Path) -> None:
    node.write(text=STARTUP_SCRIPT + INSTANCE)
    begin(node)
    with open(tmp_path / "gate", "w"):  # open(2) returns when the daemon is at the gate, which waits for the close
        assert node.router_process() == 0
    until(lambda: " info: ready " in node.log(), node.log)
    log = node.log()
    assert log.index("startup_script has run") < log.index("started the process of the virtual routers")


def test_a_signal_during_the_start_ends_virtual_routers_too(node: Node, tmp_path: Path) -> None:
    begin(node)
    until(lambda: node.is_in("BACKUP"), "it listens")
    assert node.daemon is not None
    node.daemon.send_signal(signal.SIGTERM)
    (tmp_path / "gate").write_text("")
    assert node.daemon.wait(PATIENCE_S) == 0, node.log()
    assert node.router_process() == 0


def test_a_start_without_its_modules_ends_virtual_routers_too(node: Node, tmp_path: Path) -> None:
    node.priority = 255
    node.write()
    begin(node)
    until(node.holds, "it is master")
    assert node.daemon is not None
    (tmp_path / "gate").write_text("fail")
    assert node.daemon.wait(PATIENCE_S) == 1
    assert "no modules here" in node.log()
    assert (node.holds(), processes(node)) == (False, [])


def test_a_start_with_the_pid_file_of_another_process_starts_no_virtual_router(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    node, _ = pair
    node.priority = 255
    node.write()
    file = tmp_path / "held.pid"
    descriptor = lock.claim(file)
    done = subprocess.run(
        node.pylvs("run", "-f", str(node.file), "-p", str(file)), capture_output=True, text=True, timeout=PATIENCE_S
    )
    os.close(descriptor)
    assert (done.returncode, done.stdout) == (1, "")
    text = f"{file}: process {os.getpid()} has this file; stop it, or choose another file with -p"
    assert done.stderr == f"pylvs: {text}\n"
    assert (node.holds(), processes(node), node.state.exists()) == (False, [], False)


def capabilities(process: int) -> int:
    """Return the permitted capabilities of a process."""
    _, _, rest = Path(f"/proc/{process}/status").read_text().partition("CapPrm:")
    return int(rest.split()[0], 16)


def processes(node: Node) -> list[str]:
    """Return the processes in the node's network namespace."""
    return ip(f"netns pids {node.name}").split()
