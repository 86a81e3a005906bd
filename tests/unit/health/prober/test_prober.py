"""The prober process: what it may do, what its death or silence means, and what hostile servers can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

import pylvs
from pylvs.health.prober.link import ProberCounts, ProberLink
from pylvs.health.prober.privileged import make_sockets, needs_sockets
from pylvs.health.probes import CheckContext, Outcome, ProbeFailed
from pylvs.model.checks import (
    AgentCheck,
    Check,
    DnsCheck,
    HttpCheck,
    LoadCheck,
    Pace,
    PingCheck,
    SmtpCheck,
    Target,
    TcpCheck,
    TlsClient,
    Url,
)
from pylvs.system.processes import channel, child, command
from pylvs.system.processes.channel import BadMessage
from tests.privileges import assert_unprivileged, assert_without_files
from tests.shortages import SHORTAGES, failing
from tests.unit.daemon.daemons import run
from tests.unit.health.fake_servers import PATIENT, Loop, closed, lapse, replies, silent, tcp, udp
from tests.waiting import PATIENCE_S, until_async

CONNECTED = Outcome(True, "connected")
HELLO = b"HTTP/1.0 200 OK\r\n\r\nhello"
LOAD = b'HTTP/1.0 200 OK\r\n\r\nnode_load1 0\nnode_cpu_seconds_total{cpu="0",mode="idle"} 1\n'
NOWHERE = Target(ip_address("127.0.0.1"), 1)
SEARCHED = HttpCheck(target=NOWHERE, urls=(Url("/", regex="y$"),), pace=PATIENT)
SPARE = 8 << 20  # bytes that the process may use beyond those of its start
LARGE = [b"x" * (1 << 20)] * 15
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")


@contextlib.asynccontextmanager
async def closing(link: ProberLink) -> AsyncIterator[ProberLink]:
    """Close it at the end of the block."""
    try:
        yield link
    finally:
        await link.close()


def with_link(scenario: Callable[[ProberLink], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with closing(ProberLink()) as link:
            await scenario(link)

    run(whole())


async def outcome(link: ProberLink, check: Check, weight: int = 1) -> Outcome:
    """Return the outcome of one probe."""
    return await link.probe_of(check, CheckContext(weight))()


def http(target: Target, pace: Pace = PATIENT, tls: bool = False, **fields: object) -> HttpCheck:
    return HttpCheck(target=target, urls=(Url("/"),), tls=tls, pace=replace(pace, **fields))  # type: ignore[arg-type]


def test_probes_run_there_and_report_here() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies(HELLO)) as target:
            with closed() as nothing:
                checks = [TcpCheck(target=target, pace=PATIENT), http(target), TcpCheck(target=nothing, pace=PATIENT)]
                found = await asyncio.gather(*(outcome(link, check) for check in checks))
        assert [each.reason for each in found] == ["connected", "status 200", "connection refused"]
        assert [each.ok for each in found] == [True, True, False]

    with_link(scenario)


def test_a_process_that_replaces_another_one_gets_the_probes_that_stay() -> None:
    """A reload replaces it when certificates have changed."""

    async def scenario(link: ProberLink) -> None:
        async with tcp(replies(HELLO)) as target:
            probes = [link.probe_of(check, CheckContext()) for check in (TcpCheck(target=target), http(target))]
            before = [await probe() for probe in probes]
            for verify in True, False:
                pid = link.process.pid
                link.set_tls([(TlsClient(), verify)])
                assert [await probe() for probe in probes] == before
                assert link.process.pid != pid
        assert [each.reason for each in before] == ["connected", "status 200"]
        assert link.counts() == ProberCounts("", 0)

    with_link(scenario)


def mapped(pid: int) -> set[str]:
    """Return which large libraries a process has loaded."""
    files = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("libssl", "libcrypto") if name in files}


@as_root
def test_a_process_starts_again_for_a_check_that_needs_a_library(tls: ssl.SSLContext) -> None:
    """Confined, it can load nothing. OpenSSL and the parsers of DNS and Prometheus take 8 MB."""

    async def scenario(link: ProberLink) -> None:
        async with contextlib.AsyncExitStack() as stack:
            page = await stack.enter_async_context(tcp(replies(HELLO)))
            secure = await stack.enter_async_context(tcp(replies(HELLO), tls=tls))
            load = await stack.enter_async_context(tcp(replies(LOAD)))
            names, _ = await stack.enter_async_context(udp(lambda data: [data[:2] + b"\x81" + data[3:]]))
            first = link.probe_of(http(page), CheckContext())
            assert await first() == Outcome(True, "status 200")
            assert mapped(link.process.pid) == set()
            digest = hashlib.md5(b"hello", usedforsecurity=False).hexdigest()
            for check, reason in (
                (DnsCheck(target=names, pace=PATIENT), "NOERROR for . SOA"),
                (LoadCheck(target=load, pace=PATIENT), "load 0, smoothed 0: weight 1"),
                (replace(http(page), urls=(Url("/", digest=digest),)), "status 200"),
                (http(secure, tls=True), "status 200"),
            ):
                pid = link.process.pid
                probe = link.probe_of(check, CheckContext())
                assert (await probe()).reason == reason
                assert link.process.pid != pid
            pid = link.process.pid
            assert mapped(pid) == {"libssl", "libcrypto"}
            assert [await first(), await probe()] == [Outcome(True, "status 200")] * 2
            assert (link.process.pid, link.counts()) == (pid, ProberCounts())

    with_link(scenario)


def test_tls_settings_that_found_no_descriptor_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(link: ProberLink) -> None:
        link.set_tls([(TlsClient(), False)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", failing(errno.EMFILE))
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                link.set_tls([(TlsClient(), True)])
        async with tcp(replies(HELLO)) as target:
            assert await outcome(link, http(target)) == Outcome(True, "status 200")
            pid = link.process.pid
            link.set_tls([(TlsClient(), True)])
            assert await outcome(link, http(target)) == Outcome(True, "status 200")
            assert link.process.pid != pid

    with_link(scenario)


@as_root
def test_the_process_has_no_privileges() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies()) as target:
            assert await outcome(link, TcpCheck(target=target, pace=PATIENT)) == CONNECTED
        pid = link.process.pid
        assert_unprivileged(pid)
        assert_without_files(pid)
        with open(f"/proc/{pid}/limits") as file:
            limits = {line[:25].strip(): line[25:].split()[:2] for line in file}
        assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
        assert limits["Max data size"] == [str(1 << 30)] * 2
        files = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
        assert {each.partition(":")[0] for each in files} <= {"/dev/null", "pipe", "socket", "anon_inode"}

    with_link(scenario)


@as_root
def test_the_daemon_makes_the_sockets_that_need_privileges() -> None:
    """A mark, a low source port and a raw socket, of a process without any capability."""

    async def scenario(link: ProberLink) -> None:
        ports: list[int] = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ports.append(writer.get_extra_info("peername")[1])
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(HELLO)

        async with tcp(handler) as target:
            marked = TcpCheck(target=replace(target, mark=7), pace=PATIENT)
            low = replace(target, source=ip_address("127.0.0.1"), source_port=789)
            pages = HttpCheck(target=low, urls=(Url("/a"), Url("/b"), Url("/c")), pace=PATIENT)
            assert await outcome(link, marked) == CONNECTED
            assert await outcome(link, pages) == Outcome(True, "status 200")
        assert ports[1:] == [789] * 3
        echo = await outcome(link, PingCheck(target=Target(ip_address("127.0.0.1")), pace=PATIENT))
        assert echo.ok, echo
        device = Target(ip_address("127.0.0.1"), 80, mark=7, device="no-such-device")
        reason = "no such device while binding to device no-such-device"
        assert await outcome(link, TcpCheck(target=device, pace=PATIENT)) == Outcome(False, reason, inconclusive=True)

    with_link(scenario)


def test_the_sockets_of_a_failed_check_are_closed() -> None:
    with closed() as ours:  # no other process can listen at the port
        good = Target(ip_address("127.0.0.1"), 80, source_port=ours.port)
        bad = Target(ip_address("127.0.0.1"), 80, source=ip_address("192.0.2.77"), source_port=40_002)
        check = SmtpCheck(targets=(good, bad))
        assert needs_sockets(check)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ProbeFailed, match="is not on this machine while binding to") as raised:
            make_sockets(check)
        assert raised.value.inconclusive
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_death_of_the_process_is_inconclusive_and_it_is_replaced(log_output: io.StringIO) -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(silent) as target, tcp(replies(HELLO)) as good:
            waiting = [asyncio.create_task(outcome(link, http(target))) for _ in range(5)]
            await until_async(lambda: link.process.up and len(link._running) == 5 and not link._batch)
            first = link.process.pid
            os.kill(first, signal.SIGKILL)
            lost = Outcome(False, "the prober process has ended", inconclusive=True)
            assert await asyncio.gather(*waiting) == [lost] * 5
            assert await outcome(link, http(good)) == Outcome(True, "status 200")  # waited for the new process
            assert link.process.pid != first
            assert link.process.restarts == 1

    with_link(scenario)
    assert "the prober process has ended" in log_output.getvalue()
    assert "the prober process runs again" in log_output.getvalue()


@pytest.mark.parametrize("check", [SEARCHED, LoadCheck(target=NOWHERE, pace=PATIENT)])
def test_exhausted_memory_of_the_process_is_inconclusive(
    check: HttpCheck | LoadCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_DATA: the body does not fit. Afterwards there is memory again, for this process or the next one."""

    async def scenario() -> None:
        async with tcp(replies(b"HTTP/1.0 200 OK\r\n\r\n", *LARGE)) as large, tcp(replies(HELLO)) as good:
            async with closing(ProberLink()) as link:
                assert (await outcome(link, http(good))).ok
                with open(f"/proc/{link.process.pid}/status") as file:
                    used = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
            limited = ("prlimit", f"--data={used + SPARE}")
            monkeypatch.setattr(child, "command", lambda *words: [*limited, *command(*words)])
            async with closing(ProberLink()) as link:
                assert (await outcome(link, http(good))).ok
                found = await outcome(link, replace(check, target=large))
                assert found.inconclusive, found
                assert (await outcome(link, http(good))).ok

    run(scenario())


def test_frequent_restarts_are_a_problem_although_the_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RESTART_S", 0.01), ("MAX_RESTART_S", 0.01), ("OFTEN_S", 36_000.0)):
        monkeypatch.setattr(child, name, value)

    async def scenario() -> None:
        link = ProberLink()

        async def lose(times: int) -> None:
            os.kill(link.process.pid, signal.SIGKILL)
            await until_async(lambda: link.process.restarts == times)

        try:
            async with tcp(replies()) as target:
                check = TcpCheck(target=target, pace=PATIENT)
                for lost in range(child.OFTEN):
                    assert (await outcome(link, check)).ok
                    assert link.counts() == ProberCounts("", lost, "")
                    await lose(lost + 1)
                assert (await outcome(link, check)).ok
            text = "the prober process has ended; restarted more than 2 times within 600 min"
            assert link.counts() == ProberCounts("", child.OFTEN, text)
            lapse(child.OFTEN_S)
            assert link.counts() == ProberCounts("", child.OFTEN, "")
        finally:
            await link.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scenario())


def test_a_silent_process_is_inconclusive_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(silent) as target, tcp(replies(HELLO)) as good:
            waiting = asyncio.create_task(outcome(link, http(target)))
            await until_async(lambda: link.process.up and link._running and not link._batch)
            first = link.process.pid
            os.kill(first, signal.SIGSTOP)
            with monkeypatch.context() as ticks:
                ticks.setattr(child, "PING_S", 0.01)  # those of the lease
                lost = await waiting
            assert lost.inconclusive
            assert lost.reason == f"the prober process has been silent for {child.LEASE_S} s"
            assert (await outcome(link, http(good))).ok
            assert link.process.pid != first
            await until_async(lambda: not Path(f"/proc/{first}").exists())

    with_link(scenario)


@pytest.mark.parametrize("number", SHORTAGES, ids=lambda number: errno.errorcode[number])
def test_the_process_is_started_again_after_a_shortage(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies(HELLO)) as good:
            assert (await outcome(link, http(good))).ok
            with monkeypatch.context() as shortage:
                shortage.setattr("socket.socketpair", failing(number))
                os.kill(link.process.pid, signal.SIGKILL)
                await until_async(lambda: f"cannot be started: {os.strerror(number)}" in link.process.problem)
            assert (await outcome(link, http(good))).ok

    with_link(scenario)


def test_a_probe_that_begins_without_the_process_is_inconclusive_at_its_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing can be started: no processes are left on this machine."""

    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refused)

    async def scenario(link: ProberLink) -> None:
        check = TcpCheck(target=Target(ip_address("127.0.0.1"), 1), pace=Pace(timeout_s=0.05))
        found = await outcome(link, check)
        assert found.inconclusive
        assert found.reason == "the prober process cannot be started: Resource temporarily unavailable"

    with_link(scenario)


def test_code_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO) -> None:
    """pip replaced the files below a daemon that runs, and then its prober process was killed."""
    monkeypatch.setattr(channel, "__version__", "0.0.1")

    async def scenario(link: ProberLink) -> None:
        asking = asyncio.create_task(outcome(link, TcpCheck(target=Target(ip_address("127.0.0.1"), 1), pace=PATIENT)))
        await until_async(lambda: link.process.problem)
        assert "which was installed since: restart pylvs run" in link.process.problem
        asking.cancel()

    with_link(scenario)
    assert "restart pylvs run" in log_output.getvalue()


UPGRADED = """
import asyncio, os, signal, sys
from ipaddress import ip_address
from pathlib import Path
from pylvs.health.prober.link import ProberLink
from pylvs.health.probes import CheckContext
from pylvs.model.checks import Pace, Target, TcpCheck

async def main():
    link = ProberLink()
    check = TcpCheck(target=Target(ip_address("127.0.0.1"), int(sys.argv[1])), pace=Pace(timeout_s=60))
    print((await link.probe_of(check, CheckContext())()).reason, flush=True)
    sys.stdin.readline()
    os.kill(link.process.pid, signal.SIGKILL)
    while not link.process.problem.endswith("restart pylvs run"):
        await asyncio.sleep(0.01)
    found = await link.probe_of(TcpCheck(target=check.target, pace=Pace(timeout_s=0.1)), CheckContext())()
    print(found.inconclusive, found.reason, flush=True)
    await link.close()

asyncio.run(main())
"""


def test_an_upgrade_of_the_files_below_a_daemon_that_runs(tmp_path: Path) -> None:
    """The daemon has the old code in memory, and its next prober process would have the new one."""
    shutil.copytree(Path(pylvs.__file__).parent, tmp_path / "pylvs", ignore=shutil.ignore_patterns("objects", "*.pyc"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", UPGRADED, str(listener.getsockname()[1])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as daemon:  # type: ignore[call-overload]
            assert daemon.stdout.readline() == "connected\n"
            (tmp_path / "pylvs" / "__init__.py").write_text('__version__ = "99.0"\n')
            output, log = daemon.communicate("go on\n", timeout=PATIENCE_S)
    reason = "the prober process is of version 99.0, which was installed since: restart pylvs run"
    assert output == f"True {reason}\n"
    assert reason in log


@pytest.mark.parametrize("message", [{"done": 7}, {"done": [[1]]}, {"done": {"a": 1}}])
def test_an_invalid_message_ends_the_process(message: dict[str, object]) -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(silent) as target, tcp(replies(HELLO)) as good:
            waiting = asyncio.create_task(outcome(link, http(target)))
            await until_async(lambda: link.process.up and link._running and not link._batch)
            receive = link.process._on_message
            link.process._on_message = lambda _: receive(message)  # instead of the next outcome
            lost, _ = await asyncio.gather(waiting, outcome(link, http(good)))
            link.process._on_message = receive
            assert lost.inconclusive
            assert "sent an invalid message" in lost.reason
            assert (await outcome(link, http(good))).ok

    with_link(scenario)


def test_a_weight_of_a_check_that_sets_none_ends_the_process() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(silent) as target:
            waiting = asyncio.create_task(outcome(link, http(target)))
            await until_async(lambda: link.process.up and link._running)
            (run_,) = link._running
            with pytest.raises(BadMessage, match="a weight of HTTP_GET"):
                link._receive({"done": [[run_, True, "forged", 0, False, None, 1]]})
            waiting.cancel()

    with_link(scenario)


def test_a_check_with_more_sockets_than_a_packet_takes_is_inconclusive() -> None:
    target = Target(ip_address("127.0.0.1"), 80, mark=7)
    check = HttpCheck(target=target, urls=tuple(Url(f"/{number}") for number in range(201)))
    with pytest.raises(ProbeFailed, match="more than 200 pages or hosts") as error:
        make_sockets(check)
    assert error.value.inconclusive


def test_a_result_of_another_run_changes_nothing() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(silent) as target:
            waiting = asyncio.create_task(outcome(link, http(target)))
            await until_async(lambda: link.process.up and link._running)
            link._receive({"done": [[number, True, "forged", None, False, None, 1] for number in (0, 99, -1)]})
            await asyncio.sleep(0)
            assert not waiting.done()
            waiting.cancel()

    with_link(scenario)


def test_a_cancelled_probe_ends_in_the_process_too() -> None:
    async def scenario(link: ProberLink) -> None:
        gone = asyncio.Event()
        here = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            here.set()
            await reader.read()
            gone.set()

        async with tcp(handler) as target, tcp(replies(HELLO)) as good:
            waiting = asyncio.create_task(outcome(link, http(target)))
            await here.wait()
            waiting.cancel()
            assert (await outcome(link, http(good))).ok  # sends what was cancelled, too
            await gone.wait()

    with_link(scenario)


def test_what_an_agent_reported_survives_the_process() -> None:
    lines = [b"drain 50%\n", b"up\n", b"ready\n"]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(lines.pop(0))

    async def scenario(link: ProberLink) -> None:
        async with tcp(handler) as target:
            probe = link.probe_of(AgentCheck(target=target, pace=PATIENT), CheckContext(10))
            assert (await probe()).weight == 0
            os.kill(link.process.pid, signal.SIGKILL)
            await until_async(lambda: not link.process.up)
            assert (await probe()).weight == 0
            assert (await probe()).weight == 5

    with_link(scenario)


def test_probes_without_a_check_are_forgotten() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies(HELLO)) as good:
            for _ in range(3):
                await outcome(link, http(good))
            assert link._dropped
            await outcome(link, http(good))
            assert len(link._dropped) <= 1

    with_link(scenario)


def test_many_checks_with_long_settings_are_all_made() -> None:
    """Their definitions fill several packets; one that is too long for any is inconclusive."""

    async def scenario(link: ProberLink) -> None:
        async with tcp(replies(HELLO)) as target:
            urls = tuple(Url(f"/{'x' * 900}{number}") for number in range(3))
            checks = [
                HttpCheck(target=target, urls=urls, virtualhost=f"{number}", pace=PATIENT) for number in range(120)
            ]
            found = await asyncio.gather(*(outcome(link, check) for check in checks))
            assert {each.reason for each in found} == {"status 200"}
            huge = HttpCheck(target=target, urls=(Url("/" + "x" * 100_000),), pace=PATIENT)
            assert (await outcome(link, huge)).inconclusive

    with_link(scenario)


@contextlib.asynccontextmanager
async def flood(tls: ssl.SSLContext | None, first: bytes, piece: bytes) -> AsyncIterator[Target]:
    """Run a server that answers without end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            for _ in range(50):
                writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    async with tcp(handler, tls=tls) as target:
        yield target


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.real_clock("the delay of one probe by others is a matter of real time")
def test_hostile_servers_delay_no_other_probe(tls: ssl.SSLContext) -> None:
    """Six servers that never end, beside one that works: its probes take no 50 ms more."""
    pace = Pace(timeout_s=2.0)

    async def scenario(link: ProberLink) -> None:
        async with contextlib.AsyncExitStack() as stack:
            hostile = [
                await stack.enter_async_context(flood(context, first, piece))
                for context in (None, tls)
                for first, piece in (
                    (CHUNKED, b"1\r\nx\r\n"),
                    (CHUNKED + b"0\r\n", b"a: b\r\n"),
                    (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
                )
            ]
            good = await stack.enter_async_context(tcp(replies(HELLO)))
            checks = [http(target, pace, tls=number >= 3) for number, target in enumerate(hostile)]
            probes = [link.probe_of(check, CheckContext()) for check in checks]
            witness = link.probe_of(TcpCheck(target=good, pace=PATIENT), CheckContext())
            assert await witness() == CONNECTED
            bad = [asyncio.ensure_future(probe()) for probe in probes]
            begin = time.monotonic()
            while not all(each.done() for each in bad):
                assert await witness() == CONNECTED
                await asyncio.sleep(0.02)
            took_s = time.monotonic() - begin
            assert took_s < 3 * pace.timeout_s
            # A page is good by its status; reading it ends at the limit of work, or at the timeout.
            assert all(each.result().reason.startswith(("timed out after 2 s", "status 200 (")) for each in bad)

    with_link(scenario)
