"""The programs with BFD sessions: pylvs, the real keepalived, FRR's bfdd and BIRD, each in a host's namespace."""

from __future__ import annotations

import http
import json
import os
import pwd
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pylvs.daemon.api.client import Client as DaemonClient
from pylvs.lab.processes import identity, kill_all
from pylvs.vrrp.client import Client
from tests.interop.keepalived import PROGRAM
from tests.interop.vrrp.routers import Pylvs
from tests.interop.vrrp.segment import Segment
from tests.waiting import until_listening

PYLVS, KEEPALIVED, FRR, BIRD = "pylvs", "keepalived", "FRR", "BIRD"
MULTIPLIER = 100  # so that a busy machine does not end a session: 10 s at 100 ms, 30 s at 300 ms
PATIENCE_S = 60.0
FRR_DIRECTORY = Path("/usr/lib/frr")
VTYSH, BIRD_PROGRAM, BIRDC = "/usr/bin/vtysh", "/usr/sbin/bird", "/usr/sbin/birdc"


@dataclass(frozen=True)
class Link:
    """The addresses of a session, and whether a router is between them."""

    here: str
    there: str
    multihop: bool = False

    @property
    def family(self) -> int:
        return 6 if ":" in self.here else 4


@dataclass
class Peer(ABC):
    """A program on a host, with one session to `link.there`."""

    where: Segment
    host: str
    folder: Path
    link: Link
    interval_ms: int = 100
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    disables = False  # whether it can disable the session

    @abstractmethod
    def write(self) -> None:
        """Write the configuration with the present interval."""

    @abstractmethod
    def start(self) -> None:
        pass

    @abstractmethod
    def reload(self) -> None:
        """Let it read its configuration again."""

    @abstractmethod
    def is_up(self) -> bool:
        """Return whether its session is up."""

    @abstractmethod
    def detection(self) -> str:
        """Return what it shows of the interval in which it gets packets, or of its detection time."""

    def set_enabled(self, enabled: bool) -> None:
        """Disable the session, so that it sends AdminDown, or enable it again."""
        raise NotImplementedError

    def run(self, *command: str) -> None:
        """Start a program in the host."""
        with (self.folder / "log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [*self.where.inside(self.host), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    start_new_session=True,
                )
            )

    def kill(self) -> None:
        """Stop it as in a power failure."""
        mine = identity(self.where.path(self.host))
        assert mine
        kill_all(mine)
        for process in self.processes:
            process.wait(PATIENCE_S)
        self.processes.clear()

    def stop(self) -> None:
        """Stop it as an operator does."""
        for process in reversed(self.processes):
            process.terminate()
            process.wait(PATIENCE_S)
        self.processes.clear()

    def end(self) -> None:
        self.kill()

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def asked(self, *command: str) -> str:
        """Return the output of a command; "" if it fails, such as before the program listens."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.stdout if done.returncode == 0 else ""


def bfd_instance(link: Link, interval_ms: int, more: str = "") -> str:
    """Return keepalived's block, which pylvs reads too."""
    lines = [f"neighbor_ip {link.there}", f"source_ip {link.here}", f"multiplier {MULTIPLIER}", more]
    lines += [f"min_rx {interval_ms}", f"min_tx {interval_ms}"]
    lines += ["max_hops 3"] if link.multihop and more != "multihop" else []  # BIRD sends TTL 64 over several hops
    body = "".join(f"    {line}\n" for line in lines if line)
    return f"bfd_instance peer {{\n{body}}}\n"


@dataclass
class PylvsPeer(Peer):
    """`pylvs run` without services and virtual routers."""

    rfc_port: bool = False  # RFC 5883's, where the neighbor has it

    disables = True

    def __post_init__(self) -> None:
        self.program = Pylvs(self.where, self.host, self.folder)

    def write(self) -> None:
        more = "multihop" if self.link.multihop and self.rfc_port else ""
        self.program.configuration.write_text(bfd_instance(self.link, self.interval_ms, more))

    def start(self) -> None:
        self.program.start()

    def reload(self) -> None:
        self.program.signal_process(signal.SIGHUP)

    def is_up(self) -> bool:
        return self.session().get("state") == "Up"

    def detection(self) -> str:
        return str(self.session().get("detection_ms"))

    def set_enabled(self, enabled: bool) -> None:
        if enabled:
            self.write()
            self.reload()
        else:
            self.program.configuration.write_text("global_defs {\n}\n")
            status, reply = DaemonClient(self.program.state).ask("POST", "/v1/reload", {"allow_empty": True})
            assert status == http.HTTPStatus.OK, reply

    def session(self) -> dict[str, Any]:
        """Return the status of the session; {} while there is none."""
        sessions = self.status().get("sessions", [])
        return dict(sessions[0]) if sessions else {}

    def status(self) -> dict[str, Any]:
        try:
            with Client(self.program.state / "vrrp") as client:
                found: dict[str, Any] = client.ask("status")
        except Exception:  # it does not run yet, or any more
            return {}
        return found

    def kill(self) -> None:
        self.program.kill()

    def stop(self) -> None:
        self.program.stop()

    def end(self) -> None:
        self.program.end()


class KeepalivedPeer(Peer):
    """keepalived with BFD alone."""

    def write(self) -> None:
        (self.folder / "keepalived.conf").write_text(bfd_instance(self.link, self.interval_ms))

    def start(self) -> None:
        names = {"pid": "pid", "vrrp_pid": "vrrp", "checkers_pid": "checkers", "bfd_pid": "bfd"}
        for name in names.values():  # a killed one left them, and another process may have its number
            (self.folder / name).unlink(missing_ok=True)
        pids = [f"--{option}={self.folder}/{name}" for option, name in names.items()]
        words = ["--dont-fork", "--log-console", "--no-syslog", "--log-detail", *pids]
        self.run(PROGRAM, *words, f"--use-file={self.folder}/keepalived.conf")

    def reload(self) -> None:
        self.processes[0].send_signal(signal.SIGHUP)

    def is_up(self) -> bool:
        states = [line for line in self.log() if "Entering" in line and "state" in line]
        return bool(states) and "Up state" in states[-1]

    def detection(self) -> str:
        return next((line for line in reversed(self.log()) if "Detection time is" in line), "")


class FrrPeer(Peer):
    """FRR's bfdd with zebra. They run as their own user, who needs a directory that it may enter."""

    disables = True

    def write(self) -> None:
        owner = pwd.getpwnam("frr")
        for path in (self.folder, *(self.folder / name for name in ("zebra.conf", "bfdd.conf"))):
            if path != self.folder:
                path.write_text("")
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def start(self) -> None:
        for name in ("zserv", "zebra.vty", "bfdd.vty", "bfdd.sock"):
            (self.folder / name).unlink(missing_ok=True)
        common = ["-u", "frr", "-g", "frr", "-A", "127.0.0.1", "-P", "0", "-z", f"{self.folder}/zserv"]
        common += [f"--vty_socket={self.folder}", "--log", "stdout"]
        own = {"zebra": [], "bfdd": ["--bfdctl", f"{self.folder}/bfdd.sock"]}
        for name, more in own.items():
            files = ["-f", f"{self.folder}/{name}.conf", "-i", f"{self.folder}/{name}.pid"]
            self.run(str(FRR_DIRECTORY / name), *common, *files, *more)
        until_listening(self.folder / "bfdd.vty")
        self.reload()

    def reload(self) -> None:
        interval = str(self.interval_ms)
        timers = [f"receive-interval {interval}", f"transmit-interval {interval}", f"detect-multiplier {MULTIPLIER}"]
        self.vty("configure terminal", "bfd", self._peer(), *timers)

    def set_enabled(self, enabled: bool) -> None:
        self.vty("configure terminal", "bfd", self._peer(), "no shutdown" if enabled else "shutdown")

    def _peer(self) -> str:
        hops = "multihop " if self.link.multihop else ""
        return f"peer {self.link.there} {hops}local-address {self.link.here}"

    def is_up(self) -> bool:
        return self.session().get("status") == "up"

    def detection(self) -> str:
        return str(self.session().get("remote-transmit-interval"))

    def session(self) -> dict[str, Any]:
        text = self.vty("show bfd peers json")
        found = json.loads(text) if text else []
        return dict(found[0]) if found else {}

    def vty(self, *commands: str) -> str:
        words = [word for command in commands for word in ("-c", command)]
        return self.asked(VTYSH, f"--vty_socket={self.folder}", "-d", "bfdd", *words)


class BirdPeer(Peer):
    """BIRD with its protocol bfd."""

    def write(self) -> None:
        (self.folder / "bird.conf").write_text("".join(f"{line}\n" for line in self._lines()))

    def _lines(self) -> Iterator[str]:
        timers = f"interval {self.interval_ms} ms; min tx interval {self.interval_ms} ms; multiplier {MULTIPLIER};"
        yield 'log "bird.log" all;'
        yield "router id 10.66.0.2;"
        yield "protocol device { }"
        yield "protocol bfd peer {"
        yield f'    interface "eth*" {{ min rx {timers} }};'
        yield f"    multihop {{ min rx {timers} }};"
        device = "multihop yes" if self.link.multihop else 'dev "eth0"'
        order = f"local {self.link.here} {device}" if self.link.multihop else f"{device} local {self.link.here}"
        yield f"    neighbor {self.link.there} {order};"
        yield "}"

    def start(self) -> None:
        (self.folder / "sock").unlink(missing_ok=True)
        config = ["-c", f"{self.folder}/bird.conf", "-s", f"{self.folder}/sock", "-P", f"{self.folder}/pid"]
        self.run(BIRD_PROGRAM, "-f", *config)

    def reload(self) -> None:
        self.birdc("configure")

    def is_up(self) -> bool:
        return len(words := self._words()) > 2 and words[2] == "Up"

    def detection(self) -> str:
        words = self._words()
        return words[-1] if words else ""

    def _words(self) -> list[str]:
        lines = [line.split() for line in self.birdc("show", "bfd", "sessions").splitlines()]
        address = str(ip_address(self.link.there))
        return next((words for words in lines if words and words[0] == address), [])

    def birdc(self, *words: str) -> str:
        return self.asked(BIRDC, "-s", f"{self.folder}/sock", *words)


PROGRAMS: dict[str, type[Peer]] = {PYLVS: PylvsPeer, KEEPALIVED: KeepalivedPeer, FRR: FrrPeer, BIRD: BirdPeer}
