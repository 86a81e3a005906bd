"""`pylvs run` with SNMP, before a master agent of the test's own, and before the real snmpd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.snmp.agentx import Pdu
from pylvs.system.namespaces import inside_network
from tests.lab.test_virtual_routers import INSTANCE, Node, pair
from tests.waiting import PATIENCE_S, until

__all__ = ["pair"]  # the fixture


def first_message(listener: socket.socket) -> int:
    """Return the kind of the first message of the next sub-agent that connects."""
    end, _ = listener.accept()
    with end:
        end.settimeout(PATIENCE_S)
        return end.recv(20, socket.MSG_WAITALL)[1]


def test_pylvs_run_starts_the_sub_agent_and_replaces_it_at_a_reload(pair: tuple[Node, Node], tmp_path: Path) -> None:
    node, _ = pair
    path = tmp_path / "agentx"
    text = f"global_defs {{{{\n enable_snmp_vrrp\n snmp_socket unix:{path}\n}}}}\n{INSTANCE}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        node.write(text=text)
        node.start()
        assert first_message(listener) == Pdu.OPEN
        node.write("preempt_delay 2", text)
        node.run("reload")
        assert first_message(listener) == Pdu.OPEN
        assert node.end(signal.SIGTERM) == 0
    assert "SNMP: snmpd accepted the session" not in node.log()


AGENT, TRAPS = "127.0.0.1:16161", ("127.0.0.1", 16162)
SNMPD = f"""
rwcommunity private
agentAddress udp:{AGENT}
master agentx
agentXTimeout 120
agentXSocket unix:FOLDER/agentx
trap2sink {TRAPS[0]}:{TRAPS[1]} public
"""
SERVICES = """
global_defs {{
    script_user root
    snmp_socket unix:FOLDER/agentx
    enable_snmp_checker
    enable_traps
}}
virtual_server 10.66.0.1 80 {{
    protocol TCP
    lvs_sched rr
    lvs_method NAT
    delay_loop 0.5
    quorum 2
    real_server 10.66.0.21 80 {{
    }}
    real_server 10.66.0.22 80 {{
        MISC_CHECK {{
            misc_path "/usr/bin/test -e FOLDER/alive"
        }}
    }}
}}
"""
CHECKER = ".1.3.6.1.4.1.9586.100.5.3"
WEIGHT, STATUS, QUORUM = f"{CHECKER}.4.1.7.1.1", f"{CHECKER}.4.1.6.1.2", f"{CHECKER}.3.1.23.1"
SERVER_TRAP = bytes.fromhex("060d2b06010401ca72640503050001")  # the name of the trap about a real server, in BER


@contextmanager
def snmpd(node: Node, folder: Path) -> Iterator[None]:
    """Run snmpd in the namespace of a node."""
    (folder / "snmpd.conf").write_text(SNMPD.replace("FOLDER", str(folder)))
    command = ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", str(folder / "snmpd.conf"), "-p", str(folder / "snmpd.pid")]
    environment = os.environ | {"SNMP_PERSISTENT_DIR": str(folder), "MIBS": ""}
    with (folder / "snmpd.log").open("wb") as log:
        process = subprocess.Popen([*enter(node), *command], stdout=log, stderr=log, env=environment)
    try:
        until((folder / "agentx").exists, "snmpd listens")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def enter(node: Node) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{node.name}"]


def snmp(node: Node, program: str, *arguments: str) -> str:
    """Return what a command of net-snmp prints, without the name of the object."""
    words = [*enter(node), program, "-v2c", "-c", "private", "-Oqv", "-t", "20", AGENT, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"MIBS": ""}, check=False)
    return (done.stdout or done.stderr).strip()


def await_trap(receiver: socket.socket, name: bytes) -> None:
    """Read traps until one has this name."""
    while name not in receiver.recv(1 << 16):
        pass


@pytest.mark.skipif(not shutil.which("snmpd", path="/usr/sbin:/usr/bin"), reason="snmpd is not installed")
def test_snmpd_shows_real_servers_sets_their_weights_and_sends_their_traps(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    node, _ = pair
    (tmp_path / "alive").touch()
    node.write(text=SERVICES.replace("FOLDER", str(tmp_path)))
    with inside_network(f"/run/netns/{node.name}"):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, snmpd(node, tmp_path):
        receiver.bind(TRAPS)
        receiver.settimeout(PATIENCE_S)
        node.start()
        until(lambda: snmp(node, "snmpget", STATUS) == "1", "the sub-agent serves")
        until(lambda: snmp(node, "snmpget", QUORUM) == "1", "the quorum is met")
        until(lambda: snmp(node, "snmpset", WEIGHT, "i", "3") == "3", "the sub-agent has an answer in time")
        until(lambda: snmp(node, "snmpget", WEIGHT) == "3", "the object follows")
        until(lambda: "weight 3 instead of 1 by the operator" in node.run("status"), "the daemon has the weight")
        assert "noCreation" in snmp(node, "snmpset", f"{CHECKER}.4.1.7.1.9", "i", "3")
        assert "notWritable" in snmp(node, "snmpset", STATUS, "i", "1")
        assert "wrongType" in snmp(node, "snmpset", WEIGHT, "s", "3")
        assert snmp(node, "snmpget", f"{CHECKER}.4.1.27.1.1") == "0"  # its connections
        (tmp_path / "alive").unlink()
        await_trap(receiver, SERVER_TRAP)
        until(lambda: snmp(node, "snmpget", STATUS) == "2", "the objects follow")
        assert node.end(signal.SIGTERM) == 0
