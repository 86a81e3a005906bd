"""`pylvs run` that gets no more memory refuses what needs some, and continues."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

from pylvs.model.errors import NO_MEMORY
from tests.lab.test_virtual_routers import INSTANCE, Node, pair
from tests.waiting import until

__all__ = ["pair"]  # a fixture

SERVICE = """
virtual_server 10.{}.{}.1 80 {{
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.66.0.2 80 {{
        TCP_CHECK {{
        }}
    }}
}}
"""
MORE_BYTES = 20 << 20  # for a thread, and some requests


def services(number: int) -> str:
    """Return so many virtual servers, for `Node.write`."""
    made = (SERVICE.format(each >> 8, each & 255) for each in range(number))
    return "".join(made).replace("{", "{{").replace("}", "}}")


def status_of(node: Node) -> str:
    """Return the status; empty if the daemon is too busy to answer."""
    return subprocess.run(node.pylvs("status"), capture_output=True, text=True, timeout=120).stdout


def test_a_reload_that_needs_more_memory_than_there_is_changes_nothing(pair: tuple[Node, Node]) -> None:
    first, _ = pair
    first.write(text=INSTANCE + services(1))
    first.start()
    until(lambda: first.is_in("MASTER") and "10.0.0.1:80" in first.run("status"), "it runs")
    assert first.daemon is not None
    usage = Path(f"/proc/{first.daemon.pid}/status").read_text()
    size = int(usage.partition("VmSize:")[2].split()[0]) << 10
    _, hard = resource.prlimit(first.daemon.pid, resource.RLIMIT_AS)
    resource.prlimit(first.daemon.pid, resource.RLIMIT_AS, (size + MORE_BYTES, hard))
    first.write(text=INSTANCE + services(10_000))
    done = subprocess.run(first.pylvs("reload"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert NO_MEMORY in done.stderr
    assert NO_MEMORY in first.log()
    assert "Traceback" not in first.log()
    until(lambda: "10.0.0.1:80 tcp" in status_of(first), "it answers again")

    resource.prlimit(first.daemon.pid, resource.RLIMIT_AS, (hard, hard))
    first.write(text=INSTANCE + services(2))
    first.run("reload")
    assert "10.0.1.1:80" in first.run("status")
    assert first.is_in("MASTER")
