"""The same sources give the same bytes in any directory, and the description fits the objects."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path("tests/unit/dataplane/programs")
TREE = (
    "bpf",
    "src",
    "tools",
    "tests/unit/dataplane/programs",
    "man",
    "docs",
    "LICENSE",
    "LICENSES",
    "README.md",
    "pyproject.toml",
    "hatch_build.py",
    "CHANGELOG.md",
)


def _copy(target: Path) -> Path:
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("objects", "__pycache__"))
        elif source.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    return target


def _digests(paths: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _difference(one: Path, another: Path) -> str:
    """Return where two files begin to differ, with the bytes there, to find the cause of a rare difference."""
    first, second = one.read_bytes(), another.read_bytes()
    if first == second:
        return f"{one.name}: the same"
    pairs = zip(first, second, strict=False)
    at = next((offset for offset, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    around = slice(max(0, at - 32), at + 64)
    return f"{one.name}: {len(first)} and {len(second)} octets, from {at} on: {first[around]!r}, {second[around]!r}"


def _built_in(tree: Path) -> list[Path]:
    """Return the objects of a copy of the tree, built by its own script without a home directory."""
    _copy(tree)
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run([sys.executable, "hatch_build.py"], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted((tree / "src/pylvs/bpf/objects").iterdir())


def test_a_copy_of_the_tree_gives_the_same_objects_that_name_no_directory_of_this_machine(tmp_path: Path) -> None:
    tree = tmp_path / "another/deeper"
    built, shipped = _built_in(tree), sorted((ROOT / hatch_build.OBJECTS).iterdir())
    names = [path.name for path in built]
    assert names == [path.name for path in shipped]
    differences = [_difference(*pair) for pair in zip(built, shipped, strict=True)]
    assert _digests(built) == _digests(shipped), ("the sources are other ones, or builds differ", differences)
    assert {name for name in names if name.endswith(".bpf.o")} == {
        each.name.replace(".bpf.c", ".bpf.o") for each in (ROOT / "bpf").glob("*.bpf.c")
    }
    for path in built:
        content = path.read_bytes()
        assert str(tree).encode() not in content
        assert sys.prefix.encode() not in content
    left = {each.name for each in tree.iterdir()} - {Path(name).parts[0] for name in TREE}
    assert not left, f"the build left {left} in the tree"


@pytest.mark.timeout(1500)
@pytest.mark.nightly(
    "compiles bpf/ twice more; the gate compares the objects, which are all of a wheel that is not a copy"
)
def test_two_wheels_from_two_copies_are_the_same_bytes(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling")
    digests = []
    for name in ("one", "another/deeper"):
        tree = _copy(tmp_path / name)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / f"{name}-dist")]
        subprocess.run(command, cwd=tree, check=True, capture_output=True)
        wheels = list((tmp_path / f"{name}-dist").glob("*.whl"))
        assert len(wheels) == 1
        digests.append(_digests(wheels))
    assert digests[0] == digests[1]


def test_a_source_that_does_not_compile_changes_nothing_and_is_reported_with_its_line(tmp_path: Path) -> None:
    tree = _copy(tmp_path / "tree")
    sources = tree / PROGRAMS
    objects = tmp_path / "objects"
    before = _digests(hatch_build.build(tree, sources, objects))
    (sources / "small.bpf.c").write_text("int broken(void) { return nothing; }\n")
    with pytest.raises(hatch_build.BuildError, match=r"small\.bpf\.c:1"):
        hatch_build.build(tree, sources, objects)
    assert _digests(sorted(objects.iterdir())) == before


def test_bit_fields_are_refused_by_name(tmp_path: Path) -> None:
    tree = _copy(tmp_path / "tree")
    source = tree / PROGRAMS / "small.bpf.c"
    source.write_text(source.read_text().replace("__s32 delta;", "__u32 part : 5;"))
    with pytest.raises(hatch_build.BuildError, match=r"record\.part"):
        hatch_build.build(tree, source.parent, tmp_path / "objects")


def test_the_description_agrees_with_the_source(tmp_path: Path) -> None:
    hatch_build.build(ROOT, ROOT / PROGRAMS, tmp_path / "objects")
    abi = json.loads((tmp_path / "objects" / "abi.json").read_text())
    record = {field["name"]: field for field in abi["structs"]["record"]["fields"]}
    assert abi["structs"]["record"]["size"] == 64
    assert (record["v4"]["offset"], record["v6"]["offset"], record["v6"]["count"]) == (0, 0, 4)
    assert (record["peer"]["type"], record["seen"]["offset"], record["delta"]["kind"]) == ("peer", 24, "signed")
    assert abi["enums"]["sign"] == {"BELOW": -1, "ABOVE": 1}
    small = abi["objects"]["small"]
    assert small["maps"]["records"]["max_entries"] == 128
    assert small["maps"]["words"]["map_flags"] == 1 << 10
    assert small["maps"]["tables"]["inner"]["max_entries"] == 8
    assert small["variables"][".rodata"]["chosen"]["size"] == 8
    assert "calls" in small["variables"][".bss"]
