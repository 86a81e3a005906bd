"""Recorded answers of guests, with which the gate compares: a guest in user-mode Linux computes for half a minute.

`./dev test-all` asks the guests themselves. So does a test whose question has changed. Where CI is set, such a test
fails: `PYLVS_TESTS_RECORD=1 ./dev test TEST` records the answer again.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EVERYTHING

FOLDER = Path(__file__).parents[1] / "golden" / "guests"
RECORD = "PYLVS_TESTS_RECORD"


def answer(name: str, question: Any, ask: Callable[[], Any], missing: str = "", folder: Path = FOLDER) -> Any:
    """Return the answer to a question in JSON: the recorded one, or what `ask` returns, which runs the guest.

    `missing` says why there is no guest, if so: the test is skipped if it needs one. Raises AssertionError if the
    recording answers another question where CI is set.
    """
    file = folder / f"{name}.json.xz"
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    if RECORD in os.environ:
        found = _asked(ask, missing)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(lzma.compress(json.dumps({"question": digest, "answer": found}).encode()))
        return found
    recorded = json.loads(lzma.decompress(file.read_bytes())) if file.exists() else {"question": None}
    if recorded["question"] == digest and EVERYTHING not in os.environ:
        return recorded["answer"]
    assert recorded["question"] == digest or not os.environ.get("CI"), (
        f"{file} answers another question: record the answer again with {RECORD}=1 ./dev test TEST"
    )
    return _asked(ask, missing)


def _asked(ask: Callable[[], Any], missing: str) -> Any:
    if missing:
        pytest.skip(missing)
    return ask()
