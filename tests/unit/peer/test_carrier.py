"""The carrier: TLS between two directors, with real sockets. Here one carrier is the other director, too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import pytest

from pylvs.peer import carrier, key, local, wire
from pylvs.peer.carrier import Carrier, Endpoint
from pylvs.peer.wire import Kind, Limits
from tests.unit.peer.test_key import made
from tests.waiting import PATIENCE_S

LIMITS = Limits(name=48, record=80, call=376, batch=10)
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def endpoint(path: Path) -> Endpoint:
    """Return this host as the other director, at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made(path)
    return Endpoint(ip_address("127.0.0.1"), port, key.certificate(str(path)), *key.contexts(str(path)))


@contextlib.asynccontextmanager
async def running(of: Endpoint) -> AsyncIterator[tuple[Carrier, Pipe, Pipe]]:
    """Run a carrier; yield it with the copier's ends: of the connection to the other director, and of that from it."""
    (asking, its_asking), (answering, its_answering) = local.pair(), local.pair()
    carrying = Carrier(of, LIMITS)
    task = asyncio.ensure_future(carrying.run(its_asking, its_answering))
    pipes = [await local.streams(end) for end in (asking, answering)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield carrying, pipes[0], pipes[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _, writer in pipes:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def opened(pipe: Pipe) -> int:
    """Wait for a connection, and return its number."""
    while True:
        kind, number, _ = await local.read(pipe[0])
        if kind == local.OPENED:
            return number


async def closed(pipe: Pipe) -> str:
    """Wait for the end of a connection, and return the reason."""
    while True:
        kind, _, content = await local.read(pipe[0])
        if kind == local.CLOSED:
            return content.decode()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


async def connected(of: Endpoint) -> Pipe:
    """Connect as the other director does."""
    return await asyncio.open_connection(
        str(of.address), of.port, ssl=of.connecting, server_hostname="pylvs", limit=1 << 20
    )


def test_frames_pass_in_both_directions(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(endpoint(tmp_path / "key")) as (_, asking, answering):
            number, other = await opened(asking), await opened(answering)
            asking[1].write(local.frame(Kind.ASK, number))
            asking[1].write(local.frame(Kind.ASK, number + 5))  # of a connection that has ended
            assert await local.read(answering[0]) == (Kind.ASK, other, b"")
            answering[1].write(local.frame(Kind.CONNECTIONS, other, bytes(800)))
            assert await local.read(asking[0]) == (Kind.CONNECTIONS, number, bytes(800))

    run(test)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (wire.HEAD.pack(0, 99), "a frame of kind 99"),
        (wire.HEAD.pack(1 << 30, Kind.HELLO), f"HELLO: {1 << 30} bytes"),
        (wire.frame(Kind.CONNECTIONS, bytes(80)), "a frame of kind 7|a frame of kind 8"),
        (wire.frame(Kind.HELLO, b"{}"), "HELLO: "),
        (wire.frame(Kind.HELD, bytes(3)), "HELD: 3 bytes instead of 24"),
        (b"\0" * 5, "a frame of kind 0"),
    ],
)
def test_what_no_director_sends_ends_the_connection(tmp_path: Path, sent: bytes, reason: str) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        async with running(of) as (_, asking, answering):
            await opened(answering)
            _, writer = await connected(of)
            await opened(answering)
            writer.write(sent)
            text = await closed(answering)
            while "no director sends" not in text:  # that of the connection before, which this one replaced
                text = await closed(answering)
            assert any(part in text for part in reason.split("|"))
            writer.close()
            assert await opened(asking), "its own connection is made again"

    run(test)


def test_another_key_is_refused_and_counted(tmp_path: Path) -> None:
    async def test() -> None:
        of, other = endpoint(tmp_path / "key"), endpoint(tmp_path / "other")
        async with running(of) as (carrying, asking, answering):
            await opened(asking)
            await opened(answering)
            other.connecting.verify_mode = ssl.CERT_NONE  # it would refuse the carrier's certificate first
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await connected(replace(other, port=of.port))
                await reader.readexactly(1)
                writer.close()
            while not carrying.refused.counts:
                await asyncio.sleep(0.01)
            assert carrying.refused.counts == {"another key": 1}

    run(test)


async def counted(pipe: Pipe) -> dict[str, int]:
    """Wait for the next report of what was refused."""
    while True:
        kind, _, content = await local.read(pipe[0])
        if kind == local.REFUSED:
            return local.decode_refused(content)


class Wiretap:
    """A host between two directors: it passes the bytes of a connection, and may repeat, change or drop some."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.passed: list[bytes] = []  # to the director
        self.to_director: asyncio.StreamWriter | None = None
        self.over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, self.to_director = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, self.to_director, self.passed), self._pass(answers, writer, []))
        self.over.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                passed.append(data)
                writer.write(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "repeated": lambda last: last,
    "changed": lambda last: last[:-1] + bytes((last[-1] ^ 1,)),
    "forged": lambda last: last[:5] + bytes(len(last) - 5),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_records_of_an_attacker_end_the_connection_and_are_counted(tmp_path: Path, attack: str) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        async with running(of) as (_, _asking, answering):
            await opened(answering)
            tap = Wiretap(of.port)
            server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
            _, writer = await connected(replace(of, port=server.sockets[0].getsockname()[1]))
            number = await opened(answering)
            writer.write(wire.frame(Kind.ASK))
            while await local.read(answering[0]) != (Kind.ASK, number, b""):
                pass
            assert tap.to_director
            tap.to_director.write(ATTACKS[attack](tap.passed[-1]))
            assert await counted(answering) == {"bad record": 1}
            writer.close()
            await tap.over.wait()
            server.close()

    run(test)


def test_a_truncated_frame_is_counted(tmp_path: Path) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        async with running(of) as (_, _asking, answering):
            await opened(answering)
            _, writer = await connected(of)
            await opened(answering)
            writer.write(wire.frame(Kind.HELLO, bytes(40))[:-1])
            writer.close()
            assert await counted(answering) == {"truncated": 1}

    run(test)


def test_without_tls_or_the_certificate_nothing_passes(tmp_path: Path) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        async with running(of) as (carrying, asking, answering):
            await opened(asking)
            number = await opened(answering)
            for context in (None, anyone):
                reader, writer = await asyncio.open_connection("127.0.0.1", of.port, ssl=context)
                with contextlib.suppress(OSError):
                    writer.write(wire.frame(Kind.ASK))
                    await reader.read()  # until the end
                writer.close()
            while sum(carrying.refused.counts.values()) < 2:
                await asyncio.sleep(0.01)
            asking[1].write(local.frame(Kind.ASK, 1))
            while (frame := await local.read(answering[0]))[0] == local.REFUSED:
                pass
            assert frame == (Kind.ASK, number, b""), "the first frame is that of the key's owner"

    run(test)


def test_another_address_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        async with running(of) as (carrying, asking, _):
            await opened(asking)
            reader, writer = await asyncio.open_connection("127.0.0.1", of.port, local_addr=("127.0.0.2", 0))
            assert await reader.read() == b""
            writer.close()
            assert carrying.refused.counts == {"another address": 1}

    run(test)


def test_a_director_that_does_not_answer_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        of = endpoint(tmp_path / "key")
        gone = replace(of, address=ip_address("127.0.0.3"), connecting=of.connecting)
        with mock.patch.object(carrier, "listening", return_value=carrier.listening(of.address, 0)):
            async with running(gone) as (_, asking, _):
                assert await closed(asking) == f"127.0.0.3 port {of.port}: Connect call failed ('127.0.0.3', {of.port})"

    run(test)
