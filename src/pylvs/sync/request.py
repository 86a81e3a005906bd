"""How a backup requests the whole tables of masters, and knows when it has them. Pylvs's own; IPVS ignores it. Pure.

A notice is a message of version 1 without connections, with a body behind its header:

| kind | from | when |
|---|---|---|
| WANTED | a backup | at its start, three times, as notices may be lost |
| BEGUN | each master | in reply |
| SENT | each master | behind the last connection of its table |

A token is the same in all notices of a request. Times are in seconds.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import NamedTuple

ID_BYTES = 8  # of a token, and of a master
REPEATS_S = (0.0, 0.3, 0.6)  # of a request, since its first notice
ANSWER_S = 1.0  # masters have replied by then
LONGEST_S = 20.0  # that a backup waits for whole tables
MOST_MASTERS, MOST_REQUESTS = 64, 32  # that are remembered: anyone on the link can forge notices
PAUSE_S = 1.0  # between two whole tables of a master, and at least as long as the last one took

_FORM = struct.Struct(f"!BBHBBH7sB{ID_BYTES}s{ID_BYTES}s")  # the header of version 1, our name, kind, token, sender
NAME = b"pylvs-1"
SIZE = _FORM.size  # bytes of a notice
KIND_AT, NAME_AT = 15, 8  # offsets
_VERSION = 1


class Kind(IntEnum):
    """What a notice says."""

    WANTED = 1
    BEGUN = 2
    SENT = 3


class Notice(NamedTuple):
    """One notice. `sender` is a number that a master chose at its start; a backup's is 0."""

    kind: Kind
    token: bytes
    sender: bytes = bytes(ID_BYTES)


def encode(notice: Notice, syncid: int) -> bytes:
    """Return the message."""
    return _FORM.pack(0, syncid, SIZE, 0, _VERSION, 0, NAME, notice.kind, notice.token, notice.sender)


def decode(data: bytes, syncid: int) -> Notice | None:
    """Return the notice of a message with this syncid, 0: with any; None of another message."""
    if len(data) != SIZE:
        return None
    zero, its_syncid, size, count, version, spare, name, kind, token, sender = _FORM.unpack(data)
    if (zero, size, count, version, spare, name) != (0, SIZE, 0, _VERSION, 0, NAME):
        return None
    if (syncid and its_syncid != syncid) or kind not in list(Kind):
        return None
    return Notice(Kind(kind), token, sender)


class Request:
    """The request of a backup."""

    def __init__(self, token: bytes) -> None:
        self.token = token
        self._began_s: float | None = None
        self._asked = 0
        self._begun: set[bytes] = set()
        self._sent: set[bytes] = set()

    def is_due(self, now_s: float) -> bool:
        """Return whether to send the request now; then it counts as sent."""
        if self._began_s is None:
            self._began_s = now_s
        if self._asked < len(REPEATS_S) and now_s - self._began_s >= REPEATS_S[self._asked]:
            self._asked += 1
            return True
        return False

    def receive(self, kind: Kind, sender: bytes) -> None:
        """Take a reply."""
        senders = self._sent if kind is Kind.SENT else self._begun
        if len(senders) < MOST_MASTERS:
            senders.add(sender)

    def is_over(self, now_s: float) -> bool:
        """Return whether all masters that replied have sent their tables, or the wait is over."""
        if self._began_s is None:
            return False
        waited_s = now_s - self._began_s
        return waited_s >= LONGEST_S or (waited_s >= ANSWER_S and self._begun <= self._sent)


class Requests:
    """The requests to a master. One run through the table serves all that wait."""

    def __init__(self, sender: bytes) -> None:
        self._sender = sender
        self._waiting: list[bytes] = []
        self._served_now: list[bytes] = []
        self._served: deque[bytes] = deque(maxlen=MOST_REQUESTS)
        self._began_s = self._next_s = float("-inf")

    @property
    def is_serving(self) -> bool:
        """Whether the table is being sent."""
        return bool(self._served_now)

    def receive(self, token: bytes) -> Notice | None:
        """Take a request, perhaps a repeated one; return the reply."""
        if token in self._served:
            return Notice(Kind.SENT, token, self._sender)
        if token not in self._served_now and token not in self._waiting:
            if len(self._waiting) >= MOST_REQUESTS:
                return None
            self._waiting.append(token)
        return Notice(Kind.BEGUN, token, self._sender)

    def begin(self, now_s: float) -> bool:
        """Return whether to send the whole table from now on."""
        if not self._waiting or self._served_now or now_s < self._next_s:
            return False
        self._served_now, self._waiting, self._began_s = self._waiting, [], now_s
        return True

    def wait_again(self) -> None:
        """Let the requests that are being served wait: the rest of the table cannot be sent."""
        self._waiting = self._served_now + self._waiting
        self._served_now = []

    def end(self, now_s: float) -> list[Notice]:
        """Return the replies behind the last connection."""
        self._next_s = now_s + max(PAUSE_S, now_s - self._began_s)
        done, self._served_now = self._served_now, []
        self._served.extend(done)
        return [Notice(Kind.SENT, token, self._sender) for token in done]
