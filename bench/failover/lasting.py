"""Connections that carry data all the time. Standard library alone.

`python lasting.py SOURCE ADDRESS COUNT PORT...` opens COUNT connections to each port, and prints "ready". Then it sends
something on each of them, a quarter of a second after its last answer. At each line of input,
every connection has to be answered once more. A line of JSON follows: how many were reset since the last one, how many
are silent, and the longest time between two answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time

PAUSE_S = 0.25  # of a connection, after an answer
PATIENCE_S = 60.0  # without an answer a connection is silent
_OPENED_S = 60.0
_NICE = -10  # other processes must not delay the measurement


class Lasting:
    """All connections of this process."""

    def __init__(self, source: str, address: str, count: int, ports: list[int]) -> None:
        """Open them. Raises OSError."""
        self._ready = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._answered: dict[int, float] = {}  # when; of those that were asked since then, too
        self._asked: dict[int, float] = {}  # those that have not answered
        self.reset = 0
        self.longest_s = 0.0
        for port in ports:
            for _ in range(count):
                made = socket.create_connection((address, port), _OPENED_S, (source, 0))
                made.setblocking(False)
                self._open[made.fileno()] = made
                self._answered[made.fileno()] = time.monotonic()
                self._ready.register(made, select.EPOLLIN)

    def ask(self) -> None:
        """Send on the connections that are due."""
        now = time.monotonic()
        for number, answered in list(self._answered.items()):
            if number not in self._asked and now >= answered + PAUSE_S:
                self._asked[number] = now
                try:
                    self._open[number].send(b"?")
                except OSError:
                    self._lose(number)

    def receive(self, wait_s: float) -> bool:
        """Take the answers that come within this time; return whether there is input."""
        has_input = False
        for number, _ in self._ready.poll(wait_s):
            if number not in self._open:
                has_input = True
                continue
            try:
                answer = self._open[number].recv(64)
            except OSError:
                answer = b""
            if not answer:
                self._lose(number)
                continue
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - self._answered[number])
            self._answered[number] = now
            self._asked.pop(number, None)
        return has_input

    def _lose(self, number: int) -> None:
        self.reset += 1
        self._ready.unregister(number)
        self._open.pop(number).close()
        del self._answered[number]
        self._asked.pop(number, None)

    def report(self) -> dict[str, float]:
        """Wait until each is answered once more, or is silent; return what was seen since the last report."""
        since = time.monotonic()
        while left := [each for each, at in self._answered.items() if at <= since]:
            if time.monotonic() > since + PATIENCE_S:
                break
            self.ask()
            self.receive(0.05)
        found = {"reset": self.reset, "silent": len(left), "longest_s": self.longest_s}
        self.reset, self.longest_s = 0, 0.0
        return found

    def run(self) -> None:
        """Go on until the input ends."""
        self._ready.register(0, select.EPOLLIN)
        while True:
            self.ask()
            if self.receive(0.05):
                if not os.read(0, 100):
                    return
                print(json.dumps(self.report()), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    lasting = Lasting(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(each) for each in sys.argv[4:]])
    print("ready", flush=True)
    lasting.run()
