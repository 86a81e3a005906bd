"""Measure `pylvs run`: memory with a small configuration; with a large one the start, and a reload of one change."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from bench import site
from bench.commands import Size
from bench.rows import Measured
from pylvs.dataplane.director import open_director
from pylvs.model.errors import PylvsError
from pylvs.model.service import Protocol, ServiceKey

_FIRST_VIP, _FIRST_SERVER = IPv4Address("10.66.128.0"), IPv4Address("10.66.2.0")
_PATIENCE_S = 900.0
_CHECKED_S = 3.0  # in which each check was made
_TICKS = os.sysconf("SC_CLK_TCK")


class DaemonFailed(PylvsError):
    """A measured daemon failed."""


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


_SMALL = "".join(
    f"virtual_server {_FIRST_VIP} {port} {{\n    lb_algo wlc\n    lb_kind DR\n    protocol TCP\n"
    + "".join(
        f"    real_server {_FIRST_SERVER + server} {port} {{\n        HTTP_GET {{\n            url {{\n"
        "                path /\n                status_code 200\n            }\n        }\n    }\n"
        for server in range(2)
    )
    + "}\n"
    for port in (80, 8080)
)


def _processor_s(process: int) -> float:
    """Return the processor time of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS


class Manager:
    """Receives what the daemon sends to its service manager (sd_notify)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)

    def wait_for(self, state: str, daemon: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until the daemon sends this state. Raises DaemonFailed with the last line of its log."""
        end = time.monotonic() + _PATIENCE_S
        while daemon.poll() is None and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if self._socket.recv(1000).decode().startswith(f"{state}=1"):
                    return
        words = log.read_text(encoding="utf-8").splitlines() or ["it does not get ready"]
        raise DaemonFailed(f"pylvs run: {words[-1]}")

    def close(self) -> None:
        """Close the socket, so that its path may be bound again."""
        self._socket.close()


def _memory_mb(process: int) -> tuple[float, float]:
    """Return the resident memory, and how much of it is anonymous."""
    sizes = {}
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            sizes[name] = int(text.split()[0]) / 1000
    return sizes["VmRSS"], sizes["RssAnon"]


def measure_small(size: Size, progress: Callable[[str], None]) -> dict[str, Measured]:
    """Measure two services with checks: memory after the first checks, and the processor time of the start."""
    resident, anonymous, start = Measured(), Measured(), Measured()
    progress("daemon: 2 services")
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as name, site.new_site("small-daemon"):
        folder = Path(name)
        file, log = folder / "keepalived.conf", folder / "log"
        file.write_text(_SMALL)
        open_director().make()  # what loading takes is the kernel's time
        command = [sys.executable, "-c", "from pylvs.cli.main import main; main()"]
        command += ["run", "-f", str(file), "--state-dir", str(folder / "state")]
        for _ in range(size.whole):
            with contextlib.closing(Manager(folder / "notify")) as manager, open(log, "wb") as output:
                environment = os.environ | {"NOTIFY_SOCKET": str(manager.path)}
                daemon = subprocess.Popen(command, stderr=output, env=environment)
                try:
                    manager.wait_for("READY", daemon, log)
                    start.samples.append(_processor_s(daemon.pid))
                    time.sleep(_CHECKED_S)
                    for measured, value in zip((resident, anonymous), _memory_mb(daemon.pid), strict=True):
                        measured.samples.append(value)
                finally:
                    daemon.kill()  # the namespace's end removes its table
                    daemon.wait()
            manager.path.unlink()
    return {"daemon_memory": resident, "daemon_memory_own": anonymous, "daemon_small": start}


def _weight() -> int:
    """Return the weight of the only server of the first service."""
    key = ServiceKey(Protocol.TCP, _FIRST_VIP, 80)
    (row,) = open_director().service(key).destinations
    return row.destination.weight


def measure(size: Size, progress: Callable[[str], None]) -> dict[str, Measured]:
    """Measure the start, and reloads that change one weight, in seconds."""
    start, reload = Measured(), Measured()
    progress(f"daemon: {size.services:,} services")
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as name, site.new_site("daemon"):
        folder = Path(name)
        file, log = folder / "keepalived.conf", folder / "log"
        file.write_text(configuration(size.services))
        words = ["run", "--no-checks", "-f", str(file), "--state-dir", str(folder / "state")]
        command = [sys.executable, "-c", "from pylvs.cli.main import main; main()", *words]
        with contextlib.closing(Manager(folder / "notify")) as manager, open(log, "wb") as output:
            begin = time.monotonic()
            environment = os.environ | {"NOTIFY_SOCKET": str(manager.path)}
            daemon = subprocess.Popen(command, stderr=output, env=environment)
            try:
                manager.wait_for("READY", daemon, log)
                start.samples.append(time.monotonic() - begin)
                start.processor.append(_processor_s(daemon.pid))
                for number in range(size.whole):
                    progress(f"daemon: reloading {size.services:,} services, {number + 1} of {size.whole}")
                    file.write_text(configuration(size.services, number + 1))
                    begin, used = time.monotonic(), _processor_s(daemon.pid)
                    daemon.send_signal(signal.SIGHUP)
                    manager.wait_for("READY", daemon, log)
                    reload.samples.append(time.monotonic() - begin)
                    reload.processor.append(_processor_s(daemon.pid) - used)
                    if _weight() != number + 2:
                        raise DaemonFailed("pylvs run: after a reload the table is not the new one")
            finally:
                daemon.kill()  # the namespace's end removes its table
                daemon.wait()
    return {"daemon_start": start, "daemon_reload": reload}
