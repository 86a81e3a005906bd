"""Messages in what the bus sends. Any user of this host may send one, so each is decoded for itself."""

from __future__ import annotations

from jeepney import Message
from jeepney.low_level import calc_msg_size

MAX_DECODED = 1 << 16  # bytes; the calls that are answered are shorter, and a longer one would take long
_MAX_MESSAGE = 1 << 27  # bytes; D-Bus specification, Message Format
_FIXED = 16  # bytes at the begin, which contain the size


class BadFraming(Exception):
    """Where the next message begins is unknown."""


class Framing:
    """Splits a stream. `skipped` is why a message was skipped last, "" if none was."""

    def __init__(self) -> None:
        self.skipped = ""
        self._data = bytearray()
        self._skip = 0  # bytes of a long message that have not come

    def messages(self, data: bytes) -> list[Message]:
        """Return the messages that are complete with this data. Raises BadFraming."""
        found: list[Message] = []
        self._data += data
        while size := self._next():
            whole = bytes(self._data[:size])
            del self._data[:size]
            try:
                found.append(Message.from_buffer(whole))
            except Exception as error:  # the library raises exceptions of any class
                self.skipped = f"a message that cannot be read ({type(error).__name__})"
        return found

    def _next(self) -> int:
        """Return the size of the next message, 0 if it is not complete."""
        while True:
            skipped = min(self._skip, len(self._data))
            del self._data[:skipped]
            self._skip -= skipped
            if len(self._data) < _FIXED:
                return 0
            try:
                size = int(calc_msg_size(bytes(self._data[:_FIXED])))
            except KeyError:
                raise BadFraming("neither little-endian nor big-endian") from None
            if size > _MAX_MESSAGE:
                raise BadFraming(f"a message of {size} bytes")
            if size <= MAX_DECODED:
                return size if len(self._data) >= size else 0
            self._skip = size
            self.skipped = "a message that is too long"
