"""How a backup requests the whole tables of masters, and knows when it has them, and when it lacks messages again.

Pylvs's own; IPVS ignores it. Pure.

A notice is a message of version 1 without connections, with a body behind its header:

| kind | from | when |
|---|---|---|
| WANTED | a backup | at its start, and when it missed messages; three times, as notices may be lost |
| BEGUN | each master | in reply |
| SENT | each master | behind the last connection of its table |
| ALIVE | a master that was asked, or of `pylvs run` | once a second; its token is their number |

Another token is the same in all notices of a request. A backup that misses numbers of ALIVE has missed connections,
too: the link was down, or something on the way. Times are in seconds.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import NamedTuple

from pylvs.model.dataclass import dataclass

ID_BYTES = 8  # of a token, and of a master
BACKUP_BYTES = ID_BYTES - 1  # of a token: a number that a backup chose at its start. The last byte counts its requests
REPEATS_S = (0.0, 0.3, 0.6)  # of a request, since its first notice
ANSWER_S = 1.0  # masters have replied by then
LONGEST_S = 20.0  # that a backup waits for whole tables
MOST_MASTERS, MOST_REQUESTS = 64, 32  # that are remembered: anyone on the link can forge notices
PAUSE_S = 1.0  # between two whole tables of a master, and at least as long as the last one took
_NO_BACKUP = b""  # in place of a token
ALIVE_S = 1.0  # between two notices that a master runs
MOST_LOST = 1  # of them in a row: a network may lose one
SILENT_S = 10.0  # without such a notice, after which a master has ended, or cannot be reached
AGAIN_S = 5.0  # between two requests of a backup

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
    ALIVE = 4


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


def alive(number: int, sender: bytes) -> Notice:
    """Return the notice of this number that a master runs."""
    return Notice(Kind.ALIVE, number.to_bytes(ID_BYTES), sender)


def is_for(notice: Notice, backup: bytes) -> bool:
    """Return whether a master sent this to the backup whose tokens begin so, or to all."""
    if notice.kind is Kind.ALIVE:
        return True
    return notice.kind is not Kind.WANTED and notice.token[:BACKUP_BYTES] == backup


class Request:
    """The requests of a backup, one after the other. `backup` are the first bytes of their tokens."""

    def __init__(self, backup: bytes) -> None:
        self._backup = backup
        self.count = 0  # of those that have begun
        self._began_s = 0.0
        self._asked = 0
        self._begun: set[bytes] = set()
        self._sent: set[bytes] = set()

    def _begin(self, now_s: float) -> None:
        self.count += 1
        self._began_s, self._asked, self._begun, self._sent = now_s, 0, set(), set()

    @property
    def token(self) -> bytes:
        """Return that of the current request."""
        return self._backup + bytes([self.count % 256])

    def again(self, now_s: float) -> bool:
        """Begin another request, unless the last one is too new or not over; return whether it begins."""
        if now_s - self._began_s < AGAIN_S or not self.is_over(now_s):
            return False
        self._begin(now_s)
        return True

    def is_due(self, now_s: float) -> bool:
        """Return whether to send the request now; then it counts as sent."""
        if not self.count:
            self._begin(now_s)
        if self._asked < len(REPEATS_S) and now_s - self._began_s >= REPEATS_S[self._asked]:
            self._asked += 1
            return True
        return False

    def receive(self, reply: Notice) -> bool:
        """Take a reply; return whether it is one to the current request."""
        if reply.token != self.token:
            return False
        senders = self._sent if reply.kind is Kind.SENT else self._begun
        if len(senders) < MOST_MASTERS:
            senders.add(reply.sender)
        return True

    def is_over(self, now_s: float) -> bool:
        """Return whether all masters that replied have sent their tables, or the wait is over."""
        if not self.count:
            return False
        waited_s = now_s - self._began_s
        return waited_s >= LONGEST_S or (waited_s >= ANSWER_S and self._begun <= self._sent)


@dataclass(slots=True)
class _Master:
    """A master, as its notices show it. `number`: of its last ALIVE, None before the first one."""

    number: int | None
    seen_s: float
    missed: bool = False  # some of its messages, and it has not replied to a request since


class Masters:
    """The masters that a backup knows, and whether it missed messages of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Master] = {}
        self._is_silent = False  # one of them, since the last request

    def begun(self, sender: bytes, now_s: float) -> None:
        """Take the reply to a request: its table comes, with all that was missed so far."""
        if sender in self._known:
            self._known[sender].missed = False
        elif len(self._known) < MOST_MASTERS:
            self._known[sender] = _Master(None, now_s)

    def alive(self, sender: bytes, number: int, now_s: float) -> None:
        """Take the notice of this number. Of an unknown master all messages before it were missed."""
        master = self._known.get(sender)
        if master is None:
            if len(self._known) < MOST_MASTERS:
                self._known[sender] = _Master(number, now_s, number - 1 > MOST_LOST)
            return
        if master.number is not None and not 0 <= number - master.number <= MOST_LOST + 1:
            master.missed = True
        master.number, master.seen_s = number, now_s

    def missed(self, now_s: float) -> str:
        """Return why a request is due, "" if none is. A master that is silent is forgotten."""
        for sender, master in list(self._known.items()):
            if now_s - master.seen_s > SILENT_S:
                del self._known[sender]
                self._is_silent |= master.number is not None
        if any(each.missed for each in self._known.values()):
            return "messages of a master were missed"
        return "a master is silent" if self._is_silent else ""

    def asked(self) -> None:
        """Note that a request begins. It is repeated until each master replies whose messages were missed."""
        self._is_silent = False


class Requests:
    """The requests to a master. One run through the table serves all that wait."""

    def __init__(self, sender: bytes) -> None:
        self._sender = sender
        self._waiting: list[bytes] = []
        self._served_now: list[bytes] = []
        self._served: deque[bytes] = deque(maxlen=MOST_REQUESTS)
        self._began_s = self._next_s = float("-inf")

    def lost(self) -> None:
        """Take it that each backup lacks connections, although none may ask."""
        if _NO_BACKUP not in self._waiting:
            self._waiting.append(_NO_BACKUP)

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
        done, self._served_now = [token for token in self._served_now if token != _NO_BACKUP], []
        self._served.extend(done)
        return [Notice(Kind.SENT, token, self._sender) for token in done]
