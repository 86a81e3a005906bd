"""Measure the processor time of a health check, of pylvs and of keepalived with the same file."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from bench import keepalived, site
from bench.processes import used_by_process_s
from bench.program import Progress
from bench.rows import Measured
from pylvs.config.compile.document import build
from pylvs.config.language.parser import read
from pylvs.health.engine import Engine
from pylvs.health.prober.link import ProberLink
from pylvs.health.probes import CheckContext
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.model.wanted import Configuration
from pylvs.system.garbage import settle_garbage

FIRST_SERVER = IPv4Address("127.1.0.1")  # lo answers for all of 127.0.0.0/8, and nginx on each of them
PORT = 80
_CHECKS = {"tcp": "TCP_CHECK {\n}", "http": "HTTP_GET {\nurl {\npath /\n}\n}"}
_PATIENCE_S = 30

_NGINX = """\
daemon off;
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server {{ listen {port} backlog=4096; location / {{ return 200 "This is a real server!\\n"; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How many real servers are checked, how often, and for how long."""

    servers: int = 10_000
    delay_s: float = 10.0
    window_s: float = 10.0


QUICK = Size(100, 0.5, 5.0)


class ChecksFailed(PylvsError):
    """Too few checks were made, or servers are down."""


@contextmanager
def _nginx(folder: Path) -> Iterator[None]:
    """Run a web server on every address of lo."""
    file = folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, port=PORT))
    words = ["nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(file)]
    try:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Unsupported("there is no nginx; install it: apt install nginx") from None
    try:
        yield
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def _text(kind: str, size: Size) -> str:
    """The configuration: one service with many real servers, each with this check."""
    servers = "".join(
        f"real_server {FIRST_SERVER + number} {PORT} {{\n{_CHECKS[kind]}\n}}\n" for number in range(size.servers)
    )
    head = f"lb_kind NAT\nprotocol TCP\ndelay_loop {size.delay_s:g}\nquorum 1"
    return f"virtual_server {site.VIP} {PORT} {{\n{head}\n{servers}}}\n"


def _connections() -> int:
    """Return how many connections the servers of this network namespace have accepted."""
    lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(values[names.index("PassiveOpens")])


def _found(used_s: float, made: int, size: Size) -> Measured:
    """Return the microseconds of a check. Raises ChecksFailed if there were hardly any."""
    wanted = size.servers * size.window_s / size.delay_s
    if made < wanted / 10:
        raise ChecksFailed(f"checks in {size.window_s:g} s: {made} of {wanted:.0f}; this machine is too busy")
    return Measured([used_s / made * 1e6])


async def _ours(configuration: Configuration, size: Size) -> Measured:
    """Measure the engine and the prober process, after the first check of each server."""
    link = ProberLink()
    engine = Engine(
        configuration, lambda check, service, server: link.probe_of(check, CheckContext(server.destination.weight))
    )
    settle_garbage()  # as the daemon does
    engine.start()

    def used_s() -> float:
        return time.process_time() + used_by_process_s(link.process.pid)

    try:
        begin, deadline = _connections(), time.monotonic() + _PATIENCE_S + size.delay_s
        while _connections() - begin < size.servers and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        made, used = _connections(), used_s()
        await asyncio.sleep(size.window_s)
        found = _found(used_s() - used, _connections() - made, size)
        wrong = [each.reason for service in engine.snapshot() for each in service.servers if not each.up]
        if wrong:
            raise ChecksFailed(f"servers that are down: {len(wrong)}; the first: {wrong[0]}")
        return found
    finally:
        await engine.close()
        await link.close()


def _theirs(file: Path, library: Path, size: Size) -> Measured:
    """Measure keepalived's checks, after the first check of each server."""
    with keepalived.running(file, library) as process:
        deadline = time.monotonic() + _PATIENCE_S + size.delay_s
        begin = _connections()
        while _connections() - begin < size.servers and time.monotonic() < deadline:
            time.sleep(0.1)
        made, used = _connections(), keepalived.used_s(process)
        time.sleep(size.window_s)
        return _found(keepalived.used_s(process) - used, _connections() - made, size)


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Return rows of TCP and HTTP checks, in microseconds; without keepalived only ours."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as name, site.new_site("checks"):
        folder = Path(name)
        with _nginx(folder):
            for kind in _CHECKS:
                file = folder / f"{kind}.conf"
                file.write_text(_text(kind, size))
                progress(f"checks: {size.servers:,} real servers, {kind}")
                configuration, _ = build(read(str(file))[0])
                results[f"check_{kind}"] = asyncio.run(_ours(configuration, size))
                try:
                    library = keepalived.preload(folder)
                    progress(f"checks: {size.servers:,} real servers, {kind}, by keepalived")
                    results[f"check_{kind}_keepalived"] = _theirs(file, library, size)
                except Unsupported as error:
                    progress(f"checks: {error}")
    return results
