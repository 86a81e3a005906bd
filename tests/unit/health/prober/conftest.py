"""Fixtures of the prober's tests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.system import logs
from pylvs.system.processes import child
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be silent for longer: the machine of a test may be slow."""
    monkeypatch.setattr(child, "LEASE_S", int(PATIENCE_S))


@pytest.fixture
def log_output() -> Iterator[io.StringIO]:
    """Return what is logged, as text."""
    output = io.StringIO()

    def write(level: str, fields: dict[str, Any]) -> None:
        output.write(f"{level}: {fields}\n")

    former = logs.write_with(write)
    yield output
    logs.write_with(former)
