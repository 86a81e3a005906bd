"""Each setting of virtual routers that the configuration compiles is read by what runs them.

A keyword that is compiled and documented, but never read, has no effect, and no other test fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pylvs

PACKAGE = Path(pylvs.__file__).parent
MODELS = ("model/vrrp.py", "model/routing.py", "model/bfd.py")
READERS = ("vrrp", "bfd", "netlink", "notify", "snmp", "system")  # neither the compiler nor what prints differences
# Of a FIFO that is shared with services; in keepalived.json; of a leave, which is state and not configuration.
ELSEWHERE = {"services": "daemon", "strict": "daemon", "until": "daemon"}


def compiled_fields() -> Iterator[tuple[str, str]]:
    """Yield class and name of each field of the model."""
    for model in MODELS:
        for node in ast.parse((PACKAGE / model).read_text()).body:
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                        yield node.name, statement.target.id


def read_attributes(package: str) -> set[str]:
    """Return the names of all attributes that a package reads."""
    found = set()
    for path in (PACKAGE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
    return found


def test_each_field_is_read() -> None:
    read = set().union(*map(read_attributes, READERS))
    elsewhere = {name for name, package in ELSEWHERE.items() if name in read_attributes(package)}
    fields = list(compiled_fields())
    assert len(fields) > 150
    assert [f"{owner}.{name}" for owner, name in fields if name not in read | elsewhere] == []
