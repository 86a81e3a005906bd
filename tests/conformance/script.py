"""Steps as the guest takes them, and the guest itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pylvs.ipvsadm.main import run as ipvsadm
from pylvs.model.addresses import endpoint
from pylvs.model.destination import Destination, Method, TunnelFlag, TunnelKind
from pylvs.model.service import Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.fuzz.steps import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    Edit,
    EditService,
    Set,
    SetTimeouts,
)

__all__ = ["Guest", "NoGuest", "ipvsadm", "line"]
ORACLE = Path(__file__).parents[1] / "oracle"
UML = Path(__file__).parents[1] / "oracle_support" / "uml"
ATTEMPTS = 4  # user-mode Linux now and then dies on a busy machine
METHODS = {Method.ROUTE: "-g", Method.MASQ: "-m", Method.TUNNEL: "-i"}
OPTIONS = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}


class NoGuest(Exception):
    """The guest could not be run; the text is its last words."""


def _service(key: ServiceKey) -> str:
    if key.mark:
        return f"-f {key.mark}" + (" -6" if key.address.version == 6 else "")
    return f"{OPTIONS[key.protocol]} {endpoint(key.address, key.port)}"


def _scheduling(service: VirtualService) -> str:
    words = f"-s {service.scheduler}"
    if ServiceFlag.PERSISTENT in service.flags:
        words += f" -p {service.timeout_s}"
        if service.netmask >= 0:
            mask = service.mask
            words += (
                f" -M {mask}"
                if service.key.address.version == 6
                else f" -M {'.'.join(map(str, mask.to_bytes(4, 'big')))}"
            )
    if ServiceFlag.ONE_PACKET in service.flags and service.key.protocol == Protocol.UDP:  # ipvsadm takes it there alone
        words += " -o"
    named = [
        f"flag-{number}"
        for number, flag in ((1, ServiceFlag.SCHED_1), (2, ServiceFlag.SCHED_2))
        if flag in service.flags
    ]
    return words + (f" -b {','.join(named)}" if named else "")


def _server(given: Destination) -> str:
    words = f"-r {given.key} {METHODS[given.method]} -w {given.weight} -x {given.upper} -y {given.lower}"
    if given.method == Method.TUNNEL:
        words += f" --tun-type {given.tunnel.kind.name.lower()}"
        if given.tunnel.kind == TunnelKind.GUE:
            words += f" --tun-port {given.tunnel.port}"
        if given.tunnel.kind != TunnelKind.IPIP:
            words += " --tun-csum" if given.tunnel.flags & TunnelFlag.CSUM else " --tun-nocsum"
    return words


def line(edit: Edit) -> list[Any]:
    """The guest's step for an edit."""
    if isinstance(edit, Set):
        return ["sysctl", edit.name, edit.value]
    if isinstance(edit, SetTimeouts):
        given = edit.timeouts
        return ["ipvsadm", f"--set {given.tcp_s} {given.tcp_fin_s} {given.udp_s}"]
    if isinstance(edit, AddService | EditService):
        verb = "-A" if isinstance(edit, AddService) else "-E"
        return ["ipvsadm", f"{verb} {_service(edit.service.key)} {_scheduling(edit.service)}"]
    if isinstance(edit, DeleteService):
        return ["ipvsadm", f"-D {_service(edit.key)}"]
    if isinstance(edit, DeleteServer):
        return ["ipvsadm", f"-d {_service(edit.key)} -r {edit.destination}"]
    verb = "-a" if isinstance(edit, AddServer) else "-e"
    return ["ipvsadm", f"{verb} {_service(edit.key)} {_server(edit.destination)}"]


def _run(words: Sequence[Path | str], folder: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command to its end; interrupted, what it has started ends before it, so that it can clean up."""
    with subprocess.Popen(
        words,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            with suppress(OSError):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for child in map(int, children):
                    os.kill(child, signal.SIGTERM)
            process.communicate()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Guest:
    """User-mode Linux with IPVS, booted for each call."""

    def __init__(self, timeout_s: int = 900) -> None:
        self.timeout_s = timeout_s
        self.boots = 0

    def play(self, examples: Sequence[Sequence[list[Any]]]) -> list[dict[str, Any]]:
        """What the real IPVS makes of these. Raises NoGuest."""
        said = ""
        for _ in range(ATTEMPTS):
            self.boots += 1
            with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pylvs-conformance.") as folder:
                # The guest has a /tmp of its own: what it runs must lie elsewhere, wherever this clone is.
                for module in [*ORACLE.glob("*.py"), Path(__file__).with_name("guest.py")]:
                    shutil.copy(module, folder)
                given, made = Path(folder, "examples.json"), Path(folder, "made.json")
                given.write_text(json.dumps(examples))
                done = _run(
                    [ORACLE / "run", "/usr/bin/python3", Path(folder, "guest.py"), given, made],
                    folder,
                    {
                        "PYLVS_PYTHON": sys.executable,
                        "PATH": f"{UML}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        "PYTHONDONTWRITEBYTECODE": "1",
                        "ORACLE_TIMEOUT": str(self.timeout_s),
                        "HOME": os.environ.get("HOME", "/"),
                    },
                )
                if not done.returncode and made.exists():
                    found: list[dict[str, Any]] = json.loads(made.read_text())
                    return found
                said = (done.stdout + done.stderr)[-2000:]
        raise NoGuest(f"the guest with the real IPVS did not finish:\n{said}")
