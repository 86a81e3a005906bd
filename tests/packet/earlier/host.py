"""A host with the tables of commit 5189436: its object, loaded and pinned as that commit did, with recorded edits.

`record.py` made the archive. Connections are not recorded: tests send frames through the programs of that commit.

The archive of commit 056962b1 has its Python instead, `src/pylvs` without what `ipvsadm` does not need, and its object
without debugging information. Its tables are the last ones with connections of IPv6 in hash maps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from pylvs.bpf import kernel, libbpf, maps
from pylvs.bpf.abi import Abi, words_of
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, lo
from pylvs.dataplane.devices.modes import Mode
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import CACHE_SWEEP, CLOCK, ENTRIES, LOADED, ORPHANS, TC, XDP, State
from tests.packet.host import Host, _take_down, ip, populated_namespace
from tests.waiting import until, until_up
from tools.layout import Layout

ARCHIVE = Path(__file__).with_name("5189436.tar.xz")
HASHES6 = Path(__file__).with_name("056962b1.tar.xz")
NAT_SERVER, NAT_MAC, E0_MAC = "10.88.0.11", "02:00:00:00:02:0b", "02:00:00:00:00:02"
_SERVICES, _DESTINATIONS, _WINDOW, _LINE = 1024, 4096, 62, 64
_OF_DESTINATIONS = ("destinations", "destination_bases", "hops", "statistics", "estimates", "names")
_OF_SERVICES = ("services", "services4", "services6", "service_states", "service_bases")


@cache
def archived(name: str) -> bytes:
    """Return a file of the archive."""
    with tarfile.open(ARCHIVE) as archive:
        found = archive.extractfile(name)
        assert found
        return found.read()


@cache
def layout() -> Layout:
    """Return the layout of that commit's object."""
    return Layout(archived("director.bpf.o"))


def structures() -> Abi:
    """Return the structures and enumerations of that commit's object."""
    return Abi("", words_of(layout().structs, layout().enums))


def _sizes(connections: int) -> dict[str, int]:
    slots = -(-(2 * connections + 1 + _WINDOW) // _LINE) * _LINE
    sizes = dict.fromkeys(("connections6", "replies6", "words6", "controls6", "registry6", "free_slots6"), connections)
    sizes |= {"connections4": slots, "replies4": connections, "looks": -(-(slots + connections) // _LINE)}
    sizes |= dict.fromkeys(_OF_DESTINATIONS, _DESTINATIONS) | dict.fromkeys(_OF_SERVICES, _SERVICES)
    return sizes | {"members": 2 * _DESTINATIONS, "cache": 1024, "maglev_tables": 2 * _SERVICES}


def _set_variables(opened: BpfObject, connections: int, seeds: tuple[int, int]) -> None:
    slots = _sizes(connections)["connections4"]
    values = {
        "tick_shift": load.tick_shift(),
        "ticks_per_second": round(load.ticks_per_second()),
        "minute": round(60 * load.ticks_per_second()),
        "homes4": slots - _WINDOW,
        "first_slot6": slots,
        "slots6": connections,
        "seed_1": seeds[0],
        "seed_2": seeds[1],
        "loopback": 1,
        "tunnel_secret": 1,
        "fib_gives_source": int(kernel.release() >= (6, 7)),
        "fib_takes_mark": int(kernel.release() >= (6, 10)),
    }
    for section, variables in layout().variables.items():
        for name in values.keys() & variables.keys():
            field = variables[name]
            opened.set_data(section, field["offset"], values[name].to_bytes(field["size"], "little"))


def _fill_stages(opened: BpfObject) -> None:
    stages = layout().enums["stage"]
    wanted = {name.removeprefix("STAGE_").lower(): number for name, number in stages.items() if name != "STAGES"}
    for name, number in layout().enums["scheduler"].items():
        if name not in ("SCHED_NONE", "SCHEDULERS"):
            wanted[f"schedule_{name.removeprefix('SCHED_').lower()}"] = wanted["schedule"] + number
    programs = opened.programs()
    for hook in "xdp", "tc":
        with maps.ArrayMap.duplicate(opened.map_fd(f"stages_{hook}")) as array:
            for name, number in wanted.items():
                if f"{hook}_{name}" in programs:
                    array.put_descriptor(number, opened.program_fd(f"{hook}_{name}"))


def _fill_maps(state: State, connections: int, seeds: tuple[int, int]) -> None:
    for name, elements in json.loads(archived("tables.json"))["maps"].items():
        with maps.Map.open(state.loaded_path(name)) as found:
            for key, value in elements:
                raw = int(key).to_bytes(4, "little") if len(key) < 8 else bytes.fromhex(key)
                maps.HashMap.duplicate(found.fd).put(raw, bytes.fromhex(value))
    codec = structures().struct("pool")
    with maps.ArrayMap.open(state.loaded_path("pools")) as pools:
        pools.put(0, codec.pack(capacity=connections, seeds=seeds))


def _load(state: State, connections: int, path: Path) -> None:
    """Load and pin the object as that commit did."""
    path.write_bytes(archived("director.bpf.o"))
    first, second, *_ = load.new_seeds()
    seeds = first, second
    with BpfObject(path) as opened:
        for name, size in _sizes(connections).items():
            opened.set_max_entries(name, size)
        _set_variables(opened, connections, seeds)
        opened.load()
        os.mkdir(state.pin_path(LOADED), 0o700)
        for name in opened.maps():
            if not (name.startswith((".", "director")) or "rodata" in name):
                libbpf.pin(opened.map_fd(name), state.loaded_path(name))
        for name in (*ENTRIES, CLOCK, ORPHANS, CACHE_SWEEP):
            libbpf.pin(opened.program_fd(name), state.pin_path(name))
        _fill_stages(opened)
        _fill_maps(state, connections, seeds)
        for start in map(opened.program_fd, load.STARTERS):
            until(partial(_has_started, start), "memory for a timer")
    state.set_note("object", json.loads(archived("tables.json"))["build"])


def _has_started(start: int) -> bool:
    return not kernel.run_program(start, bytes(64)).verdict


@contextmanager
def _yielded(descriptor: int | None) -> Iterator[int]:
    assert descriptor is not None
    yield descriptor


def _attach(state: State) -> None:
    """Attach the programs, to d0 and e0 by generic XDP and TC."""
    lo.forward_lo(state)
    with ExitStack() as opened:
        xdp, tc = (opened.enter_context(state.opened(name)) for name in (XDP, TC))
        assert tc is not None
        modes: dict[str, Mode] = {"d0": "generic", "e0": "generic", "lo": "tc"}
        for device, mode in modes.items():
            attach.attach(device, mode, state, tc_fd=tc, open_xdp=partial(_yielded, xdp))


@contextmanager
def earlier_host(tmp_path: Path, connections: int = 1024) -> Iterator[Host]:
    """Enter a new namespace whose tables, programs and attachments are those of commit 5189436."""
    with populated_namespace() as (name, expiry):
        ip("link", "add", "e0", "address", E0_MAC, "type", "veth", "peer", "name", "e1")
        for device in "e0", "e1":
            ip("link", "set", device, "up")
        until_up("e0")
        ip("addr", "add", "10.88.0.1/24", "dev", "e0")
        ip("neigh", "add", NAT_SERVER, "lladdr", NAT_MAC, "nud", "permanent", "dev", "e0")
        state = State.open()
        with state.building() as fresh:
            _load(fresh, connections, tmp_path / "director.bpf.o")
        state = State.open()
        try:
            state.set_note("wanted-2", "off d1")
            _attach(state)
            host = Host(name, BpfDirector(state), expiry)
            for hook in "xdp", "tc":
                host._programs[hook] = libbpf.open_pin(state.pin_path(f"pylvs_{hook}")) or -1
            try:
                yield host
            finally:
                host.close_programs()
        finally:
            _take_down(state)


class Tree:
    """The Python of commit 056962b1, unpacked into a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with tarfile.open(HASHES6) as archive:
            archive.extractall(directory)  # of our own repository; Debian's Python has no filters yet

    def ipvsadm(self, *words: str, stdin: str = "") -> str:
        """Run a command in this namespace, and return what it prints."""
        script = f"import sys; sys.path.insert(0, {str(self._directory)!r}); sys.argv[:] = {['ipvsadm', *words]!r}\n"
        script += "from pylvs.ipvsadm.main import main; sys.exit(main())"
        command = [sys.executable, "-I", "-c", script]
        environment = {**os.environ, kernel.CONNECTIONS: "1024"}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    @contextmanager
    def host(self, saved: str) -> Iterator[Host]:
        """Enter a new namespace whose tables this pylvs has restored."""
        with populated_namespace() as (name, expiry):
            self.ipvsadm("-R", stdin=saved)
            state = State.open()
            try:
                host = Host(name, BpfDirector(state), expiry)
                host._programs["tc"] = libbpf.open_pin(state.loaded_path(TC)) or -1
                try:
                    yield host
                finally:
                    host.close_programs()
            finally:
                _take_down(state)
