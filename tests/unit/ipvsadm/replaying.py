"""The recorded cases of the real ipvsadm, run in this process on a table in memory."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

from pylvs.ipvsadm.commands import Session
from pylvs.ipvsadm.main import run, run_restore, run_save
from pylvs.ipvsadm.parsing import Names
from pylvs.model.addresses import Address
from tests.memory import MemoryDirector
from tests.memory_daemons import MemoryDaemons

TESTS = Path(__file__).resolve().parents[2]
ORACLE = TESTS / "oracle" / "cli"
GOLDEN = TESTS / "golden" / "cli"
BROADCASTS = (IPv4Address("198.51.100.255"), IPv4Address("127.255.255.255"))  # of the devices in the recordings
PROGRAMS = {"ipvsadm": run, "ipvsadm-save": run_save, "ipvsadm-restore": run_restore}


def _load_replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cli_oracle_replay", ORACLE / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


replay: Any = _load_replay()


class FileNames(Names):
    """Names from files such as /etc/hosts and /etc/services, with the habits of the C library."""

    def __init__(self, folder: Path) -> None:
        self._addresses: dict[str, IPv4Address] = {}
        self._hosts: dict[Address, str] = {}
        self._ports: dict[tuple[str, int], int] = {}
        self._services: dict[tuple[int, int], str] = {}
        for number, *names in _lines(folder / "hosts"):
            address = ip_address(number)
            self._hosts.setdefault(address, names[0])
            if number == "::1":
                address = IPv4Address("127.0.0.1")
            if isinstance(address, IPv4Address):
                for name in names:
                    self._addresses.setdefault(name.lower(), address)
        protocols = {"tcp": 6, "udp": 17, "sctp": 132}
        for name, number, *aliases in _lines(folder / "services"):
            port, _, transport = number.partition("/")
            protocol = protocols[transport]
            self._services.setdefault((int(port), protocol), name)
            for each in (name, *aliases):
                self._ports.setdefault((each, protocol), int(port))

    def address(self, host: str) -> IPv4Address | None:
        """Look up the IPv4 address of a host name."""
        return self._addresses.get(host.lower())

    def port(self, service: str, protocol: int) -> int | None:
        """Look up the port of a service name."""
        return self._ports.get((service, protocol))

    def host(self, address: Address) -> str | None:
        """Look up the host name of an address."""
        return self._hosts.get(address)

    def service(self, port: int, protocol: int) -> str | None:
        """Look up the service name of a port."""
        return self._services.get((port, protocol))


def _lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            yield words


NAMES = FileNames(ORACLE / "etc")


class AllHere:
    """A host that has every address and forwards packets: no hint concerns it."""

    def lacks(self, address: Address) -> str:
        return ""

    def forwards(self, version: int) -> bool:
        return True

    def forwarding_off(self, version: int) -> str:
        return ""

    def gateway(self, address: Address) -> Address | None:
        return None


def call(director: MemoryDirector, *argv: str, stdin: str = "", daemons: MemoryDaemons | None = None) -> Any:
    """Run one of the three programs; a `Result` of the oracle."""
    stdout, stderr = io.StringIO(), io.StringIO()
    program = PROGRAMS[argv[0]]
    session = Session(director, io.StringIO(stdin), stdout, stderr, NAMES, daemons=daemons or MemoryDaemons())
    status = program(argv[1:], session)
    return replay.Result(stdout.getvalue(), stderr.getvalue(), status)


def cases_of(name: str, cases: Path = ORACLE / "cases", golden: Path = GOLDEN) -> list[tuple[Any, Any]]:
    """The cases of a file, each with its recording."""
    found = replay.read_cases(cases / f"{name}.txt")
    return list(zip(found, replay.load_recording(golden / f"{name}.json", found), strict=True))


def differences(case: Any, recording: Any) -> Iterator[str]:
    """What this ipvsadm does otherwise than the recorded one."""
    director, daemons = MemoryDirector(broadcasts=BROADCASTS), MemoryDaemons()
    written = ""
    for command, wanted in zip(case.commands, recording.results, strict=True):
        got = call(director, *command.argv, stdin=written if command.piped else command.stdin, daemons=daemons)
        written = got.stdout or written
        if got != wanted:
            yield f"$ {command.shown()}\n  recorded {wanted}\n  now      {got}"
    for argv, table in ((replay.LISTING, recording.listing), (replay.RULES, recording.rules)):
        now = call(director, *argv).stdout
        if now != table:
            yield f"afterwards {' '.join(argv)}:\n{table}now\n{now}"


def counters() -> list[dict[str, Any]]:
    """How counters of many sizes were printed."""
    return list(json.loads((GOLDEN / "counters.json").read_text())["counters"])
