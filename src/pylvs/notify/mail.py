"""Alerts by mail: a bounded queue, and the parent's end of the task that delivers them (`pylvs.notify.delivery`)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.plain import to_plain
from pylvs.model.wanted import Mail
from pylvs.notify.smtp import Refused
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.channel import MAX_REASON, BadMessage
from pylvs.system.processes.edge import Edge
from pylvs.system.threads import DaemonThread

MOST_WAITING = 500  # alerts
OLDEST_S = 600.0  # an older alert is dropped: it is no longer useful
THIS_HOST = "\0"  # in a subject: the name of this machine, which the outbox resolves
RESOLVE_S = 2.0  # for that name; then the kernel's counts
ASK_AGAIN_S = 60.0  # after that: each mail would wait
FINISH_S = 5.0  # at the end, for alerts that are not sent yet
START_S = 60.0  # until the greeting of the process: a slow machine needs many seconds for Python's imports
GRACE_S = 10.0  # beyond the time that the mail server may take
_STEPS = 7  # that have the timeout of the mail server, beside one for each recipient


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


@dataclass(slots=True)
class _Delivery:
    """A mail that is being delivered."""

    mail: Mail
    result: asyncio.Future[str]  # why it was refused, "" if it was not
    refused: dict[str, str] = field(default_factory=dict)  # replies by recipient


class Outbox:
    """Sends alerts one after the other to the recipients of the last configuration; `put` does not wait.

    The wall clock may jump, so `clock` measures the age of alerts. The task runs while there are alerts; without `edge`
    in a process of its own.
    """

    name = "mail"

    def __init__(self, clock: Callable[[], float] = time.monotonic, edge: Edge | None = None) -> None:
        self._own_edge = edge is None
        self._edge = edge or Edge()
        self._up = asyncio.Event()  # the process is
        self._number = 0
        self._deliveries: dict[int, _Delivery] = {}
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

    def up(self) -> None:
        """Deliver."""
        self._up.set()

    def down(self) -> None:
        """Give up what is being delivered: the next process could deliver it twice."""
        self._up.clear()
        for each in self._deliveries.values():
            _settle(each, self._edge.problem)

    def receive(self, message: dict[str, Any]) -> None:
        """Take the reply about a recipient, or the result. Raises BadMessage."""
        number = message.get("id")
        if type(number) is not int:
            raise BadMessage("a result without its number")
        delivery = self._deliveries.get(number)
        if delivery is None:  # it has been given up
            return
        recipient, reason = message.get("recipient"), message.get("reason")
        if isinstance(reason, str):
            _settle(delivery, one_line(reason)[:MAX_REASON])
        elif recipient in delivery.mail.recipients:
            delivery.refused[recipient] = one_line(str(message.get("reply")))[:MAX_REASON]
        else:
            raise BadMessage("not a result")

    async def _send(self) -> None:
        self._edge.begin(self)
        try:
            await self._send_all()
        finally:
            self._up.clear()
            self._edge.end(self)

    async def _send_all(self) -> None:
        from pylvs.notify.message import message  # late: the package email takes 2 MB, in two processes

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
                refused = await self.deliver(message(alert.at, alert.subject, alert.body, mail), mail)
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

    async def deliver(self, wire: bytes, mail: Mail) -> dict[str, str]:
        """Let the task deliver; return the recipients that the server refused, with its replies. Raises Refused."""
        delivery = _Delivery(mail, asyncio.get_running_loop().create_future())
        self._number += 1
        try:
            async with asyncio.timeout(START_S):
                await self._up.wait()
            self._deliveries[self._number] = delivery
            text = wire.decode("latin-1")  # any byte
            self._edge.send(self, {"id": self._number, "mail": to_plain(mail), "message": text})
            async with asyncio.timeout((_STEPS + len(mail.recipients)) * mail.connect_timeout_s + GRACE_S):
                reason = await delivery.result
        except TimeoutError:
            raise Refused(self._edge.problem or "it was not delivered in time") from None
        finally:
            self._deliveries.clear()
        if reason:
            raise Refused(reason)
        return delivery.refused

    async def finish(self) -> None:
        """Send for FINISH_S, then drop the rest."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=FINISH_S)
            if self._task.cancel():
                self._log.warning("alerts were not sent before the end", count=len(self._waiting) + 1)
            await asyncio.gather(self._task, return_exceptions=True)
        if self._own_edge:
            await self._edge.close()


def _settle(delivery: _Delivery, reason: str) -> None:
    if not delivery.result.done():
        delivery.result.set_result(reason)
