"""Record tables of commit 5189436 for `tests/packet/test_migrate.py`: run this in a checkout of that commit, as root.

    git worktree add ../pylvs-5189436 5189436 && cd ../pylvs-5189436 && ./dev
    PYTHONPATH=. ./dev run python3 .../tests/packet/earlier/record.py 5189436.tar.xz

The archive has the object without debugging information, the content of the pinned maps that edits write, the notes
beside them, and what `ipvsadm -Sn` printed.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from pylvs.dataplane.maps import ArrayMap, HashMap

from pylvs.dataplane import abi
from pylvs.dataplane.director import BpfDirector
from tests.packet.host import ip, new_host

HASHES = ("services4", "services6", "names", "maglev_tables", "locals", "accept_locals", "routed_marks")
ARRAYS = ("roots", "books", "services", "members", "destinations", "service_bases", "destination_bases", "mark_rules")
EDITS = """
-A -t 10.77.0.100:80 -s rr
-a -t 10.77.0.100:80 -r 10.77.0.11 -g
-A -t 10.77.0.100:81 -s rr
-a -t 10.77.0.100:81 -r 10.88.0.11 -m
-A -t 10.77.0.100:82 -s rr
-A -t 10.77.0.100:83 -s rr
-a -t 10.77.0.100:83 -r 10.77.0.12 -i
-A -t [fd77::100]:80 -s rr
-a -t [fd77::100]:80 -r [fd77::11]:80 -g
-A -t [fd77::100]:81 -s rr
-a -t [fd77::100]:81 -r [fd77::12]:81 -m
-A -t [fd77::100]:83 -s rr
-a -t [fd77::100]:83 -r [fd77::13]:83 -i
-A -t 10.77.0.100:84 -s rr -p 600 -M 255.255.255.0
-a -t 10.77.0.100:84 -r 10.77.0.11 -g -w 1
-a -t 10.77.0.100:84 -r 10.77.0.12 -g -w 2 -x 1000 -y 500
-a -t 10.77.0.100:84 -r 10.77.0.13 -g -w 3
-a -t 10.77.0.100:84 -r 10.77.0.14 -g
-d -t 10.77.0.100:84 -r 10.77.0.14
-A -u 10.77.0.100:85 -s mh -b mh-port
-a -u 10.77.0.100:85 -r 10.77.0.15 -g
-a -u 10.77.0.100:85 -r 10.77.0.16 -i --tun-type gue --tun-port 6080
-A -t 10.77.0.100:86 -s lblcr
-a -t 10.77.0.100:86 -r 10.77.0.15 -g
-a -t 10.77.0.100:86 -r 10.77.0.16 -g
-A -t 10.77.0.100:87 -s wrr
-a -t 10.77.0.100:87 -r 10.77.0.11 -g -w 1
-a -t 10.77.0.100:87 -r 10.77.0.12 -g -w 3
-A -f 7 -s rr
-a -f 7 -r 10.77.0.17 -g
--set 800 100 200
"""
SETTINGS = ("conn_reuse_mode=0", "expire_nodest_conn=1")


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def content(director: BpfDirector) -> dict[str, list[tuple[str, str]]]:
    """Return keys (or indices) and values of the maps, without zeros."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in HASHES:
        with HashMap.open(director.tables.path(name)) as table:
            found[name] = [(key.hex(), value.hex()) for key, value in table.items()]
    for name in ARRAYS:
        with ArrayMap.open(director.tables.path(name)) as array:
            elements = [(index, array.get(index) or b"") for index in range(min(array.max_entries, 2048))]
            found[name] = [(str(index), value.hex()) for index, value in elements if any(value)]
    return found


def stripped(path: Path) -> bytes:
    """Return an object without debugging information, and without the lines of the source in its BTF."""
    small = Path("small.bpf.o")
    tool = ("llvm-objcopy", "--strip-debug", "--remove-section", ".rel.BTF.ext", "--remove-section", ".rel.BTF")
    run(*tool, str(path), str(small))
    run("llvm-objcopy", "--dump-section", ".BTF.ext=ext", str(small))
    section = Path("ext").read_bytes()
    header, functions, length = (int.from_bytes(section[at : at + 4], "little") for at in (4, 8, 12))
    start = header + functions
    fields = (24, 0, length, length, 0)  # struct btf_ext_header: functions, then no lines
    short = section[:4] + b"".join(each.to_bytes(4, "little") for each in fields)
    Path("ext").write_bytes(short + section[start : start + length])
    run("llvm-objcopy", "--update-section", ".BTF.ext=ext", str(small))
    data = small.read_bytes()
    for left in small, Path("ext"):
        left.unlink()
    return data


def record(path: str) -> None:
    """Write the archive."""
    with new_host() as host:
        ip("link", "add", "e0", "address", "02:00:00:00:00:02", "type", "veth", "peer", "name", "e1")
        for device in "e0", "e1":
            ip("link", "set", device, "up")
        ip("addr", "add", "10.88.0.1/24", "dev", "e0")
        run("pylvs", "mark", "add", "--proto", "tcp", "--dst", "10.77.0.100", "--dports", "88", "7")
        for setting in SETTINGS:
            run("pylvs", "sysctl", "-w", f"net.ipv4.vs.{setting}")
        for line in EDITS.strip().splitlines():
            run("ipvsadm", *line.split())
        director = host.director
        tables: dict[str, Any] = {"maps": content(director), "build": director.state.note("object")}
        files = {
            "director.bpf.o": stripped(Path(abi.shipped().path("director"))),
            "tables.json": json.dumps(tables, indent=1, sort_keys=True).encode(),
            "saved": run("ipvsadm", "-Sn").encode(),
        }
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    record(sys.argv[1])
