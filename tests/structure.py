"""`python -m tests.structure`: the kinds of process, what encodes their messages, and what starts them again.

It reads the source, so a new kind shows at once. tests/unit/test_architecture.py keeps the result.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src"
# commands, and the programs of others
APART = ("pylvs.lab", "pylvs.cli", "pylvs.doctor", "pylvs.trace", "pylvs.netfilter", "pylvs.realserver")
STARTS = {"Popen", "create_subprocess_exec", "create_subprocess_shell", "fork", "posix_spawn", "run_module"}
ENCODINGS = {"pickle", "marshal", "shelve", "dill", "xmlrpc", "plistlib"}  # besides JSON
LINK = "pylvs.system.processes.channel"


class Module(NamedTuple):
    """What a module has, in the words of its source."""

    texts: set[str]
    called: set[str]
    assigned: set[str]
    imported: set[str]  # packages


@cache
def modules() -> dict[str, Module]:
    """Return the modules of the daemon and its processes by name."""
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in sorted(SOURCE.rglob("*.py"))}
    return {name: _read(path) for name, path in names.items() if not name.startswith(APART)}


def _read(path: Path) -> Module:
    found = Module(set(), set(), set(), set())
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Constant(value=str(text)):
                found.texts.add(text)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                found.called.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.assigned.add(name)
            case ast.Import(names=names):
                found.imported.update(each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(name)):
                found.imported.add(name.partition(".")[0])
    return found


def programs() -> dict[str, list[str]]:
    """Return the modules that run as a process of their own, each with the modules that name it to start it."""
    found = modules().items()
    names = {name.removesuffix(".__main__") for name, module in found if "__main__" in module.texts}
    starters = {
        name: [other for other, module in found if name in module.texts and other != f"{name}.__main__"]
        for name in sorted(names)
    }
    return {name: others for name, others in starters.items() if others}


def starts() -> list[str]:
    """Return the modules that start processes."""
    return [name for name, module in modules().items() if module.called & STARTS]


def restarts() -> list[str]:
    """Return the modules that start a process again: they define how long they wait at most (MAX_RESTART_S)."""
    return [name for name, module in modules().items() if "MAX_RESTART_S" in module.assigned]


def encodings() -> list[str]:
    """Return the modules that encode messages otherwise than as JSON."""
    return [name for name, module in modules().items() if module.imported & ENCODINGS]


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
