"""`python -m tests.structure`: the kinds of process, what encodes their messages, and what starts them again.

It reads the source, so a new kind shows at once. tests/unit/test_architecture.py keeps the result.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
# commands, and the programs of others
APART = ("pylvs.lab", "pylvs.cli", "pylvs.doctor", "pylvs.trace", "pylvs.netfilter", "pylvs.realserver")
STARTS = {"Popen", "create_subprocess_exec", "create_subprocess_shell", "fork", "posix_spawn", "run_module"}
ENCODINGS = {"pickle", "marshal", "shelve", "dill", "xmlrpc", "plistlib"}  # besides JSON
LINK = "pylvs.system.processes.channel"


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the daemon and its processes by name."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if not name.startswith(APART):
            yield name, ast.parse(path.read_text())


def _texts(tree: ast.Module) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _called(tree: ast.Module) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = {node.attr for node in calls if isinstance(node, ast.Attribute)}
    return methods | {node.id for node in calls if isinstance(node, ast.Name)}


def _assigned(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _imported(tree: ast.Module) -> set[str]:
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


def programs() -> dict[str, list[str]]:
    """Return the modules that run as a process of their own, each with the modules that name it to start it."""
    trees = dict(modules())
    names = {name.removesuffix(".__main__") for name, tree in trees.items() if "__main__" in _texts(tree)}
    starters = {
        name: [other for other, tree in trees.items() if name in _texts(tree) and other != f"{name}.__main__"]
        for name in sorted(names)
    }
    return {name: others for name, others in starters.items() if others}


def starts() -> list[str]:
    """Return the modules that start processes."""
    return [name for name, tree in modules() if _called(tree) & STARTS]


def restarts() -> list[str]:
    """Return the modules that start a process again: they define how long they wait at most (MAX_RESTART_S)."""
    return [name for name, tree in modules() if "MAX_RESTART_S" in _assigned(tree)]


def encodings() -> list[str]:
    """Return the modules that encode messages otherwise than as JSON."""
    return [name for name, tree in modules() if _imported(tree) & ENCODINGS]


def main() -> None:
    """Print the table."""
    print("programs besides `pylvs run`, and what starts them:")
    for name, others in programs().items():
        print(f"  {name:<42}{', '.join(others)}")
    print(f"encodings besides the JSON of {LINK}: {', '.join(encodings()) or 'none'}")
    print(f"start processes: {', '.join(starts())}")
    print(f"start them again: {', '.join(restarts())}")


if __name__ == "__main__":
    main()
