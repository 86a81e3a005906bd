"""Two `pylvs run` with virtual routers on one link: what continues when a process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.errors import PylvsError
from pylvs.vrrp.client import Client
from tests.interop.namespaces import ip
from tests.lab.support import PYLVS
from tests.waiting import PATIENCE_S, until, until_reaped

VIP = "10.66.0.100"
INSTANCE = """
vrrp_instance VI_1 {{
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 1
    version 3
    {more}
    virtual_ipaddress {{
        10.66.0.100/24
    }}
}}
"""

PATIENT = "down_timer_adverts 100"  # intervals without an advertisement until it takes over
LEASED = "global_defs {{\n    data_plane_lease 3600\n}}\n" + INSTANCE


class Node:
    """A network namespace with `eth0` on the switch, and `pylvs run` in it."""

    def __init__(self, name: str, folder: Path, priority: int) -> None:
        self.name = name
        self.folder = folder
        self.priority = priority
        self.daemon: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.write()

    @property
    def file(self) -> Path:
        return self.folder / "keepalived.conf"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, more: str = "", text: str = INSTANCE) -> None:
        """Replace the configuration."""
        self.file.write_text(text.format(priority=self.priority, more=more))

    def pylvs(self, *words: str) -> list[str]:
        """Return a command in the namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *PYLVS, *words, "--state-dir", str(self.state)]

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        begun = len(re.findall(" info: ready ", self.log()))
        with open(self.folder / "log", "ab") as log:
            command = self.pylvs("run", "-f", str(self.file))
            self.daemon = subprocess.Popen(command, stderr=log, start_new_session=True)
        until(lambda: len(re.findall(" info: ready ", self.log())) > begun or self.ended(), "ready")
        assert not self.ended(), self.log()

    def ended(self) -> bool:
        assert self.daemon is not None
        return self.daemon.poll() is not None

    def end(self, number: signal.Signals) -> int:
        """Return the daemon's exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(60)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def ask(self, verb: str = "status", **more: Any) -> Any:
        """Return the answer of the process of its virtual routers."""
        with Client(self.state / "vrrp") as client:
            return client.ask(verb, **more)

    def router(self) -> dict[str, Any]:
        (found,) = self.ask()["instances"]
        assert isinstance(found, dict)
        return found

    def is_in(self, state: str) -> bool:
        """Return whether its virtual router is in this state; False without an answer."""
        try:
            return any(each["state"] == state for each in self.ask()["instances"])
        except PylvsError:
            return False

    def process(self) -> int:
        return int(self.ask()["process"]["pid"])

    def router_process(self) -> int:
        """Return the process of its virtual routers, 0 if none answers."""
        try:
            return self.process()
        except PylvsError:
            return 0

    def holds(self) -> bool:
        return VIP in ip(f"-n {self.name} addr show dev eth0")

    def run(self, *words: str) -> str:
        """Return a command's output. Repeat it if a busy machine keeps the daemon from a reply in time."""
        done: list[subprocess.CompletedProcess[str]] = []

        def replied() -> bool:
            done.append(subprocess.run(self.pylvs(*words), capture_output=True, text=True, timeout=PATIENCE_S))
            return "did not reply within" not in done[-1].stderr

        until(replied, f"a reply to pylvs {' '.join(words)}")
        assert done[-1].returncode == 0, done[-1].stderr
        return done[-1].stdout

    def close(self) -> None:
        """Stop everything."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for process in map(int, ip(f"netns pids {self.name}").split()):  # all of them descend from it
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not ip(f"netns pids {self.name}").split(), "nothing runs here any more")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Make two nodes, both stopped; the first has the higher priority."""
    switch, *names = (f"pylvs-vr{os.getpid()}{end}" for end in "sab")
    nodes: list[Node] = []
    made: list[str] = []
    try:
        for name in (switch, *names):
            ip(f"netns add {name}")
            made.append(name)
            ip(f"-n {name} link set lo up")
        ip(f"-n {switch} link add br0 type bridge mcast_snooping 0")
        ip(f"-n {switch} link set br0 up")
        for number, name in enumerate(names, 1):
            ip(f"-n {switch} link add port{number} type veth peer name eth0 netns {name}")
            ip(f"-n {switch} link set port{number} master br0 up")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} addr add 10.66.0.{number}/24 dev eth0")
            nodes.append(Node(name, tmp_path / f"node{number}", 200 - number * 50))
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.close()
        for name in made:
            ip(f"netns del {name}")


@pytest.fixture
def settled(pair: tuple[Node, Node]) -> tuple[Node, Node]:
    """Start both, and wait until the first is master."""
    return started(pair)


@pytest.fixture
def steady(pair: tuple[Node, Node]) -> tuple[Node, Node]:
    """Start both; the second does not take over when the first pauses, as on a busy machine."""
    pair[1].write(PATIENT)
    return started(pair)


def started(pair: tuple[Node, Node]) -> tuple[Node, Node]:
    for node in pair:
        node.start()
    until(lambda: pair[0].is_in("MASTER") and pair[1].is_in("BACKUP"), "the first is master")
    until(pair[0].holds, "and holds the address")
    return pair


def received_more(node: Node) -> Callable[[], bool]:
    """Return whether it has received two more advertisements."""
    before = node.router()["counters"]["received"]
    return lambda: node.router()["counters"]["received"] >= before + 2


def test_a_killed_pylvs_run_keeps_address_and_advertisements_and_the_next_one_adopts_them(
    steady: tuple[Node, Node],
) -> None:
    first, second = steady
    process, since = first.process(), first.router()["since"]
    for number in (signal.SIGKILL, signal.SIGABRT, signal.SIGKILL):
        assert first.end(number) == -number
        until(received_more(second), "advertisements go on")
        assert (first.holds(), second.holds()) == (True, False)
        assert "VI_1  MASTER since " in first.run("vrrp", "status"), "it answers without the daemon"
        first.start()
        assert first.process() == process
        until(lambda: "virtual routers: VI_1 MASTER since " in first.run("status"), "the daemon has their status")
    assert first.log().count(f"adopted the running process of the virtual routers (process={process})") == 3
    assert first.router()["since"] == since, "not a single transition"
    assert [each["state"] for each in second.ask("why", name="VI_1")["VI_1"]] == ["BACKUP"]


def test_a_stopped_pylvs_run_removes_the_address_first(settled: tuple[Node, Node]) -> None:
    first, second = settled
    process = first.process()
    assert first.end(signal.SIGTERM) == 0
    assert not first.holds()
    until_reaped(process)
    until(second.holds, "the second holds the address")
    (*_, last) = second.ask("why", name="VI_1")["VI_1"]
    assert (last["state"], last["before"]) == ("MASTER", "BACKUP")
    first.start()
    until(lambda: first.is_in("MASTER") and second.is_in("BACKUP"), "the better one is back")


def test_a_killed_process_of_virtual_routers_is_started_again(settled: tuple[Node, Node]) -> None:
    first, second = settled
    process = first.process()
    os.kill(process, signal.SIGKILL)
    until(lambda: first.is_in("MASTER") and first.process() != process, "another is master again")
    until(lambda: first.holds() and not second.holds(), "and it alone holds the address")
    assert f"process {process} has gone (was ended by signal 9)" in first.log()
    assert first.daemon is not None
    assert first.daemon.poll() is None


def test_yield_hands_over_and_resume_takes_back(settled: tuple[Node, Node]) -> None:
    first, second = settled
    assert first.run("vrrp", "yield", "--for", "10m").startswith("VI_1: does not take over before ")
    until(lambda: second.holds() and not first.holds(), "the second holds the address")
    until(received_more(first), "and the first only listens")
    assert "yielded by the operator" in first.run("vrrp", "why").splitlines()[-1]
    first.run("vrrp", "resume")
    until(lambda: first.holds() and not second.holds(), "the first holds the address")
    returned = "vrrp transition VI_1 BACKUP -> MASTER priority=150"
    until(lambda: returned in first.run("events"), "the daemon has the event")
    assert "vrrp transition VI_1 MASTER -> BACKUP priority=150: yielded by the operator" in first.run("events")


def test_a_reload_changes_a_priority_without_a_restart_and_removes_what_the_file_lacks(
    settled: tuple[Node, Node],
) -> None:
    first, second = settled
    process, since = first.process(), first.router()["since"]
    first.priority = 140
    first.write()
    assert "priority" in first.run("reload")
    assert (first.router()["base_priority"], first.router()["since"]) == (140, since)
    assert first.process() == process
    first.write(text="global_defs {{\n    router_id none\n}}\n")
    first.run("reload", "--allow-empty")
    assert not first.holds()
    until_reaped(process)
    until(second.holds, "the second holds the address")
    first.write()
    first.run("reload")
    until(lambda: first.holds() and not second.holds(), "the first holds the address again")


@contextmanager
def paused(node: Node) -> Iterator[None]:
    """Stop `pylvs run`, which else reports each second that services are forwarded."""
    assert node.daemon is not None
    node.daemon.send_signal(signal.SIGSTOP)
    try:
        node.ask()  # so its last report has been received
        yield
    finally:
        node.daemon.send_signal(signal.SIGCONT)


def test_a_lost_packet_path_is_a_warning_unless_the_file_makes_it_a_fault(settled: tuple[Node, Node]) -> None:
    first, second = settled
    with paused(first):
        first.ask("data_plane", up=False, reason="no BPF here")
        assert first.router()["state"] == "MASTER"
        assert first.ask()["data_plane"]["reason"] == "no BPF here"
    first.write("track_data_plane", LEASED)
    first.run("reload")
    with paused(first):
        first.ask("data_plane", up=False, reason="no BPF here")
        until(lambda: first.is_in("FAULT") and second.holds() and not first.holds(), "the second holds the address")
        assert "no BPF here" in str(first.ask("why"))
    until(lambda: first.holds() and not second.holds(), "the first holds the address again")
