"""The small program that the tests of this directory load; it is compiled once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import hatch_build
from pylvs.bpf.libbpf import BpfObject

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory with `small.bpf.o`, `abi.json` and `abi.txt`."""
    target = tmp_path_factory.mktemp("small") / "objects"
    hatch_build.build(ROOT, Path(__file__).parent / "programs", target)
    return target


@pytest.fixture
def small(objects: Path) -> Iterator[BpfObject]:
    """Yield the small program, opened and not loaded."""
    if os.geteuid():
        pytest.skip("needs root: loads BPF")
    with BpfObject(objects / "small.bpf.o") as opened:
        yield opened
