"""The layers of src/pylvs, the size of its directories, and text that no file may contain."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "pylvs"
MOST_MODULES = 20  # in a directory
SOURCES = (".py", ".c", ".h", ".sh", ".toml", ".md", ".8", "")  # the empty one: dev, Makefile, scripts

# The packages that a package may import, besides itself and its sub-packages: docs/architecture.md draws them.
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "reference": {"model"},
    "netfilter": {"model"},
    "system": {"model"},
    "bpf": {"system", "model"},
    "netlink": {"bpf", "system", "model"},
    "notify": {"system", "model"},
    "dataplane": {"netlink", "bpf", "system", "model"},
    "realserver": {"netlink", "bpf", "system", "model"},
    "config": {"netlink", "bpf", "system", "model"},
    "health": {"system", "model"},
    "bfd": {"system", "model"},
    "vrrp": {"bfd", "notify", "netlink", "system", "model"},
    "ipvsadm": {"daemon", "dataplane", "bpf", "system", "model"},
    "lab": {"realserver", "reference", "system", "model"},
    "snmp": {"vrrp", "netlink", "system", "model"},
    "dbus": {"system", "model"},
    "edge": {"health", "dbus", "snmp", "notify", "system", "model"},
    "daemon": {
        *("config", "health", "vrrp", "dbus", "dataplane"),
        *("notify", "netlink", "system", "model"),
    },
    "library": {"daemon", "dataplane", "bpf", "system", "model"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# A sub-package may import what its package may, and the package's other modules. These may import less.
SUB_PACKAGES: dict[str, set[str]] = {
    "config/language": {"config", "model"},
    "config/schema": {"config", "config/language", "netlink", "bpf", "system", "model"},
    "daemon/api": {"daemon", "daemon/state", "health", "health/prober", "system", "system/processes", "model"},
    "daemon/state": {"daemon", "health", "vrrp", "system", "model"},
    "daemon/table": {"daemon", "daemon/state", "config", "system", "system/processes", "model"},
    "health/checkers": {"health", "netlink", "system", "system/processes", "model"},
    "health/prober": {"health", "health/checkers", "system", "system/processes", "model"},
    "system/processes": {"system", "model"},
    "vrrp/helper": {"vrrp", "notify", "system", "system/processes", "model"},
    "vrrp/protocol": {"model"},
}
# These reach the data plane only through the protocols of the model, also indirectly.
WITHOUT_DATAPLANE = ("config", "health", "bfd", "vrrp", "realserver", "lab")

# Text that no file contains: unfinished work, paths of one machine, references that a reader cannot look up.
NEVER = {
    "an unfinished place": re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X)\b"),
    "a place of one machine": re.compile(r"(?<![\w}\]])/(?:home|root|work)/"),
    "a document that is not here": re.compile(r"\bD[E]SIGN\b"),
    "a tracker's number": re.compile(r"\bissue +#?\d", re.IGNORECASE),
}


def files() -> Iterator[Path]:
    """Every source file and document of the tree."""
    for at, folders, names in os.walk(ROOT):
        made = ("__pycache__", "objects", *(("build", "dist") if Path(at) == ROOT else ()))
        folders[:] = sorted(  # the others are not entered: .venv alone has more files than the tree
            name for name in folders if not name.startswith(".") and not name.endswith(".egg-info") and name not in made
        )
        for path in (Path(at, name) for name in sorted(names)):
            if path.suffix in SOURCES and path.is_file() and path.name != ".git":  # a file in a worktree of git
                yield path


def name_of(path: Path) -> str:
    """The dotted name of a module or a package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a package of pylvs."""
    path = SOURCE.joinpath(*name.split("."))
    return is_package(path) or path.with_suffix(".py").is_file()


def is_package(path: Path) -> bool:
    """Whether a directory has modules; that of a deleted package may have a cache."""
    return any(path.glob("*.py"))


def imports(path: Path, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of each module of pylvs that a module imports.

    `at_import`: only those that it imports when it is imported itself: no imports in functions, none for type checkers.
    """
    tree = ast.parse(path.read_text(), str(path))
    for node in _run_at_import(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            members = [f"{module}.{alias.name}" for alias in node.names]
            names = [member if is_module(member) else module for member in members]
        else:
            continue
        for name in names:
            if name.startswith("pylvs.") and is_module(name):
                yield node.lineno, name


def _run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def package_of(name: str) -> str:
    """The directory of a module below src/pylvs: "vrrp/protocol"."""
    path = SOURCE.joinpath(*name.split("."))
    folder = path if is_package(path) else path.parent
    return str(folder.relative_to(PACKAGE))


def forbidden(path: Path) -> list[str]:
    """The imports of a module that its package may not have, in words."""
    own = package_of(name_of(path))
    top = own.split("/")[0]
    assert top in MAY_IMPORT, f"{top} is a new package: write in MAY_IMPORT which packages it may import"
    found = []
    for line, name in imports(path):
        used = package_of(name)
        if used == own:
            continue
        allowed = used in SUB_PACKAGES[own] if own in SUB_PACKAGES else used.split("/")[0] in {top, *MAY_IMPORT[top]}
        if not allowed:
            found.append(f"{path}:{line}: {own} imports {name}")
    return found


def modules() -> list[Path]:
    """Every module of pylvs but its own `__init__`."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


def test_imports_follow_the_layers() -> None:
    wrong = [text for path in modules() for text in forbidden(path)]
    assert not wrong, "\n".join(wrong)


def test_a_forbidden_import_is_found_in_functions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = PACKAGE / "vrrp" / "protocol" / "planted.py"
    text = "from pylvs import cli\ndef late():\n    import pylvs.dataplane.director\n    import pylvsx.cli\n"
    monkeypatch.setattr(Path, "read_text", lambda path, *_: text if path == module else "")
    assert list(imports(module)) == [(1, "pylvs.cli"), (3, "pylvs.dataplane.director")]
    assert list(imports(module, at_import=True)) == [(1, "pylvs.cli")]
    assert [each.partition(": ")[2] for each in forbidden(module)] == [
        "vrrp/protocol imports pylvs.cli",
        "vrrp/protocol imports pylvs.dataplane.director",
    ]


def test_the_layers_have_no_cycle() -> None:
    list(TopologicalSorter(MAY_IMPORT | {"cli": MAY_IMPORT["cli"] - {"cli"}}).static_order())


def test_no_modules_import_each_other() -> None:
    """Import in any order succeeds."""
    graph = {name_of(path): {name for _, name in imports(path, at_import=True)} for path in modules()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_no_chain_of_imports_leads_to_the_data_plane_where_none_may() -> None:
    graph = {name_of(path): {name for _, name in imports(path)} for path in modules()}
    for package in WITHOUT_DATAPLANE:
        reached = {name for name in graph if name.split(".")[1] == package}
        waiting = list(reached)
        while waiting:
            new = graph.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        assert not {name for name in reached if name.startswith("pylvs.dataplane")}, package


def test_no_directory_has_more_modules_than_a_reader_can_keep_in_mind() -> None:
    count = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in modules()}}
    assert not {str(folder): number for folder, number in count.items() if number > MOST_MODULES}


def test_no_file_says_what_is_written_nowhere() -> None:
    found = []
    for path in files():
        text = path.read_text()
        for what, pattern in NEVER.items():
            found += [f"{path}:{text.count(chr(10), 0, at.start()) + 1}: {what}" for at in pattern.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pylvs.ipvsadm.main", "asyncio click rich hypothesis typing_extensions email http"),
        ("pylvs.cli.main", "asyncio rich pylvs.dataplane pylvs.lab"),
    ],
)
def test_a_command_starts_without_what_it_may_not_need(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
