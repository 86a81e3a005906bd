"""TCP_CHECK and the sockets that all checkers share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
import struct
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest

from pylvs.health.checkers.sockets import Endpoint
from pylvs.health.probes import CheckContext, Outcome, ProbeFailed, errno_failure, errno_text, probe_of, quoted
from pylvs.model.checks import Check, Pace, Target, TcpCheck, UdpCheck
from tests.unit.health.fake_servers import HASTY, PATIENT, V4, V6, asked, closed, open_files, silent, tcp, undisturbed


def tcp_check(target: Target, pace: Pace = PATIENT) -> TcpCheck:
    return TcpCheck(target=target, pace=pace)


def outcome_at(target: Target, pace: Pace = PATIENT) -> Outcome:
    return undisturbed(lambda: probe_once(target, pace))


async def probe_once(target: Target, pace: Pace = PATIENT) -> Outcome:
    return await ask(tcp_check(target, pace))


async def ask(check: Check) -> Outcome:
    return await probe_of(check, CheckContext())()


@pytest.mark.parametrize("host", [V4, V6])
def test_a_server_that_accepts_is_up(host: str) -> None:
    assert asked(tcp_check, silent, host=host) == Outcome(True, "connected")


@pytest.mark.parametrize("host", [V4, V6])
def test_a_connection_to_itself_does_not_count(host: str) -> None:
    with closed(host) as target:
        itself = replace(target, source_port=target.port)
        assert outcome_at(itself) == Outcome(False, "connection refused")


@pytest.mark.parametrize("host", [V4, V6])
def test_a_closed_port_is_refused(host: str) -> None:
    with closed(host) as target:
        assert outcome_at(target) == Outcome(False, "connection refused")


def test_a_connection_ends_in_the_ordinary_way() -> None:
    ends: list[bytes | Exception] = []

    async def main() -> None:
        ended = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                ends.append(await reader.read())
            except OSError as error:
                ends.append(error)
            ended.set()

        async with tcp(handler) as target:
            assert (await probe_once(target)).ok
            await asyncio.wait_for(ended.wait(), PATIENT.timeout_s)

    undisturbed(main)
    assert ends == [b""]  # not a ConnectionResetError


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """Run a listener with a full backlog: further connections are neither accepted nor refused."""
    listener = socket.create_server((V4, 0), backlog=0)
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        waiting.append(client)
    return listener, waiting


def test_a_server_that_does_not_answer_times_out() -> None:
    listener, waiting = full_listener()
    with contextlib.ExitStack() as stack:
        for each in (listener, *waiting):
            stack.enter_context(each)
        target = Target(IPv4Address(V4), listener.getsockname()[1])
        assert outcome_at(target, HASTY) == Outcome(False, "timed out after 0.4 s")


def test_a_check_that_is_cancelled_leaves_nothing() -> None:
    listener, waiting = full_listener()

    async def main() -> None:
        task = asyncio.create_task(probe_once(Target(IPv4Address(V4), listener.getsockname()[1])))
        for _ in range(3):  # it has begun, and waits
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with contextlib.ExitStack() as stack:
        for each in (listener, *waiting):
            stack.enter_context(each)
        undisturbed(main)


def test_a_fixed_port_can_be_used_again_at_once() -> None:
    async def main() -> list[Outcome]:
        with closed() as ours:
            async with tcp(silent) as target:
                fixed = replace(target, source_port=ours.port)
                return [await probe_once(fixed) for _ in range(5)]

    assert undisturbed(main) == [Outcome(True, "connected")] * 5


def test_the_probe_uses_the_configured_source() -> None:
    seen: list[tuple[str, int]] = []

    async def main(port: int) -> None:
        requests = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername"))
            requests.set()
            await reader.read()

        async with tcp(handler) as target:
            for source, source_port in ((IPv4Address("127.0.0.9"), 0), (IPv4Address("127.0.0.8"), port), (None, port)):
                requests.clear()
                outcome = await probe_once(replace(target, source=source, source_port=source_port, device="lo"))
                assert outcome == Outcome(True, "connected")
                await asyncio.wait_for(requests.wait(), PATIENT.timeout_s)

    with closed() as ours:
        port = ours.port
        undisturbed(lambda: main(port))
    assert seen[0][0] == "127.0.0.9"
    assert seen[1:] == [("127.0.0.8", port), (V4, port)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"source": IPv4Address("192.0.2.77")},
            "the source address is not on this machine while binding to 192.0.2.77",
        ),
        ({"source": IPv6Address("::1")}, "the source address ::1 is of another family than 127.0.0.1"),
        ({"device": "pylvs-absent"}, "no such device while binding to device pylvs-absent"),
    ],
)
def test_a_source_that_is_not_local_is_inconclusive(changes: dict[str, object], reason: str) -> None:
    target = replace(Target(IPv4Address(V4), 1), **changes)  # type: ignore[arg-type]
    assert outcome_at(target) == Outcome(False, reason, inconclusive=True)


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_only_an_errno_about_the_server_is_its_failure(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    about_the_server = {
        "ECONNREFUSED",
        "ECONNRESET",
        "ECONNABORTED",
        "EHOSTUNREACH",
        "EHOSTDOWN",
        "ENETUNREACH",
        "ENETDOWN",
        "ETIMEDOUT",
    }
    if code == errno.EINPROGRESS:
        return
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: code)
    target = Target(IPv4Address(V4), 1)
    for check in (TcpCheck(target=target, pace=PATIENT), UdpCheck(target=target, pace=PATIENT)):
        outcome = undisturbed(partial(ask, check))
        assert outcome.inconclusive is (errno.errorcode[code] not in about_the_server)


def test_a_taken_source_port_is_inconclusive() -> None:
    with socket.create_server((V4, 0)) as taken:
        target = Target(IPv4Address(V4), 1, source=IPv4Address(V4), source_port=taken.getsockname()[1])
        reason = f"the source port is taken while binding to {V4} {target.source_port}"
        assert outcome_at(target) == Outcome(False, reason, inconclusive=True)


def test_a_link_local_address_needs_a_device_that_is_there() -> None:
    target = Target(IPv6Address("fe80::1"), 1, device="pylvs-absent")
    reason = "no such device while binding to device pylvs-absent"
    assert outcome_at(target) == Outcome(False, reason, inconclusive=True)


def test_a_mark_is_set_or_the_error_names_the_privilege() -> None:
    outcome = asked(lambda target: tcp_check(replace(target, mark=7)), silent)
    assert outcome.ok if os.geteuid() == 0 else "while setting firewall mark 7" in outcome.reason


def test_too_many_open_files_are_inconclusive() -> None:
    async def main() -> Outcome:
        async with tcp(silent) as target:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                return await probe_once(target)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert undisturbed(main) == Outcome(False, "this process has too many open files", inconclusive=True)


def test_concurrent_probes_are_independent() -> None:
    listener, waiting = full_listener()
    dead = Target(IPv4Address(V4), listener.getsockname()[1])

    async def main() -> list[Outcome]:
        async with tcp(silent) as alive:
            with closed() as refusing:
                targets = [(dead, HASTY), (alive, PATIENT), (refusing, PATIENT)] * 50
                return list(await asyncio.gather(*(probe_once(target, pace) for target, pace in targets)))

    with contextlib.ExitStack() as stack:
        for each in (listener, *waiting):
            stack.enter_context(each)
        outcomes = undisturbed(main)
    assert [outcome.reason for outcome in outcomes] == [
        "timed out after 0.4 s",
        "connected",
        "connection refused",
    ] * 50


def test_open_files_notices_what_is_left_open() -> None:
    before = open_files()
    with socket.socket():
        assert open_files() == before + 1


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_errno_has_a_text(code: int) -> None:
    text = errno_text(code)
    assert text
    assert "\n" not in text
    assert str(errno_failure(code, "while sending")) == f"{text} while sending"


def test_a_reply_is_quoted_on_one_line() -> None:
    assert quoted(b"hello") == "'hello'"
    assert quoted(b"a\r\n\x1b[31m\xff'\"") == "'a\\r\\n\\x1b[31m\\xff'\"'"
    assert quoted(b"x" * 100) == f"'{'x' * 60}…'"


def test_a_reset_after_so_error_was_read_is_a_failure() -> None:
    with socket.create_server((V4, 0)) as listener:
        endpoint = Endpoint(Target(IPv4Address(V4), listener.getsockname()[1]))
        with endpoint.unconnected(socket.SOCK_STREAM) as made:
            endpoint.begin(made)
            peer, _ = listener.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            readable, _, _ = select.select([made], [], [], PATIENT.timeout_s)
            assert readable
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
            with pytest.raises(ProbeFailed, match=r"^connection reset$") as raised:
                endpoint.finish(made)
            assert not raised.value.inconclusive
