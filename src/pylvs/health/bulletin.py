"""Who is told what: events to those who listen and to the history, and that the table changed to those who keep it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pylvs.health.events import Event
from pylvs.health.history import History

log = logging.getLogger(__name__)


class Bulletin:
    """Listeners; the fault of one is its own."""

    def __init__(self, length: int) -> None:
        self.history = History(length)
        self.changed = False  # the table, since it was last told
        self._event_listeners: list[Callable[[Event], None]] = []
        self._change_listeners: list[Callable[[], None]] = []

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call it with every event from now on; what is returned ends that."""
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it after each change of the table; what is returned ends that."""
        self._change_listeners.append(listener)
        return lambda: self._change_listeners.remove(listener)

    def tell(self, events: Iterable[Event]) -> None:
        """Of these events, and then of the table if it changed."""
        for event in events:
            self.history.add(event)
            for heard in tuple(self._event_listeners):
                _call(heard, event.name, event)
        if self.changed:
            self.changed = False
            for changed in tuple(self._change_listeners):
                _call(changed, "changes of the table")


def _call(listener: Callable[..., None], of_what: str, *arguments: Any) -> None:
    try:
        listener(*arguments)
    except Exception:
        log.exception("a listener to %s failed", of_what)
