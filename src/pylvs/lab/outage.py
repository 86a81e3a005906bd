"""Measure how long an address does not answer a client, by echo requests every millisecond or two.

This file is also a program that needs only the standard library, so that it runs by its path in any host.
`python outage.py ADDRESS INTERVAL_S` sends requests until its input ends, and prints when each answered one was sent.
After a line of input it prints a line as soon as a later request is answered.
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
_NICE = -10  # other processes must not delay the measurement
_LATE_S = 0.5  # wait for answers to the last requests
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Outage:
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
        return self._socket.fileno()

    def ask(self) -> None:
        """Send a request with the time; an unreachable address counts as silent."""
        self._number = (self._number + 1) & 0xFFFF
        payload = _STAMP.pack(time.time())
        fields = (ECHO[self._version][0], 0, self._own, self._number)
        head = _HEAD.pack(fields[0], 0, 0, *fields[2:])
        total = _checksum(head + payload) if self._version == 4 else 0  # the kernel writes ICMPv6's
        with contextlib.suppress(OSError):
            self._socket.sendto(_HEAD.pack(fields[0], 0, total, *fields[2:]) + payload, (self._address, 0))

    def answers(self) -> Iterator[float]:
        """Yield when the requests were sent whose answers came."""
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
        self._socket.close()


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def longest_outage(sent: Sequence[float], since: float = 0.0, until: float = math.inf) -> Outage:
    """Return the longest gap between the send times of answered requests, within an interval."""
    gaps = [Outage(after - before, before) for before, after in pairwise(sorted(sent)) if after > since]
    there = [gap for gap in gaps if gap.begin < until]
    return max(there, key=lambda gap: gap.seconds, default=Outage(0.0, since))


@dataclass
class Watch:
    """A client's measurements; `sent` is set when the block ends."""

    process: subprocess.Popen[str]
    sent: tuple[float, ...] = ()

    def answered(self) -> None:
        """Wait until a request sent from now on is answered. Raises TimeoutError."""
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

    def outage(self, since: float = 0.0, until: float = math.inf) -> Outage:
        """Return the longest outage within an interval."""
        return longest_outage(self.sent, since, until)


@contextlib.contextmanager
def watched(inside: Sequence[str], address: str, interval_s: float = 0.002) -> Iterator[Watch]:
    """Send requests from a host, from the first answer on. `inside` are the words that enter the host."""
    command = [*inside, sys.executable, "-I", str(Path(__file__).resolve()), address, str(interval_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        seen = Watch(process)
        try:
            seen.expect("ready")
            yield seen
            output, _ = process.communicate("", timeout=_PATIENCE_S)
            seen.sent = tuple(json.loads(output))
        finally:
            process.kill()


def _run(address: str, interval_s: float) -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    probe = Probe(address)
    inputs: list[Probe | TextIO] = [probe, sys.stdin]
    answered: list[float] = []
    due = time.monotonic()
    end = math.inf
    awaited, line = 0.0, "ready"  # print the line when a request sent at this time or later is answered
    while (now := time.monotonic()) < end:
        asking = end == math.inf
        if now >= due and asking:
            probe.ask()
            due = max(due + interval_s, now)  # do not send missed requests in a burst
        readable, _, _ = select.select(inputs, [], [], max(0.0, due - now) if asking else end - now)
        if probe in readable:
            answers = list(probe.answers())
            answered += answers
            if line and any(sent >= awaited for sent in answers):
                print(line, flush=True)
                line = ""
        if sys.stdin in readable:
            if os.read(sys.stdin.fileno(), 100):
                awaited, line = time.time(), "answered"
            else:
                inputs.remove(sys.stdin)
                end = time.monotonic() + _LATE_S
    json.dump(answered, sys.stdout)


if __name__ == "__main__":
    _run(sys.argv[1], float(sys.argv[2]))
