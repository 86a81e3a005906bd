"""The compared programs on a host of a segment: the real keepalived, and pylvs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from pylvs.dataplane import load
from pylvs.dataplane.state import State, roles_directory
from pylvs.lab.processes import identity, kill_all
from pylvs.system import proc
from pylvs.system.namespaces import inside_network
from tests.interop.keepalived import PROGRAM
from tests.interop.vrrp.observer import AH, VRRP
from tests.interop.vrrp.segment import Segment

PATIENCE_S = 60.0
KEEPALIVED, PYLVS = "keepalived", "pylvs"
# The log messages of keepalived about packets that it drops.
REFUSAL_WORDS = ("invalid", "incorrect", "bogus", "mismatch", "expected", "bad ", "sequence number", "discard", "drop")
NO_REFUSAL = "received lower priority"  # correctly dropped


@dataclass
class Router(ABC):
    """A program on a host, with a directory for its files."""

    where: Segment
    host: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    commanded: list[float] = field(default_factory=list)  # when it was started, ended, or made faulty

    @property
    def configuration(self) -> Path:
        """Return its keepalived.conf."""
        return self.folder / "keepalived.conf"

    @abstractmethod
    def command(self) -> list[str]:
        pass

    def start(self) -> None:
        """Start it; the wire shows whether it sends."""
        self.commanded.append(time.time())
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
        return dict(os.environ)

    def signal_process(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Stop it as an operator does: it may send a last advertisement."""
        self.commanded.append(time.time())
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """Stop as in a power failure: suspend all processes, then kill them. What they configured stays."""
        mine = identity(self.where.path(self.host))
        assert mine
        kill_all(mine)
        self.commanded.append(time.time())  # only now, because it may still have sent
        if self.process is not None:
            self.process.wait(PATIENCE_S)
            self.process = None

    def end(self) -> None:
        """Remove what it left outside of its namespace."""
        self.kill()

    def listens(self) -> bool:
        """Return whether it has a socket for advertisements."""
        assert self.process is not None
        tables = [Path(f"/proc/{self.process.pid}/net/{name}") for name in ("raw", "raw6")]
        rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        return any(int(row[1].rpartition(":")[2], 16) in (VRRP, AH) for row in rows)

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    @abstractmethod
    def refusals(self) -> list[str]:
        """Return its log lines about refused packets."""


class Keepalived(Router):
    """VRRP alone, in the foreground, with its own PID files."""

    def command(self) -> list[str]:
        """Return the command without logs to syslog."""
        pids = [f"--pid={self.folder}/pid", f"--vrrp_pid={self.folder}/vrrp"]
        words = [PROGRAM, "--vrrp", "--dont-fork", "--log-console", "--no-syslog", "--log-detail", *pids]
        return [*words, f"--use-file={self.configuration}"]

    def start(self) -> None:
        """Remove what a killed one left, which prevents a start.

        With `use_vmac` its kernel asks for neighbours from the interface, and they learn that link address: keepalived
        leaves it to the operator to prevent this.
        """
        for name in ("pid", "vrrp"):
            (self.folder / name).unlink(missing_ok=True)
        with inside_network(self.where.path(self.host)):
            proc.write("net/ipv4/conf/all/arp_announce", "2")
        super().start()

    def refusals(self) -> list[str]:
        """Return lines about packets."""
        lines = [line for line in self.log() if any(word in line.lower() for word in REFUSAL_WORDS)]
        return [line for line in lines if NO_REFUSAL not in line]


class Pylvs(Router):
    """`pylvs run` with its own state."""

    def command(self) -> list[str]:
        """Return the command; there are no services, so no checks either."""
        code = "from pylvs.cli.main import main; main()"
        words = [sys.executable, "-c", code, "run", "-f", str(self.configuration), "--no-checks"]
        for option, name in ("-p", "pid"), ("-c", "checkers"), ("-r", "vrrp"):
            words += [option, str(self.folder / f"{name}.pid")]
        return [*words, "--state-dir", str(self.state)]

    @property
    def state(self) -> Path:
        """Return the state directory."""
        return self.folder / "state"

    def environment(self) -> dict[str, str]:
        """Return the environment of this tree."""
        tree = str(Path(__file__).parents[3] / "src")
        return {**os.environ, "PYTHONPATH": tree}

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of pylvs that connects to it."""
        code = "from pylvs.cli.main import main; main()"
        command = [*self.where.inside(self.host), sys.executable, "-c", code, *words, "--state-dir", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=self.environment())

    def end(self) -> None:
        """Remove pinned maps and roles, which outlive a namespace."""
        super().end()
        with inside_network(self.where.path(self.host)):
            state = State.open()
            load.take_down(state)
            shutil.rmtree(roles_directory(state.cookie), ignore_errors=True)

    def refusals(self) -> list[str]:
        """Return lines about dropped packets."""
        return [line for line in self.log() if "dropped" in line]


def router(program: str, where: Segment, host: str, folder: Path) -> Router:
    """Return a router that is not started yet, with a new directory."""
    folder.mkdir(parents=True)
    return {KEEPALIVED: Keepalived, PYLVS: Pylvs}[program](where, host, folder)
