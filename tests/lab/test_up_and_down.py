"""Labs are made and removed: twice, half-made, killed, interrupted; and bad input changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from pylvs.lab.hosts import STATE
from pylvs.lab.lab import build, labs, open_lab, take_down
from pylvs.lab.processes import SIGNALS, identity, living_in
from pylvs.lab.topologies import design
from pylvs.model.errors import InvalidOperation
from tests import ledger
from tests.lab.support import PYLVS, parts, pylvs, remains, unique
from tests.privileges import AS_ORDINARY_USER
from tests.waiting import PATIENCE_S, until

INTERRUPTIONS = 6


def test_a_second_up_is_refused_and_changes_nothing(lab_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLVS_COMMAND", "./dev run pylvs")
    first = pylvs("lab", "up", "dr", "--name", lab_name, "--servers", "1", "--bare")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.endswith(f"  try it: ./dev run pylvs lab exec {lab_name} client -- curl -s http://VIP/\n")
    second = pylvs("lab", "up", "nat", "--name", lab_name)
    assert second.returncode == 1
    assert second.stderr == (
        f"pylvs: lab {lab_name} is up already; pylvs lab down {lab_name} first, or choose another --name\n"
    )
    assert pylvs("lab", "exec", lab_name, "client", "--", "curl", "-s", "http://rs1/").stdout == "This is rs1 server!\n"
    assert f"{lab_name:<10} dr" in pylvs("lab", "list").stdout
    assert pylvs("lab", "show", lab_name).stdout.startswith(f"lab {lab_name}: direct routing")
    down = pylvs("lab", "down", lab_name)
    assert (down.returncode, down.stdout) == (0, f"lab {lab_name} is gone\n")
    again = pylvs("lab", "down", lab_name)
    assert (again.returncode, again.stderr) == (1, f"pylvs: there is no lab {lab_name}\n")


def test_programs_can_read_the_description(lab_name: str) -> None:
    build(lab_name, design("nat", 2), bare=True)
    description = json.loads((STATE / lab_name / "lab.json").read_text())
    assert description["state"] == "up"
    assert description["namespaces"]["rs2"] == f"/run/netns/pylvs-{lab_name}-rs2"
    assert description["network"]["vip"] == "172.16.0.100"
    assert open_lab(lab_name).network.role("realserver")[1].interfaces[0].addresses == ("10.0.0.22/24",)


def test_exec_passes_arguments_directory_and_status(lab_name: str, tmp_path: Path) -> None:
    build(lab_name, design("dr", 1), bare=True)
    done = pylvs(
        "lab", "exec", lab_name, "rs1", "--", "sh", "-c", 'echo "$0|$1"; pwd; cat; exit 7', "-x", "a b", text="in"
    )
    assert (done.returncode, done.stdout) == (7, f"-x|a b\n{os.getcwd()}\nin")
    assert pylvs("lab", "exec", lab_name, "rs1", "hostname").stdout == "rs1\n"
    wrong = pylvs("lab", "exec", lab_name, "rs9", "hostname")
    assert wrong.stderr == f"pylvs: rs9: lab {lab_name} has no such host; there are: client, director, rs1\n"
    shell = pylvs("lab", "shell", lab_name, "client", text="hostname\nexit 3\n")
    assert (shell.returncode, shell.stdout) == (3, "client\n")


def test_power_off_is_immediate_and_power_on_is_like_a_boot(lab_name: str) -> None:
    lab = build(lab_name, design("dr", 1))
    lab.sh("director", "sleep 100 </dev/null >/dev/null 2>&1 & ipvsadm -A -t 10.0.0.100:81")
    assert pylvs("lab", "power", lab_name, "director", "off").returncode == 0
    namespace = identity(lab.host("director").network)
    assert namespace
    assert living_in([namespace]) == []
    assert lab.run("client", ["ping", "-c", "1", "-W", "1", "10.0.0.10"]).returncode
    assert pylvs("lab", "power", lab_name, "director", "on").returncode == 0
    # Not one long ping: it would wait for a lookup of the neighbor that began before.
    until(lambda: lab.run("client", ["ping", "-c", "1", "-W", "1", "10.0.0.10"]).returncode == 0, "it answers")
    assert ":80" in lab.sh("director", "ipvsadm -Ln")
    assert ":81" not in lab.sh("director", "ipvsadm -Ln")
    wrong = pylvs("lab", "power", lab_name, "rs1", "off")
    assert wrong.stderr == "pylvs: rs1 is no director; only these can be switched: director\n"


def test_what_runs_in_a_lab_ends_with_it(lab_name: str) -> None:
    lab = build(lab_name, design("dr", 1), bare=True)
    ignores_signals = "trap '' TERM HUP INT; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*lab.host("client").inside(), "sh", "-c", ignores_signals], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert take_down(lab_name)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert remains(lab_name) == []


def test_labs_are_not_made_or_removed_from_within_one(lab_name: str) -> None:
    build(lab_name, design("dr", 1), bare=True)
    for words in (["down", lab_name], ["down", "--all"], ["up", "dr"], ["exec", lab_name, "rs1", "true"]):
        done = pylvs("lab", "exec", lab_name, "client", "pylvs", "lab", *words)
        assert done.returncode == 1
        assert done.stderr == f"pylvs: this is client of lab {lab_name}: leave it first\n"
    assert pylvs("lab", "exec", lab_name, "client", "hostname").stdout == "client\n"


def start_up(name: str) -> subprocess.Popen[bytes]:
    """Start `pylvs lab up`."""
    words = ["lab", "up", "dr-behind-router", "--name", name]
    return subprocess.Popen([*PYLVS, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def reaches(name: str, process: subprocess.Popen[bytes], wanted: int) -> None:
    """Wait until this many parts of the lab exist, or it is made."""
    until(lambda: len(parts(name)) >= wanted or process.poll() is not None, f"{wanted} parts", pause_s=0.002)


def killed_up(name: str, wanted: int) -> bool:
    """Kill `lab up` when this many parts of the lab exist. Return False if it had made the lab, which is removed."""
    with start_up(name) as process:
        reaches(name, process, wanted)
        process.kill()
    assert remains(name) != []
    if (name, "up") not in labs():
        return True
    take_down(name)
    ledger.record(f"lab up, killed with {wanted} parts", "it had made the lab before", 0.0)
    return False


def test_a_half_made_lab_can_be_removed_or_made_again(lab_name: str) -> None:
    for count in (1, 5, 9, 14):
        until(partial(killed_up, lab_name, count), f"a lab with {count} parts")
        if count % 2:
            assert f"{lab_name:<10} " in pylvs("lab", "list").stdout
            assert pylvs("lab", "down", lab_name).returncode == 0
            assert remains(lab_name) == []
    done = pylvs("lab", "up", "dr", "--bare", "--name", lab_name)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_up_removes_what_it_made(number: signal.Signals) -> None:
    """Interrupted at any moment, all is removed, or the lab is complete."""
    chance = random.Random(int(number))
    undone = 0
    for count in range(INTERRUPTIONS):
        name = unique(900 + count)
        try:
            with start_up(name) as process:
                reaches(name, process, chance.randint(1, 20) if count else 1)
                time.sleep(chance.random() * 0.05)
                process.send_signal(number)
            if process.returncode == 0:
                assert pylvs("lab", "exec", name, "client", "hostname").stdout == "client\n"
            else:
                assert process.returncode == 130
                assert remains(name) == []
                undone += 1
        finally:
            take_down(name)
            assert remains(name) == []
    assert undone


# Sends this process signals when the lab is complete: while it is drawn, and when the interpreter ends.
INTERRUPTED_LATE = f"""
import atexit, os
import click

def interrupt(*texts, **_):
    for number in {[int(number) for number in SIGNALS]}:
        os.kill(os.getpid(), number)

click.echo = interrupt
atexit.register(interrupt)
from pylvs.cli.main import main
main()
"""


def test_an_up_that_is_interrupted_late_has_made_the_lab(lab_name: str) -> None:
    """The exit status says that the lab is complete."""
    words = ["lab", "up", "dr", "--bare", "--name", lab_name]
    done = subprocess.run([PYLVS[0], "-c", INTERRUPTED_LATE, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert pylvs("lab", "exec", lab_name, "client", "hostname").stdout == "client\n"


def falls_to(name: str, process: subprocess.Popen[bytes], left: int) -> None:
    """Wait until this few parts of the lab are left, or it is removed."""
    until(lambda: len(parts(name)) <= left or process.poll() is not None, f"{left} parts are left", pause_s=0.002)


def test_an_interrupted_down_is_finished(lab_name: str) -> None:
    for left in (10, 8, 4, 1):  # of 12: namespaces of 3 hosts and the bridges, pins, the state
        build(lab_name, design("dr", 1), bare=True)
        with subprocess.Popen([*PYLVS, "lab", "down", lab_name], stdout=subprocess.DEVNULL) as process:
            falls_to(lab_name, process, left)
            process.send_signal(signal.SIGINT)
        assert remains(lab_name) == []
        assert not take_down(lab_name)


BAD_PLANS = {
    'vip = "10.0.0.1"\ncolour = "red"': "colour: a plan has no such field; there are: ",
    'vip = "ten"': "vip = 'ten': not an address; write ADDRESS/PREFIX",
    'dip = "fd00::1/64"': "dip = fd00::1/64: the VIP is IPv4, this is not",
    "servers = []": "servers: must be a list of 1 to 60 addresses",
    'device = "a/b"': "device = 'a/b': must be a device name of at most 15 characters",
    "port = 0": "port = 0: must be a number from 1 to 65535",
    "vip = ": "Invalid value",
}


@pytest.mark.parametrize("text", BAD_PLANS)
def test_a_bad_plan_is_one_line(text: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    name = unique(800)
    done = pylvs("lab", "up", "dr", "--plan", str(plan), "--name", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert BAD_PLANS[text] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert remains(name) == []


def test_bad_arguments_are_one_line() -> None:
    for words, error in (
        (["up", "ring"], "'ring' is not one of"),
        (["up", "dr", "--name", "a-b"], "'a-b': not a name for a lab"),
        (["up", "dr", "--servers", "0"], "number of servers: 0: must be from 1 to 60"),
        (["exec", "nosuchlab", "client", "true"], "lab nosuchlab is not there"),
        (["exec", "../etc", "client", "true"], "not a name for a lab"),
        (["down", "nosuchlab"], "there is no lab nosuchlab"),
    ):
        done = pylvs("lab", *words)
        assert done.returncode != 0
        assert error in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_lab_that_cannot_be_made_leaves_nothing() -> None:
    name = unique(801)
    network = design("dr", 1, overrides={"device": "lo"})  # a device name that exists in every host
    with pytest.raises(Exception, match="the lab could not be made"):
        build(name, network)
    assert remains(name) == []


def test_a_user_without_root_gets_an_error() -> None:
    for words in (["up", "dr"], ["down", "d1"], ["exec", "d1", "client", "true"]):
        done = subprocess.run([*AS_ORDINARY_USER, *PYLVS, "lab", *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("pylvs: Operation not permitted: ")
        assert len(done.stderr.splitlines()) == 1


def test_opening_a_lab_that_is_not_there() -> None:
    with pytest.raises(InvalidOperation, match="lab nosuchlab is not there"):
        open_lab("nosuchlab")
