"""`pylvs run` on a real message bus: what clients see, beside the real keepalived on the same bus."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection

from pylvs.model.errors import PylvsError
from pylvs.system.sandbox import UNPRIVILEGED
from pylvs.vrrp.client import Client
from pylvs.vrrp.garp import ETH_P_ARP
from tests.interop import keepalived, message_bus
from tests.interop.message_bus import ERROR, SERVICE, MessageBus, Signals, user_of_pylvs
from tests.interop.namespaces import ip, on_a_link
from tests.privileges import assert_unprivileged
from tests.waiting import PATIENCE_S, Void, until, until_valid

pytestmark = pytest.mark.skipif(bool(message_bus.REASON), reason=message_bus.REASON)

# The timeouts of the product are not what is tested here, and a busy machine exceeds them.
PATIENT = f"""
from pylvs.cli.main import main
from pylvs.daemon import dbus_task
from pylvs.daemon.api import client
from pylvs.daemon.virtual_routers import connection, supervision
from pylvs.system.processes import child
client.READ_TIMEOUT_S = connection.REPLY_TIMEOUT_S = supervision.START_TIMEOUT_S = {PATIENCE_S}
supervision.STATUS_TIMEOUT_S = dbus_task.LAST_SIGNAL_S = {PATIENCE_S}
child.LEASE_S = {PATIENCE_S:.0f}
main()
"""
PYLVS = [sys.executable, "-c", PATIENT]
READY = " info: ready "
ROOT = "/org/keepalived/Vrrp1"
GENERAL = f"{ROOT}/Vrrp"
PATH = f"{ROOT}/Instance/eth0/51/IPv4"
MASTER, BACKUP, FAULT = 2, 1, 3
KILLED = "vrrp process failed to die"  # in keepalived's log
CONFIGURATION = """
global_defs {
    enable_dbus
    GLOBAL
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    advert_int 1
    version 3
    virtual_ipaddress {
        192.0.2.100/24
    }
}
"""
SECOND = """
vrrp_instance VI_2 {
    interface eth0.7
    virtual_router_id 52
    version 3
    virtual_ipaddress {
        2001:db8::52/64
    }
}
"""


@dataclass
class Daemon:
    """A `pylvs run`."""

    folder: Path
    bus: MessageBus
    process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> Path:
        return self.folder / "keepalived.conf"

    def write(self, more: str = "", settings: str = "") -> None:
        """Replace the configuration."""
        self.file.write_text(CONFIGURATION.replace("GLOBAL", settings) + more)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [*PYLVS, "run", "-f", str(self.file), "--state-dir", str(self.folder / "state")]
        environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address, "TMPDIR": str(self.folder)}
        with open(self.folder / "log", "ab") as log:
            starts = self.log().count(READY)  # of daemons before this one
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True, env=environment)
        until(lambda: self.log().count(READY) > starts or self.ended(), self.log)
        assert not self.ended(), self.log()

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """Stop it; its virtual routers give up their addresses."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def problems(self) -> list[str]:
        """Return the problems of D-Bus that `pylvs status` shows."""
        command = [*PYLVS, "status", "--json", "--state-dir", str(self.folder / "state")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
        assert done.stdout, done.stderr
        return re.findall(r"\"(D-Bus: [^\"]*|enable_dbus: [^\"]*)\"", done.stdout)

    def ask(self, verb: str = "status", **more: Any) -> Any:
        """Return the answer of pylvs-vrrp."""
        with Client(self.folder / "state" / "vrrp", PATIENCE_S) as client:
            return client.ask(verb, **more)

    def router(self) -> str:
        """Return the state of the virtual router; "" until pylvs-vrrp has it, which may be after `start`."""
        try:
            instances = self.ask()["instances"]
        except PylvsError:  # it does not listen yet
            return ""
        return str(instances[0]["state"]) if instances else ""

    def served(self) -> None:
        """Wait until the virtual router is master on the bus."""
        until(lambda: state(self.bus) == MASTER, self.log)


def state(bus: MessageBus, path: str = PATH) -> int | None:
    """Return the state of a virtual router on the bus; None if it is not there."""
    found = bus.property(path, "State")
    return int(found["data"][0]) if isinstance(found, dict) else None


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Provide a `pylvs run`, which does not run yet, and a bus."""
    with on_a_link("dbus"), message_bus.message_bus() as bus:
        made = Daemon(tmp_path, bus)
        made.write()
        try:
            yield made
        finally:
            made.stop()


def since_fault(signals: Signals) -> list[tuple[Any, ...]]:
    """Return each signal since the fault once: what came before depends on when the process was on the bus."""
    found, fault = signals.all(), (PATH, "VrrpStatusChange", FAULT)
    return list(dict.fromkeys(found[found.index(fault) :])) if fault in found else []


def seen(bus: MessageBus, signals: Signals) -> dict[str, Any]:
    """Return what a client sees of a master, without the standard interfaces' names of arguments.

    Before, its link is set down and up.
    """
    until(lambda: state(bus) == MASTER, "it is master")
    ip("link set eth0 down")
    until(lambda: since_fault(signals), "it is in fault")
    ip("link set eth0 up")
    until(lambda: (PATH, "VrrpStatusChange", MASTER) in since_fault(signals), "it is master again")
    parents = (ROOT, f"{ROOT}/Instance", f"{ROOT}/Instance/eth0", f"{ROOT}/Instance/eth0/51")
    return {
        "general": bus.members(GENERAL),
        "instance": bus.members(PATH),
        "below": {each: bus.members(each)[""] for each in parents},
        "name": bus.property(PATH, "Name"),
        "state": bus.property(PATH, "State"),
        "all": bus.call(PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", f"{SERVICE}.Instance"),
        "garp": bus.call(PATH, f"{SERVICE}.Instance", "SendGarp"),
        "reload": bus.call(GENERAL, f"{SERVICE}.Vrrp", "ReloadConfig"),
    }


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
def test_clients_see_the_same_objects_and_signals_as_with_keepalived(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = daemon.bus
    bus.start()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)

    def of_keepalived() -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """Return what `seen` returns, and its signals.

        If its process of VRRP takes 5 s to end, because the machine pauses, it kills it, and then announces nothing.
        """
        with bus.signals() as signals:
            with keepalived.running(daemon.file, "-D", lambda _: True, PATIENCE_S) as log:
                theirs = seen(bus, signals)
                until(lambda: (GENERAL, "VrrpReloaded") in signals.all(), "keepalived has reloaded")
            if KILLED in log.read_text():
                raise Void(KILLED)
            until(lambda: (GENERAL, "VrrpStopped") in signals.all(), "keepalived has stopped")
            return theirs, since_fault(signals)

    theirs, their_signals = until_valid("D-Bus of keepalived", of_keepalived)
    with bus.signals() as signals:
        daemon.start()
        ours = seen(bus, signals)
        until(lambda: (GENERAL, "VrrpReloaded") in signals.all(), daemon.log)
        daemon.stop()
        until(lambda: (GENERAL, "VrrpStopped") in signals.all(), daemon.log)
        our_signals = since_fault(signals)
        assert (GENERAL, "VrrpStarted") in signals.all()
    described = theirs["instance"][f"{SERVICE}.Instance"]
    described.remove("property Name()s")  # what it returns is another type, as later versions describe it
    described.add("property Name()(s)")
    assert ours == theirs
    assert our_signals == their_signals, daemon.log()


def test_a_transition_changes_the_property_before_the_signal_arrives(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.write(SECOND)
    for words in ("link add eth0.7 type veth peer name peer7", "link set peer7 up", "link set eth0.7 up"):
        ip(words)
    daemon.start()
    daemon.served()
    other = f"{ROOT}/Instance/eth0_7/52/IPv6"
    assert daemon.bus.property(other, "Name") == {"type": "(s)", "data": ["VI_2"]}
    with daemon.bus.signals() as signals:
        daemon.ask("yield", names=["VI_1"], seconds=3600)
        until(lambda: (PATH, "VrrpStatusChange", BACKUP) in signals.all(), daemon.log)
        assert daemon.bus.property(PATH, "State") == {"type": "(us)", "data": [BACKUP, "Backup"]}
        daemon.write()
        daemon.bus.call(GENERAL, f"{SERVICE}.Vrrp", "ReloadConfig")
        until(lambda: (GENERAL, "VrrpReloaded") in signals.all(), daemon.log)
        assert (other, "VrrpStatusChange", FAULT) in signals.all()
    assert f"there is no object {other}" in daemon.bus.property(other, "Name")
    assert daemon.bus.members(f"{ROOT}/Instance")[""] == {"eth0"}


def test_root_calls_methods_and_every_user_reads_states(daemon: Daemon) -> None:
    bus = daemon.bus
    bus.start()
    daemon.start()
    daemon.served()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as wire:
        wire.bind(("peer0", ETH_P_ARP))
        wire.settimeout(PATIENCE_S)
        assert bus.call(PATH, f"{SERVICE}.Instance", "SendGarp") is None
        arp = wire.recv(2000)[14:42]
    assert (arp[14:18], arp[24:28]) == (socket.inet_aton("192.0.2.100"),) * 2
    assert bus.call(GENERAL, f"{SERVICE}.Vrrp", "PrintStats") is None
    assert "VRRP Instance: VI_1" in (daemon.folder / "keepalived.stats").read_text()
    assert bus.call(GENERAL, f"{SERVICE}.Vrrp", "PrintStatsClear") is None
    assert bus.call(GENERAL, f"{SERVICE}.Vrrp", "PrintData") is None
    assert "VRRP Instance = VI_1" in (daemon.folder / "keepalived.data").read_text()
    for method, words in {
        "CreateInstance": ("ssuu", "VI_3", "eth0", "53", "4"),
        "DestroyInstance": ("s", "VI_1"),
    }.items():
        refused = bus.call(GENERAL, f"{SERVICE}.Vrrp", method, *words)
        assert refused.startswith(f"Call failed: {method}: virtual routers and their objects follow the configuration")
    assert state(bus) == MASTER
    assert bus.property(PATH, "State", user=UNPRIVILEGED) == {"type": "(us)", "data": [MASTER, "Master"]}
    for path, interface, method in (
        (PATH, f"{SERVICE}.Instance", "SendGarp"),
        (GENERAL, f"{SERVICE}.Vrrp", "ReloadConfig"),
    ):
        assert bus.call(path, interface, method, user=UNPRIVILEGED) == "Call failed: Access denied"


def test_the_process_has_no_privileges(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.start()
    daemon.served()
    assert daemon.process is not None
    below = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(daemon.process.pid)], capture_output=True, text=True
    )
    (number,) = re.findall(r"(\d+) pylvs-edge", below.stdout)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == {str(user_of_pylvs())}
    assert_unprivileged(int(number))


def test_a_killed_process_of_virtual_routers_starts_again_on_the_bus(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.start()
    daemon.served()
    with daemon.bus.signals() as signals:
        os.kill(daemon.ask()["process"]["pid"], signal.SIGKILL)
        until(lambda: (PATH, "VrrpStatusChange", MASTER) in signals.all(), daemon.log)
        found = signals.all()
    assert found[0] == (GENERAL, "VrrpStarted")
    assert (PATH, "VrrpStatusChange", BACKUP) in found
    assert state(daemon.bus) == MASTER


def test_without_a_bus_virtual_routers_run_and_a_later_bus_is_used(daemon: Daemon) -> None:
    daemon.start()
    until(lambda: daemon.router() == "MASTER", daemon.log)
    since = daemon.ask()["instances"][0]["since"]
    absent = [f"D-Bus: {daemon.bus.address}: No such file or directory"]
    until(lambda: daemon.problems() == absent, daemon.log)
    for _ in range(2):
        daemon.bus.start()
        daemon.served()
        until(lambda: daemon.problems() == [], daemon.log)
        daemon.bus.stop()
        until(daemon.problems, daemon.log)
    assert daemon.log().count("D-Bus: virtual routers are served as org.keepalived.Vrrp1") == 2
    assert daemon.log().count(absent[0]) <= 3, "not at each attempt"
    assert daemon.ask()["instances"][0]["since"] == since


def test_a_bus_that_does_not_answer_delays_nothing(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(daemon.bus.folder / "bus"))
        silent.listen(64)
        os.chmod(daemon.bus.folder / "bus", 0o666)
        daemon.start()
        until(lambda: daemon.router() == "MASTER", daemon.log)
        until(lambda: any("did not answer" in each or "timed out" in each for each in daemon.problems()), daemon.log)
        assert "has been silent" not in daemon.log()


def test_a_name_that_another_process_has_is_a_problem(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.write(settings="dbus_service_name org.example.Other")
    daemon.start()
    until(lambda: any("its policy does not let user" in each for each in daemon.problems()), daemon.log)
    if message_bus.KEEPALIVED_POLICY.exists() and not keepalived.why_not():
        file = daemon.folder / "other" / "keepalived.conf"
        file.parent.mkdir()
        file.write_text(CONFIGURATION.replace("GLOBAL", ""))
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.bus.address)
            stack.enter_context(keepalived.running(file, "-D", lambda _: True, PATIENCE_S))
            until(lambda: state(daemon.bus) is not None, "keepalived has the name")
            daemon.write()
            daemon.stop()
            daemon.start()
            taken = f"another process has the name {SERVICE}: choose another dbus_service_name"
            until(lambda: any(taken in each for each in daemon.problems()), daemon.log)
        until(lambda: daemon.problems() == [], daemon.log)


def test_a_message_that_cannot_be_read_disturbs_no_other(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.start()
    daemon.served()
    with open_dbus_connection(daemon.bus.address) as client, daemon.bus.signals() as signals:
        address = DBusAddress("/", SERVICE, "org.freedesktop.DBus.Peer")
        data = new_method_call(address, "Ping", "u", (0,)).serialise(next(client.outgoing_serial))
        client.sock.sendall(data.replace(b"\x01u\x00", b"\x01h\x00"))
        client.sock.sendall(
            new_method_call(address, "Ping", "ay", (bytes(1 << 20),)).serialise(next(client.outgoing_serial))
        )
        assert client.send_and_get_reply(new_method_call(address, "Ping"), timeout=PATIENCE_S).body == ()
        until(lambda: "D-Bus: a message that" in daemon.log(), daemon.log)
        assert signals.all() == []
    assert daemon.problems() == []


def test_errors_of_callers_have_the_names_of_the_specification(daemon: Daemon) -> None:
    daemon.bus.start()
    daemon.start()
    daemon.served()
    properties, instance = "org.freedesktop.DBus.Properties", f"{SERVICE}.Instance"
    for path, interface, words, error in (
        (PATH, properties, ("Get", "ss", instance, "Priority"), "UnknownProperty"),
        (PATH, properties, ("Get", "s", instance), "InvalidArgs"),
        (PATH, properties, ("Set", "ssv", instance, "Name", "other"), "PropertyReadOnly"),
        (PATH, properties, ("GetAll", "s", "org.example.None"), "UnknownInterface"),
        (PATH, instance, ("TakeOver",), "UnknownMethod"),
        (PATH, "org.example.None", ("Go",), "UnknownInterface"),
        (f"{PATH}/x", instance, ("SendGarp",), "UnknownObject"),
        (GENERAL, f"{SERVICE}.Vrrp", ("PrintData", "s", "x"), "InvalidArgs"),
        (GENERAL, f"{SERVICE}.Vrrp", ("DestroyInstance", "s", "VI_1"), "NotSupported"),
    ):
        assert error_of(daemon.bus, path, interface, words) == ERROR + error, (interface, words)


def error_of(bus: MessageBus, path: str, interface: str, words: tuple[str, ...]) -> str:
    """Return the name of the error with which a method is answered."""
    method, signature, *arguments = words if len(words) > 1 else (*words, "")
    body = tuple(("s", each) if kind == "v" else each for kind, each in zip(signature, arguments, strict=True))
    with open_dbus_connection(bus.address) as client:
        call = new_method_call(DBusAddress(path, SERVICE, interface), method, signature or None, body)
        reply = client.send_and_get_reply(call, timeout=PATIENCE_S)
    assert reply.header.message_type is MessageType.error, reply
    return str(reply.header.fields[HeaderFields.error_name])
