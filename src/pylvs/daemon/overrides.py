"""The operator's overrides on disk: a restart or a crash of the daemon does not lose them."""

from __future__ import annotations

import asyncio

from pylvs.daemon import state_dir
from pylvs.daemon.state_dir import StateDirectory, try_to_save
from pylvs.health.engine import Engine
from pylvs.health.events import Event, Overridden


class SavedOverrides:
    """Saves the engine's overrides; `error` is why they could not be saved."""

    def __init__(self, state: StateDirectory, engine: Engine) -> None:
        self.error = ""
        self._state = state
        self._engine = engine
        self._pending = False

    def on_event(self, event: Event) -> None:
        """Save soon after an override, once: one command may override many servers."""
        if isinstance(event, Overridden) and not self._pending:
            self._pending = True
            asyncio.get_running_loop().call_soon(self.save)

    def save(self) -> None:
        """Save the overrides; `error` is why that failed."""
        self._pending = False
        self.error = try_to_save(lambda: state_dir.save_overrides(self._state, self._engine.overrides()), self.error)
