"""Everything that the daemon knows, as JSON in a file: for whoever must find out afterwards how it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pylvs.daemon.state_dir import StateDirectory
from pylvs.health.snapshots import ServiceSnapshot
from pylvs.model.director import ServiceRow

DUMP = "dump"


def write_dump(state: StateDirectory, services: Sequence[ServiceSnapshot], rows: Sequence[ServiceRow]) -> Path:
    """Where it was written. Raises PylvsError."""
    state.keep(DUMP, {"services": plain(services), "table": plain(rows)})
    return state.file(DUMP)


def plain(value: Any) -> Any:
    """Nouns as JSON has them: fields by name, names of what has one, text of everything else."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.name.lower() if value.name else int(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return str(value)
