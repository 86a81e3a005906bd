"""A minimal SMTP client (RFC 5321), for the task that delivers mails.

smtplib has no limit for a whole reply: a server that sends a line now and then would keep it for hours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence

from pylvs.model.wanted import Mail

LONGEST_LINE = 4096
MOST_LINES = 100  # of one reply
READY, DONE, CLOSING, START_INPUT = 220, 250, 221, 354


class Refused(Exception):
    """The message was not delivered; the text gives the reason."""


async def deliver(message: bytes, mail: Mail) -> dict[str, str]:
    """Send to all recipients; return those that the server refused, with its reply. Raises Refused if all are."""
    where, step = f"{mail.server} port {mail.port}", "its name was not resolved"
    try:
        async with asyncio.timeout(mail.connect_timeout_s):
            addresses = await _addresses_of(mail)
            step = "no connection"
            reader, writer = await _connected(addresses, mail.port)
    except TimeoutError:
        raise Refused(f"{where}: {step} in {mail.connect_timeout_s:g} s") from None
    except socket.gaierror as error:
        raise Refused(f"{where}: {step}: {error.strerror or error}") from None
    except OSError as error:
        words = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
        raise Refused(f"{where}: {words}") from None
    try:
        return await _Session(reader, writer, mail.connect_timeout_s).send(message, mail)
    except (OSError, EOFError, ValueError) as error:
        raise Refused(f"{where}: {error}") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await asyncio.wait_for(writer.wait_closed(), 1.0)


async def _addresses_of(mail: Mail) -> list[str]:
    """Return the addresses of the mail server, in the order of the resolver. Raises gaierror."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(mail.server, mail.port, type=socket.SOCK_STREAM)
    scoped = {address[3] for *_, address in found if len(address) == 4}
    if scoped - {0}:  # the device of a link-local address is in the written one alone
        return [mail.server]
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _connected(addresses: Sequence[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that accepts. Raises OSError of the last one."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(address, port, limit=LONGEST_LINE)
    return await asyncio.open_connection(addresses[-1], port, limit=LONGEST_LINE)


class _Session:
    """One SMTP session. Its failures are OSError, EOFError and ValueError, with a text for the log."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience_s: float) -> None:
        self._reader, self._writer, self._patience_s = reader, writer, patience_s

    async def send(self, message: bytes, mail: Mail) -> dict[str, str]:
        await self._expect("the greeting", READY)
        await self._say(f"HELO {mail.helo_name}", DONE)
        await self._say(f"MAIL FROM:<{_plain(mail.sender)}>", DONE)
        refused = {}
        for recipient in mail.recipients:
            command = f"RCPT TO:<{_plain(recipient)}>"
            self._command(command)
            code, words = await self._reply(command)
            if code // 10 != DONE // 10:  # 250 or 251
                refused[recipient] = words
        if len(refused) == len(mail.recipients):
            raise ValueError(next(iter(refused.values()), "no recipients"))
        await self._say("DATA", START_INPUT)
        self._writer.write(_with_dots(message))
        await self._expect("the message", DONE)
        self._writer.write(b"QUIT\r\n")  # its reply does not matter: the server has accepted the message
        with contextlib.suppress(OSError, EOFError, ValueError):
            await self._expect("QUIT", CLOSING)
        return refused

    async def _say(self, command: str, code: int) -> None:
        self._command(command)
        await self._expect(command.split(" ", maxsplit=1)[0], code)

    def _command(self, command: str) -> None:
        self._writer.write(command.encode(errors="replace") + b"\r\n")

    async def _expect(self, what: str, code: int) -> None:
        found, words = await self._reply(what)
        if found != code:
            raise ValueError(f"after {what}: {words}")

    async def _reply(self, what: str) -> tuple[int, str]:
        """Return the code and the text of a reply."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(self._patience_s):
                while len(lines) < MOST_LINES:
                    line = await self._reader.readline()
                    if not line.endswith(b"\n"):
                        raise EOFError(f"after {what}: the connection was closed")
                    text = "".join(c if c.isprintable() else " " for c in line.decode(errors="replace")).strip()
                    lines.append(text)
                    if not text[:3].isdigit() or text[3:4] not in ("", " ", "-"):
                        raise ValueError(f"after {what}: not a reply of a mail server: {text[:100]}")
                    if text[3:4] != "-":
                        return int(text[:3]), text[:200]
        except TimeoutError:
            raise OSError(f"after {what}: no answer in {self._patience_s:g} s") from None
        raise ValueError(f"after {what}: a reply without an end")


def _plain(address: str) -> str:
    """Return an address for a command: without the display name and without characters that could end the line."""
    inner: Sequence[str] = address.rsplit("<", 1)
    return "".join(c for c in inner[-1].split(">")[0].strip() if c.isprintable() and c not in "<> ")


def _with_dots(message: bytes) -> bytes:
    """Double the dot at the start of a line, and append the final dot (RFC 5321 4.5.2)."""
    lines = message.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"
