"""Alerts by mail: a queue of a bounded length, sent one after the other.

Neither many events nor a mail server that is down or slow cost the process that puts them anything.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from email.message import EmailMessage
from email.utils import formatdate

from pylvs.host.logs import get_logger
from pylvs.host.smtp import Refused, deliver
from pylvs.model.dataclass import dataclass
from pylvs.model.printing import one_line
from pylvs.model.wanted import Mail

MOST_WAITING = 500
OLDEST_S = 600.0  # an alert that could not be sent for so long is no news
FINISH_S = 5.0  # at the end, for what is not sent yet


@dataclass(frozen=True, slots=True)
class Alert:
    """A mail to be sent."""

    subject: str
    body: str
    at: float  # wall clock


class Outbox:
    """Sends alerts to whom the last configuration names."""

    def __init__(self) -> None:
        self._mail = Mail()
        self._waiting: deque[Alert] = deque()
        self._task: asyncio.Task[None] | None = None
        self._lost = 0
        self._log = get_logger()

    @property
    def busy(self) -> bool:
        """Whether anything is being sent."""
        return self._task is not None and not self._task.done()

    def configure(self, mail: Mail) -> None:
        """Where alerts go from now on."""
        self._mail = mail

    def put(self, alert: Alert) -> None:
        """Send it soon; nothing is sent without recipients."""
        if not self._mail.recipients:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(alert)
        if not self.busy:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            alert = self._waiting.popleft()
            mail = self._mail
            try:
                if time.time() - alert.at > OLDEST_S:
                    raise Refused(f"it has waited for more than {OLDEST_S:g} s")
                refused = await deliver(message(alert, mail), mail)
                for recipient, reason in refused.items():
                    self._log.warning("an alert was refused", to=recipient, subject=alert.subject, reason=reason)
            except Refused as error:
                self._log.warning("an alert was not sent", subject=alert.subject, reason=str(error))
            if self._lost and not self._waiting:
                self._log.warning("alerts were not sent: too many waited", count=self._lost)
                self._lost = 0

    async def finish(self) -> None:
        """Send what waits for a while, then let it be."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=FINISH_S)
            if self._task.cancel():
                self._log.warning("alerts were not sent before the end", count=len(self._waiting) + 1)
            await asyncio.gather(self._task, return_exceptions=True)


def message(alert: Alert, mail: Mail) -> bytes:
    """As it goes over the wire, but for the dots (RFC 5322)."""
    made = EmailMessage()
    made["Date"] = formatdate(alert.at, localtime=True)
    made["From"] = mail.sender or f"keepalived@{socket.gethostname()}"
    made["Subject"] = one_line(alert.subject)
    made["X-Mailer"] = "pylvs"
    made["To"] = ", ".join(mail.recipients)
    made.set_content(f"=> {one_line(alert.body)} <=\n")
    return made.as_bytes(policy=made.policy.clone(linesep="\r\n", max_line_length=998))
