"""Run scenarios of the wire lab in memory, with the reference as the director and a simulated clock.

A small stack answers what IPVS passes to the host: resets, unreachable ports, echo replies, and routing.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from pylvs.ipvsadm.commands import Session
from pylvs.model.errors import PylvsError
from pylvs.model.settings import parse_setting
from pylvs.reference.director import ReferenceDirector
from pylvs.reference.forwarding import Network, NextHop
from pylvs.reference.path import SOURCE_ROUTED, Verdict

ORACLE, GOLDEN = (Path(__file__).parents[2] / name for name in ("oracle", "golden"))
sys.path.insert(0, str(ORACLE))

import frames as fr  # noqa: E402  -- the oracle's own modules, once their directory is on the path
import harness  # noqa: E402
from plan import DIRECTOR_MAC, GATEWAY_MAC, Plan  # noqa: E402
from wire import Wire  # noqa: E402

MTU = 1500
RECORDING_PACE_S = 10  # the most that the recorder took between frames and listings
Observation = dict[str, Any]


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.director: ReferenceDirector | None = None

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0)
        if self.director is not None and seconds > 0:
            self.director.advance(seconds)


class Stack:
    """The host's stack behind the reference."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def receive(self, frame: bytes) -> list[bytes]:
        """Return the frames that leave."""
        if frame[:6] not in self.network.macs or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            return []
        ip = frame[14:]
        six = ip[0] >> 4 == 6
        if not _well_formed(ip, six):
            return []
        source, target = (ip[8:24], ip[24:40]) if six else (ip[12:16], ip[16:20])
        size, protocol = (40, ip[6]) if six else ((ip[0] & 15) * 4, ip[9])
        length = 40 + int.from_bytes(ip[4:6], "big") if six else int.from_bytes(ip[2:4], "big")
        ip = ip[:length]
        if target not in self.network.local:
            return self._routed(ip, six, source, target)
        src, dst = str(ip_address(target)), str(ip_address(source))
        body = ip[size:]
        answer: bytes | None = None
        if protocol == fr.TCP and len(body) >= 20:
            answer = _reset(src, dst, body)
        elif protocol == fr.UDP and len(body) >= 8:
            answer = _unreachable(src, dst, ip)
        elif protocol in (fr.ICMP, fr.ICMP6) and body[:1] == (b"\x80" if six else b"\x08"):
            kind = 129 if six else 0
            message = fr.icmp(src, dst, kind, 0, int.from_bytes(body[4:8], "big"), body[8:])
            answer = fr.ip(src, dst, protocol, message, **({"flow": 1} if six else {"ident": 1}))
        return [] if answer is None else self._sent(answer)

    def _sent(self, ip: bytes) -> list[bytes]:
        hop = self.network.next_hop(ip[24:40] if ip[0] >> 4 == 6 else ip[16:20])
        if hop is None:
            return []
        return [hop.dmac + hop.smac + (b"\x86\xdd" if ip[0] >> 4 == 6 else b"\x08\x00") + ip]

    def _routed(self, ip: bytes, six: bool, source: bytes, target: bytes) -> list[bytes]:
        if not self.network.forwards(6 if six else 4):
            return []
        forwarded = bytearray(ip)
        if six:
            forwarded[7] -= 1
        else:
            forwarded[8] -= 1
            forwarded[10:12] = b"\0\0"
            forwarded[10:12] = fr.checksum(bytes(forwarded[: (ip[0] & 15) * 4])).to_bytes(2, "big")
        return self._sent(bytes(forwarded))


def _well_formed(ip: bytes, six: bool) -> bool:
    if six:
        return len(ip) >= 40 and 40 + int.from_bytes(ip[4:6], "big") <= len(ip)
    size = (ip[0] & 15) * 4
    length = int.from_bytes(ip[2:4], "big")
    return 20 <= size <= length <= len(ip) and not fr.checksum(ip[:size])


def _reset(src: str, dst: str, body: bytes) -> bytes | None:
    sport, dport, seq, ack, words, bits = struct.unpack("!HHIIBB", body[:14])
    if bits & 4:
        return None
    if bits & 16:
        segment = fr.tcp(src, dst, dport, sport, "R", seq=ack, window=0)
    else:
        ends = seq + (bits >> 1 & 1) + (bits & 1) + len(body) - (words >> 4) * 4
        segment = fr.tcp(src, dst, dport, sport, "RA", seq=0, ack=ends & 0xFFFFFFFF, window=0)
    return fr.ip(src, dst, fr.TCP, segment, **({"flow": 1} if ":" in src else {"df": True}))


def _unreachable(src: str, dst: str, ip: bytes) -> bytes:
    if ":" in src:
        return fr.ip(src, dst, fr.ICMP6, fr.icmp(src, dst, 1, 4, 0, ip[:1232]))
    return fr.ip(src, dst, fr.ICMP, fr.icmp(src, dst, 3, 3, 0, ip[:548]), tos=0xC0, ident=1)


class SimulatedWire(Wire):
    """A wire in memory."""

    clock: Clock
    director: ReferenceDirector
    stack: Stack

    def fresh(
        self,
        *,
        plan: Plan | None = None,
        ip_forward: int = 0,
        vips: int = 8,
        route_mtu: dict[str, int] | None = None,
        local_vips: bool = True,
        loose: bool = True,
        extra: Sequence[str] = (),
    ) -> None:
        """Start with a new, empty director."""
        self.hear = frozenset()
        self.plan = plan or self.plan
        self._addresses(vips, local_vips)
        self._neighbours()
        own = [self.plan.v4.dip, self.plan.v6.dip]
        own += [a.vip(n) for a in (self.plan.v4, self.plan.v6) for n in range(1, vips + 1 if local_vips else 1)]
        self._own |= set(own)
        saddr4, saddr6 = fr.packed(self.plan.v4.dip), fr.packed(self.plan.v6.dip)
        mac = fr.mac_bytes(DIRECTOR_MAC)

        def hop(to: str, mtu: int = MTU) -> NextHop:
            return NextHop("d0", fr.mac_bytes(to), mac, mtu, saddr4, saddr6)

        mtus = route_mtu or {}
        hops = {fr.packed(a): hop(link, mtus.get(a, MTU)) for a, link in self._links.items() if link != DIRECTOR_MAC}
        network = Network(
            frozenset({mac}),
            frozenset(map(fr.packed, own)),
            hops,
            hop(GATEWAY_MAC),
            hop(GATEWAY_MAC),
            bool(ip_forward),
            bool(ip_forward),
        )
        self.director = ReferenceDirector(network, strict=True)
        self.stack = Stack(network)
        self.clock.director = self.director
        self._born = self.clock.now

    def age(self) -> float:
        return self.clock.now - self._born

    def remove(self) -> None:
        """Do nothing."""

    def command(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ipvsadm or sysctl in this process."""
        out, errors = io.StringIO(), io.StringIO()
        if argv[0] == "ipvsadm":
            status = Session(self.director, io.StringIO(stdin), out, errors).run(argv[1:]).status
        elif argv[0] == "sysctl":
            try:
                setting, value = parse_setting(argv[-1])
                self.director.change_setting(setting.name, value)
                status = 0
            except PylvsError as error:
                status = 1
                print(error, file=errors)
        else:
            raise AssertionError(f"no such command here: {shlex.join(argv)}")
        assert not (check and status), f"{shlex.join(argv)}: {errors.getvalue()}"
        return subprocess.CompletedProcess(argv, status, out.getvalue(), errors.getvalue())

    def listen(self) -> list[bytes]:
        return []

    def emit(self, sent: Iterable[bytes]) -> list[bytes]:
        """Send each frame through the reference, and what it passes to the stack through the stack."""
        received: list[bytes] = []
        for frame in sent:
            decision = self.director.receive(frame)
            if decision.verdict is Verdict.SENT:
                received += [_numbered(out, self._own) for _, out in decision.sent]
            elif decision.verdict is Verdict.STACK and decision.reason != SOURCE_ROUTED:
                received += self.stack.receive(decision.frame)
        return [frame for frame in received if self._worth(frame)]


def _numbered(frame: bytes, own: set[str]) -> bytes:
    """Add an identification, as the kernel does for its own packets that may be fragmented."""
    if frame[12:14] == b"\x86\xdd" and frame[20] == fr.FRAGMENT and frame[58:62] == bytes(4):
        return frame[:58] + b"\0\0\0\1" + frame[62:]
    if frame[12:14] != b"\x08\x00" or frame[18:20] != b"\0\0" or frame[20] & 0x40:
        return frame
    if str(ip_address(frame[26:30])) not in own:
        return frame
    head = frame[14:18] + b"\xff\xfe" + frame[20:24] + b"\0\0" + frame[26:34]
    return frame[:14] + head[:10] + fr.checksum(head).to_bytes(2, "big") + head[12:] + frame[34:]


@contextmanager
def simulated_time() -> Iterator[Clock]:
    """Replace the clock: sleeping takes no time."""
    clock = Clock()
    with mock.patch("time.sleep", clock.sleep), mock.patch("time.monotonic", clock.time):
        yield clock


@contextmanager
def few_addresses() -> Iterator[None]:
    """Cache parsed addresses, because parsing took most of the time."""
    with mock.patch.object(fr, "ip_address", cache(ip_address)), mock.patch.object(fr, "packed", cache(fr.packed)):
        yield


def observed(name: str) -> list[Observation]:
    """Return a scenario's observations, with the reference as director."""
    path = ORACLE / "scenarios" / f"{name}.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"scenario_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with simulated_time() as clock, few_addresses():
        wire = SimulatedWire()
        wire.clock = clock
        found: list[Observation] = json.loads(json.dumps(module.run(wire)))
    return found


def recorded(name: str) -> list[Observation]:
    """Return the observations of the real IPVS."""
    return harness.read(GOLDEN / f"{name}.json")


def compared(name: str, expected: list[Observation], got: list[Observation]) -> tuple[int, int, list[str]]:
    """Return the numbers of equal and different observations, and a line for each difference.

    Time passed in recordings only.
    """
    theirs = {row["step"]: row for row in got}
    passed, lines = 0, []
    for row in expected:
        step = row["step"]
        other = theirs.pop(step, None)
        if other is None:
            wrong = [("observation", "(made)", "(absent)")]
        else:
            wrong = list(harness.differences(row, other, slack=RECORDING_PACE_S))
        passed += not wrong
        lines += [f"{name}: {step}: {field}: expected {one!r}, got {two!r}" for field, one, two in wrong]
    failed = len(expected) - passed + len(theirs)
    return passed, failed, lines + [f"{name}: {step}: made, but not expected" for step in theirs]
