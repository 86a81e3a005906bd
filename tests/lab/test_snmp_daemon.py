"""`pylvs run` with SNMP, before a master agent of the test's own."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from pylvs.snmp.agentx import Pdu
from tests.lab.support import PATIENCE_S
from tests.lab.test_virtual_routers import INSTANCE, Node, pair

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
