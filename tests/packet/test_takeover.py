"""Another build of pylvs takes over tables with live connections, or refuses with a message."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.bpf import abi
from pylvs.dataplane.devices import attach
from pylvs.dataplane.state import own_build
from tests.packet.frames import tcp
from tests.packet.host import Host, key, new_host
from tools import layout
from tools.elf import Elf

INPUT_ONLY, FIN, EVENTS = 2, 1, 16  # in bpf/conntrack/: a direction, an event, the number of events
SOURCE = Path(__file__).resolve().parents[2] / "src"
LIST = "from pylvs.ipvsadm.main import main; sys.argv[:] = ['ipvsadm', '-Ln']; sys.exit(main())"
EDIT = "from pylvs.ipvsadm.main import main; sys.argv[:] = ['ipvsadm', '-A', '-u', '10.77.0.100:53']; sys.exit(main())"
LIST_CONNECTIONS = LIST.replace("-Ln", "-Lnc")
SHOW = "from pylvs.cli.main import main; sys.argv[:] = ['pylvs', 'show']; sys.exit(main())"
DOWN = "from pylvs.cli.main import main; sys.argv[:] = ['pylvs', 'down']; sys.exit(main())"


@pytest.fixture
def other_build(tmp_path: Path) -> Path:
    """Return the objects of a build that differs: a FIN puts an established connection into LAST_ACK."""
    objects = tmp_path / "objects"
    shutil.copytree(abi.OBJECTS, objects)
    path = objects / "director.bpf.o"
    content = bytearray(path.read_bytes())
    elf = Elf(bytes(content))
    constants = elf.section(".rodata")
    assert constants is not None
    assert content.count(constants.data) == 1
    at = content.index(constants.data) + elf.symbols(".rodata")["next_states"][0]
    at += (INPUT_ONLY * EVENTS + FIN) * abi.constant("STATES") + abi.constant("STATE_ESTABLISHED")
    assert content[at] == abi.constant("STATE_FIN_WAIT")
    content[at] = abi.constant("STATE_LAST_ACK")
    path.write_bytes(content)
    layout.write(objects)
    return objects


def change(objects: Path, **fields: str) -> None:
    description = json.loads((objects / "abi.json").read_text())
    description["objects"]["director"] |= fields
    (objects / "abi.json").write_text(json.dumps(description))
    (objects / "abi.txt").write_text(layout.lines(description))


def as_build(objects: Path, script: str, version: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script in this namespace as a pylvs with these objects and this version."""
    before = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from pylvs.bpf import abi\n"
    before += f"abi.OBJECTS = {str(objects)!r}\n"
    if version:
        before += f"import pylvs; pylvs.__version__ = {version!r}\n"
    return subprocess.run(
        [sys.executable, "-c", before + script], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )


def digest(objects: Path) -> str:
    """Return the digest of the program of a build."""
    return str(json.loads((objects / "abi.json").read_text())["objects"]["director"]["digest"])


def state_after_fin(host: Host, sport: int) -> str:
    """Return the state of an established connection after a FIN."""
    host.forwarded(tcp("FA", sport=sport, dport=80), "tc")
    (state,) = [each.state for each in host.director.connections() if each.client_port == sport]
    return state


def without_timeouts(listing: str) -> str:
    """Return a listing of connections without the times that are left; other listings as they are."""
    return re.sub(r"(?m)^TCP \d+:\d\d ", "TCP ", listing)


def programs(host: Host) -> list[int]:
    return [number for each in attach.attached(host.director.state) for number in (each.ingress, each.xdp)]


def reasons_of(host: Host) -> list[str]:
    """Return the reason for the program of each device, from `pylvs show`."""
    return [each.reason for each in attach.attached(host.director.state)]


def test_another_build_takes_over_under_a_live_connection(other_build: Path) -> None:
    with new_host(expires=False, recycled=True) as host:
        host.serve(key(80), 2)
        for sport in 3999, 4000, 4001:
            host.forwarded(tcp(sport=sport, dport=80))
        servers = {sport: host.forwarded(tcp("A", sport=sport, dport=80))[:6] for sport in (3999, 4000, 4001)}
        assert state_after_fin(host, 3999) == "FIN_WAIT"
        before, reasons = programs(host), reasons_of(host)
        assert as_build(other_build, LIST).returncode == 0
        assert programs(host) == before, "looking changes nothing"
        done = as_build(other_build, EDIT)
        assert (done.returncode, done.stderr) == (0, "")
        running = host.director.state.build()
        assert running is not None
        assert running.digest == digest(other_build) != own_build().digest
        assert not set(programs(host)) & (set(before) - {0})
        assert reasons_of(host) == reasons
        host.close_programs()
        for sport, server in servers.items():
            assert host.forwarded(tcp("A", sport=sport, dport=80))[:6] == server
        assert state_after_fin(host, 4000) == "LAST_ACK", "the other program decides, about connections made before"
        assert sorted(each.client_port for each in host.director.connections()) == sorted(servers)


def test_an_older_one_edits_and_leaves_the_newer_program(other_build: Path) -> None:
    with new_host(recycled=True) as host:
        host.serve(key(80), 1)
        assert as_build(other_build, EDIT, version="0.0.9").returncode == 0
        assert host.director.state.build() == own_build()


def test_a_listing_reads_tables_of_another_layout_and_leaves_them(other_build: Path) -> None:
    change(other_build, tables="fedcba9876543210")
    with new_host(recycled=True) as host:
        host.serve(key(80), 1)
        for flags in "S", "A":
            host.forwarded(tcp(flags, sport=4000, dport=80))
        before = programs(host)
        for script, part in (LIST, "TCP  10.77.0.100:80 rr"), (LIST_CONNECTIONS, ":4000 "), (SHOW, "connections 1 of"):
            own, done = as_build(Path(abi.OBJECTS), script), as_build(other_build, script)
            assert (done.returncode, done.stderr) == (0, "")
            assert without_timeouts(done.stdout) == without_timeouts(own.stdout)
            assert part in done.stdout
        assert programs(host) == before
        assert host.director.state.build() == own_build()
        assert as_build(other_build, DOWN).returncode == 0
        assert as_build(other_build, EDIT).returncode == 0
