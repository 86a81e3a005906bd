"""No peer can make a probe last longer than its timeout, or hold the event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from pylvs.health.checkers import http
from pylvs.health.checkers.deadline import SLICE_S, TICK_S, Deadline, in_thread, loop_share
from pylvs.health.checkers.http import ResponseReader, read_body
from pylvs.health.checkers.sockets import TcpStream, ready, receive_datagram
from pylvs.health.probes import Outcome, ProbeFailed, guarded
from tests.unit.health.clock import FakeTimeLoop
from tests.waiting import PATIENCE_S

LONGEST_GAP_S = 0.05  # that one probe may delay another
COST_S = 0.0005  # of each look at the clock, which stands for the work between two of them


class BusyLoop(FakeTimeLoop):
    """Each look at the clock takes time, so that work takes time."""

    def time(self) -> float:
        self.selector.now += COST_S
        return self.selector.now


@contextmanager
def running(loop: FakeTimeLoop) -> Iterator[FakeTimeLoop]:
    try:
        yield loop
    finally:
        loop.close()


class Gaps:
    """Measures how long the event loop runs nothing else."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.runs = 0
        self._last: float | None = None

    def run(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        self.runs += 1
        self._timer = loop.call_soon(self.run)

    def stop(self) -> None:
        self._timer.cancel()


class Endless:
    """A socket with data that never ends, without a kernel's socket: `ready` finds the descriptor of another."""

    def __init__(self, real: socket.socket, data: Callable[[int], bytes]) -> None:
        self._real = real
        self._data = data
        self.sent = 0

    def fileno(self) -> int:
        return self._real.fileno()

    def recv(self, most: int) -> bytes:
        return self._data(min(most, 4096))

    def send(self, data: Any) -> int:
        self.sent += len(data)
        return len(data)

    def close(self) -> None:
        self._real.close()

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def endless(data: Callable[[int], bytes]) -> Any:
    """Return a socket that is always readable and writable."""
    ours, its = socket.socketpair()
    its.send(b"x")
    its.close()
    return Endless(ours, data)


def repeated(unit: bytes, first: bytes = b"") -> Callable[[int], bytes]:
    """Return a source of `first`, and then of whole units for ever."""
    pending = [first] if first else []

    def read(most: int) -> bytes:
        return pending.pop() if pending else unit * max(most // len(unit), 1)

    return read


async def got(sock: Any, seconds: float) -> str:
    """Read a response, and return the failure."""
    with TcpStream(sock, Deadline(seconds)) as stream:
        reader = ResponseReader(stream)
        try:
            await read_body(reader, await reader.head(), digest=True, keep=True)
        except ProbeFailed as error:
            return str(error)
    return ""


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SOURCES = {
    "chunks of one byte": (b"1\r\nx\r\n", CHUNKED),
    "an endless trailer": (b"A: b\r\n", CHUNKED + b"0\r\n"),
    "single bytes": (b"x", b"HTTP/1.1 200 OK\r\n\r\n"),
    "interim responses": (b"HTTP/1.1 103 E\r\n\r\n", b""),
    "a body without end": (b"x" * 1400, b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("number", [1, 10])
def test_a_probe_ends_at_its_timeout_and_delays_no_other(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_WORK_LIMIT", 1 << 60)
    monkeypatch.setattr(http, "BODY_LIMIT", 1 << 60)
    seconds = 0.1
    gaps = Gaps()

    async def main() -> float:
        begin = asyncio.get_running_loop().time()
        gaps.run()
        found = await asyncio.gather(*(got(endless(repeated(*SOURCES[name])), seconds) for _ in range(number)))
        gaps.stop()
        assert all(each.startswith(f"timed out after {seconds:g} s") for each in found), found
        return asyncio.get_running_loop().time() - begin

    with running(BusyLoop()) as loop:
        took_s = loop.run_until_complete(main())
    assert seconds <= took_s <= seconds + LONGEST_GAP_S
    assert gaps.runs > 10
    assert gaps.longest_s <= LONGEST_GAP_S


def test_busy_probes_run_one_after_the_other() -> None:
    """In one run of the event loop no more than one of those that have used their share continues."""
    runs = Gaps()
    went_on: list[int] = []

    async def busy() -> None:
        for _ in range(3):
            await loop_share().turn()
            went_on.append(runs.runs)

    async def main() -> None:
        runs.run()
        cancelled = asyncio.ensure_future(busy())
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(busy()) for _ in range(20)]
        cancelled.cancel()
        await asyncio.gather(*others)
        runs.stop()

    with running(FakeTimeLoop()) as loop:
        loop.run_until_complete(main())
    assert len(went_on) == 60
    assert len(set(went_on)) == 60


def test_a_flood_of_datagrams_ends_at_the_timeout() -> None:
    gaps = Gaps()

    async def main() -> bytes | None:
        gaps.run()
        with endless(lambda most: b"no") as sock:
            found = await receive_datagram(sock, Deadline(0.1), lambda data: data == b"yes")
        gaps.stop()
        return found

    with running(BusyLoop()) as loop:
        assert loop.run_until_complete(main()) is None
    assert gaps.longest_s <= LONGEST_GAP_S


def test_tls_messages_without_data_are_not_read_for_ever(certificate: str) -> None:
    """A server that answers the ClientHello with fragments of one byte, each in a record of its own."""
    record = b"\x16\x03\x03\x00\x01\x02"

    async def main() -> str:
        with TcpStream(endless(lambda most: record), Deadline(1000.0)) as stream:
            try:
                await stream.start_tls()
            except ProbeFailed as error:
                return str(error)
        return ""

    with running(FakeTimeLoop()) as loop:
        assert loop.run_until_complete(main()).startswith("TLS failed: ")


def stopped(seconds: float) -> None:
    """Let so many seconds pass in which the running loop runs nothing."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, FakeTimeLoop)
    loop.selector.now += seconds


def played(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    with running(FakeTimeLoop()) as loop:
        return loop.run_until_complete(main())


def test_time_in_which_the_process_did_not_run_is_not_charged_to_servers() -> None:
    async def main() -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        loop_share().watch()
        ours, its = socket.socketpair()
        with ours, its:
            ours.setblocking(False)
            await asyncio.sleep(1)
            begin = loop.time()
            loop.call_later(2, stopped, 9)
            loop.call_later(2.1, its.send, b"answer")
            loop.call_later(12.5, its.send, b"answer")
            deadline = Deadline(5.0)
            assert await ready(ours, deadline)
            ours.recv(100)
            assert await ready(ours, deadline)  # at 12.5, which is 3.5 s of running time after the beginning
            ours.recv(100)
            assert not await ready(ours, deadline)
            return True, loop.time() - begin

    _, took_s = played(main)
    assert took_s == pytest.approx(14.0, abs=TICK_S)


def test_what_has_arrived_counts_after_a_late_wake_up() -> None:
    """Without the clock that measures lost time, the socket is looked at once more."""

    async def main() -> bool:
        ours, its = socket.socketpair()
        with ours, its:
            loop = asyncio.get_running_loop()

            def late() -> None:
                its.send(b"answer")
                stopped(9)

            loop.call_later(5.0 - SLICE_S, late)
            return await ready(ours, Deadline(5.0))

    assert played(main)


def test_a_wait_that_begins_after_the_deadline_ends_at_once() -> None:
    async def main() -> bool:
        ours, its = socket.socketpair()
        with ours, its:
            its.send(b"answer")
            deadline = Deadline(1.0)
            stopped(2)
            return await ready(ours, deadline)

    assert not played(main)


def test_a_probe_for_which_no_thread_is_free_is_inconclusive() -> None:
    """Others occupy all threads: its own server is not to blame, and its work never begins."""
    free, begun = threading.Event(), threading.Event()

    async def main() -> list[tuple[str, bool]]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))

        def stuck(over: Callable[[], bool]) -> None:
            begun.set()
            assert free.wait(PATIENCE_S)

        def never(over: Callable[[], bool]) -> None:
            raise AssertionError("it began")

        async def failure(work: Callable[[Callable[[], bool]], None]) -> tuple[str, bool]:
            with pytest.raises(ProbeFailed) as failed:
                await in_thread(Deadline(1.0), work, "at work")
            return str(failed.value), failed.value.inconclusive

        first = asyncio.ensure_future(failure(stuck))
        await asyncio.sleep(0)
        assert begun.wait(PATIENCE_S)
        second = asyncio.ensure_future(failure(never))
        found = [await first, await second]
        free.set()
        await loop.shutdown_default_executor()
        return found

    assert asyncio.run(main()) == [
        ("timed out after 1 s at work", False),
        ("timed out after 1 s waiting for a free thread", True),
    ]


def test_a_probe_for_which_no_thread_can_be_made_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask() -> Outcome:
        await in_thread(Deadline(1.0), lambda over: None, "at work")
        return Outcome(True, "done")

    async def main() -> Outcome:
        with monkeypatch.context() as shortage:  # the end of the event loop needs a thread
            shortage.setattr(threading.Thread, "start", refused)
            return await guarded(ask)()

    assert asyncio.run(main()) == Outcome(False, "no resources on this machine for a thread", inconclusive=True)


def test_tls_of_records_with_one_byte_ends_at_the_timeout(tls: ssl.SSLContext) -> None:
    """Each byte in a record of its own: OpenSSL always has data, so nothing waits."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.wrap_bio(received, sent, server_side=True)
    established = False
    gaps = Gaps()

    class Server(Endless):
        def send(self, data: Any) -> int:
            received.write(bytes(data))
            return super().send(data)

    def answer(most: int) -> bytes:
        nonlocal established
        try:
            if not established:
                server.do_handshake()
                established = True
                server.write(CHUNKED)
        except ssl.SSLWantReadError:
            pass
        if established:
            for _ in range(100):
                server.write(b"x")
        return sent.read(most)

    ours, its = socket.socketpair()
    its.send(b"x")
    its.close()

    async def main() -> str:
        gaps.run()
        with TcpStream(Server(ours, answer), Deadline(0.1)) as stream:  # type: ignore[arg-type]
            await stream.start_tls()
            try:
                while await stream.receive():
                    pass
            except ProbeFailed as error:
                gaps.stop()
                return str(error)
        return ""

    with running(BusyLoop()) as loop:
        assert loop.run_until_complete(main()) == "timed out after 0.1 s waiting for the answer"
    assert gaps.longest_s <= LONGEST_GAP_S
