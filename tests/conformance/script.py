"""Steps for the guest, and the guest itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pylvs.model.addresses import endpoint
from pylvs.model.service import (
    Destination,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from tests import ledger
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

__all__ = ["Guest", "NoGuest", "in_guest", "line", "why_no_guest"]
ORACLE = Path(__file__).parents[1] / "oracle"
UML = Path(__file__).parents[1] / "oracle_support" / "uml"
ATTEMPTS = 4  # user-mode Linux sometimes dies on a busy machine, and keepalived's checker while it is asked
METHODS = {Method.ROUTE: "-g", Method.MASQ: "-m", Method.TUNNEL: "-i"}
OPTIONS = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}


class NoGuest(Exception):
    """The guest could not run; the text has its last lines."""


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
    """Return the guest's step for an edit."""
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
    """Run a command. When interrupted, its processes end first, so that they can clean up."""
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


def why_no_guest(*programs: str) -> str:
    """Return why user-mode Linux cannot run these programs of this host; "" if it can."""
    path = f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
    absent = [name for name in ("linux.uml", *programs) if not shutil.which(name, path=path)]
    return f"needs {' and '.join(absent)}" if absent else ""


def in_guest(script: Path, given: Any, modules: Sequence[Path] = (), timeout_s: int = 800) -> Any:
    """Run a script in user-mode Linux with IPVS: it reads a JSON file and writes another. Raises NoGuest.

    A guest that died, or whose script failed, boots again, and the ledger records it.
    """
    output, before_s = "", 0.0
    for attempt in range(ATTEMPTS):
        begin = time.monotonic()
        # The guest has its own /tmp, so its program must be in another directory.
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pylvs-guest.") as folder:
            for module in (script, *modules):
                shutil.copy(module, folder)
            asked, made = Path(folder, "given.json"), Path(folder, "made.json")
            asked.write_text(json.dumps(given))
            done = _run(
                [ORACLE / "run", "/usr/bin/python3", Path(folder, script.name), asked, made],
                folder,
                {
                    "PYLVS_PYTHON": sys.executable,
                    "PATH": f"{UML}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "ORACLE_TIMEOUT": str(timeout_s),
                    "HOME": os.environ.get("HOME", "/"),
                },
            )
            took_s = time.monotonic() - begin
            if attempt:
                ledger.record(_test(script), f"the guest failed: {_last_line(output)}", before_s, took_s)
            if not done.returncode and made.exists():
                return json.loads(made.read_text())
        output, before_s = (done.stdout + done.stderr)[-2000:], took_s
    raise NoGuest(f"the guest with the real IPVS did not finish in {ATTEMPTS} attempts:\n{output}")


def _test(script: Path) -> str:
    """Return the name of the running test, or of the script."""
    return os.environ.get("PYTEST_CURRENT_TEST", str(script.relative_to(Path(__file__).parents[2]))).split(" (")[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


class Guest:
    """User-mode Linux with IPVS, booted for each call."""

    def __init__(self, timeout_s: int = 900) -> None:
        self.timeout_s = timeout_s
        self.boots = 0

    def play(self, examples: Sequence[Sequence[list[Any]]]) -> list[dict[str, Any]]:
        """Return the results of the real IPVS. Raises NoGuest."""
        self.boots += 1
        found: list[dict[str, Any]] = in_guest(
            Path(__file__).with_name("guest.py"), examples, [*ORACLE.glob("*.py")], self.timeout_s
        )
        return found
