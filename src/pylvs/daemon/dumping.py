"""Write what the daemon knows to files: keepalived's, for monitoring, and `dump.json`, for developers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pylvs.daemon.keepalived import dumps
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import Configuration, GlobalSettings
from pylvs.system import files
from pylvs.system.logs import get_logger
from pylvs.system.threads import to_thread

DUMP_FILE = "dump"  # everything that the daemon knows


class Dumper:
    """Writes the files. `state_of_services` returns "services", as the engine knows them, and the rows of "table"."""

    def __init__(
        self,
        state: StateDirectory,
        state_of_services: Callable[[], Awaitable[Mapping[str, Any]]],
        state_of_routers: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._state = state
        self._state_of_services = state_of_services
        self._state_of_routers = state_of_routers
        self._statistics = dumps.Statistics()

    async def write_all(self, configuration: Configuration) -> None:
        """Write everything to a file of the state directory, and keepalived's .data files."""
        content = await self._state_of_services()
        await to_thread(lambda: self._state.publish(DUMP_FILE, to_json(content)))
        get_logger().info("written", file=str(self._state.file(DUMP_FILE)))
        texts = {"_parent": dumps.parent_text(configuration)}
        if configuration.vrrp.instances:
            await self.write_routers(configuration)
        if configuration.services:
            texts["_check"] = dumps.check_text(configuration, content["services"])
        for process, text in texts.items():
            settings = configuration.settings
            await self._write(dumps.data_path(process, settings), text, settings)

    async def write_routers(self, configuration: Configuration) -> None:
        """Write keepalived.data."""
        settings = configuration.settings
        text = dumps.vrrp_text(configuration, await self._state_of_routers())
        await self._write(dumps.data_path("", settings), text, settings)

    async def write_statistics(self, configuration: Configuration, clear: bool = False) -> None:
        """Write keepalived.stats; with `clear` the counters then begin at 0."""
        status = await self._counted()
        text = dumps.stats_text(self._statistics.of(status))
        await self._write(dumps.folder() / "keepalived.stats", text, configuration.settings)
        if clear:
            self._statistics.clear(status)

    async def write_json(self, configuration: Configuration) -> None:
        """Write keepalived.json."""
        status = await self._counted()
        text = dumps.json_text(configuration.vrrp, status, self._statistics.of(status))
        await self._write(dumps.folder() / "keepalived.json", text, configuration.settings)

    async def _counted(self) -> Mapping[str, Any]:
        """Return the status of virtual routers. Raises PylvsError without one: monitoring keeps the last file."""
        status = await self._state_of_routers()
        if status["problem"] and not status["instances"]:
            raise PylvsError(f"the counters of virtual routers are not written: {status['problem']}")
        return status

    async def _write(self, path: Path, text: str, settings: GlobalSettings) -> None:
        await to_thread(files.replace, path, text, dumps.mode(settings))
        get_logger().info("written", file=str(path))


def to_json(value: Any) -> Any:
    """Convert to JSON types: dataclasses by field, enums by name, everything else as text."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.name.lower() if value.name else int(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    return str(value)
