"""Measure when a master advertises first, and how punctual it is then.

The second is the longest gap between two of its advertisements on a busy machine.

The same `pylvs run` also checks, reloads and runs scripts, and every CPU is overloaded. The kernel's clock measures
when the frames reach the other end of the veth pair.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import site
from bench.commands import as_installed
from bench.daemon import Daemon, DaemonFailed, running
from bench.processes import python_beside
from bench.program import Progress
from bench.rows import Measured
from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import OWNER
from pylvs.system.sockets import enlarge

INTERVAL_S = 0.01
RELOAD_EVERY_S = 5.0
SERVICES, PROGRAMS, SCRIPTS = 200, 10, 5
_FAR_END = "d1"
_SETTLING_S = 2.0  # after it became master
_FIRST_S = 30.0  # for the first advertisement
_END_S = 60.0
_BUFFER_BYTES = 4 << 20
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_TIME = struct.Struct("@ll")  # struct timespec
_SLEEPER = """
import contextlib, os, sys, time
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
interval_s, longest_s, before = float(sys.argv[1]), 0.0, time.monotonic()
print(flush=True)
os.set_blocking(0, False)
while sys.stdin.buffer.read(1) is None:
    time.sleep(max(0, before + interval_s - time.monotonic()))
    now = time.monotonic()
    longest_s, before = max(longest_s, now - before), now
print(longest_s * 1000)
"""
_ETH_P_IP, _PROTOCOL_AT, _VRRP = 0x0800, 23, 112


@dataclass(frozen=True, slots=True)
class Size:
    """How long virtual routers are measured."""

    minutes: float = 1.0
    starts: int = 9


QUICK = Size(0.1, 1)


def configuration(changed: int, priority: int = 100, programs: int = SCRIPTS) -> str:
    """A master, scripts that it tracks, and services whose checks never end; `changed` makes each reload another."""
    scripts = "".join(
        f'vrrp_script s{number} {{\n    script "/bin/true"\n    interval 1\n    weight 1\n}}\n'
        for number in range(programs)
    )
    tracked = " ".join(f"s{number}\n" for number in range(programs))
    tracking = f"    track_script {{\n{tracked}    }}\n" if tracked else ""
    router = (
        f"vrrp_instance VI_1 {{\n    interface {site.DEVICE}\n    virtual_router_id 51\n    version 3\n"
        f"    priority {priority + changed % 2}\n    advert_int {INTERVAL_S:g}\n"
        f"    virtual_ipaddress {{\n        10.66.0.101/16\n    }}\n{tracking}}}\n"
    )
    return "global_defs {\n    script_user root\n}\n" + scripts + router + "".join(map(_service, range(SERVICES)))


def _service(number: int) -> str:
    check = "MISC_CHECK {\n misc_path /bin/true\n}" if number < PROGRAMS else "TCP_CHECK {\n connect_timeout 1\n}"
    return (
        f"virtual_server 10.66.{64 + number // 250}.{number % 250 + 1} 80 {{\n delay_loop 1\n lb_kind NAT\n"
        f" protocol TCP\n real_server 127.1.0.{number % 250 + 1} 9 {{\n{check}\n }}\n}}\n"
    )


@dataclass(slots=True)
class Gaps:
    """The gaps between advertisements, in ms."""

    latest_s: float | None = None
    longest_ms: float = 0.0
    count: int = 0
    long: list[float] = field(default_factory=list)  # of twice the interval and more

    def note(self, at_s: float) -> None:
        """Account for an advertisement that was received."""
        if self.latest_s is not None:
            gap_ms = (at_s - self.latest_s) * 1000
            self.longest_ms = max(self.longest_ms, gap_ms)
            if gap_ms >= 2000 * INTERVAL_S:
                self.long.append(gap_ms)
        self.latest_s, self.count = at_s, self.count + 1


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    """Open a socket that receives at the far end of the veth pair."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP)) as receiver:
        enlarge(receiver, _BUFFER_BYTES)
        receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        receiver.bind((_FAR_END, _ETH_P_IP))
        yield receiver


def _listen(receiver: socket.socket, until: float, note: Callable[[float], None]) -> None:
    """Receive until a time of the monotonic clock."""
    while (left := until - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            frame, words, _, _ = receiver.recvmsg(256, 64)
        except TimeoutError:
            return
        if len(frame) > _PROTOCOL_AT and frame[_PROTOCOL_AT] == _VRRP:
            for _, kind, data in words:
                if kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIME.unpack(data)
                    note(seconds + nanoseconds / 1e9)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Keep every CPU busy, with ordinary priority."""
    count = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Return the time of the first advertisement, and the longest gap, in ms. Raises DaemonFailed."""
    return _first(size, progress) | _gap(size, progress)


def _first(size: Size, progress: Progress) -> dict[str, Measured]:
    """Measure how long after the start of an owner of addresses its first advertisement is at the far end."""
    found = Measured()
    text = configuration(0, OWNER, programs=0)
    progress("virtual routers: first advertisement")
    with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as folder, site.new_site("vrrp"):
        installed = as_installed(f"{folder}/cache")
        for number in range(size.starts + 1):
            with _listening() as receiver:
                begin, received = time.time(), list[float]()
                with running(Path(folder), text, ending_s=_END_S, environment=installed):
                    deadline = time.monotonic() + _FIRST_S
                    while not received and time.monotonic() < deadline:
                        _listen(receiver, time.monotonic() + 0.1, received.append)
                if not received:
                    raise DaemonFailed("pylvs run: its virtual router does not become master")
                if number:  # the first start writes the compiled modules
                    found.samples.append((received[0] - begin) * 1000)
    return {"vrrp_first": found}


def _gap(size: Size, progress: Progress) -> dict[str, Measured]:
    with (
        tempfile.TemporaryDirectory(prefix="pylvs-bench-") as folder,
        site.new_site("vrrp"),
        running(Path(folder), configuration(0), ending_s=_END_S) as daemon,
        _listening() as receiver,
        _busy(),
        python_beside(_SLEEPER, str(INTERVAL_S)) as longest,  # of the same priority
    ):
        gaps = _watch(receiver, size, daemon, progress)
    late = ", ".join(f"{each:.1f}" for each in sorted(gaps.long, reverse=True)[:5]) or "none"
    progress(f"virtual routers: {gaps.count:,} advertisements; gaps of two intervals and more, in ms: {late}")
    return {"vrrp_gap": Measured([gaps.longest_ms]), "vrrp_gap_machine": Measured([float(longest[0])])}


def _watch(receiver: socket.socket, size: Size, daemon: Daemon, progress: Progress) -> Gaps:
    first: list[float] = []
    deadline = time.monotonic() + _FIRST_S
    while not first and time.monotonic() < deadline:
        _listen(receiver, time.monotonic() + 0.1, first.append)
    if not first:
        raise DaemonFailed("pylvs run: its virtual router does not become master")
    _listen(receiver, time.monotonic() + _SETTLING_S, first.append)
    gaps, reloads = Gaps(), 0
    end = time.monotonic() + size.minutes * 60
    while (now := time.monotonic()) < end:
        reloads += 1
        progress(f"virtual routers: {(end - now) / 60:.1f} min left, the longest gap {gaps.longest_ms:.2f} ms")
        daemon.configure(configuration(reloads))
        daemon.reload()
        _listen(receiver, min(end, now + RELOAD_EVERY_S), gaps.note)
        daemon.wait_ready()
    if gaps.count < 0.5 * size.minutes * 60 / INTERVAL_S:
        raise DaemonFailed(f"pylvs run: only {gaps.count} advertisements came")
    return gaps
