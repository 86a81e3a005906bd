"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.machine_of_dev import Clone, new_clone


@pytest.fixture
def clone() -> Iterator[Clone]:
    with new_clone() as made:
        yield made
