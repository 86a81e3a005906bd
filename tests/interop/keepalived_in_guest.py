"""Run the real keepalived on the real IPVS: the guest's half of `test_keepalived_health`.

Each case has a thread, a network namespace and a keepalived. Its real servers are sockets of the thread that listen or
do not. After each step the thread waits for the expected table and notifications, and records them. It uses only the
standard library, because imports take long here.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
PATIENCE_S = 180.0
STEADY_S = 1.5  # the longest time between two edits of keepalived for one event
QUIET_S = 6.0  # how long nothing must change


def readable(endpoint: str) -> str:
    """Return `0A000001:0050` or `[2001:...]:0050` in the usual notation; a mark as a number."""
    host, colon, port = endpoint.rpartition(":")
    if not colon:
        return str(int(endpoint, 16))
    address = ipaddress.ip_address(host.strip("[]") if "[" in host else int(host, 16))
    return f"{address}:{int(port, 16)}"


def table() -> dict[str, dict[str, int]]:
    """Return the table of this thread's namespace: services with the weights of their servers."""
    found: dict[str, dict[str, int]] = {}
    service = ""
    for line in Path("/proc/thread-self/net/ip_vs").read_text().splitlines()[3:]:
        words = line.split()
        if words[0] == "->":
            found[service][readable(words[1])] = int(words[3])
        else:
            service = " ".join([words[0], readable(words[1]), words[2]])
            found[service] = {}
    return found


class Case(threading.Thread):
    """A configuration and its steps."""

    def __init__(self, number: int, case: dict[str, Any]) -> None:
        super().__init__()
        self.number, self.case = number, case
        self.folder = Path(f"/tmp/case{number}")
        self.listening: dict[str, socket.socket] = {}
        self.seen: list[dict[str, Any]] = []
        self.log = ""

    def run(self) -> None:
        self.folder.mkdir()
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        for words in ("link set lo up", "link add d0 type dummy", "link set d0 up"):
            subprocess.run(["ip", *words.split()], check=True)
        for address in self.case["addresses"]:
            self.address("add", address)
        (self.folder / "notes").touch()
        self.script("note", f'echo "$*" >> {self.folder}/notes')
        self.script("answer", f"exit $(cat {self.folder}/$1)")
        file = self.folder / "keepalived.conf"
        keepalived: subprocess.Popen[bytes] | None = None
        log = (self.folder / "log").open("wb")
        for step in self.case["steps"]:
            calls = len(self.notes())
            for name in step["down"]:
                gone = self.listening.pop(name)
                gone.shutdown(socket.SHUT_RDWR)
                gone.close()
            for name in step["up"]:
                self.listen(name)
            for address in step["come"]:
                self.address("add", address)
            for address in step["go"]:
                self.address("del", address)
            for name, status in step["say"].items():
                (self.folder / name).write_text(str(status))
            if step["conf"]:
                file.write_text(step["conf"].replace("FOLDER", str(self.folder)))
                if keepalived is None:
                    keepalived = self.start_keepalived(file, log)
                else:
                    keepalived.send_signal(signal.SIGHUP)
            if step["end"] and keepalived is not None:
                keepalived.terminate()
            self.seen.append(self.settled(step, calls))
        if keepalived is not None:
            keepalived.kill()
            keepalived.wait()
        self.log = (self.folder / "log").read_text(errors="replace")

    def start_keepalived(self, file: Path, log: Any) -> subprocess.Popen[bytes]:
        pids = [f"--pid={self.folder}/pid", f"--checkers_pid={self.folder}/checkers"]
        words = ["keepalived", "--dont-fork", "--log-console", "--log-detail", "--check", *pids, f"--use-file={file}"]
        return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def address(self, verb: str, address: str) -> None:
        subprocess.run(["ip", "addr", verb, f"{address}/32", "dev", "d0"], check=True)

    def script(self, name: str, line: str) -> None:
        file = self.folder / name
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)

    def listen(self, name: str) -> None:
        host, _, port = name.rpartition(":")
        server = socket.create_server((host, int(port)), backlog=64)
        self.listening[name] = server

        def accept() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def settled(self, step: dict[str, Any], calls: int) -> dict[str, Any]:
        """Return the table and the notifications once they are as expected and stay so, or at the end of the wait."""
        end = time.monotonic() + PATIENCE_S
        steady = QUIET_S if step["quiet"] else STEADY_S
        since = time.monotonic()
        last: dict[str, Any] = {}
        while True:
            now = {"table": table(), "notes": sorted(self.notes()[calls:])}
            if now != last:
                last, since = now, time.monotonic()
            right = now["table"] == step["table"] and (step["end"] or now["notes"] == step["notes"])
            if time.monotonic() > end or (right and time.monotonic() - since > steady):
                return now
            time.sleep(0.1)  # a dozen threads share one emulated processor


def main(given: str, made: str) -> None:
    """Run all cases in parallel."""
    cases = [Case(number, case) for number, case in enumerate(json.loads(Path(given).read_text()))]
    for case in cases:
        case.start()
    for case in cases:
        case.join()
    Path(made).write_text(json.dumps([{"seen": case.seen, "log": case.log} for case in cases]))


if __name__ == "__main__":
    main(*sys.argv[1:])
