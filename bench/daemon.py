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
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from bench import site
from bench.commands import Size
from bench.processes import memory_kib, processor_s
from bench.program import Progress
from bench.rows import Measured
from pylvs.dataplane.director import open_director
from pylvs.model.errors import PylvsError
from pylvs.model.service import Protocol, ServiceKey

_FIRST_VIP, _FIRST_SERVER = IPv4Address("10.66.128.0"), IPv4Address("10.66.2.0")
_PATIENCE_S = 900.0
_CHECKED_S = 3.0  # in which each check was made
FILE, LOG, STATE = "keepalived.conf", "log", "state"  # in the folder of a daemon


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


class Daemon:
    """A running `pylvs run`, and the socket on which it reports its state to a service manager (sd_notify)."""

    def __init__(self, process: subprocess.Popen[bytes], manager: socket.socket, folder: Path) -> None:
        self.process = process
        self.start_s = 0.0  # until it was ready
        self._manager = manager
        self._folder = folder

    def wait_ready(self) -> None:
        """Wait until the daemon has started or reloaded. Raises DaemonFailed with the last line of its log."""
        end = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if self._manager.recv(1000).startswith(b"READY=1"):
                    return
        words = (self._folder / LOG).read_text(encoding="utf-8").splitlines() or ["it does not get ready"]
        raise DaemonFailed(f"pylvs run: {words[-1]}")

    def configure(self, text: str) -> None:
        """Replace the configuration, which the daemon reads when it is reloaded."""
        (self._folder / FILE).write_text(text)

    def reload(self) -> None:
        """Let the daemon read its configuration."""
        self.process.send_signal(signal.SIGHUP)

    def processor_s(self) -> float:
        """Return the processor time of the daemon and of its children that have ended."""
        return processor_s(self.process.pid, ended_children=True)


@contextlib.contextmanager
def running(
    folder: Path, text: str, *options: str, ending_s: float = 0, environment: Mapping[str, str] = os.environ
) -> Iterator[Daemon]:
    """Run a daemon with a configuration, and wait until it is ready. Raises DaemonFailed.

    At the end it is killed, and the namespace's end removes its table. With `ending_s` it may first end by itself, and
    the process of its virtual routers with it.
    """
    path = folder / "notify"
    (folder / FILE).write_text(text)
    words = ["run", "-f", str(folder / FILE), "--state-dir", str(folder / STATE), *options]
    command = [sys.executable, "-c", "from pylvs.cli.main import main; main()", *words]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, open(folder / LOG, "wb") as output:
        path.unlink(missing_ok=True)  # of an earlier daemon of this folder
        manager.bind(str(path))
        manager.settimeout(0.1)
        begin = time.monotonic()
        process = subprocess.Popen(command, stderr=output, env={**environment, "NOTIFY_SOCKET": str(path)})
        try:
            daemon = Daemon(process, manager, folder)
            daemon.wait_ready()
            daemon.start_s = time.monotonic() - begin
            yield daemon
        finally:
            if ending_s:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(ending_s)
            process.kill()
            process.wait()


def measure_small(size: Size, progress: Progress) -> dict[str, Measured]:
    """Measure two services with checks: memory after the first checks, and the processor time of the start."""
    resident, anonymous, start = Measured(), Measured(), Measured()
    progress("daemon: 2 services")
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as folder, site.new_site("small-daemon"):
        open_director().make()  # what loading takes is the kernel's time
        for _ in range(size.whole):
            with running(Path(folder), _SMALL) as daemon:
                start.samples.append(daemon.processor_s())
                time.sleep(_CHECKED_S)
                used = memory_kib(daemon.process.pid)
                resident.samples.append(used["VmRSS"] / 1000)
                anonymous.samples.append(used["RssAnon"] / 1000)
    return {"daemon_memory": resident, "daemon_memory_own": anonymous, "daemon_small": start}


def _weight() -> int:
    """Return the weight of the only server of the first service."""
    key = ServiceKey(Protocol.TCP, _FIRST_VIP, 80)
    (row,) = open_director().service(key).destinations
    return row.destination.weight


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Measure the start, and reloads that change one weight, in seconds."""
    start, reload = Measured(), Measured()
    progress(f"daemon: {size.services:,} services")
    with (
        tempfile.TemporaryDirectory(prefix="pylvs-bench-") as folder,
        site.new_site("daemon"),
        running(Path(folder), configuration(size.services), "--no-checks") as daemon,
    ):
        start.samples.append(daemon.start_s)
        start.processor.append(daemon.processor_s())
        for number in range(size.whole):
            progress(f"daemon: reloading {size.services:,} services, {number + 1} of {size.whole}")
            daemon.configure(configuration(size.services, number + 1))
            begin, used = time.monotonic(), daemon.processor_s()
            daemon.reload()
            daemon.wait_ready()
            reload.samples.append(time.monotonic() - begin)
            reload.processor.append(daemon.processor_s() - used)
            if _weight() != number + 2:
                raise DaemonFailed("pylvs run: after a reload the table is not the new one")
    return {"daemon_start": start, "daemon_reload": reload}
