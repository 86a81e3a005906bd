"""The sub-agent's process without privileges: what it keeps, and what the other one does for it."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.model.errors import PylvsError
from pylvs.model.wanted import Configuration, GlobalSettings, SnmpSettings
from pylvs.snmp.agentx import Pdu
from pylvs.snmp.checker_mib import ServerStatus
from pylvs.snmp.connections import Ended, Events
from pylvs.snmp.relay import MOST_LINES, Relay, RelayedConnections
from pylvs.snmp.session import Lost
from pylvs.system import logs
from pylvs.system.processes import VERSION_LINE
from tests.privileges import assert_unprivileged, assert_without_files
from tests.unit.snmp.fake_connections import FakeConnections
from tests.unit.snmp.test_agent import HEADER
from tests.waiting import PATIENCE_S, until, until_reaped

FOREVER = float("inf")


@contextmanager
def relay(connections: FakeConnections) -> Iterator[tuple[socket.socket, list[signal.Signals]]]:
    """Run the relay in a thread; yield the sub-agent's end, and the signals that it would have got."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.settimeout(PATIENCE_S)
    end, write_end = os.pipe()
    signals: list[signal.Signals] = []
    thread = threading.Thread(target=Relay(ours, connections, signals.append, end).run)
    thread.start()
    try:
        yield its, signals
    finally:
        its.close()
        thread.join(PATIENCE_S)
        ours.close()
        os.close(end)
        os.close(write_end)
        connections.close()
    assert not thread.is_alive()
    assert connections.calls[-1] == ("unsubscribe",)


def test_requests_and_replies() -> None:
    made = FakeConnections()
    with relay(made) as (end, _):
        ours = RelayedConnections(end)
        assert ours.routers(FOREVER).devices == {"VI_1": "vrrp.51"}
        assert ours.servers(FOREVER) == ServerStatus({"web": {"name": "web"}})
        assert len(ours.services(FOREVER)["web"]["name"]) == 1_000_000
        ours.set_weight("web", "10.0.0.1:80", None, FOREVER)
        with ours.master() as master:
            assert master.family == socket.AF_UNIX
            assert master.gettimeout() is not None
        made.error = PylvsError("no such server")
        with pytest.raises(PylvsError, match="no such server"):
            ours.set_weight("web", "10.0.0.2:80", 3, FOREVER)
        ours.report_alive()
        made.error = ConnectionRefusedError("it listens no more")
        with pytest.raises(Lost, match="it listens no more"):
            ours.master()
    assert ("set_weight", "web", "10.0.0.1:80", None) in made.calls
    assert made.alive == 1
    assert ours.cpu_s() >= 3.0  # of the relay: one for each call
    with pytest.raises(Ended):
        ours.routers(FOREVER)


def test_a_request_takes_no_longer_than_an_answer_may() -> None:
    made = FakeConnections()
    with relay(made) as (end, _):
        for until_s in (FOREVER, float("nan"), 0.0):
            RelayedConnections(end).services(until_s)
    forever, no_number, now = (each[1] for each in made.calls[:3])
    assert forever < FOREVER
    assert no_number >= forever
    assert now == 0.0


def test_events_come_beside_replies_and_between_them() -> None:
    made = FakeConnections()
    first, second = Events([{"kind": "DROPPED"}]), Events([], [({"event": "server_up"}, None)])
    with relay(made) as (end, _):
        ours = RelayedConnections(end)
        ours.subscribe(FOREVER)
        ours.subscribe(FOREVER)
        made.happen(first)
        found = Events()
        while not found.routers:
            ours.routers(FOREVER)
            found = ours.events()
        assert found == first
        made.happen(second)
        while not found.servers:
            select.select(ours.filenos(), [], [], PATIENCE_S)
            found = ours.events()
        assert found == second
        assert ("subscribe",) in made.calls
        ours.unsubscribe()
        until(lambda: ("unsubscribe",) in made.calls)


def test_events_before_the_end_of_a_subscription_are_not_kept_for_the_next_session() -> None:
    made = FakeConnections()
    with relay(made) as (end, _):
        ours = RelayedConnections(end)
        ours.subscribe(FOREVER)
        made.happen(Events([{"kind": "DROPPED"}]))
        select.select(ours.filenos(), [], [], PATIENCE_S)
        ours.unsubscribe()
        ours.master().close()
        ours.subscribe(FOREVER)
        assert ours.events() == Events()


def test_the_last_line_of_a_sub_agent_that_fails_is_logged() -> None:
    lines: list[str] = []
    former = logs.write_with(lambda _, fields: lines.append(fields["event"]))
    made = FakeConnections()
    try:
        with relay(made) as (end, _):
            ours = RelayedConnections(end)
            ours.subscribe(FOREVER)
            made.happen(Events([{"kind": "DROPPED"}]))
            select.select(ours.filenos(), [], [], PATIENCE_S)
            ours.log("error", {"event": "it failed"})
            end.close()  # without reading the event
    finally:
        logs.write_with(former)
    assert lines == ["it failed"]


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "request": "open", "until": 0.0},
        {"id": 1, "request": "services"},
        {"id": "1", "request": "services", "until": 0.0},
        {"id": 1, "request": ["services"], "until": 0.0},
        {"id": 1, "request": "set_weight", "until": 0.0, "service": "web", "server": "x", "weight": 1.5},
        {"id": 1, "request": "set_weight", "until": 0.0, "service": {}, "server": "x", "weight": 1},
        {"id": 1, "request": "set_weight", "until": 0.0, "service": "web", "server": "x", "weight": True},
        {"log": "critical", "event": "x"},
        {"log": ["info"]},
        {"log": "info", "event": [[[]]]},
        {"id": 1, "request": "services", "until": -(10**400)},
        ["services"],
        "services",
    ],
)
def test_an_invalid_message_ends_the_sub_agent_and_changes_nothing(message: object) -> None:
    made = FakeConnections()
    with relay(made) as (end, signals):
        end.send(json.dumps(message).encode())
        until(lambda: signals)
    assert signals == [signal.SIGKILL]
    assert made.calls == [("unsubscribe",)]


def test_lines_for_the_log_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, str]] = []
    former = logs.write_with(lambda level, fields: lines.append((level, fields["event"])))
    try:
        with relay(FakeConnections()) as (end, _):
            ours = RelayedConnections(end)
            ours.log("error", {"event": "a\nb\x1b[0m"})
            for _ in range(2 * MOST_LINES):
                ours.log("warning", {"event": "x" * 200_000})
            ours.routers(FOREVER)
    finally:
        logs.write_with(former)
    assert lines[0] == ("error", "a b\ufffd[0m")
    assert len(lines) == MOST_LINES
    assert max(len(text) for _, text in lines) < 5000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_the_process_that_parses_has_no_privileges(tmp_path: Path) -> None:
    snmp = SnmpSettings(socket=f"unix:{tmp_path}/agentx", vrrp=True, checker=True, rfc_v3=True, traps=True)
    given = VERSION_LINE + pickle.dumps(Configuration(settings=GlobalSettings(snmp=snmp)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/agentx")
        listener.listen()
        listener.settimeout(PATIENCE_S)
        command = [sys.executable, "-m", "pylvs.snmp", str(tmp_path), "text"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, env=environment
            )
        try:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.close()
            end, _ = listener.accept()
            with end:
                end.settimeout(PATIENCE_S)
                assert end.recv(HEADER.size, socket.MSG_WAITALL)[1] == Pdu.OPEN
                (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                assert_unprivileged(int(child))
                assert_without_files(int(child))
                opened = {os.readlink(each) for each in Path(f"/proc/{child}/fd").iterdir()}
                assert {each.partition(":")[0] for each in opened} == {"/dev/null", "socket", "pipe"}
            until(lambda: "no session with the master agent" in (tmp_path / "log").read_text())
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            until_reaped(child)
        finally:
            process.kill()
            process.wait()
