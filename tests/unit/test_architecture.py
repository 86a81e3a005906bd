"""The layers of src/pylvs, the size of its directories, and text that no file may contain."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import structure

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
    "sync": {"dataplane", "netlink", "bpf", "system", "model"},
    "config": {"netlink", "bpf", "system", "model"},
    "health": {"system", "model"},
    "bfd": {"system", "model"},
    "vrrp": {"bfd", "notify", "netlink", "system", "model"},
    "ipvsadm": {"daemon", "sync", "dataplane", "bpf", "system", "model"},
    "lab": {"realserver", "reference", "system", "model"},
    "snmp": {"vrrp", "netlink", "system", "model"},
    "dbus": {"system", "model"},
    "web": {"system", "model"},
    "edge": {"web", "health", "dbus", "snmp", "notify", "system", "model"},
    "peer": {"dataplane", "bpf", "system", "model"},
    "daemon": {
        *("config", "health", "vrrp", "dbus", "snmp", "sync", "dataplane", "peer"),
        *("web", "notify", "netlink", "system", "model"),
    },
    "doctor": {
        *("ipvsadm", "lab", "daemon", "realserver", "config", "vrrp", "dataplane"),
        *("netfilter", "netlink", "reference", "bpf", "system", "model"),
    },
    "ipvs": {"trace", "reference", "sync", "dataplane", "netlink", "bpf", "system", "model"},
    "trace": {"reference", "dataplane", "netlink", "bpf", "system", "model"},
    "library": {"daemon", "dataplane", "bpf", "system", "model"},
    "top": {"daemon", "dataplane", "system", "model"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# A sub-package may import what its package may, and the package's other modules. These may import less: packages, and
# single modules.
SUB_PACKAGES: dict[str, set[str]] = {
    "config/language": {"config", "model"},
    "config/schema": {"config", "config/language", "netlink", "bpf", "system", "model", "model/sync"},
    "daemon/api": {
        *("daemon", "daemon/state", "health", "health/prober", "web"),
        *("system", "system/http", "system/processes", "model"),
    },
    "daemon/state": {"daemon", "health", "vrrp", "system", "system/http", "model"},
    "daemon/table": {"daemon", "daemon/state", "config", "system", "system/processes", "model"},
    "dataplane/devices": {
        *("dataplane/load", "dataplane/state", "dataplane/tables", "dataplane/vip_roles"),
        *("netlink", "bpf", "system", "model"),
    },
    "dataplane/upgrade": {
        *("dataplane/devices", "dataplane/load", "dataplane/reader", "dataplane/scheduler_tables", "dataplane/state"),
        *("dataplane/tables", "dataplane/transaction", "dataplane/vip_roles"),
        *("netlink", "bpf", "system", "model"),
    },
    "health/checkers": {"health", "netlink", "system", "system/processes", "model"},
    "health/prober": {"health", "health/checkers", "system", "system/processes", "model"},
    "system/processes": {"system", "model"},
    "vrrp/helper": {"vrrp", "notify", "system", "system/processes", "model"},
    "vrrp/protocol": {"model"},
}
# Statements in functions that import, at most, by package. They let processes start sooner. The comment `# late: why`
# of each, or of its module, says which. What the common commands load is in tests/starts.py.
MOST_LATE = {
    "bpf": 5,
    "cli": 47,
    "config": 5,
    "daemon": 16,
    "dataplane": 56,
    "doctor": 14,
    "edge": 5,
    "health": 6,
    "ipvsadm": 21,
    "library": 2,
    "model": 4,
    "notify": 1,
    "sync": 1,
    "system": 11,
    "top": 3,
    "vrrp": 7,
    "web": 1,
}
# Modules that import others by names that they keep or compute, which no graph shows: tables of commands and checkers.
BY_NAME = {
    "pylvs.cli.group",
    "pylvs.daemon.api.server",
    "pylvs.daemon.loading",
    "pylvs.health.probes",
    "pylvs.lab.boot",
    "pylvs.reference.schedulers",
    "pylvs.system.processes.runner",
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


TOP, LATE, TYPES = "when the module is imported", "in a function", "for type checkers"


class Import(NamedTuple):
    """One import of a module of pylvs, or of another one (""), and when it is done."""

    line: int
    name: str
    when: str


@cache
def imports(path: Path) -> list[Import]:
    """The imports of a module: of modules of pylvs, and those of others in functions."""
    found: list[Import] = []
    _collect(ast.parse(path.read_text(), str(path)), TOP, path, found)
    return found


def _collect(node: ast.AST, when: str, path: Path, found: list[Import]) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {name for name in _named(node, path) if name.startswith("pylvs.") and is_module(name)}
        found += [Import(node.lineno, name, when) for name in sorted(names) or ([""] if when == LATE else [])]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        when = LATE
    for_types = node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else []
    for child in ast.iter_child_nodes(node):
        _collect(child, TYPES if child in for_types else when, path, found)


def _named(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
    members = [f"{node.module}.{alias.name}" for alias in node.names]
    return [member if is_module(member) else node.module or "" for member in members]


def all_imports() -> dict[str, list[Import]]:
    """The imports of each module of pylvs, by its name."""
    return {name_of(path): imports(path) for path in modules()}


def graph(*when: str) -> dict[str, set[str]]:
    """The modules of pylvs that each module imports then."""
    return {
        name: {each.name for each in found if each.name and each.when in when} for name, found in all_imports().items()
    }


def reached(start: set[str], by: dict[str, set[str]]) -> set[str]:
    """The modules that these lead to, with these."""
    found, waiting = set(start), list(start)
    while waiting:
        new = by.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def reasons(path: Path) -> dict[int, str]:
    """The reason of each import in a function, by its line: a comment `# late: reason` there, or of the whole module.

    That of the first of several imports in a row is for all of them.
    """
    lines, found = path.read_text().splitlines(), dict[int, str]()
    for item in imports(path):
        if item.when == LATE:
            found[item.line] = lines[item.line - 1].partition("# late: ")[2] or found.get(item.line - 1, "")
    whole = next((line.removeprefix("# late: ") for line in lines if line.startswith("# late: ")), "")
    return {line: reason or whole for line, reason in found.items()}


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
    for line, name, _ in imports(path):
        used = package_of(name) if name else own
        if used == own:
            continue
        module = name.removeprefix("pylvs.").replace(".", "/")
        allowed = used.split("/")[0] in {top, *MAY_IMPORT[top]}
        if own in SUB_PACKAGES:
            allowed = not SUB_PACKAGES[own].isdisjoint((used, module))
        if not allowed:
            found.append(f"{path}:{line}: {own} imports {name}")
    return found


def modules() -> list[Path]:
    """Every module of pylvs but its own `__init__`."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


def test_imports_follow_the_layers() -> None:
    wrong = [text for path in modules() for text in forbidden(path)]
    assert not wrong, "\n".join(wrong)


def test_a_forbidden_import_is_found_in_functions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    module = PACKAGE / "vrrp" / "protocol" / "planted.py"
    text = """from pylvs import cli
if TYPE_CHECKING:
    import pylvs.lab.lab
def late():
    import pylvs.dataplane.director  # late: a reason
    import pylvsx.cli

    import os
"""
    monkeypatch.setattr(Path, "read_text", lambda path, *_: text if path == module else "")
    assert imports(module) == [
        (1, "pylvs.cli", TOP),
        (3, "pylvs.lab.lab", TYPES),
        (5, "pylvs.dataplane.director", LATE),
        (6, "", LATE),
        (8, "", LATE),
    ]
    assert reasons(module) == {5: "a reason", 6: "a reason", 8: ""}
    assert [each.partition(": ")[2] for each in forbidden(module)] == [
        "vrrp/protocol imports pylvs.cli",
        "vrrp/protocol imports pylvs.lab.lab",
        "vrrp/protocol imports pylvs.dataplane.director",
    ]


def test_the_layers_have_no_cycle() -> None:
    list(TopologicalSorter(MAY_IMPORT | {"cli": MAY_IMPORT["cli"] - {"cli"}}).static_order())


def test_no_modules_import_each_other() -> None:
    """Also not in functions or for type checkers: each module can be understood with those below it."""
    try:
        list(TopologicalSorter(graph(TOP, LATE, TYPES)).static_order())
    except CycleError as error:
        pytest.fail(
            f"modules import each other: {' -> '.join(error.args[1])}: move what both need to a module below, pass a"
            " function, or name what one needs of the other by a Protocol"
        )


def test_few_modules_import_others_by_name() -> None:
    assert {name_of(path) for path in modules() if re.search(r"\bimport_module\b", path.read_text())} == BY_NAME


def test_each_import_in_a_function_has_its_reason() -> None:
    lacking = [f"{path}:{line}" for path in modules() for line, reason in reasons(path).items() if not reason]
    assert not lacking, "imports in functions without `# late: reason`; or import at the top:\n" + "\n".join(lacking)


def test_no_import_in_a_function_is_of_a_module_that_is_there_already() -> None:
    at_top = graph(TOP)
    found = [
        f"{name}:{each.line}: {each.name} is imported with this module anyway: import it at the top"
        for name, several in all_imports().items()
        for each in several
        if each.when == LATE and each.name in reached(at_top[name], at_top)
    ]
    assert not found, "\n".join(found)


def test_imports_in_functions_do_not_become_more() -> None:
    late = {(name, each.line) for name, found in all_imports().items() for each in found if each.when == LATE}
    count = Counter(name.split(".")[1] for name, _ in late)
    more = {package: number for package, number in count.items() if number > MOST_LATE.get(package, 0)}
    assert not more, f"more than in MOST_LATE: {more}; split the module, or import at the top"


def test_no_chain_of_imports_leads_to_the_data_plane_where_none_may() -> None:
    by = graph(TOP, LATE, TYPES)
    for package in WITHOUT_DATAPLANE:
        found = reached({name for name in by if name.split(".")[1] == package}, by)
        assert not {name for name in found if name.startswith("pylvs.dataplane")}, package


def test_few_programs_one_encoding_and_few_restarts() -> None:
    assert structure.programs().keys() == {
        "pylvs.edge",
        "pylvs.peer.copier",
        "pylvs.daemon.virtual_routers.process",
        "pylvs.vrrp.helper",
        "pylvs.system.processes.runner",
        "pylvs.sync.process",
        "pylvs.sync.receiver",
        *("pylvs.daemon.loading", "pylvs.dataplane.growth"),  # they end by themselves
    }
    assert structure.encodings() == []
    # pylvs-vrrp and pylvs-sync outlive the daemon, which adopts them.
    assert structure.restarts() == [
        "pylvs.daemon.virtual_routers.supervision",
        "pylvs.sync.process",
        "pylvs.system.processes.child",
    ]


def test_no_directory_has_more_modules_than_a_reader_can_keep_in_mind() -> None:
    count = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in modules()}}
    assert not {str(folder): number for folder, number in count.items() if number > MOST_MODULES}


def test_no_file_has_text_that_is_written_nowhere() -> None:
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
