"""What is wrong, in status, in the exit status for monitoring, in metrics and in events."""

from __future__ import annotations

import asyncio
import errno
import io
import socket
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from pylvs.cli import daemon as views
from pylvs.cli import main, monitoring
from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon import supervisor
from pylvs.daemon.api import client
from pylvs.daemon.api.metrics import MetricsInput, exposition
from pylvs.daemon.api.schema import VERSION
from pylvs.daemon.problems import KINDS, Problem, ProblemTracker, router_problems, service_problems
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.tasks import STEADY_S, BackgroundTasks
from pylvs.health.events import Override
from pylvs.health.prober.link import ProberCounts
from pylvs.model.checks import HttpCheck, Target, Url
from pylvs.model.errors import PylvsError
from tests.shortages import failing
from tests.unit.daemon.daemons import WEB, FakeHost, address, run, server, service, until
from tests.unit.daemon.fake_routers import set_behaviour
from tests.unit.health.clock import FakeTimeLoop

OK, WARNING, CRITICAL, UNKNOWN = range(4)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1), server(2)))
    return made


def check(host: FakeHost) -> Result:
    return CliRunner().invoke(views.status, ["--check", "--state-dir", str(host.state)], standalone_mode=False)


async def checked(host: FakeHost) -> tuple[int, str]:
    done = await asyncio.to_thread(check, host)
    assert done.exception is None
    assert done.output.count("\n") == 1
    return done.return_value, done.output.rstrip("\n")


def test_the_check_is_ok_or_a_server_is_down_or_the_quorum_is_lost(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            healthy = "PYLVS OK: 1 service, 2 real servers | services=1;;;0; quorums_lost=0;;;0;1 servers=2;;;0; "
            healthy += "servers_down=0;;;0;2 checks_inconclusive=0;;;0; connections=0;;;0; "
            assert await checked(host) == (OK, f"{healthy}routers_master=0;;;0;0 routers_fault=0;;;0;0")
            host.dead.add(address(1))
            await until(lambda: host.servers() == {str(address(2))})
            status, line = await checked(host)
            assert status == WARNING
            assert line.startswith(f"PYLVS WARNING: 10.0.0.1:80 of {WEB}: down: TCP_CHECK: refused | ")
            assert "servers_down=1;;;0;2" in line
            host.dead.add(address(2))
            await until(lambda: host.servers() == set())
            status, line = await checked(host)
            assert status == CRITICAL
            assert line.startswith(f"PYLVS CRITICAL: {WEB}: quorum lost: weight 0 is up, 1 needed; 10.0.0.1:80 of ")

    run(scenario())


def test_a_server_that_the_operator_took_out_is_no_problem(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            daemon.engine.disable(address(1))
            host.dead.add(address(1))
            await until(lambda: not daemon.engine.snapshot()[0].servers[0].up)
            assert (await checked(host))[0] == OK

    run(scenario())


def test_a_word_that_the_file_in_force_misspells_is_a_problem(host: FakeHost) -> None:
    typo = Finding(Location("test.conf", 3, 5), Severity.WARNING, "lb_knd is not known and is ignored", typo=True)
    host.write(service(server(1)), findings=[typo, replace(typo, typo=False, text="unusual")])

    async def scenario() -> None:
        async with host.daemon():
            status, line = await checked(host)
            assert status == WARNING
            assert line.startswith("PYLVS WARNING: test.conf:3:5: lb_knd is not known and is ignored | ")

    run(scenario())


def test_without_a_daemon_it_is_critical(host: FakeHost) -> None:
    done = check(host)
    assert done.return_value == CRITICAL
    assert done.output.startswith(f"PYLVS CRITICAL: no pylvs run answers at {host.state}/control")


EDITS = (
    "enable 10.0.0.1",
    "disable 10.0.0.1",
    "weight 10.0.0.1 5",
    "drain 10.0.0.1",
    "check-now",
    "reload",
    "reload --dry-run",
)


def test_a_daemon_that_hangs_is_critical_within_the_deadline(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process accepts connections, as its kernel does for it, and does nothing more."""
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    host.state.mkdir()
    code = f"import os, signal, socket; s = socket.socket(socket.AF_UNIX); s.bind({str(host.state / 'control')!r}); "
    code += "s.listen(); print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            (host.state / "pid").write_text(f"{process.pid}\n")
            done = check(host)
            text = f"pylvs run, process {process.pid}, did not reply within 0.2 s: it hangs, or is very busy"
            assert (done.return_value, done.output) == (CRITICAL, f"PYLVS CRITICAL: {text}\n")
            plain = CliRunner().invoke(views.status, ["--state-dir", str(host.state)])
            assert (plain.exit_code, str(plain.exception)) == (1, text)
            for command in EDITS:
                assert main.run([*command.split(), "--state-dir", str(host.state)]) == 1
                assert capsys.readouterr() == ("", f"pylvs: {text}; nothing is changed\n"), command
        finally:
            process.kill()


def test_a_daemon_that_is_busy_gets_an_edit_later(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works while the first request waits, and replies when the next one is there."""
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 3.0)  # the first request waits so long; the next one needs a reply
    host.state.mkdir()
    code = f"""
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind({str(host.state / "control")!r})
listener.listen()
print(flush=True)
first = listener.accept()
listener.setblocking(False)
while True:
    try:
        connection = listener.accept()[0]
    except BlockingIOError:
        continue
    connection.setblocking(True)
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 14\\r\\n\\r\\n" + b'{{"drains": []}}')
    connection.close()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            (host.state / "pid").write_text(f"{process.pid}\n")
            with client.Client(host.state).stream("POST", "/v1/drain") as response:
                assert response.status == 200
        finally:
            process.kill()


def test_reads_wait_for_seconds_and_changes_for_longer() -> None:
    assert client.timeout_of("GET", "/v1/vrrp") == client.READ_TIMEOUT_S
    assert client.timeout_of("POST", "/v1/drain") == client.EDIT_TIMEOUT_S
    assert client.timeout_of("POST", "/v1/reload") == client.LONG_TIMEOUT_S


def test_what_is_no_reply_of_the_daemon_is_unknown(host: FakeHost) -> None:
    host.state.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.state / "control"))
        listener.listen()

        async def scenario() -> None:
            asking = asyncio.create_task(checked(host))
            loop = asyncio.get_running_loop()
            listener.setblocking(False)
            end, _ = await loop.sock_accept(listener)
            await loop.sock_sendall(end, b"SSH-2.0-OpenSSH_9.2\r\n")
            end.close()
            status, line = await asking
            assert status == UNKNOWN
            assert line.startswith("PYLVS UNKNOWN: ")

        run(scenario())


def test_the_line_is_bounded_and_has_no_bar_in_its_text() -> None:
    problem = {"kind": "server_down", "severity": "warning", "object": "a|b", "text": "x\n" * 1000}
    reply = {"problems": [problem] * 9, "services": [], "virtual_routers": {"instances": []}}
    status, line = monitoring.result(reply)
    assert (status, line.count("|"), "\n" in line) == (WARNING, 1, False)
    assert "; 4 more: pylvs status | " in line
    assert len(line) < 1500
    assert monitoring.result({**reply, "problems": [{**problem, "severity": "new"}]})[0] == UNKNOWN


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--json"], "--check takes no other option than --state-dir, --namespace and --instance"),
        (["--colour"], "No such option"),
        (["left", "over"], "Got unexpected extra arguments"),
        (["--namespace", "no-such-namespace"], "no-such-namespace"),
        (["--instance", "a/b"], "--instance: 'a/b' is not the name of an instance"),
        (["--instance", ".."], "--instance: '..' is not the name of an instance"),
    ],
)
def test_wrong_usage_is_unknown(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 would be WARNING, and 2 CRITICAL."""
    status = main.run(["status", "--check", *arguments])
    out, err = capsys.readouterr()
    assert (status, err) == (UNKNOWN, "")
    assert out.startswith("PYLVS UNKNOWN: ")
    assert text in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    "reply",
    [
        {"error": "denied"},
        {"schema": "1.0", "services": []},
        {"schema": "1.0", "problems": [{"kind": "new"}], "services": []},
        {"schema": "1.0", "problems": 7},
        {"schema": "2.0", "problems": [], "services": [], "virtual_routers": {"instances": []}},
        {"schema": 1},
        [],
        None,
    ],
)
def test_a_reply_of_another_version_is_unknown(host: FakeHost, monkeypatch: pytest.MonkeyPatch, reply: object) -> None:
    monkeypatch.setattr(client.Client, "ask", lambda *_: (200, reply))
    done = check(host)
    assert done.return_value == UNKNOWN
    text = f"the reply is not one of the version {VERSION} of the API: restart pylvs run"
    assert done.output == f"PYLVS UNKNOWN: {text}\n"


def test_a_daemon_whose_queue_of_connections_is_full_is_critical(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts no connection, so the kernel queues them, up to the listen backlog."""
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.1)
    host.state.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(host.state / "control"))
        listener.listen(0)
        first.connect(str(host.state / "control"))
        done = check(host)
    assert done.return_value == CRITICAL
    assert "did not reply within 0.1 s: it hangs, or is very busy" in done.output


def test_a_finding_about_this_host_is_in_status_metrics_and_events(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBLEMS_POLL_S", 0.01)
    host.path_findings = [Problem("vip", "192.0.2.1", "no device has it, and no virtual router adds it")]

    async def scenario() -> None:
        async with host.daemon() as daemon:
            names = [each["event"] for each in daemon.events.recent()]
            await until(lambda: "problem_began" in [each["event"] for each in daemon.events.recent()])
            status, line = await checked(host)
            assert (status, "192.0.2.1: no device has it" in line) == (WARNING, True)
            invoke = CliRunner().invoke
            page = (await asyncio.to_thread(invoke, views.status, ["--state-dir", str(host.state)])).output
            assert "wrong on this host:\n  192.0.2.1: no device has it" in page
            numbers = (await asyncio.to_thread(invoke, views.metrics, ["--state-dir", str(host.state)])).output
            assert 'pylvs_problems{kind="vip",severity="warning"} 1.0' in numbers
            assert 'pylvs_problems{kind="quorum_lost",severity="critical"} 0.0' in numbers
            host.path_findings = []
            await daemon.reload()
            await until(lambda: "problem_ended" in [each["event"] for each in daemon.events.recent()])
            events = [each for each in daemon.events.recent() if each["event"].startswith("problem")]
            assert [(each["event"], each["problem"], each["object"]) for each in events] == [
                ("problem_began", "vip", "192.0.2.1"),
                ("problem_ended", "vip", "192.0.2.1"),
            ]
            assert names.count("problem_began") <= 1

    run(scenario())


def test_a_prober_process_that_ends_again_and_again_is_a_problem_although_it_runs(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBLEMS_POLL_S", 0.01)
    text = "the prober process has ended; restarted more than 2 times within 5 min"
    monkeypatch.setattr(host.prober, "counts", lambda: ProberCounts("", 3, text))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            status, line = await checked(host)
            assert (status, text in line) == (WARNING, True)
            page = await asyncio.to_thread(CliRunner().invoke, views.metrics, ["--state-dir", str(host.state)])
            assert 'pylvs_problems{kind="prober",severity="warning"} 1.0' in page.output
            await until(lambda: "problem_began" in [each["event"] for each in daemon.events.recent()])
            monkeypatch.setattr(host.prober, "counts", ProberCounts)
            await until(lambda: "problem_ended" in [each["event"] for each in daemon.events.recent()])
            assert (await checked(host))[0] == OK

    run(scenario())


def test_a_task_that_fails_is_a_problem_until_it_has_run_for_a_while(log_output: io.StringIO) -> None:
    loop = FakeTimeLoop()
    found: list[dict[str, str]] = []

    async def saving() -> None:
        if not found:
            raise OSError("the disk is gone")
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with BackgroundTasks() as tasks:
            tasks.keep_running(saving, "saving")
            await asyncio.sleep(0.5)
            for pause_s in (STEADY_S / 2, STEADY_S):
                found.append(tasks.failures())
                await asyncio.sleep(pause_s)
            found.append(tasks.failures())

    loop.run_until_complete(scenario())
    loop.close()
    assert found == [{"saving": "the disk is gone"}, {"saving": "the disk is gone"}, {}]


def test_a_part_that_fails_is_in_status_and_events(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PROBLEMS_POLL_S", 0.01)
    monkeypatch.setattr(host.tables, "follow_host", failing(errno.ENOBUFS))
    reason = "this is a bug: RuntimeError('not expected')"

    def unexpected() -> NoReturn:
        raise RuntimeError("not expected")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            with monkeypatch.context() as bug:
                bug.setattr(host.tables, "edition", unexpected)
                await until(lambda: daemon.reconciler.last.error == reason)
                assert reason in [each.text for each in daemon.problems() if each.kind == "table"]
            host.vip_checks.error = "checks through virtual addresses may fail: not permitted"
            await until(lambda: daemon.host_changes.error and not daemon.reconciler.last.error)
            await until(lambda: {"failed", "table"} <= {each["problem"] for each in began(daemon)})
            page = (await asyncio.to_thread(CliRunner().invoke, views.status, ["--state-dir", str(host.state)])).output
            assert f"  reconciling the table: failed and is restarted: {reason}\n" in page
            assert "  checks through virtual addresses may fail: not permitted\n" in page
            assert f"  {daemon.host_changes.error}\n" in page

    run(scenario())


def began(daemon: Supervisor) -> list[Any]:
    return [each for each in daemon.events.recent() if each["event"] == "problem_began"]


def test_checks_have_the_keyword_of_the_configuration() -> None:
    check = HttpCheck(target=Target(address(1), 443), urls=(Url("/"),), tls=True)
    shown = SimpleNamespace(check=check, inconclusive=True, reason="late")
    override = Override()
    lost = ("MISC_CHECK: /x is not run: no such file or directory",)
    server = SimpleNamespace(server="10.0.0.1:443", up=True, override=override, checks=[shown], checks_left_out=lost)
    server.handshakes_low = ""
    service = SimpleNamespace(name="web", has_quorum=True, servers=[server], handshakes_low="")
    left_out, problem = service_problems([service])  # type: ignore[list-item]
    assert problem.text == "SSL_GET is inconclusive: late"
    assert str(left_out) == "10.0.0.1:443 of web: MISC_CHECK: /x is not run: no such file or directory"
    assert left_out.kind == "check_left_out"


def test_a_lost_quorum_of_0_names_what_is_missing() -> None:
    """The quorum is 0 if all weights are."""
    service = SimpleNamespace(name="web", has_quorum=False, weight_up=0, quorum=0, sorry_server_in=False, servers=[])
    service.handshakes_low = ""
    (problem,) = service_problems([service])  # type: ignore[list-item]
    assert problem.text == "quorum lost: weight 0 is up (no server with a weight above 0 is up)"


def test_a_metrics_address_that_is_in_use_is_a_problem(host: FakeHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        host.write(service(server(1)), metrics_address=(ip_address("127.0.0.1"), port))

        async def scenario() -> None:
            async with host.daemon():
                status, line = await checked(host)
                assert status == WARNING
                error = f"metrics_address 127.0.0.1:{port}: Address already in use"
                assert error in line
                done = await asyncio.to_thread(CliRunner().invoke, views.reload, ["--state-dir", str(host.state)])
                assert isinstance(done.exception, PylvsError)
                assert str(done.exception) == f"the configuration is in force, but metrics are not served: {error}"

        run(scenario())


def test_states_of_virtual_routers(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.write(service(server(1)), routers=["VI_1"])

    async def scenario() -> None:
        async with host.daemon():
            status, line = await checked(host)
            assert (status, "routers_master=1;;;0;1" in line) == (OK, True)
            set_behaviour(host.state, silent=["status"])
            monkeypatch.setattr("pylvs.daemon.virtual_routers.supervision.STATUS_TIMEOUT_S", 0.5)
            status, line = await checked(host)
            assert status == CRITICAL
            assert "the process of the virtual routers does not answer" in line

    try:
        run(scenario())
    finally:
        host.end_processes()


def test_a_fault_a_conflict_and_what_is_not_known() -> None:
    router = {"name": "VI_1", "state": "FAULT", "faults": ["eth0 is down"], "why": "a fault"}
    status: dict[str, Any] = {
        "problem": "",
        "instances": [router, {"name": "VI_2", "state": "MASTER", "rival": "10.0.0.7 holds them as well"}],
        "sessions": [
            {"name": "a", "state": "Down", "up": False, "held": False, "error": "", "reason": "Path Down"},
            {"name": "b", "state": "Down", "up": None, "held": False, "error": "", "reason": ""},
            {"name": "c", "state": "Up", "up": True, "held": False, "error": "", "reason": ""},
        ],
        "notify_scripts": {
            "scripts": [
                {
                    "object": "VI_2",
                    "keyword": "notify_master",
                    "script": "/bin/m",
                    "state": "running",
                    "seconds": 31.4,
                    "reason": "",
                }
            ]
        },
        "data_plane": {"up": None, "reason": "no word for 10 s"},
        "process": {"helper_running": False},
    }
    found = [(each.kind, str(each)) for each in router_problems(status)]
    assert found == [
        ("vrrp_fault", "VI_1: in the state FAULT: eth0 is down"),
        ("vrrp_conflict", "VI_2: 10.0.0.7 holds them as well"),
        ("bfd", "a: Down: Path Down"),
        ("notify_script", "VI_2: notify_master /bin/m has not ended for 31 s"),
        ("data_plane", "pylvs-vrrp: forwarding: no word for 10 s"),
        ("vrrp_helper", "the helper process of pylvs-vrrp does not run"),
    ]
    assert list(router_problems({"instances": [], "groups": [], "problem": ""})) == []


def test_a_problem_that_stays_is_one_event() -> None:
    events: list[tuple[str, str]] = []
    tracker = ProblemTracker(lambda name, **fields: events.append((name, fields["reason"])))
    for text in ("first", "second", ""):
        tracker.update([Problem("device", "eth0", text)] if text else [])
    assert events == [("problem_began", "first"), ("problem_ended", "second")]


def test_each_kind_has_a_line_in_the_documents(repository: Path) -> None:
    page = (repository / "docs/reference/monitoring.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.severity.value} | {kind.help} |" in page


def test_metrics_without_a_daemon_have_no_problems() -> None:
    assert "pylvs_problems" not in exposition(MetricsInput("1"))
