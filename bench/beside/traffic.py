"""Compile `traffic.c`, start it on a wire, and request one measurement after the other."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.beside.wire import Wire
from bench.processes import compile_c
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, Unsupported

SOURCE = Path(__file__).with_name("traffic.c")
_TRIES = 20  # each takes two seconds at most: a link that was set up carries a moment later


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of traffic: what is counted, and how much of it is sent."""

    name: str
    unit: str
    width: int
    rounds: int


UDP = Kind("udp", "packet", 64, 300)
ECHO = Kind("echo", "exchange", 64, 150)
CONNECT = Kind("connect", "connection", 1, 600)
HTTP = Kind("http", "request", 16, 150)
BULK = Kind("bulk", "segment", 44, 150)
KINDS = (UDP, ECHO, CONNECT, HTTP, BULK)


@dataclass(frozen=True, slots=True)
class Aim:
    """Where the client sends to, and where the server listens for it."""

    target: str
    port: int
    server: str
    server_port: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A result: units sent and arrived, and ns a unit (of the median round, and the mean of all)."""

    sent: int
    arrived: int
    median_ns: float
    mean_ns: float


class Lost(PylvsError):
    """Some of the traffic did not arrive."""


def compile_traffic(folder: Path) -> Path:
    """Compile the program into this folder. Raises Unsupported."""
    return compile_c(SOURCE, folder / "traffic")


class Traffic:
    """The running program."""

    def __init__(self, process: subprocess.Popen[str], part: float) -> None:
        self._process = process
        self._part = part

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unsupported("the traffic's program has ended") from None
        return self._process.stdout.readline().strip()

    def send(self, kind: Kind, aim: Aim) -> Taken:
        """Run one measurement. Raises Lost unless everything arrived."""
        rounds = max(round(kind.rounds * self._part), 1)
        what = f"{kind.name} {aim.target} {aim.port} {aim.server} {aim.server_port}"
        reply = self._ask(f"{what} {kind.width} {rounds}")
        words = reply.split()
        if len(words) != 4 or words[0] == "error":
            raise Lost(f"{what}: {reply or 'the program of the traffic has ended'}")
        taken = Taken(int(words[0]), int(words[1]), float(words[2]), float(words[3]))
        if taken.arrived != taken.sent:
            raise Lost(f"{what}: {taken.arrived} of {taken.sent} {kind.unit}s arrived")
        return taken

    def wait(self, aim: Aim) -> None:
        """Wait until a packet crosses the wire. Raises Lost."""
        for left in reversed(range(_TRIES)):
            try:
                self.send(Kind("udp", "packet", 1, 1), aim)
                return
            except Lost:
                if not left:
                    raise


@contextlib.contextmanager
def running(wire: Wire, program: Path, part: float = 1) -> Iterator[Traffic]:
    """Run the program on a wire, with `part` of the rounds of each kind."""
    words = [str(program), wire.path("client"), wire.path("server")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            traffic = Traffic(process, part)
            yield traffic
        finally:
            process.kill()
