"""Run the real ldirectord on a director of pylvs: nine real servers in five services, on two hosts and one link.

`python -m tests.interop.ldirectord`, as root, measures its start: the time until the last real server is in the table,
and the ipvsadm calls.
"""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.model.rows import ServiceRow
from pylvs.system.namespaces import inside_network
from tests.iproute import ip_batch
from tests.termination import unwind_on_sigterm
from tests.waiting import until

PROGRAM = "/usr/sbin/ldirectord"
CALLED = "/sbin/ipvsadm"  # ldirectord does not use PATH
VIP, VIP6 = "192.0.2.100", "2001:db8::100"
DIRECTOR, DIRECTOR6, CLIENT = "192.0.2.1", "2001:db8::1", "192.0.2.5"
NAME = "pylvs.cf"
TRIALS = 5
PAGE = b"here I am\n"

CONFIGURATION = """\
checktimeout=30
checkinterval=1
autoreload=no
quiescent=no
logfile="{folder}/log"

virtual=192.0.2.100:80
    real=192.0.2.11:80 gate 1
    real=192.0.2.12:80 gate 2
    fallback=127.0.0.1:80 gate
    service=http
    request="/"
    receive="here"
    scheduler=wrr
    protocol=tcp
    checktype=negotiate

virtual=192.0.2.100:8080
    real=192.0.2.13:80 masq
    real=192.0.2.14:8081 masq
    service=http
    request="/"
    receive="here"
    scheduler=wlc
    persistent=60
    netmask=255.255.255.0
    quiescent=yes
    protocol=tcp
    checktype=negotiate

virtual6=[2001:db8::100]:80
    real6=[2001:db8::11]:80 gate
    real6=[2001:db8::12]:80 gate
    scheduler=rr
    protocol=tcp
    checktype=connect

virtual=1
    real=192.0.2.15:80 ipip
    real=192.0.2.16:80 ipip
    scheduler=rr
    protocol=fwm
    checktype=connect
    checkport=80

virtual=192.0.2.100:53
    real=192.0.2.17:53 gate
    scheduler=rr
    ops=yes
    protocol=udp
    checktype=connect
"""
IPV4 = tuple(f"192.0.2.{number}" for number in range(11, 18))
IPV6 = ("2001:db8::11", "2001:db8::12")
SERVERS = frozenset(IPV4 + IPV6)
WEB = SERVERS - {IPV4[-1]}  # the last one answers only pings
MAPPED = {"192.0.2.14": 8081}  # NAT
FALLBACK = "127.0.0.1"
POLL_S = 0.1  # of the table


def why_not() -> str:
    """Return why it cannot run; "" if it can."""
    return "" if shutil.which(PROGRAM) else "ldirectord is not installed"


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


class _WebServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        super().__init__((address, port), _Page)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def die(self) -> None:
        self.shutdown()
        self.server_close()


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from `start` until the last real server was in the table, and the ipvsadm calls."""

    seconds: float
    calls: int

    def __str__(self) -> str:
        return (
            f"ldirectord: {self.seconds:.1f} s and {self.calls} ipvsadm calls until {len(SERVERS)} real servers of"
            " 5 services are in the table"
        )


@dataclass
class Site:
    """A director, and a host with all real servers and a client; ldirectord's files are in `folder`."""

    director: Path
    servers: Path
    folder: Path
    _running: dict[str, _WebServer] = field(default_factory=dict)

    def begin(self, address: str) -> None:
        """Start a real server."""
        with inside_network(self.servers):
            self._running[address] = _WebServer(address, MAPPED.get(address, 80))

    def die(self, address: str) -> None:
        """Stop a real server."""
        self._running.pop(address).die()

    def close(self) -> None:
        """Stop all real servers."""
        for address in list(self._running):
            self.die(address)

    def ldirectord(self, word: str) -> None:
        """Run `ldirectord FILE WORD` on the director, with our ipvsadm, which counts its calls."""
        words = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && exec "$3" "$4" "$5"', "sh"]
        words += [str(self.folder / "ipvsadm"), CALLED, PROGRAM, str(self.folder / NAME), word]
        with inside_network(self.director):
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120)

    def services(self) -> Sequence[ServiceRow]:
        with inside_network(self.director):
            return BpfDirector(State.open()).services()

    def weights(self) -> dict[str, int]:
        """Return weights by the addresses of real servers, each of which has one service."""
        every = [each.destination for row in self.services() for each in row.destinations]
        return {str(each.key.address): each.weight for each in every}

    def serves_all(self) -> bool:
        """Return whether every real server gets new connections, and the fallback none."""
        weights = self.weights()
        return weights.keys() == SERVERS and all(weights.values())

    def calls(self) -> list[str]:
        """Return status and arguments of every finished ipvsadm call."""
        with suppress(FileNotFoundError):
            return (self.folder / "calls").read_text().splitlines()
        return []

    def log(self) -> str:
        """Return ldirectord's log."""
        with suppress(FileNotFoundError):
            return (self.folder / "log").read_text()
        return "it has printed nothing"

    def await_that(self, holds: Callable[[], object], what: str) -> None:
        """Wait; a failure shows the table and the log."""
        until(holds, lambda: f"{what}\n{self.weights()}\n{self.log()[-2000:]}", pause_s=POLL_S)

    @property
    def pid_file(self) -> Path:
        """Return the file with ldirectord's PID."""
        return Path("/var/run", f"ldirectord.{NAME}.pid")


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Make both hosts with all real servers up; remove them afterwards."""
    near, far = (f"pylvs-ld{side}{os.getpid()}" for side in "ds")
    made = Site(Path("/run/netns", near), Path("/run/netns", far), folder)
    with ExitStack() as undo:
        for name in near, far:
            subprocess.run(["ip", "netns", "add", name], check=True)
            undo.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        ip_batch([f"link add eth0 netns {near} type veth peer name eth0 netns {far}"])
        for name, addresses in (near, (DIRECTOR, VIP, DIRECTOR6, VIP6)), (far, (CLIENT, *IPV4, *IPV6)):
            lines = ["link set lo up", "link set eth0 up"]
            lines += [f"addr add {each}{'/64 nodad' if ':' in each else '/24'} dev eth0" for each in addresses]
            ip_batch(lines, name)
        (folder / NAME).write_text(CONFIGURATION.format(folder=folder))
        ours = Path(sys.executable).with_name("ipvsadm")
        script = f'#!/bin/sh\n"{ours}" "$@"\nstatus=$?\necho "$status $*" >>"{folder}/calls"\nexit $status\n'
        (folder / "ipvsadm").write_text(script)
        (folder / "ipvsadm").chmod(0o755)
        undo.callback(made.close)
        for address in WEB:
            made.begin(address)
        yield made


@contextmanager
def started(where: Site) -> Iterator[Start]:
    """Run ldirectord as its init script does, and wait until every real server is in the table."""
    begin = time.monotonic()
    where.ldirectord("start")
    try:
        where.await_that(where.serves_all, "every real server is in the table")
        yield Start(time.monotonic() - begin, len(where.calls()))
    finally:
        where.ldirectord("stop")
        where.await_that(lambda: not where.pid_file.exists(), "ldirectord has ended")


def main() -> int:
    """Print the times of some starts."""
    unwind_on_sigterm()
    found: list[float] = []
    for _ in range(TRIALS):
        with (
            tempfile.TemporaryDirectory(prefix="pylvs-ld-") as name,
            site(Path(name)) as where,
            started(where) as start,
        ):
            print(start, flush=True)
            found.append(start.seconds)
    print(f"median of {TRIALS}: {statistics.median(found):.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
