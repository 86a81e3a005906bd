"""What `pylvs run` costs with a large configuration: until the first complete table, and for a reload of one change."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from pylvs.bench import site
from pylvs.bench.commands import Size
from pylvs.bench.rows import Measured
from pylvs.daemon.client import Client
from pylvs.model.errors import PylvsError

_FIRST_VIP, _FIRST_SERVER = IPv4Address("10.66.128.0"), IPv4Address("10.66.2.0")
_READY_S = 900.0
_TICKS = os.sysconf("SC_CLK_TCK")


class DaemonFailed(PylvsError):
    """A daemon that was measured did not do its work."""


def configuration(services: int, changed: int = 0) -> str:
    """So many services with one server each; the first one has another weight when `changed` is another number."""
    return "\n".join(
        f"virtual_server {_FIRST_VIP + number} 80 {{\n"
        "    delay_loop 10\n"
        "    lb_algo wlc\n"
        "    lb_kind DR\n"
        "    protocol TCP\n"
        f"    real_server {_FIRST_SERVER + number} 80 {{\n"
        f"        weight {1 if number else 1 + changed}\n"
        "        TCP_CHECK {\n"
        "            connect_timeout 3\n"
        "        }\n"
        "    }\n"
        "}"
        for number in range(services)
    )


def _processor_s(process: int) -> float:
    """Of a process and of those of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


@contextlib.contextmanager
def _running(folder: Path, into: Measured) -> Iterator[subprocess.Popen[str]]:
    """A daemon whose first table is complete; the seconds until then are noted."""
    words = ["run", "--no-checks", "-f", str(folder / "keepalived.conf"), "--state-dir", str(folder / "state")]
    command = [sys.executable, "-c", "from pylvs.cli.main import main; main()", *words]
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, open(folder / "log", "w+") as log:
        manager.bind(path)
        manager.settimeout(0.1)
        begin = time.monotonic()
        process = subprocess.Popen(command, stderr=log, text=True, env=os.environ | {"NOTIFY_SOCKET": path})
        try:
            while True:
                if process.poll() is not None or time.monotonic() > begin + _READY_S:
                    log.seek(0)
                    raise DaemonFailed(f"pylvs run: {(log.read().splitlines() or ['it is not ready'])[-1]}")
                with contextlib.suppress(TimeoutError):
                    if manager.recv(1000).startswith(b"READY=1"):
                        break
            into.samples.append(time.monotonic() - begin)
            into.processor.append(_processor_s(process.pid))
            yield process
        finally:
            process.send_signal(signal.SIGKILL)  # its table goes with the namespace
            process.wait()


def measure(size: Size, progress: Callable[[str], None]) -> dict[str, Measured]:
    """The start, and reloads that change one weight, in seconds."""
    start, reload = Measured(), Measured()
    progress(f"daemon: {size.services:,} services")
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as name, site.new_site("daemon"):
        folder = Path(name)
        (folder / "keepalived.conf").write_text(configuration(size.services))
        with _running(folder, start) as process:
            client = Client(folder / "state")
            for number in range(size.whole):
                progress(f"daemon: reloading {size.services:,} services, {number + 1} of {size.whole}")
                (folder / "keepalived.conf").write_text(configuration(size.services, number + 1))
                begin, used = time.monotonic(), _processor_s(process.pid)
                status, told = client.ask("POST", "/v1/reload")
                reload.samples.append(time.monotonic() - begin)
                reload.processor.append(_processor_s(process.pid) - used)
                if status != 200 or told["table"] != {"edits": 1, "refused": [], "trouble": ""}:
                    raise DaemonFailed(f"pylvs reload: {told.get('error') or told['table']}")
    return {"daemon_start": start, "daemon_reload": reload}
