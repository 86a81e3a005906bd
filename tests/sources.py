"""The source of a test with that of all helpers that it uses, as text: what a document promises must occur in it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass
class _Module:
    """The top-level names of a file: those that it defines, with their source, and those of other files of tests."""

    defined: dict[str, str] = field(default_factory=dict)
    imported: dict[str, tuple[Path, str]] = field(default_factory=dict)


def source_of(path: Path, name: str) -> str:
    """Return the source of a function, and of all functions and constants of tests that it names; "" without one."""
    found: dict[tuple[Path, str], str] = {}
    waiting = [(path, name)]
    while waiting:
        key = file, wanted = waiting.pop()
        module = _module(file)
        if wanted in module.imported:
            waiting.append(module.imported[wanted])
        elif wanted in module.defined and key not in found:
            found[key] = module.defined[wanted]
            waiting += [(file, word) for word in set(re.findall(r"\w+", found[key]))]
    return "\n".join(found.values())


@cache
def _module(path: Path) -> _Module:
    text = path.read_text()
    lines, module = text.splitlines(), _Module()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            module.defined[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            module.defined |= dict.fromkeys(names, ast.get_source_segment(text, node) or "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            file = ROOT / f"{str(node.module).replace('.', '/')}.py"
            if file.exists():
                module.imported |= {each.asname or each.name: (file, each.name) for each in node.names}
    return module
