"""Walk the MIB of the real keepalived's checker, on the real IPVS: the guest's half of `test_snmp_checker`.

It uses only the standard library, because imports take long here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PATIENCE_S = 240.0
AGENT = "127.0.0.1:16161"
TRAPS = ("127.0.0.1", 16162)
SNMPD = f"""
rwcommunity private
agentAddress udp:{AGENT}
master agentx
agentXTimeout 120
agentXSocket unix:/tmp/agentx
trap2sink {TRAPS[0]}:{TRAPS[1]} public
"""
ENVIRONMENT = os.environ | {"MIBS": "", "SNMP_PERSISTENT_DIR": "/tmp"}


FAILED: list[str] = []  # walks that ended early
LOG = Path("/tmp/log")
NOISE = ("Connection from UDP", "Unknown protocol")  # a line for each request


def snmp(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of net-snmp; octets are hexadecimal."""
    words = [program, "-v2c", "-c", "private", "-On", "-Ox", "-t", "20", AGENT, *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)


def walk(root: str) -> dict[str, str]:
    """Return the objects below `root`. A walk that ends early, as the guest is slow, is repeated."""
    end = time.monotonic() + PATIENCE_S
    while (done := snmp("snmpwalk", root)).returncode and time.monotonic() < end:
        FAILED.append(f"{done.stderr.strip()} after {done.stdout.count(' = ')} objects")
    if "died: Respawning" in logged():  # the state of the next one differs
        sys.exit("keepalived's checker crashed while it was asked")
    lines = re.split(r"\n(?=\.)", done.stdout)  # long octets take several lines
    pairs = (line.replace("\n", "").partition(" = ") for line in lines if " = " in line)
    return {name: value.strip() for name, _, value in pairs if not value.startswith("No ")}


def logged() -> str:
    """Return what snmpd and keepalived logged."""
    lines = LOG.read_text(errors="replace").splitlines(keepends=True)
    return "".join(line for line in lines if not any(noise in line for noise in NOISE))


def walk_until(root: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return the objects of a walk that began after these had their values, or at the end of the wait.

    In the walk that finds the values, objects in front of them may be older.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        found = walk(root)
        if all(found.get(name) == value for name, value in wanted.items()) or time.monotonic() > end:
            return walk(root)
        time.sleep(0.5)


def listen(name: str) -> socket.socket:
    host, _, port = name.rpartition(":")
    server = socket.create_server((host, int(port)), backlog=64)

    def accept() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return server


def traps(receiver: socket.socket, count: int) -> list[str]:
    """Return so many traps, or those that come in PATIENCE_S."""
    found: list[str] = []
    receiver.settimeout(PATIENCE_S)
    with contextlib.suppress(TimeoutError):
        while len(found) < count:
            found.append(receiver.recv(1 << 16).hex())
    return found


def waiting(receiver: socket.socket) -> list[str]:
    """Return the traps that have come: keepalived sends a trap before it shows the state that the trap is about."""
    found: list[str] = []
    receiver.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(receiver.recv(1 << 16).hex())
    return found


def play(given: dict[str, Any]) -> dict[str, Any]:
    """Start keepalived, and compare."""
    for words in ("link set lo up", "link add d0 type dummy", "link set d0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    for address in given["addresses"]:
        subprocess.run(["ip", "addr", "add", address, "dev", "d0", *(["nodad"] if ":" in address else [])], check=True)
    listening = {name: listen(name) for name in given["listening"]}
    Path("/tmp/snmpd.conf").write_text(SNMPD)
    Path("/tmp/keepalived.conf").write_text(given["configuration"])
    snmpd = ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", "/tmp/snmpd.conf", "-p", "/tmp/snmpd.pid"]
    keepalived = ["keepalived", "--dont-fork", "--log-console", "--log-detail", "--check"]
    keepalived += ["--pid=/tmp/pid", "--checkers_pid=/tmp/checkers", "--use-file=/tmp/keepalived.conf"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, LOG.open("wb") as log:
        receiver.bind(TRAPS)
        with running(snmpd, log):
            while not Path("/tmp/agentx").exists():
                time.sleep(0.1)
            with running(keepalived, log):
                return steps(given, receiver, listening)


@contextlib.contextmanager
def running(words: list[str], log: IO[bytes]) -> Iterator[None]:
    """Run a program within the block."""
    with subprocess.Popen(words, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True) as program:
        try:
            yield
        finally:
            program.terminate()
            program.wait(PATIENCE_S)


def steps(given: dict[str, Any], receiver: socket.socket, listening: dict[str, socket.socket]) -> dict[str, Any]:
    """Stop a server, start it again, and set a weight. Return what was to be seen."""
    root = given["root"]
    first = walk_until(root, given["ready"])
    waiting(receiver)
    gone = listening[given["down"]]
    gone.shutdown(socket.SHUT_RDWR)
    gone.close()
    second = walk_until(root, given["after"])
    down = traps(receiver, given["traps"]["down"])
    with contextlib.closing(listen(given["down"])):
        walk_until(root, given["ready"])
        up = traps(receiver, given["traps"]["up"])
        answers = [snmp("snmpset", name, kind, value).stdout for name, kind, value in given["set"]]
        third = walk(root)
    return {"walks": [first, second, third], "down": down, "up": up, "more": waiting(receiver), "set": answers}


def main() -> None:
    given, found = map(Path, sys.argv[1:])
    seen = play(json.loads(given.read_text()))
    found.write_text(json.dumps(seen | {"failed": FAILED, "log": logged()}))


if __name__ == "__main__":
    main()
