"""The programs that are compared, on a host of a segment: the real keepalived, and pylvs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from pylvs.dataplane.devices import policy
from pylvs.dataplane.state import State
from pylvs.lab.processes import identity, kill_all
from pylvs.system.namespaces import inside_network
from tests.interop.keepalived import PROGRAM
from tests.interop.vrrp.observer import AH, VRRP
from tests.interop.vrrp.segment import Segment

PATIENCE_S = 60.0
KEEPALIVED, PYLVS = "keepalived", "pylvs"
# What keepalived says of a packet that it does not take.
COMPLAINTS = ("invalid", "incorrect", "bogus", "mismatch", "expected", "bad ", "sequence number", "discard", "drop")
NO_COMPLAINT = "received lower priority"  # which it discards as it should


@dataclass
class Router(ABC):
    """One program on one host, with a folder for its files."""

    where: Segment
    host: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def configuration(self) -> Path:
        """The keepalived.conf that it runs."""
        return self.folder / "keepalived.conf"

    @abstractmethod
    def command(self) -> list[str]:
        """What is run."""

    def start(self) -> None:
        """Run it; whether it speaks, the wire tells."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.where.inside(self.host), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        """Of the program."""
        return dict(os.environ)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """As an operator stops it: it may say that it goes."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """As power fails: all its processes stand still, then are gone, and what they set up stays."""
        mine = identity(self.where.path(self.host))
        assert mine
        kill_all(mine)
        if self.process is not None:
            self.process.wait(PATIENCE_S)
            self.process = None

    def end(self) -> None:
        """Nothing of it is left outside of its namespace."""
        self.kill()

    def listens(self) -> bool:
        """Whether it has a socket for advertisements."""
        assert self.process is not None
        tables = [Path(f"/proc/{self.process.pid}/net/{name}") for name in ("raw", "raw6")]
        rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        return any(int(row[1].rpartition(":")[2], 16) in (VRRP, AH) for row in rows)

    def log(self) -> list[str]:
        """What it said."""
        path = self.folder / "log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    @abstractmethod
    def complaints(self) -> list[str]:
        """What it said of packets that it did not like."""


class Keepalived(Router):
    """VRRP alone, in the foreground, with process files of its own."""

    def command(self) -> list[str]:
        """Without a word to the system log."""
        pids = [f"--pid={self.folder}/pid", f"--vrrp_pid={self.folder}/vrrp"]
        words = [PROGRAM, "--vrrp", "--dont-fork", "--log-console", "--no-syslog", "--log-detail", *pids]
        return [*words, f"--use-file={self.configuration}"]

    def start(self) -> None:
        """What a killed one left behind would keep it from starting."""
        for name in ("pid", "vrrp"):
            (self.folder / name).unlink(missing_ok=True)
        super().start()

    def complaints(self) -> list[str]:
        """Lines about packets."""
        said = [line for line in self.log() if any(word in line.lower() for word in COMPLAINTS)]
        return [line for line in said if NO_COMPLAINT not in line]


class Pylvs(Router):
    """`pylvs run` with a state of its own."""

    def command(self) -> list[str]:
        """No service, so no checks either."""
        code = "from pylvs.cli.main import main; main()"
        words = [sys.executable, "-c", code, "run", "-f", str(self.configuration), "--no-checks"]
        return [*words, "--state-dir", str(self.state)]

    @property
    def state(self) -> Path:
        """For asking it."""
        return self.folder / "state"

    def environment(self) -> dict[str, str]:
        """This tree."""
        tree = str(Path(__file__).parents[3] / "src")
        return {**os.environ, "PYTHONPATH": tree}

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of pylvs that speaks with it."""
        code = "from pylvs.cli.main import main; main()"
        command = [*self.where.inside(self.host), sys.executable, "-c", code, *words, "--state-dir", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=self.environment())

    def end(self) -> None:
        """Pinned maps outlive a namespace."""
        super().end()
        with inside_network(self.where.path(self.host)):
            policy.take_down(State.open())

    def complaints(self) -> list[str]:
        """Lines about dropped packets."""
        return [line for line in self.log() if "dropped" in line]


def router(program: str, where: Segment, host: str, folder: Path) -> Router:
    """One that is not started yet, with a folder made for it."""
    folder.mkdir(parents=True)
    return {KEEPALIVED: Keepalived, PYLVS: Pylvs}[program](where, host, folder)
