"""Commands that the page lets run as root: `pylvs doctor`, `pylvs trace` of one connection, `pylvs check --show`.

One of each kind at a time, each bounded in time and output. Their arguments are made here of values that are checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.system.logs import one_line
from pylvs.system.processes import command
from pylvs.web.asked import Refused

DOCTOR_S, CHECK_S = 120.0, 60.0
EXAMINATION_S = 60  # --limit of pylvs doctor; the rest of its time is for the start and the end of Python
BEGIN_S, GRACE_S = 60.0, 15.0  # until pylvs trace traces: it starts Python and loads programs; for its end
MOST_TRACE_S, MOST_PACKETS = 60, 200
MOST_OUTPUT = 16 << 20  # bytes
_MOST_LINE = 100_000  # bytes of a record of a trace; one is about a kilobyte
_BEGUN = b"pylvs: tracing "
_PROTOCOLS = ("tcp", "udp", "sctp")
_KILLED_S = 5.0
_REPORTED = {"doctor": (0, 1), "configuration": (0, 5, 6)}  # exit statuses with a report on stdout


class Jobs:
    """Runs the commands for the daemon of a state directory, and of these files."""

    def __init__(self, selection: Sequence[str], files: Callable[[], Sequence[str]]) -> None:
        """`selection` are options that select the daemon: --state-dir DIR."""
        self._selection, self._files = tuple(selection), files
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def run(self, kind: str, given: Mapping[str, Any], line: Callable[[str], None]) -> bytes:
        """Return what the command printed; a trace passes each record to `line`.

        Raises Refused, PylvsError, OSError.
        """
        if kind in self._running:
            raise Refused(HTTPStatus.CONFLICT, f"{kind} runs already: wait for its end")
        task = asyncio.current_task()
        assert task is not None
        self._running[kind] = task
        try:
            if kind == "trace":
                await self._trace(given, line)
                return b"{}"
            if kind == "doctor":
                words = ["doctor", "--json", "--limit", str(EXAMINATION_S), *self._selection]
                return await _output(kind, words, DOCTOR_S)
            files = self._files()
            if not files:
                raise Refused(HTTPStatus.CONFLICT, "the daemon has not read its file yet: try again")
            return await _output(kind, ["check", "--json", "--show", "--use-file", files[0]], CHECK_S)
        finally:
            del self._running[kind]

    async def close(self) -> None:
        """End all jobs, and wait for that."""
        tasks = list(self._running.values())
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _trace(self, given: Mapping[str, Any], line: Callable[[str], None]) -> None:
        expression, seconds, count = trace_arguments(given)
        words = ["trace", *self._selection, "--json", "--seconds", str(seconds), "--count", str(count), *expression]
        async with _process(words) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            loop, late = asyncio.get_running_loop(), f"has not begun within {BEGIN_S:g} s"

            def begun() -> None:
                nonlocal late
                if not limit.expired():
                    limit.reschedule(loop.time() + seconds + GRACE_S)
                    late = f"has not ended within {seconds + GRACE_S:g} s"

            try:
                async with asyncio.timeout(BEGIN_S) as limit:
                    errors = loop.create_task(_errors_of_trace(process.stderr, begun))
                    try:
                        while record := await process.stdout.readline():
                            line(record.decode(errors="replace").strip())
                        await process.wait()
                        if process.returncode:
                            raise PylvsError(_last(await errors) or f"exit status {process.returncode}")
                    finally:
                        errors.cancel()
            except TimeoutError:
                raise PylvsError(f"pylvs trace {late}; it was killed") from None
            except ValueError:
                raise PylvsError("a record of the trace is too long") from None


def trace_arguments(given: Mapping[str, Any]) -> tuple[list[str], int, int]:
    """Return the filter's words, seconds and packets of a trace of one connection. Raises Refused."""
    try:
        protocol = given.get("protocol", "tcp")
        if protocol not in _PROTOCOLS:
            raise ValueError("protocol: write tcp, udp or sctp")
        words = [str(protocol), "and", "host", _address("client", given.get("client"))]
        if given.get("vip"):
            words += ["and", "host", _address("vip", given["vip"])]
        for name in ("client_port", "vip_port"):
            if given.get(name):
                words += ["and", "port", str(_number(name, given[name], 65535))]
        seconds = _number("seconds", given.get("seconds") or 30, MOST_TRACE_S)
        count = _number("count", given.get("count") or 100, MOST_PACKETS)
        return words, seconds, count
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None


def _address(name: str, value: object) -> str:
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return str(ip_address(value))
    except ValueError:
        raise ValueError(f"{name}: write an IP address") from None


def _number(name: str, value: object, most: int) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= most):
        raise ValueError(f"{name}: write a number from 1 to {most}")
    return int(text)


async def _output(kind: str, words: Sequence[str], limit_s: float) -> bytes:
    """Return what a command prints. Raises PylvsError."""
    async with _process(words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(limit_s):
                output, errors = await asyncio.gather(_most(process.stdout), _most(process.stderr))
                await process.wait()
        except TimeoutError:
            raise PylvsError(f"pylvs {words[0]} has not ended within {limit_s:g} s; it was killed") from None
        if process.returncode not in _REPORTED[kind] or not output.strip():
            raise PylvsError(_last(errors) or f"pylvs {words[0]}: exit status {process.returncode}")
        return output


async def _most(stream: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while data := await stream.read(1 << 16):
        found += data
        if len(found) > MOST_OUTPUT:
            raise PylvsError(f"the output has more than {MOST_OUTPUT >> 20} MiB")
    return bytes(found)


async def _errors_of_trace(stream: asyncio.StreamReader, begun: Callable[[], None]) -> bytes:
    """Return the last line of a trace's stderr; call `begun` at the one that says that packets are traced."""
    last = b""
    async for text in stream:
        if text.startswith(_BEGUN):
            begun()
        last = text.strip() or last
    return last


def _last(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:1000] if lines else ""


@contextlib.asynccontextmanager
async def _process(words: Sequence[str]) -> Any:
    """Run `pylvs WORDS`, and kill it at the end of the block."""
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command("pylvs", *words), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, limit=_MOST_LINE, cwd="/"
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.kill()
            async with asyncio.timeout(_KILLED_S):
                await process.wait()
