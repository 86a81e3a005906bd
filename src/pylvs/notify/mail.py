"""Alerts by mail: a bounded queue. For each mail a process without privileges is started (`pylvs.notify.__main__`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import formatdate
from typing import Any

from pylvs.model.dataclass import dataclass, replace
from pylvs.model.wanted import Mail
from pylvs.notify.smtp import PROTOCOL, Refused
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes import command
from pylvs.system.processes.channel import (
    MAX_REASON,
    BadMessage,
    Message,
    decode,
    greeting_problem,
    privileges_left,
)
from pylvs.system.processes.confined import environment
from pylvs.system.threads import DaemonThread

MOST_WAITING = 500  # alerts
OLDEST_S = 600.0  # an older alert is dropped: it is no longer useful
THIS_HOST = "\0"  # in a subject: the name of this machine, which the outbox resolves
RESOLVE_S = 2.0  # for that name; then the kernel's counts
ASK_AGAIN_S = 60.0  # after that: each mail would wait
FINISH_S = 5.0  # at the end, for alerts that are not sent yet
START_S = 60.0  # until the greeting of the process: a slow machine needs many seconds for Python's imports
END_S = 10.0  # from its result to its end
GRACE_S = 10.0  # beyond the time that the mail server may take
_WHAT = "the process that delivers mail"
_STEPS = 7  # that have the timeout of the mail server, beside one for each recipient
_MOST_RESULT, _MOST_OUTPUT = 1 << 20, 1 << 16  # bytes on standard output, and on standard error


@dataclass(frozen=True, slots=True)
class Alert:
    """A mail to send."""

    subject: str
    body: str
    at: float  # wall clock


def canonical_name(getaddrinfo: Callable[..., Any] = socket.getaddrinfo) -> str:
    """Return the canonical name that the resolver has for this machine, as keepalived's default; "" if it has none.

    It may ask name servers, so it may block for as long as they do not answer.
    """
    try:
        found = getaddrinfo(socket.gethostname(), None, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return ""
    return next((name for _, _, _, name, _ in found if name), "")


class _Ended(Refused):
    """The process that delivers mail has ended by itself."""


class Outbox:
    """Sends alerts one after the other to the recipients of the last configuration; `put` does not wait.

    The wall clock may jump, so `clock` measures the age of alerts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mail = Mail()
        self._waiting: deque[tuple[float, Alert]] = deque()  # since when
        self._task: asyncio.Task[None] | None = None
        self._lost = 0
        self._resolver = DaemonThread("pylvs host name")
        self._host = ""  # the name of this machine, once it is resolved
        self._ask_at = 0.0  # when the resolver may be asked for it
        self._log = get_logger()

    @property
    def busy(self) -> bool:
        """Return whether a mail is being sent."""
        return self._task is not None and not self._task.done()

    def configure(self, mail: Mail) -> None:
        """Set server and recipients of further alerts."""
        self._mail = mail

    def put(self, alert: Alert) -> None:
        """Queue an alert; without recipients, or without a server, nothing is sent."""
        if not (self._mail.recipients and self._mail.server):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append((self._clock(), alert))
        if not self.busy:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            since, alert = self._waiting.popleft()
            mail = self._mail
            if THIS_HOST in alert.subject or not (mail.sender and mail.helo_name):
                host = await self._host_name()
                alert = replace(alert, subject=alert.subject.replace(THIS_HOST, host))
                mail = replace(mail, sender=mail.sender or f"root@{host}", helo_name=mail.helo_name or host)
            try:
                if self._clock() - since > OLDEST_S:
                    raise Refused(f"it has waited for more than {OLDEST_S:g} s")
                refused = await deliver_confined(message(alert, mail), mail)
                for recipient, reason in refused.items():
                    self._log.warning("an alert was refused", to=recipient, subject=alert.subject, reason=reason)
            except Refused as error:
                self._log.warning("an alert was not sent", subject=alert.subject, reason=str(error))
            if self._lost and not self._waiting:
                self._log.warning("alerts were not sent: the queue is full", count=self._lost)
                self._lost = 0

    async def _host_name(self) -> str:
        """Return the canonical name of this machine; the kernel's if the resolver has none, or is slow."""
        if not self._host and self._clock() >= self._ask_at:
            self._ask_at = self._clock() + ASK_AGAIN_S
            with contextlib.suppress(OSError):  # no free thread; TimeoutError
                async with asyncio.timeout(RESOLVE_S):
                    self._host = await asyncio.get_running_loop().run_in_executor(self._resolver, canonical_name)
        return self._host or socket.gethostname()

    async def finish(self) -> None:
        """Send for FINISH_S, then drop the rest."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=FINISH_S)
            if self._task.cancel():
                self._log.warning("alerts were not sent before the end", count=len(self._waiting) + 1)
            await asyncio.gather(self._task, return_exceptions=True)


async def deliver_confined(wire: bytes, mail: Mail) -> dict[str, str]:
    """Deliver as `smtp.deliver` does, in a process of its own. Raises Refused."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command("pylvs.notify"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=environment(),
            start_new_session=True,
            limit=_MOST_RESULT,
        )
    except (OSError, RuntimeError) as error:  # without a free thread, asyncio raises RuntimeError
        raise Refused(f"{_WHAT} cannot be started: {getattr(error, 'strerror', '') or error}") from None
    own_end_s = 0.0  # to end by itself
    try:
        async with asyncio.timeout(START_S):
            _check(await _message_of(process))
        assert process.stdin is not None
        request = {"message": wire.decode("latin-1"), "mail": asdict(mail)}  # latin-1: any byte
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()  # behind the last byte; a process that does not read hangs
        async with asyncio.timeout((_STEPS + len(mail.recipients)) * mail.connect_timeout_s + GRACE_S):
            result = await _message_of(process)
        own_end_s = END_S
        return _refused_in(result, mail)
    except _Ended:
        own_end_s = END_S
        raise
    except TimeoutError:
        raise Refused(f"{_WHAT} hangs, and is killed") from None
    except BadMessage as error:
        own_end_s = 0.0
        raise Refused(f"{_WHAT} sent an invalid message ({error})") from None
    finally:
        await _end(process, own_end_s)


async def _end(process: Process, patience_s: float) -> None:
    """Wait for the end of a process, and kill it after this time.

    One that has just ended is not killed: `kill` would reap it, and asyncio then warns of an unknown child.
    """
    try:
        async with asyncio.timeout(patience_s):
            await process.wait()
    except TimeoutError:
        pass
    finally:  # also if this task is cancelled
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _message_of(process: Process) -> Message:
    """Return the next line of the process. Raises _Ended at its end, and BadMessage."""
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = await process.stdout.readline()
    except ValueError:
        raise BadMessage("too long") from None
    if not line.endswith(b"\n"):
        try:
            output = await process.stderr.readexactly(_MOST_OUTPUT)
        except asyncio.IncompleteReadError as end:
            output = end.partial
        why = one_line(output.decode(errors="replace"))[-MAX_REASON:]
        raise _Ended(f"{_WHAT} has ended: {why or 'it gave no reason'}")
    return decode(line)


def _check(greeting: Message) -> None:
    """Log which privileges the process keeps. Raises Refused if it is of another version, and BadMessage."""
    if problem := greeting_problem(greeting, PROTOCOL):
        raise Refused(f"{_WHAT} {problem}")
    for each in privileges_left(greeting):
        get_logger().warning(f"{_WHAT} keeps a privilege", privilege=each)


def _refused_in(result: Message, mail: Mail) -> dict[str, str]:
    """Return the recipients that the server refused. Raises Refused if it refused all, and BadMessage."""
    if isinstance(reason := result.get("reason"), str):
        raise Refused(one_line(reason)[:MAX_REASON])
    refused = result.get("refused")
    if not isinstance(refused, dict) or not refused.keys() <= set(mail.recipients):
        raise BadMessage("not a result")
    return {recipient: one_line(str(reply))[:MAX_REASON] for recipient, reply in refused.items()}


def message(alert: Alert, mail: Mail) -> bytes:
    """Return an alert as a message (RFC 5322), before the doubling of dots."""
    try:
        return _written(alert, mail, EmailPolicy())
    except Exception:  # of malformed addresses: IndexError and others. As with keepalived, the mail server decides
        return _written(alert, mail, _unparsed())


def _unparsed() -> EmailPolicy[EmailMessage]:
    """Return a policy that takes addresses as any text."""
    registry = HeaderRegistry()
    for name in "from", "to":
        del registry.registry[name]  # leaves the class of headers without a syntax
    return EmailPolicy(header_factory=registry)


def _written(alert: Alert, mail: Mail, policy: EmailPolicy[EmailMessage]) -> bytes:
    made = EmailMessage(policy)
    made["Date"] = formatdate(alert.at, localtime=True)
    made["From"] = one_line(mail.sender)
    made["Subject"] = one_line(alert.subject)
    made["X-Mailer"] = "pylvs"
    made["To"] = ", ".join(map(one_line, mail.recipients))
    made.set_content(f"=> {one_line(alert.body)} <=\n")
    return made.as_bytes(policy=policy.clone(linesep="\r\n", max_line_length=998))
