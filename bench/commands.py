"""Measure what a command costs: whole processes of `ipvsadm`, as a shell starts them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

import pylvs
from bench import site
from bench.program import Progress
from bench.rows import Measured
from pylvs.dataplane.director import open_director
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService

FIRST_VIP, FIRST_SERVER = IPv4Address("10.66.128.0"), IPv4Address("10.66.2.0")
PORT = 80
_SERVERS = 20_000  # different ones; the rest are taken again
_ON_DISK = "/var/tmp"  # where files can be out of memory
_SMALL_SERVICES, _SMALL_SERVERS = 2, 3
_STARTS = 5  # times as many rounds for the start of a command, because one differs from the next by a tenth


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 9
    services: int = 10_000
    per_service: int = 10  # destinations
    whole: int = 3  # times that a large table, or a first command, is repeated
    connections: int = 1_000_000

    @property
    def destinations(self) -> int:
        """Return the number of destinations of all services."""
        return self.services * self.per_service


QUICK = Size(rounds=1, services=40, per_service=5, whole=1, connections=1024)


class CommandFailed(PylvsError):
    """A measured ipvsadm failed."""


def program() -> list[str]:
    """Return the ipvsadm that is installed with this Python, or without one its module."""
    script = Path(sys.executable).with_name("ipvsadm")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from pylvs.ipvsadm.main import main; sys.exit(main())"]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(
    words: str,
    text: str = "",
    into: Measured | None = None,
    scale: float = 1,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the output of `ipvsadm WORDS` with this input; record its seconds times `scale`. Raises CommandFailed."""
    before, used = time.monotonic(), _children_s()
    done = subprocess.run(
        [*program(), *words.split()], input=text, capture_output=True, text=True, check=False, env=environment
    )
    if into is not None:
        into.samples.append((time.monotonic() - before) * scale)
        into.processor.append((_children_s() - used) * scale)
    if done.returncode:
        raise CommandFailed(f"ipvsadm {words}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def _rules(services: int, destinations: int) -> str:
    """Return rules of so many services, as `ipvsadm -S` prints them; servers serve many of the VIPs."""
    lines = []
    for number in range(services):
        vip = f"{FIRST_VIP + number}:{PORT}"
        lines.append(f"-A -t {vip} -s wrr")
        servers = [FIRST_SERVER + (number * destinations + index) % _SERVERS for index in range(destinations)]
        lines += [f"-a -t {vip} -r {server}:{PORT} -g -w {weight}" for weight, server in enumerate(servers, 1)]
    return "\n".join(lines) + "\n"


def as_installed(cache: str) -> dict[str, str]:
    """Return the environment of an installed program: modules are compiled, and setuptools of .venv adds none."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": cache, "SETUPTOOLS_USE_DISTUTILS": "stdlib"}


def _files_of_a_listing(cache: str) -> Iterator[Path]:
    yield from Path(cache).rglob("*.pyc")
    yield from Path(pylvs.__file__).parent.rglob("*.py*")
    yield from Path(pylvs.__file__).parent.rglob("*.json")
    standard = Path(sysconfig.get_path("stdlib"))
    for folder in (standard, standard / "lib-dynload", standard / "collections"):
        yield from folder.glob("*.*")


def _make_cold(cache: str) -> None:
    """Remove the files that ipvsadm reads from the page cache, except pages that a process has mapped."""
    for path in _files_of_a_listing(cache):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # dirty pages cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _check_list(output: str, services: int, destinations: int) -> None:
    lines = output.splitlines()[3:]
    servers = sum(line.startswith("  ->") for line in lines)
    if (len(lines) - servers, servers) != (services, destinations):
        raise CommandFailed(
            f"ipvsadm -Ln shows services, destinations: {len(lines) - servers}, {servers};"
            f" expected: {services}, {destinations}"
        )


def measure_small(size: Size) -> dict[str, Measured]:
    """Measure a namespace's first command, and listings of a small table, in milliseconds."""
    first, cold, warm = Measured(), Measured(), Measured()
    add = f"-A -t {site.VIP}:{PORT}"
    for number in range(size.whole):
        with site.new_site(f"first{number}"):
            _run(add, into=first, scale=1000)
    with site.new_site("small"), tempfile.TemporaryDirectory(prefix=site.PREFIX, dir=_ON_DISK) as cache:
        installed = as_installed(cache)
        _run("-R", _rules(_SMALL_SERVICES, _SMALL_SERVERS), environment=installed)
        _run("-Ln", environment=installed)
        for _ in range(size.rounds):
            _make_cold(cache)
            output = _run("-Ln", into=cold, scale=1000, environment=installed)
            _check_list(output, _SMALL_SERVICES, _SMALL_SERVICES * _SMALL_SERVERS)
        for _ in range(size.rounds):
            _run("-Ln", into=warm, scale=1000, environment=installed)
    return {"first_add": first, "list_small_cold": cold, "list_small_warm": warm}


def measure_start(size: Size) -> dict[str, Measured]:
    """Measure the processor time of a listing and of edits, in multiples of an idle Python's."""
    service, server = f"-t {site.VIP}:{PORT}", f"-r {FIRST_SERVER}"
    commands = {
        "start_list": "-Ln",
        "start_add": f"-a {service} {server} -g",
        "start_edit": f"-e {service} {server} -g -w 2",
        "start_delete": f"-d {service} {server}",
    }
    found = {name: Measured() for name in commands}
    with site.new_site("start"), tempfile.TemporaryDirectory(prefix=site.PREFIX, dir=_ON_DISK) as cache:
        installed = as_installed(cache)
        _run(f"-A {service}", environment=installed)
        for number in range(_STARTS * size.rounds + 1):
            used = _children_s()
            subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
            nothing = _children_s() - used
            for name, words in commands.items():
                used = _children_s()
                _run(words, environment=installed)
                if number:  # the first round writes the compiled modules
                    found[name].samples.append((_children_s() - used) / nothing)
    return found


def measure_one(size: Size) -> dict[str, Measured]:
    """Measure adding a server to a service that has many, in ms, in a process with loaded modules."""
    found = Measured()
    key = ServiceKey(Protocol.TCP, IPv4Address(site.VIP), PORT)
    with site.new_site("one"):
        director = open_director()
        with director.batch():
            director.add_service(VirtualService(key))
            for number in range(size.services):
                director.add_destination(key, Destination(DestinationKey(FIRST_SERVER + number, PORT)))
        for number in range(size.rounds):
            one = Destination(DestinationKey(FIRST_SERVER + size.services + number, PORT))
            before, used = time.monotonic(), time.process_time()
            open_director().add_destination(key, one)
            found.samples.append((time.monotonic() - before) * 1000)
            found.processor.append((time.process_time() - used) * 1000)
    return {"add_one": found}


def measure_large(size: Size, progress: Progress) -> dict[str, Measured]:
    """Measure restoring and listing a large table, in seconds."""
    restore, listing = Measured(), Measured()
    text = _rules(size.services, size.per_service)
    for number in range(size.whole):
        progress(f"commands: restoring {size.services:,} services, {number + 1} of {size.whole}")
        with site.new_site(f"large{number}"):
            _run(f"-A -t {site.VIP}:{PORT}")  # the state is there: its making is a row of its own
            _run("-C")
            _run("-R", text, restore)
            for _ in range(max(size.rounds // size.whole, 1)):
                _check_list(_run("-Ln", into=listing), size.services, size.destinations)
    return {"restore": restore, "list": listing}
