"""Run `pylvs run` in a lab's director, and clients that record every lost connection."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pylvs.daemon.api.client import Client
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.ipvsadm.commands import Session
from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network
from tests.waiting import PATIENCE_S


@dataclass
class Daemon:
    """A `pylvs run` in a director; its files are in `folder`."""

    lab: Lab
    folder: Path
    words: tuple[str, ...] = ()
    command: tuple[str, ...] = ("pylvs",)
    process: subprocess.Popen[bytes] | None = None
    tables: BpfDirector | None = None

    @property
    def configuration(self) -> Path:
        """Return its file."""
        return self.folder / "keepalived.conf"

    @property
    def client(self) -> Client:
        """Return a client of its API."""
        return Client(self.folder / "state")

    def log(self) -> str:
        """Return the log of all runs."""
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        path = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, open(self.folder / "log", "ab") as log:
            with suppress(FileNotFoundError):
                os.unlink(path)
            manager.bind(path)
            manager.settimeout(0.2)
            command = [*self.lab.host("director").inside(), *self.command, "run", "-f", str(self.configuration)]
            self.process = subprocess.Popen(
                [*command, "--state-dir", str(self.folder / "state"), *self.words],
                stderr=log,
                env=environment() | {"NOTIFY_SOCKET": path},
            )
            deadline = time.monotonic() + PATIENCE_S
            while True:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                with suppress(TimeoutError):
                    if manager.recv(1000).startswith(b"READY=1"):
                        return

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; return its exit status."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        return process.wait(PATIENCE_S)

    def close(self) -> None:
        """Stop it in any case."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def edition(self) -> int:
        """Return the number of edits of the tables, by any process."""
        with inside_network(self.lab.host("director").network):
            return BpfDirector(State.open()).edition() & 0xFFFFFFFF

    def listing(self) -> list[str]:
        """Return `ipvsadm -ln` of the director. Tests repeat it often, so it is no process of its own."""
        out = io.StringIO()
        with inside_network(self.lab.host("director").network):
            self.tables = self.tables or BpfDirector(State.open())
            assert Session(self.tables, io.StringIO(), out, out).run(["-ln"]).status == 0, out.getvalue()
        return out.getvalue().splitlines()

    def servers(self) -> set[str]:
        """Return addresses and ports of all real servers in the table."""
        return {line.split()[1] for line in self.listing() if line.startswith("  -> ") and "Remote" not in line}


@contextmanager
def daemon(lab: Lab, folder: Path, text: str, *words: str, command: tuple[str, ...] = ("pylvs",)) -> Iterator[Daemon]:
    """Start a daemon with this configuration; stop it afterwards in any case."""
    made = Daemon(lab, folder, words, command)
    made.configuration.write_text(text)
    try:
        made.start()
        yield made
        if made.process is not None:
            assert made.stop() == 0, made.log()
    finally:
        made.close()


# Runs in a client: long-lived connections that repeat requests, and a new connection each time. It is one text, because
# a lab's host has nothing of this tree. At the end of its input it prints the results.
STEADY = """
import http.client, json, select, sys, time
host, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def connect():
    made = http.client.HTTPConnection(host, 80, timeout=30)
    made.auto_open = 1
    made.connect()
    made.auto_open = 0  # what breaks stays broken
    return made
def ask(connection):
    connection.request("GET", "/")
    return connection.getresponse().read()
long_connections = [connect() for _ in range(count)]
servers = [ask(each) for each in long_connections]
reached = set(servers)
print("ready", flush=True)
asked, wrong, at, used = 0, [], 0, [0] * count
while not select.select([sys.stdin], [], [], pause)[0]:
    at = (at + 1) % count
    used[at] += 1
    if used[at] == 900:  # nginx ends a connection after 1000 requests
        long_connections[at].close()
        long_connections[at], used[at] = connect(), 0
        servers[at] = ask(long_connections[at])
        reached.add(servers[at])
    try:
        if ask(long_connections[at]) != servers[at]:
            wrong.append("another server answered on the same connection")
    except Exception as error:
        wrong.append(f"a connection that stays: {error!r}")
        long_connections[at] = connect()
        servers[at] = ask(long_connections[at])
        reached.add(servers[at])
    try:
        fresh = connect()
        ask(fresh)
        fresh.close()
    except Exception as error:
        wrong.append(f"a new connection: {error!r}")
    asked += 2
json.dump({"asked": asked, "wrong": wrong, "servers": len(reached)}, sys.stdout)
"""


@dataclass
class Traffic:
    """The results, when the block has ended."""

    asked: int = 0
    wrong: tuple[str, ...] = ()
    servers: int = 0  # that the long-lived connections had, the renewed ones included


@contextmanager
def traffic(lab: Lab, host: str, connections: int = 8, pause_s: float = 0.01) -> Iterator[Traffic]:
    """Send requests from a lab's client to a web server, over long-lived and new connections."""
    seen = Traffic()
    command = [*lab.host("client").inside(), sys.executable, "-c", STEADY, host, str(connections), str(pause_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield seen
            output = json.loads(process.communicate("", timeout=PATIENCE_S)[0])
        finally:
            process.kill()
    seen.asked, seen.wrong, seen.servers = output["asked"], tuple(output["wrong"]), output["servers"]
