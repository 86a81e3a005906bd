"""BFD sessions in the daemon: their process, results for checks, and status, events and metrics."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylvs.cli import daemon as views
from pylvs.cli import vrrp as commands
from pylvs.daemon import Options
from pylvs.daemon.api.metrics import vrrp_metrics
from pylvs.daemon.loading import apply_options
from pylvs.daemon.virtual_routers import supervision
from pylvs.daemon.virtual_routers.connection import NoReply, VrrpClient
from pylvs.daemon.virtual_routers.supervision import VirtualRouters
from pylvs.model.bfd import BfdSession
from pylvs.model.checks import BfdCheck
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.vrrp.client import Client
from tests.unit.daemon.daemons import FakeHost, configuration, run, server, service, until
from tests.unit.daemon.fake_routers import record, set_behaviour
from tests.waiting import PATIENCE_S

SESSION = BfdSession(name="b", neighbor=ip_address("10.0.0.1"))
STATUS = {
    "name": "b",
    "neighbor": "10.0.0.1",
    "source": "10.0.0.9",
    "multihop": False,
    "state": "Down",
    "since": None,
    "up": False,
    "reason": "Control Detection Time Expired",
    "error": "",
    "held": False,
    "diagnostic": "Control Detection Time Expired",
    "remote_state": "Down",
    "remote_diagnostic": "Administratively Down",
    "discriminator": 7,
    "remote_discriminator": 0,
    "remote_multiplier": 0,
    "remote_min_tx_ms": 0.0,
    "remote_min_rx_ms": 0.001,
    "polling": False,
    "interval_ms": 1000.0,
    "detection_ms": None,
    "flaps": 2,
    "counters": {"sent": 7, "received": 3, "send_errors": 0, "dropped": {"ttl too low": 4}},
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """Return a host with a BFD session and without virtual routers."""
    monkeypatch.setattr(supervision, "SESSIONS_POLL_S", 0.02)
    found = FakeHost(tmp_path / "state")
    found.write(service(server(1)))
    with_session = replace(found.file.configuration, vrrp=VrrpConfiguration(sessions=(SESSION,)))
    found.file = replace(found.file, configuration=with_session)
    set_behaviour(found.state, results={"b": [True, ""]}, sessions=[STATUS])
    yield found
    found.end_processes()


def emit(host: FakeHost, **event: Any) -> None:
    with Client(host.state / "vrrp") as client:
        client.ask("emit", event=event)


def names_of(daemon: Any) -> list[str]:
    return [each["event"] for each in daemon.events.recent()]


def test_sessions_alone_need_the_process(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            await until(lambda: host.sessions.result("b") == (True, ""))

    run(scenario())
    verbs = [each["verb"] for each in record(host.state)]
    assert verbs[:2] == ["subscribe", "configure"]
    (stop,) = [each for each in record(host.state) if each["verb"] == "stop"]
    assert stop["removed"] is False


def test_a_process_is_configured_before_its_sessions_are_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    read, request = VirtualRouters._read_sessions, VrrpClient.request
    subscribed, turns = asyncio.Event(), asyncio.Semaphore(0)

    async def counted(self: VirtualRouters) -> None:
        if subscribed.is_set():
            turns.release()
        await read(self)

    async def slow(self: VrrpClient, verb: str, *values: Any, **fields: Any) -> Any:
        reply = await request(self, verb, *values, **fields)
        if verb == "subscribe":
            subscribed.set()
            for _ in range(3):
                await turns.acquire()
        return reply

    monkeypatch.setattr(VirtualRouters, "_read_sessions", counted)
    monkeypatch.setattr(VrrpClient, "request", slow)

    async def scenario() -> None:
        async with host.daemon():
            await until(lambda: host.sessions.result("b") == (True, ""))

    run(scenario())
    assert [each["verb"] for each in record(host.state)][:2] == ["subscribe", "configure"]


def test_a_subscription_without_reply_is_requested_again(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    request = VrrpClient.request
    lost: list[str] = []

    async def deaf(self: VrrpClient, verb: str, *values: Any, **fields: Any) -> Any:
        if verb == "subscribe" and not lost:
            lost.append(verb)
            raise NoReply("the process of the virtual routers does not answer")
        return await request(self, verb, *values, **fields)

    monkeypatch.setattr(VrrpClient, "request", deaf)
    monkeypatch.setattr(supervision, "RESTART_S", 0.0)

    async def scenario() -> None:
        async with host.daemon():
            await until(lambda: host.sessions.result("b") == (True, ""))

    run(scenario())
    assert "subscribe" in [each["verb"] for each in record(host.state)]


def test_a_reload_without_sessions_ends_the_process_as_removed(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(service(server(1)))
            await daemon.reload()

    run(scenario())
    (stop,) = [each for each in record(host.state) if each["verb"] == "stop"]
    assert stop["removed"] is True


def test_a_change_reaches_the_checks_at_once_and_is_an_event(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "SESSIONS_POLL_S", 3600.0)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            changed: list[str] = []
            monkeypatch.setattr(host.sessions, "on_change", changed.extend)
            await asyncio.to_thread(emit, host, event="session", instance="", session="b", up=False, reason="Path Down")
            await until(lambda: host.sessions.result("b") == (False, "Path Down"))
            assert changed == ["b"]
            fields: dict[str, Any] = {"session": "b", "neighbor": "10.0.0.1", "before": "Up", "state": "Down"}
            fields |= {"detail": "Path Down", "time": 1.0}
            await asyncio.to_thread(emit, host, event="bfd", instance="", **fields)
            await until(lambda: "bfd" in names_of(daemon))
            (event,) = [dict(each) for each in daemon.events.recent() if each["event"] == "bfd"]
            event.pop("at")
            assert event == {
                "event": "bfd",
                "session": "b",
                "neighbor": "10.0.0.1",
                "before": "Up",
                "state": "Down",
                "reason": "Path Down",
            }

    run(scenario())


def test_a_change_behind_the_reply_stays(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """pylvs-vrrp sent both before the daemon read the first."""
    monkeypatch.setattr(supervision, "SESSIONS_POLL_S", 3600.0)
    change = {"event": "session", "instance": "", "time": 0.0, "session": "b", "up": False}
    change["reason"] = "Path Down"

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: host.sessions.result("b") == (True, ""))
            assert daemon.routers._client is not None
            connection = daemon.routers._client._link
            dispatch = connection._on_message

            def receive_both(message: dict[str, Any], descriptors: list[int]) -> None:
                dispatch(message, descriptors)
                if message.get("ok") == {"b": [True, ""]}:
                    dispatch(change, [])

            monkeypatch.setattr(connection, "_on_message", receive_both)
            await daemon.routers._read_sessions()
            assert host.sessions.result("b") == (False, "Path Down")

    run(scenario())


def test_a_process_that_is_stopped_makes_the_sessions_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "SESSIONS_TIMEOUT_S", 0.1)  # also of a request that SIGSTOP interrupts

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: host.sessions.result("b") == (True, ""))
            os.kill(host.processes[-1].pid, signal.SIGSTOP)
            await until(lambda: host.sessions.result("b")[0] is None)
            assert "does not answer" in host.sessions.result("b")[1]
            await until(lambda: "bfd_unknown" in names_of(daemon))
            monkeypatch.setattr(supervision, "SESSIONS_TIMEOUT_S", PATIENCE_S)
            os.kill(host.processes[-1].pid, signal.SIGCONT)
            await until(lambda: host.sessions.result("b") == (True, ""))
            await until(lambda: "bfd_known" in names_of(daemon))

    run(scenario())


def test_without_virtual_routers_only_the_sessions_of_checks_run() -> None:
    other = BfdSession(name="other", neighbor=ip_address("10.0.0.2"))
    checked = replace(server(1), checks=(BfdCheck(session="b"),))
    found = replace(configuration(service(checked)), vrrp=VrrpConfiguration(sessions=(SESSION, other)))
    options = Options("file", vrrp=False)
    assert apply_options(found, options).vrrp == VrrpConfiguration(sessions=(SESSION,))
    assert apply_options(found, replace(options, checks=False)).vrrp == VrrpConfiguration()


def test_the_status_shows_each_session(host: FakeHost) -> None:
    shown: list[str] = []

    def invoked(command: Any) -> str:
        return CliRunner().invoke(command, ["--state-dir", str(host.state)]).output

    async def scenario() -> None:
        async with host.daemon():
            shown.extend([await asyncio.to_thread(invoked, each) for each in (views.status, commands.status)])

    run(scenario())
    assert "BFD sessions: b Down (Control Detection Time Expired) (pylvs vrrp status)" in shown[0]
    lines = shown[1].splitlines()
    assert lines[lines.index("BFD session b  Down, flaps 2") :] == [
        "BFD session b  Down, flaps 2",
        "  because    Control Detection Time Expired",
        "  neighbor   10.0.0.1 from 10.0.0.9, Down (Administratively Down)",
        "  timers     a packet each 1000 ms",
        "  packets    7 sent, 3 received, dropped: 4 ttl too low",
    ]


def test_the_metrics_have_each_session() -> None:
    found = {each.name: each for each in vrrp_metrics({"sessions": [STATUS | {"state": "Up", "since": 5.0}]})}
    labels = 'neighbor="10.0.0.1"{}session="b"'
    values = {name: family.samples for name, family in found.items()}
    assert values["pylvs_bfd_session_up"] == [(f"{{{labels.format(',')}}}", 1.0)]
    assert values["pylvs_bfd_since_seconds"] == [(f"{{{labels.format(',')}}}", 5.0)]
    assert values["pylvs_bfd_flaps_total"] == [(f"{{{labels.format(',')}}}", 2)]
    dropped = labels.format(',reason="ttl_too_low",')
    assert values["pylvs_bfd_packets_dropped_total"] == [(f"{{{dropped}}}", 4)]
    assert list(vrrp_metrics({"sessions": [], "instances": []})) == []
