"""Fixtures of the prober's tests."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from pylvs.system import logs


@pytest.fixture
def log_output() -> Iterator[io.StringIO]:
    """Return what is logged, as text."""
    output = io.StringIO()
    former = logs.write_with(lambda level, fields: output.write(f"{level}: {fields}\n") and None)
    yield output
    logs.write_with(former)
