"""Write log lines in a thread, which waits for the reader of stderr. Lines that do not fit into its queue are lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from pylvs.model.errors import counted

QUEUE_LINES = 10_000


class BackgroundWriter:
    """A thread that writes lines; `put` never waits."""

    def __init__(self, write: Callable[[str], None], most: int = QUEUE_LINES) -> None:
        self._write = write
        self._queue: queue.Queue[str | threading.Event] = queue.Queue(most)
        self._lost = 0
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Write a line later, or count it as lost."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pylvs-log", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self, timeout_s: float) -> None:
        """Wait until all lines of before are written."""
        if self._thread is None:
            return
        written = threading.Event()
        try:
            self._queue.put(written, timeout=timeout_s)
        except queue.Full:
            return
        written.wait(timeout_s)

    def _run(self) -> None:
        while True:
            line = self._queue.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            self._write(line)
            if self._lost:
                count, self._lost = self._lost, 0
                self._write(f"pylvs: lost {counted(count, 'log line')}: stderr was not read")
