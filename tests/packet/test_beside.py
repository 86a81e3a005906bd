"""Every way to forward that this kernel has carries all that is sent, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from pylvs.bench.beside.ways import DR, IPVS, NAT, NFTABLES, WAYS
from pylvs.bench.site import PREFIX

COMMAND = (sys.executable, "-m", "pylvs.bench.beside")


def _namespaces(process: int) -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.startswith(f"{PREFIX}{process}-")}


def test_all_that_is_sent_arrives_and_the_table_has_every_way(tmp_path: Path) -> None:
    path = tmp_path / "beside.json"
    running = subprocess.Popen(
        [*COMMAND, "--quick", "--json", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = running.communicate(timeout=240)
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
    assert _namespaces(running.pid) == set()


def test_an_interrupted_one_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "beside.json"
    running = subprocess.Popen(
        [*COMMAND, "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
    )
    end = time.monotonic() + 100
    while len(_namespaces(running.pid)) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(_namespaces(running.pid)) == 4
    time.sleep(0.7)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "")
    assert _namespaces(running.pid) == set()
    assert not path.exists()
