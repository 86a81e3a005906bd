"""Each kind of problem of the daemon and its host is an event, a metric, and a line of `pylvs status` and of the log.

Problems of services and virtual routers are in test_problems.py: they have events of their own.
"""

from __future__ import annotations

import asyncio
import errno
import io
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from pylvs.cli import daemon as views
from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon import dbus_task
from pylvs.daemon.host.announced import KernelAddresses
from pylvs.daemon.peer_director import part
from pylvs.daemon.problems import KINDS, Problem
from pylvs.daemon.supervisor import Supervisor
from pylvs.health.prober.link import ProberCounts
from pylvs.model.plain import to_plain
from pylvs.model.rows import DeviceProblem
from pylvs.model.sync.daemons import SyncWanted
from pylvs.model.wanted import DbusSettings, PeerSettings, SnmpSettings, WebSettings
from pylvs.peer.summary import ServiceSummary, Summary
from pylvs.system.processes import child
from tests.shortages import failing
from tests.unit.daemon.daemons import FakeHost, address, run, server, service, until

OF_SERVICES = {"quorum_lost", "server_down", "handshakes", "check_inconclusive", "check_left_out"}
OF_ROUTERS = {"vrrp", "vrrp_fault", "vrrp_conflict", "data_plane", "bfd", "vrrp_helper"}
AT_START = {"starting"}  # before the API serves anything
OTHER_DIRECTOR = PeerSettings(ip_address("192.0.2.9"), key_file="/nowhere")
NO_SPACE = "No space left on device"


@dataclass
class Machine:
    """A daemon in which something fails."""

    host: FakeHost
    daemon: Supervisor
    patch: pytest.MonkeyPatch
    ports: list[socket.socket] = field(default_factory=list)

    async def table(self) -> None:
        self.patch.setattr(self.daemon.reconciler.table, "plan", failing(errno.EIO))

    async def silent(self) -> None:
        self.daemon.liveness.watch("a part", lambda: 1, 0.05)

    async def failed(self) -> None:
        self.daemon._tasks.keep_running(self._fail, "a part")

    async def api(self) -> None:
        self.host.write(service(server(1)), monitor_group="no-such-group")
        await self.daemon.reload()

    async def device(self) -> None:
        problem = DeviceProblem("eth9", "another program is there", needed=True)
        self.patch.setattr(self.host.tables, "device_problems", lambda: [problem])
        await self.daemon.host_changes.follow()

    async def prober(self) -> None:
        self.patch.setattr(self.host.prober, "counts", lambda: ProberCounts("", 3, "the prober has ended often"))

    async def notify_script(self) -> None:
        script = {"object": "web", "keyword": "quorum_up", "script": "/bin/q", "state": "ended", "seconds": None}
        script["reason"] = "was ended after 300 s"
        report = {"running": 0, "waiting": 0, "ended_early": 1, "scripts": [script]}
        self.patch.setattr(self.host, "notify_scripts", lambda: report)

    async def edit_refused(self) -> None:
        self.host.write(service(server(1), scheduler="no-such"))
        await self.daemon.reload()

    async def configuration(self) -> None:
        finding = Finding(Location("test.conf", 3, 5), Severity.ERROR, "a keyword is wrong")
        self.host.write(service(server(1)), findings=[finding])
        await self.daemon.reload(force=True)

    async def announce(self) -> None:
        self.patch.setattr(KernelAddresses, "keep_here", lambda *_: ())
        self.patch.setattr(KernelAddresses, "give_up", lambda *_: ())
        self.patch.setattr("pylvs.daemon.host.announced.make_dummy", failing(errno.EPERM))
        self.host.write(replace(service(server(1)), announce=True))
        await self.daemon.reload()

    async def vip(self) -> None:
        self.host.path_findings = [Problem("vip", "192.0.2.1", "no device has it")]
        await self.daemon.host_changes.follow()

    async def check_path(self) -> None:
        self.host.path_findings = [Problem("check_path", "web", "TCP_CHECK connects to 10.0.0.9 instead")]
        await self.daemon.host_changes.follow()

    async def metrics_address(self) -> None:
        taken = socket.socket()
        self.ports.append(taken)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        self.host.write(service(server(1)), metrics_address=(ip_address("127.0.0.1"), taken.getsockname()[1]))
        await self.daemon.reload()

    async def web(self) -> None:
        taken = socket.socket()
        self.ports.append(taken)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        web = WebSettings((ip_address("127.0.0.1"), taken.getsockname()[1]))
        self.host.write(service(server(1)), web=web)
        await self.daemon.reload()

    async def dbus(self) -> None:
        self.patch.setattr(dbus_task, "find_spec", lambda _: None)
        self.host.write(service(server(1)), routers=["VI_1"], dbus=DbusSettings(enabled=True))
        await self.daemon.reload()

    async def sync(self) -> None:
        self.host.sync_daemons.refused = "eth9: no such device"
        self.host.write(service(server(1)), sync=SyncWanted("eth9"))
        await self.daemon.reload()
        await until(lambda: list(self.daemon._sync.problems()))

    async def snmp(self) -> None:
        self.patch.setattr(child, "command", lambda *_: ["false"])
        self.host.write(service(server(1)), snmp=SnmpSettings(checker=True))
        await self.daemon.reload()

    async def peer(self) -> None:
        self.patch.setattr(child, "command", lambda *_: ["false"])
        self.host.write(service(server(1)), peer=OTHER_DIRECTOR)
        await self.daemon.reload()
        await until(lambda: self.daemon.peer.problem.endswith("has ended"))
        self.patch.setattr(part, "UNCONNECTED_S", 0.0)

    async def peer_connections(self) -> None:
        self._report_peer(held=90, unknown=[["10.0.0.9:80 of TCP 192.0.2.1:80", 10]], unknown_count=10)

    async def peer_differs(self) -> None:
        self.patch.setattr(part, "SETTLED_S", 0.0)
        self.patch.setattr(part, "COMPARE_S", 0.0)
        self._report_peer(held=100, unknown=[], unknown_count=0)
        await self.daemon.peer.step()
        ours = self.daemon.peer._ours
        more = Summary({**ours.services, "web": ServiceSummary("settings")}, ours.timeouts)
        self.daemon.peer._receive({"summary": to_plain(more)})
        await self.daemon.peer.step()

    def _report_peer(self, **taken: object) -> None:
        """Let the process that copies report a complete copy of 100 connections."""
        self.patch.setattr(self.daemon.peer, "_settings", OTHER_DIRECTOR)
        now = time.monotonic()
        zeros = dict.fromkeys(("underway", "newer", "full", "calls"), 0)
        copied = {"complete": True, "live": 100, "records": 100, "seconds": 1.0, "current_at": now, **zeros, **taken}
        status = {"connected": True, "problem": "", "since": now, "name": "other", "version": "0", "taken": copied}
        self.daemon.peer._receive({"status": status})

    async def state(self) -> None:
        self.patch.setattr("pylvs.daemon.state.saved.save_overrides", failing(errno.ENOSPC))
        self.daemon.engine.disable(address(2))

    async def history(self) -> None:
        self.patch.setattr(self.daemon.history, "_append", failing(errno.ENOSPC))
        self.daemon.engine.disable(address(2))

    @staticmethod
    async def _fail() -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")


SHOWN: dict[str, tuple[Callable[[Machine], Awaitable[None]], str, str]] = {  # in `pylvs status`; in the log
    "table": (Machine.table, "Input/output error", "Input/output error"),
    "silent": (Machine.silent, "a part has made no progress", "a part has made no progress"),
    "failed": (Machine.failed, "a part: failed and is restarted: ", "a part failed and is restarted: "),
    "api": (
        Machine.api,
        "monitor_group no-such-group: there is no",
        "monitor_group no-such-group: there is no such group",
    ),
    "device": (Machine.device, "eth9 is not attached: another", "eth9 is not attached: another program is there"),
    "prober": (Machine.prober, "the prober has ended often", ""),  # the link to the process logs its ends
    "notify_script": (Machine.notify_script, "web: quorum_up /bin/q was ended after 300 s", ""),  # its end logs it
    "edit_refused": (Machine.edit_refused, "no scheduler 'no-such'", "no scheduler 'no-such'"),
    "configuration": (Machine.configuration, "test.conf:3:5: error: a keyword is wrong", "a keyword is wrong"),
    "announce": (Machine.announce, "no address can be announced: ", "no address can be announced: "),
    "vip": (Machine.vip, "192.0.2.1: no device has it", "192.0.2.1: no device has it"),
    "check_path": (Machine.check_path, "web: TCP_CHECK connects to", "web: TCP_CHECK connects to 10.0.0.9 instead"),
    "metrics_address": (Machine.metrics_address, "Address already in use", "Address already in use"),
    "web": (Machine.web, "Address already in use; write another port", "Address already in use; write another port"),
    "dbus": (Machine.dbus, "enable_dbus: Python has no package", "enable_dbus: Python has no package"),
    "sync": (Machine.sync, "lvs_sync_daemon: eth9: no such device", "lvs_sync_daemon: eth9: no such device"),
    "snmp": (Machine.snmp, "SNMP: the edge process has ended", "the edge process has ended"),
    "peer": (
        Machine.peer,
        "connections are not copied: the process that copies connections has ended",
        "192.0.2.9: connections are not copied: the process that copies connections has ended",
    ),
    "peer_connections": (
        Machine.peer_connections,
        "10 connections of 10.0.0.9:80 of TCP 192.0.2.1:80 there, which this director lacks",
        "90.00% of 100 connections held; 10 are of servers that are not here: 10.0.0.9:80 of TCP 192.0.2.1:80 (10)",
    ),
    "peer_differs": (
        Machine.peer_differs,
        "differs: web: only the other director has it",
        "web: only the other director has it",
    ),
    "state": (Machine.state, NO_SPACE, NO_SPACE),
    "history": (Machine.history, f"{NO_SPACE}: events would be lost", f"{NO_SPACE}: events would be lost"),
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1), server(2)))
    yield made
    made.end_processes()


def test_each_kind_has_a_row() -> None:
    assert SHOWN.keys() | OF_SERVICES | OF_ROUTERS | AT_START == KINDS.keys()


@pytest.mark.parametrize("kind", SHOWN)
def test_each_problem_is_an_event_a_metric_and_a_line(
    kind: str, host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    """The event `problem_began`, the metric `pylvs_problems`, and lines of `pylvs status` and of the log."""
    monkeypatch.setattr("pylvs.daemon.supervisor.PROBLEMS_POLL_S", 0.02)
    monkeypatch.setattr("pylvs.daemon.liveness.TICK_S", 0.02)
    trigger, shown, logged = SHOWN[kind]
    metric = f'pylvs_problems{{kind="{kind}",severity="{KINDS[kind].severity.value}"}} '

    def page(command: click.Command) -> str:
        return str(CliRunner().invoke(command, ["--state-dir", str(host.state)]).output)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert f"{metric}0.0" in await asyncio.to_thread(page, views.metrics)
            with monkeypatch.context() as patch:
                machine = Machine(host, daemon, patch)
                await trigger(machine)
                began = {"event": "problem_began", "problem": kind}.items()
                await until(lambda: any(began <= each.items() for each in daemon.events.recent()), kind)
                await until(lambda: logged in log_output.getvalue(), log_output.getvalue)
                assert f"{metric}1.0" in await asyncio.to_thread(page, views.metrics)
                assert shown in await asyncio.to_thread(page, views.status)
            for each in machine.ports:
                each.close()

    run(scenario())
