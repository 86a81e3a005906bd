"""Each header below bpf/ compiles alone, and no chain of includes is long."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).resolve().parents[3]
BPF = ROOT / "bpf"
HEADERS = sorted(str(path.relative_to(BPF)) for path in BPF.rglob("*.h"))
DEEPEST = 9  # headers in one chain of includes


def _included(name: str) -> list[str]:
    return re.findall(r'^#include "(.+)"$', (BPF / name).read_text(), re.MULTILINE)


@cache
def _depth(name: str) -> int:
    return 1 + max(map(_depth, _included(name)), default=0)


def test_each_header_compiles_alone(tmp_path: Path) -> None:
    sources = []
    for name in HEADERS:
        source = tmp_path / (name.replace("/", "_") + ".c")
        source.write_text(f'#include "{name}"\n')
        sources.append(str(source))
    # zig's own driver cannot check the syntax alone: it would link
    command = [{"cc": "clang"}.get(word, word.removesuffix("-freestanding")) for word in hatch_build.compiler(ROOT)]
    done = subprocess.run(
        [*command, "-Wno-unused-function", "-fsyntax-only", *sources],
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(tmp_path), "ZIG_LOCAL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_include_names_its_path_from_the_directory() -> None:
    sources = [*HEADERS, *(path.name for path in BPF.glob("*.c"))]
    missing = [(name, each) for name in sources for each in _included(name) if not (BPF / each).is_file()]
    assert not missing


def test_no_chain_of_includes_is_long() -> None:
    depths = {name: _depth(name) for name in HEADERS}
    assert max(depths.values()) <= DEEPEST, {name: depth for name, depth in depths.items() if depth > DEEPEST}


def test_schedulers_are_numbered_from_one_by_a_line_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "bpf/lb/schedulers"
    folder.mkdir(parents=True)
    (folder / "b.h").write_text("static u32 schedule_b(struct candidates *c);\nSCHEDULER(b, 1, 0)\n")
    (folder / "a.h").write_text("SCHEDULER(a, 2, LOADS_ALL | INDEXED)\n")
    assert hatch_build.schedulers(tmp_path) == [(1, "b", "0"), (2, "a", "LOADS_ALL | INDEXED")]
    (folder / "c.h").write_text("SCHEDULER(c, 2, 0)\n")
    with pytest.raises(hatch_build.BuildError, match=r"the numbers of SCHEDULER are \[1, 2, 2\]"):
        hatch_build.schedulers(tmp_path)
    (folder / "c.h").write_text("SCHEDULER(a, 3, 0)\n")
    with pytest.raises(hatch_build.BuildError, match=r"c\.h needs the line SCHEDULER\(c, NUMBER, FLAGS\)"):
        hatch_build.schedulers(tmp_path)
