"""Every way of forwarding that this kernel has carries all packets, and the comparison removes what it made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.beside.ways import DR, IPVS, NAT, NFTABLES, WAYS
from tests.packet.interrupted import interrupted_at, namespaces_of

COMMAND = (sys.executable, "-m", "bench.beside")
PATIENCE_S = 280


@pytest.mark.nightly("is a measurement; that each way forwards each kind of traffic, the lab's tests prove")
def test_all_packets_arrive_and_the_table_has_every_way(tmp_path: Path) -> None:
    path = tmp_path / "beside.json"
    running = subprocess.Popen(
        [*COMMAND, "--quick", "--json", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, errors
    (found,) = json.loads(path.read_text())["kernels"]
    there = {way.name: set(way.aims) for way in WAYS if way.name not in found["missing"]}
    assert set(found["missing"]) <= {IPVS.name, NFTABLES.name}, found["missing"]
    assert {way: set(methods) for way, methods in found["taken"].items()} == there
    for methods in found["taken"].values():
        for method, taken in methods.items():
            assert ("answer_udp" in taken) == (method == NAT)
            assert [name for name, each in taken.items() if each["arrived"] != each["sent"] or not each["sent"]] == []
    for way in WAYS:
        assert way.label in output
    assert f"pylvs at native XDP, {DR}" in output
    assert namespaces_of(running.pid) == set()


def test_an_interrupted_comparison_removes_what_it_made(tmp_path: Path) -> None:
    path = tmp_path / "beside.json"
    ended = interrupted_at("pass 1 of", [*COMMAND, "--json", str(path)])
    assert (ended.status, ended.errors, len(ended.before)) == (130, "", 4)
    assert ended.after == set()
    assert not path.exists()
