"""How long an address does not answer, as a client sees it: echo requests, one every millisecond or two.

Also a program of its own, of nothing but the standard library, so that it runs by its path in any host:
`python pause.py ADDRESS INTERVAL_S` asks until its input ends, and prints when each answered request was sent. A line
of input is answered with a line once a later request was answered.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TextIO

ECHO = {4: (8, 0), 6: (128, 129)}  # request and reply, ICMP and ICMPv6
PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_HEAD = struct.Struct("!BBHHH")
_STAMP = struct.Struct("!d")
_NICE = -10  # it measures: what else runs should not be seen
_LATE_S = 0.5  # answers to the last requests
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Pause:
    """The longest time between two answered requests, and when it began (seconds since 1970)."""

    seconds: float
    begin: float


class Probe:
    """A socket for echo requests to one address."""

    def __init__(self, address: str) -> None:
        self._version = 6 if ":" in address else 4
        self._address = address
        self._socket = socket.socket(FAMILY[self._version], socket.SOCK_RAW, PROTOCOL[self._version])
        self._socket.setblocking(False)
        self._own = (os.getpid() ^ id(self) >> 4) & 0xFFFF
        self._number = 0

    def fileno(self) -> int:
        """To wait for answers."""
        return self._socket.fileno()

    def ask(self) -> None:
        """Send a request that carries the time; an address that cannot be reached counts as silent."""
        self._number = (self._number + 1) & 0xFFFF
        said = _STAMP.pack(time.time())
        fields = (ECHO[self._version][0], 0, self._own, self._number)
        head = _HEAD.pack(fields[0], 0, 0, *fields[2:])
        total = _checksum(head + said) if self._version == 4 else 0  # the kernel writes ICMPv6's
        with contextlib.suppress(OSError):
            self._socket.sendto(_HEAD.pack(fields[0], 0, total, *fields[2:]) + said, (self._address, 0))

    def answers(self) -> Iterator[float]:
        """When the requests were sent that are answered by now."""
        while True:
            try:
                data, _ = self._socket.recvfrom(2048)
            except OSError:
                return
            data = data[(data[0] & 15) * 4 :] if self._version == 4 else data
            if len(data) < _HEAD.size + _STAMP.size:
                continue
            kind, _, _, own, _ = _HEAD.unpack_from(data)
            if kind == ECHO[self._version][1] and own == self._own:
                yield _STAMP.unpack_from(data, _HEAD.size)[0]

    def close(self) -> None:
        """No more."""
        self._socket.close()


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def longest(sent: Sequence[float], since: float = 0.0, until: float = math.inf) -> Pause:
    """Of the times at which answered requests were sent, in any order; as far as it lies between two times."""
    gaps = [Pause(after - before, before) for before, after in pairwise(sorted(sent)) if after > since]
    there = [gap for gap in gaps if gap.begin < until]
    return max(there, key=lambda gap: gap.seconds, default=Pause(0.0, since))


@dataclass
class Watch:
    """What a client saw; `sent` is known when the block has ended."""

    process: subprocess.Popen[str]
    sent: tuple[float, ...] = ()

    def answered(self) -> None:
        """Wait until a request is answered that is sent from now on. Raises TimeoutError."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.expect("answered")

    def expect(self, line: str) -> None:
        """Wait for a line of the program. Raises TimeoutError."""
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], _PATIENCE_S)[0] or output.readline() != f"{line}\n":
            raise TimeoutError("the address does not answer")

    def pause(self, since: float = 0.0, until: float = math.inf) -> Pause:
        """The longest between two times."""
        return longest(self.sent, since, until)


@contextlib.contextmanager
def watched(inside: Sequence[str], address: str, interval_s: float = 0.002) -> Iterator[Watch]:
    """Ask all the time, in a host (`inside` are the words before a command); from the first answer on."""
    command = [*inside, sys.executable, "-I", str(Path(__file__).resolve()), address, str(interval_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        seen = Watch(process)
        try:
            seen.expect("ready")
            yield seen
            said, _ = process.communicate("", timeout=_PATIENCE_S)
            seen.sent = tuple(json.loads(said))
        finally:
            process.kill()


def _run(address: str, interval_s: float) -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    probe = Probe(address)
    listening: list[Probe | TextIO] = [probe, sys.stdin]
    heard: list[float] = []
    due = time.monotonic()
    end = math.inf
    awaited, line = 0.0, "ready"  # what to print when a request is answered that was sent not before a time
    while (now := time.monotonic()) < end:
        asking = end == math.inf
        if now >= due and asking:
            probe.ask()
            due = max(due + interval_s, now)  # what was missed is not made good in a burst
        readable, _, _ = select.select(listening, [], [], max(0.0, due - now) if asking else end - now)
        if probe in readable:
            answers = list(probe.answers())
            heard += answers
            if line and any(sent >= awaited for sent in answers):
                print(line, flush=True)
                line = ""
        if sys.stdin in readable:
            if os.read(sys.stdin.fileno(), 100):
                awaited, line = time.time(), "answered"
            else:
                listening.remove(sys.stdin)
                end = time.monotonic() + _LATE_S
    json.dump(heard, sys.stdout)


if __name__ == "__main__":
    _run(sys.argv[1], float(sys.argv[2]))
