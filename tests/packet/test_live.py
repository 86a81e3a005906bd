"""`pylvs bench --live` counts the packets that came, and restores the machine. The test asserts no speed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pylvs.cli.main import run
from pylvs.cli.meter import LINE_RATE, Meter, Reading, metered
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.modes import Mode
from pylvs.model.errors import PylvsError
from tests.json_page import assert_documented
from tests.packet.frames import tcp
from tests.packet.host import Host
from tests.waiting import until

Capture = pytest.CaptureFixture[str]
PORT = 80
FRAMES = 500


@pytest.fixture
def wire(director_host: Host) -> Iterator[socket.socket]:
    """Return the far end of d0, where the kernel itself sends nothing."""
    with open("/proc/sys/net/ipv6/conf/d1/disable_ipv6", "w", encoding="ascii") as file:
        file.write("1")
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    end.bind(("d1", 0))
    with end:
        yield end


def statistics_kept() -> int:
    """Return how many descriptors of this process keep the kernel's statistics enabled."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += "bpf-stats" in os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
    return found


def attach(host: Host, mode: Mode) -> None:
    with host.director.batch():
        attachments.request(host.director.tables, "d0", mode)


def settled(meter: Meter, since: Reading, frames: int) -> Reading:
    """Return a reading after this many frames."""
    until(lambda: meter.sample(since, meter.read()).packets >= frames, f"{frames} frames")
    return meter.read()


@pytest.mark.parametrize("mode", ["generic", "tc"])
def test_every_frame_is_counted_once(director_host: Host, wire: socket.socket, mode: Mode) -> None:
    director_host.serve(director_host.new_key(), 1)
    service = director_host.new_key()
    director_host.serve(service, 2)
    attach(director_host, mode)
    with metered("d0") as meter:
        assert statistics_kept() == 1
        assert meter.attachment.mode == mode
        assert meter.machine.counting > 0
        before = meter.read()
        for number in range(FRAMES):
            wire.send(tcp("S", 10_000 + number, service.port))
        sample = meter.sample(before, settled(meter, before, FRAMES))
    assert sample.packets == FRAMES
    assert sample.traffic.in_packets == FRAMES
    assert sample.traffic.in_bytes == FRAMES * 54
    assert sample.programs["xdp" if mode == "generic" else "tc"].runs == FRAMES
    assert (sample.ns_a_packet or 0) > 0
    assert statistics_kept() == 0
    counted = director_host.director.service(service).counters
    assert counted.in_packets == FRAMES


def test_what_was_not_forwarded_is_named(director_host: Host, wire: socket.socket) -> None:
    service = director_host.new_key()
    director_host.serve(service, 0)
    attach(director_host, "tc")
    with metered("d0") as meter:
        before = meter.read()
        for number in range(20):
            wire.send(tcp("S", 10_000 + number, service.port))
        sample = meter.sample(before, settled(meter, before, 20))
    assert sample.reasons["no destination"] == 20


def test_programs_that_other_devices_share_are_named(director_host: Host) -> None:
    attach(director_host, "tc")
    with director_host.director.batch():
        attachments.request(director_host.director.tables, "d1", "tc")
    try:
        with metered("d0") as meter:
            assert set(meter.shared) - {"lo"} == {"d1"}
    finally:
        with director_host.director.batch():
            attachments.release(director_host.director.tables, "d1")


def test_json_has_numbers_and_text_has_a_table(director_host: Host, wire: socket.socket, capfd: Capture) -> None:
    service = director_host.new_key()
    director_host.serve(service, 2)
    attach(director_host, "generic")
    sent, done = 0, threading.Event()

    def send() -> None:
        nonlocal sent
        while not done.is_set():
            sent += 1
            wire.send(tcp("A", 20_000, service.port))
            time.sleep(0.002)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert run(["bench", "--live", "d0", "--seconds", "2", "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert_documented("pylvs bench", found)
        assert_documented("A sample", *found["samples"], found["total"], {"reasons": {"no_service": 1}})
        assert run(["bench", "--live", "d0", "--seconds", "1"]) == 0
        table = capfd.readouterr().out
    finally:
        done.set()
        sender.join()
    assert (found["device"], found["mode"], len(found["samples"])) == ("d0", "generic", 2)
    total = found["total"]
    assert 0 < total["packets"] <= sent
    assert sum(each["packets"] for each in found["samples"]) == total["packets"]
    assert total["programs"]["xdp"]["runs"] == total["packets"]
    assert total["seconds"] > 1.9
    assert total["cores_at_10_gbit"] == pytest.approx(total["ns_a_packet"] * LINE_RATE / 1e9)
    lines = table.splitlines()
    assert lines[0].startswith("d0: generic [xdp ")
    assert any(line.endswith("the floor: swap the MAC addresses") for line in lines)
    assert any(line.endswith("and one read from a random place in memory") for line in lines)


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        ("--live nothere0", 1, "nothere0: no such device; there are: "),
        ("--live d1", 1, "d1: nothing of pylvs is attached here; pylvs show tells where it is"),
        ("", 2, "Missing option '--live'"),
        ("--live d0 --seconds 0", 2, "Invalid value for '--seconds'"),
    ],
)
def test_an_error_is_one_line(director_host: Host, capfd: Capture, words: str, status: int, error: str) -> None:
    attach(director_host, "tc")
    capfd.readouterr()
    assert run(["bench", *words.split()]) == status
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"pylvs: {error}")
    assert statistics_kept() == 0


def test_a_missing_permission_is_reported(director_host: Host) -> None:
    attach(director_host, "tc")
    program = "import sys; from pylvs.cli.main import run; sys.exit(run(['bench', '--live', 'd0']))"
    for lost, error in (("-all", "missing: root has been deprived"), ("-sys_admin", "CAP_SYS_ADMIN missing: root")):
        done = subprocess.run(
            ["setpriv", "--bounding-set", lost, "--inh-caps", lost, sys.executable, "-c", program],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert error in done.stderr
        assert done.stderr.count("\n") == 1


def test_it_ends_when_the_device_is_detached(director_host: Host) -> None:
    attach(director_host, "tc")
    with metered("d0") as meter:
        meter.read()
        with director_host.director.batch():
            attachments.release(director_host.director.tables, "d0")
        with pytest.raises(PylvsError, match="d0: nothing of pylvs is attached"):
            meter.read()
    attach(director_host, "generic")


def test_ctrl_c_prints_the_counts_so_far(director_host: Host) -> None:
    attach(director_host, "tc")
    program = "import sys; from pylvs.cli.main import run; sys.exit(run(['bench', '--live', 'd0', '--seconds', '60']))"
    command = [sys.executable, "-u", "-c", program]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if "packets/s" in line:
            break
    assert running.stdout.readline(), "what the first second brought"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=200)
    assert (running.returncode, err) == (130, "")
    assert "the floor: swap the MAC addresses" in out
