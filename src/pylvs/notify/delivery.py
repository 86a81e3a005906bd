"""The task "mail": it delivers mails. It parses the replies of a mail server, so it has no privileges.

| to the task | "id", "mail", "message": the settings as `pylvs.model.plain` has them, and the text |
| from it | "id", "recipient", "reply" of each that is refused; then "id", "reason": why all are, "" if not |
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio resolves names in a thread, and would import it too late
from collections.abc import Callable, Sequence
from typing import Any

from pylvs.model.plain import from_plain
from pylvs.model.wanted import Mail
from pylvs.notify.smtp import Refused, deliver
from pylvs.system.processes.channel import Message
from pylvs.system.processes.event_loop import Loop

"a".encode("idna")  # loads the codec of names, before no module can be read


class Delivery:
    """Delivers each mail at once."""

    def __init__(self, _: Loop, send: Callable[[Message], None]) -> None:
        self._send = send
        self._running: set[asyncio.Task[None]] = set()

    def receive(self, message: dict[str, Any], _: Sequence[int] = ()) -> None:
        """Deliver a mail."""
        mail = from_plain(Mail, message["mail"])
        task = asyncio.get_running_loop().create_task(self._deliver(message["id"], mail, message["message"]))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Deliver no longer."""
        for task in self._running:
            task.cancel()

    async def _deliver(self, number: int, mail: Mail, message: str) -> None:
        reason = ""
        try:
            refused = await deliver(message.encode("latin-1"), mail)
            for recipient, reply in refused.items():
                self._send({"id": number, "recipient": recipient, "reply": reply})
        except Refused as error:
            reason = str(error)
        self._send({"id": number, "reason": reason})
