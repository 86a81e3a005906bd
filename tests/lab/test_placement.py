"""`net_namespace`, `net_namespace_ipvs` and `instance`: where addresses, tables and PID files of `pylvs run` are."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pylvs.system.namespaces import inside_network
from tests.lab.support import PYLVS
from tests.waiting import PATIENCE_S, until

VIP, OTHER_VIP, SERVER = "192.0.2.16", "192.0.2.17", "192.0.2.1"
IPVSADM = [sys.executable, "-c", "from pylvs.ipvsadm.main import ipvsadm_script; ipvsadm_script()"]
_numbers = itertools.count(1)


def namespace(stack: ExitStack) -> str:
    """Make a network namespace; return its name."""
    name = f"pylvs-p{os.getpid()}x{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    return name


def with_link(name: str) -> str:
    """Give a network namespace eth0 with an address."""
    for words in ("link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up"):
        subprocess.run(["ip", "-n", name, *words.split()], check=True)
    subprocess.run(["ip", "-n", name, "addr", "add", f"{SERVER}/24", "dev", "eth0"], check=True)
    return name


def addresses(name: str) -> str:
    return subprocess.run(["ip", "-n", name, "addr"], check=True, capture_output=True, text=True).stdout


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace."""
    with inside_network(f"/run/netns/{name}"):
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)


def listing(name: str) -> str:
    done = run(name, *IPVSADM, "-Ln")
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def daemon(start: str, file: Path, *words: str) -> Iterator[Path]:
    """Run a daemon from this network namespace; return its log."""
    log = file.with_suffix(".log")
    with log.open("w") as out, inside_network(f"/run/netns/{start}"):
        process = subprocess.Popen([*PYLVS, "run", "-f", str(file), *words], stderr=out)
    try:
        until(lambda: "info: ready" in log.read_text() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def send_datagram(name: str) -> None:
    """Send a UDP datagram to the VIP, which comes in by eth0."""
    with inside_network(f"/run/netns/{name}"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        mac = wire.getsockname()[4].hex(":")
        wire.bind(("peer0", 0))
        wire.send(bytes(Ether(dst=mac) / IP(src="192.0.2.9", dst=VIP) / UDP(sport=4000, dport=80)))


def router(name: str, vrid: int, vip: str) -> str:
    return (
        f"vrrp_instance {name} {{\n interface eth0\n virtual_router_id {vrid}\n advert_int 0.1\n version 3\n"
        f" virtual_ipaddress {{ {vip}/24 }}\n}}\n"
    )


def service(port: int) -> str:
    return (
        f"virtual_server {VIP} 80 {{\n lvs_sched rr\n lvs_method NAT\n protocol TCP\n delay_loop 1\n alpha\n"
        f" real_server {SERVER} {port} {{\n TCP_CHECK {{ }}\n }}\n}}\n"
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_addresses_and_checks_are_in_one_namespace_and_the_tables_in_another(stack: ExitStack, tmp_path: Path) -> None:
    start, tables = namespace(stack), namespace(stack)
    routers = with_link(namespace(stack))
    with inside_network(f"/run/netns/{routers}"):
        server = stack.enter_context(socket.create_server((SERVER, 0)))
    file = tmp_path / "keepalived.conf"
    text = router("VI_1", 51, VIP) + service(server.getsockname()[1])
    file.write_text(f"net_namespace {routers}\nnet_namespace_ipvs {tables}\n{text}")
    with daemon(start, file) as log:
        until(lambda: f"{VIP}/24" in addresses(routers), log.read_text)
        until(lambda: f"{SERVER}:" in listing(tables), log.read_text)  # alpha: the check has succeeded in `routers`
        assert f"TCP  {VIP}:80 rr" in listing(tables)
        for name in (start, routers):
            assert VIP not in listing(name)
        for name in (start, tables):
            assert VIP not in addresses(name)
        pids = Path("/run/keepalived", routers)
        vrrp = int((pids / "vrrp.pid").read_text())
        assert os.stat(f"/proc/{vrrp}/ns/net").st_ino == os.stat(f"/run/netns/{routers}").st_ino
        status = run(start, *PYLVS, "status", "--namespace", routers)
        assert (status.returncode, "VI_1 MASTER" in status.stdout) == (0, True)
        file.write_text(f"net_namespace {start}\n{text}")
        refused = run(start, *PYLVS, "reload", "--namespace", routers)
        assert refused.returncode == 1
        assert f"{file}: net_namespace cannot change while pylvs runs; restart it" in refused.stderr
        assert f"{VIP}/24" in addresses(routers)
    assert VIP not in addresses(routers)
    assert VIP not in listing(tables)
    assert list(pids.iterdir()) == []


def test_a_trace_follows_packets_where_the_tables_are(stack: ExitStack, tmp_path: Path) -> None:
    """`pylvs trace --state-dir`, as the web page runs it."""
    start, tables = namespace(stack), with_link(namespace(stack))
    file, state = tmp_path / "keepalived.conf", tmp_path / "state"
    file.write_text(f"net_namespace_ipvs {tables}\n{service(9)}")
    with daemon(start, file, "--state-dir", str(state)):
        assert traced(start, state, tables)["device"] == "eth0"


def test_a_trace_finds_the_tables_in_the_namespace_of_the_start(stack: ExitStack, tmp_path: Path) -> None:
    """That namespace may have no name: then only the daemon's descriptor leads there."""
    start, routers = with_link(namespace(stack)), namespace(stack)
    file, state = tmp_path / "keepalived.conf", tmp_path / "state"
    file.write_text(f"net_namespace {routers}\nnet_namespace_ipvs\n{service(9)}")
    with daemon(start, file, "--state-dir", str(state)):
        for name in start, routers:
            assert traced(name, state, start)["device"] == "eth0"
        note = json.loads((state / "namespaces.json").read_text())
    (state / "namespaces.json").write_text(json.dumps(note))  # as after a crash
    refused = run(routers, *PYLVS, "trace", "--state-dir", str(state))
    text = "the network namespace of its tables has no name, and is not this one: run this command there"
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"pylvs: {state}: {text}\n")


def traced(name: str, state: Path, tables: str) -> dict[str, Any]:
    """Run a trace in a network namespace; return its record of a datagram to the tables."""
    words = ["trace", "--state-dir", str(state), "--json", "--seconds", str(PATIENCE_S), "--count", "1", "udp"]
    with (
        inside_network(f"/run/netns/{name}"),
        subprocess.Popen([*PYLVS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        announced = process.stderr.readline()
        assert announced.startswith("pylvs: tracing"), announced
        send_datagram(tables)
        record: dict[str, Any] = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    return record


def test_the_tables_may_be_in_the_namespace_of_the_start(stack: ExitStack, tmp_path: Path) -> None:
    start, routers = namespace(stack), with_link(namespace(stack))
    file = tmp_path / "keepalived.conf"
    file.write_text(f"net_namespace {routers}\nnet_namespace_ipvs\n{router('VI_1', 51, VIP)}{service(9)}")
    with daemon(start, file) as log:
        until(lambda: f"{VIP}/24" in addresses(routers), log.read_text)
        assert f"TCP  {VIP}:80 rr" in listing(start)
        assert VIP not in listing(routers)


class Unit:
    """Stands in for systemd: a unit that runs the daemon, and commands, in one network namespace."""

    def __init__(self, start: str, file: Path) -> None:
        self._start, self._file = start, file
        self._name = f"pylvs-test{os.getpid()}x{next(_numbers)}.service"
        self._folder = file.parent / self._name
        self._folder.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        log = self._file.with_suffix(".log")
        with log.open("w") as out, inside_network(f"/run/netns/{self._start}"):
            command = [*PYLVS, "run", "-f", str(self._file), *words]
            self.process = process = subprocess.Popen(command, stderr=out, env=self._environment())
        until(lambda: "info: ready" in log.read_text() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()

    def run_refused(self) -> str:
        """Start the daemon; return why it does not run."""
        with inside_network(f"/run/netns/{self._start}"):
            done = subprocess.run(
                [*PYLVS, "run", "-f", str(self._file), "--strict"],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                env=dict(os.environ) | {"PYLVS_UNIT": self._name},
            )
        assert done.returncode == 78, done
        return done.stderr

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def command(self, *words: str, job: str = "", unit: str = "") -> subprocess.CompletedProcess[str]:
        """Run `pylvs` as a command of this unit, or of another one, while systemd has this job."""
        systemctl = self._folder / "systemctl"
        systemctl.write_text(f"#!/bin/sh\necho '7 {unit or self._name} {job} running'\n")
        systemctl.chmod(0o755)
        name = ["--unit", unit or self._name] if words == ("stop",) else []
        with inside_network(f"/run/netns/{self._start}"):
            return subprocess.run(
                [*PYLVS, *words, *name], capture_output=True, text=True, timeout=PATIENCE_S, env=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        running = {"MAINPID": str(self.process.pid)} if self.process else {}
        path = f"{self._folder}:{os.environ['PATH']}"
        return dict(os.environ) | {"PATH": path, "PYLVS_UNIT": self._name} | running


@pytest.fixture
def unit_of(stack: ExitStack, tmp_path: Path) -> Callable[[str, str], Unit]:
    def make(start: str, text: str) -> Unit:
        file = tmp_path / "keepalived.conf"
        file.write_text(text)
        made = Unit(start, file)
        stack.callback(made.kill)
        return made

    return make


def test_the_commands_of_a_unit_find_its_daemon_and_its_tables(
    stack: ExitStack, unit_of: Callable[[str, str], Unit]
) -> None:
    start, routers, tables = (namespace(stack) for _ in range(3))
    assert run(start, *IPVSADM, "-A", "-t", f"{VIP}:80").returncode == 0
    text = f"net_namespace {routers}\nnet_namespace_ipvs {tables}\ninstance blue\n{service(9)}"
    unit = unit_of(start, text)
    unit.start()
    reload = unit.command("reload")
    assert (reload.returncode, reload.stdout) == (0, "nothing has changed\n"), reload.stderr
    stop = unit.command("stop", job="restart")
    assert (stop.returncode, "has ended" in stop.stdout) == (0, True), stop
    assert unit.process is not None
    assert unit.process.wait(PATIENCE_S) == 0
    assert f"TCP  {VIP}:80 rr" in listing(tables), "the next daemon continues"
    unit.start()
    unit.kill()
    stop = unit.command("stop", job="stop", unit="pylvs-cleanup.service")
    assert (stop.returncode, stop.stdout) == (0, "1 service deleted from the table\n"), stop.stderr
    assert VIP not in listing(tables)
    assert VIP in listing(start), "it belongs to another program"


def test_services_stay_noted_while_their_namespace_cannot_be_entered(
    stack: ExitStack, unit_of: Callable[[str, str], Unit]
) -> None:
    start, routers = namespace(stack), namespace(stack)
    unit = unit_of(start, f"net_namespace {routers}\nnet_namespace_ipvs\n{service(9)}")
    unit.start()
    unit.kill()
    assert run(routers, *IPVSADM, "-A", "-t", f"{VIP}:80").returncode == 0
    stop = run(routers, *PYLVS, "stop")
    assert (stop.returncode, stop.stdout) == (1, "")
    assert "the network namespace of its tables has no name, and is not this one: run this command there" in stop.stderr
    assert VIP in listing(routers), "it belongs to another program"
    stop = unit.command("stop", job="stop")
    assert (stop.returncode, stop.stdout) == (0, "1 service deleted from the table\n"), stop.stderr
    assert VIP not in listing(start)


@pytest.mark.parametrize("what", ["net_namespace", "instance"])
def test_a_restart_elsewhere_ends_what_the_unit_left(
    what: str, stack: ExitStack, tmp_path: Path, unit_of: Callable[[str, str], Unit]
) -> None:
    start, blue = namespace(stack), with_link(namespace(stack))
    green = with_link(namespace(stack)) if what == "net_namespace" else blue
    text = router("VI_1", 51, VIP)
    unit = unit_of(start, f"net_namespace {blue}\n{text}{service(9)}")
    unit.start()
    log, file = tmp_path / "keepalived.log", tmp_path / "keepalived.conf"
    until(lambda: f"{VIP}/24" in addresses(blue), log.read_text)
    assert unit.process is not None
    stop = unit.command("stop", job="restart")
    assert (stop.returncode, unit.process.wait(PATIENCE_S)) == (0, 0), stop.stderr
    other = "instance red\n" if what == "instance" else ""
    moved = f"net_namespace {green}\n{other}{router('VI_1', 51, OTHER_VIP)}"
    file.write_text(f"{moved}virtual_server {{\n")
    refused = unit.run_refused()
    assert "virtual_server" in refused
    assert f"{VIP}/24" in addresses(blue), "a start that is refused ends nothing"
    file.write_text(moved)
    unit.start()
    until(lambda: f"{OTHER_VIP}/24" in addresses(green), log.read_text)
    assert f"{VIP}/24" not in addresses(blue)
    until(lambda: VIP not in listing(blue), log.read_text)
    handed_over = what == "instance"  # the tables are the same, so the new daemon takes the services over
    assert ("1 service deleted from the table" in log.read_text()) != handed_over
    unit.kill()
    stop = unit.command("stop", job="stop")
    assert (stop.returncode, "has given up its addresses" in stop.stdout) == (0, True), stop
    assert f"{OTHER_VIP}/24" not in addresses(green)


def test_what_cannot_be_ended_elsewhere_is_an_error_that_names_the_command(
    stack: ExitStack, tmp_path: Path, unit_of: Callable[[str, str], Unit]
) -> None:
    start, blue, green = (namespace(stack) for _ in range(3))
    unit = unit_of(start, f"net_namespace {blue}\nnet_namespace_ipvs\n{service(9)}")
    unit.start()
    unit.kill()
    (tmp_path / "keepalived.conf").write_text(f"net_namespace {green}\n{service(9)}")
    unit.start()
    log = (tmp_path / "keepalived.log").read_text()
    assert "the network namespace of its tables has no name, and is not this one: run this command there" in log
    state = log.rpartition("run: pylvs stop --state-dir ")[2].split()[0]
    assert VIP in listing(start)
    stop = run(start, *PYLVS, "stop", "--state-dir", state)
    assert (stop.returncode, stop.stdout) == (0, "1 service deleted from the table\n"), stop.stderr
    assert VIP not in listing(start)
    assert VIP in listing(green)


def test_a_stop_leaves_the_services_of_a_daemon_that_leaves_them(
    stack: ExitStack, unit_of: Callable[[str, str], Unit]
) -> None:
    start, routers = namespace(stack), namespace(stack)
    unit = unit_of(start, f"net_namespace {routers}\n{service(9)}")
    for killed in (False, True):
        unit.start("-I")
        if killed:
            unit.kill()
        stop = unit.command("stop", job="stop")
        assert (stop.returncode, "deleted" in stop.stdout) == (0, False), stop
        unit.kill()
        assert f"TCP  {VIP}:80 rr" in listing(routers)


def test_a_namespace_that_was_made_again_is_not_that_of_the_daemon(
    stack: ExitStack, unit_of: Callable[[str, str], Unit]
) -> None:
    start, routers = namespace(stack), namespace(stack)
    unit = unit_of(start, f"net_namespace {routers}\n{service(9)}")
    unit.start()
    unit.kill()
    subprocess.run(["ip", "netns", "del", routers], check=True)
    subprocess.run(["ip", "netns", "add", routers], check=True)
    assert run(routers, *IPVSADM, "-A", "-t", f"{VIP}:80").returncode == 0
    stop = unit.command("stop", job="stop")
    assert (stop.returncode, stop.stdout) == (0, ""), stop.stderr
    assert VIP in listing(routers), "it belongs to another program"


@pytest.mark.parametrize("keyword", ["net_namespace", "net_namespace_ipvs"])
def test_without_the_namespace_the_daemon_does_not_start(keyword: str, stack: ExitStack, tmp_path: Path) -> None:
    start = with_link(namespace(stack))
    file = tmp_path / "keepalived.conf"
    file.write_text(f"{keyword} pylvs-none\n{router('VI_1', 51, VIP)}")
    done = run(start, *PYLVS, "run", "-f", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    text = f"{keyword} pylvs-none: there is no /run/netns/pylvs-none; make it with: ip netns add pylvs-none"
    assert done.stderr == f"pylvs: {text}\n"
    assert VIP not in addresses(start)


def test_two_instances_run_in_one_namespace(stack: ExitStack, tmp_path: Path) -> None:
    start = with_link(namespace(stack))
    blue, red = tmp_path / "blue.conf", tmp_path / "red.conf"
    blue.write_text(f"instance blue\n{router('VI_1', 51, VIP)}{service(9)}")
    red.write_text(f"instance red\n{router('VI_2', 52, OTHER_VIP)}")
    with daemon(start, blue) as log, daemon(start, red):
        until(lambda: {VIP, OTHER_VIP} <= {word.split("/")[0] for word in addresses(start).split()}, log.read_text)
        assert Path("/run/keepalived/keepalived_blue.pid").exists()
        for name, instance in (("blue", "VI_1"), ("red", "VI_2")):
            status = run(start, *PYLVS, "status", "--instance", name)
            assert (status.returncode, f"{instance} MASTER" in status.stdout) == (0, True), status
        assert f"TCP  {VIP}:80 rr" in listing(start)
    assert VIP not in addresses(start)
