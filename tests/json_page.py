"""What `--json` prints, beside the tables of docs/reference/json.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "json.md"
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "list of string": (list,),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One field of a table: the pattern of its path, the names of its types, and whether it may be missing."""

    path: str
    types: str
    is_optional: bool

    def has(self, path: str) -> bool:
        """Return whether a path is of this field. A word in capitals is any name."""
        return re.fullmatch(re.sub(r"\b[A-Z]{2,}\b", "[^.]+", re.escape(self.path)), path) is not None

    def allows(self, value: Any) -> bool:
        """Return whether a value has a type of the row. Linked types have tables of their own."""
        if "](" in self.types:
            return True
        if isinstance(value, bool):
            return "boolean" in self.types
        return any(isinstance(value, TYPES[each]) for each in self.types.split(" or "))


def rows(heading: str) -> list[Row]:
    """Return the fields of the section with this heading."""
    section = re.split(rf"^##+ {re.escape(heading)}$", PAGE.read_text(), flags=re.MULTILINE)[1]
    table = re.split(r"^##", section, flags=re.MULTILINE)[0]
    return [
        Row(path, types, meaning.startswith("optional"))
        for names, types, meaning in re.findall(r"^\| (`.*?`) \| (.*?) \|(?: (.*))? \|$", table, re.MULTILINE)
        for path in re.findall(r"`(.*?)`", names)
    ]


def _fields(value: Any, path: str, table: list[Row]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every field that is no object of the table itself."""
    if any(row.has(path) for row in table):
        yield path, value
    elif isinstance(value, dict):
        for name, below in value.items():
            yield from _fields(below, f"{path}.{name}".lstrip("."), table)
    elif isinstance(value, list):
        for below in value:
            yield from _fields(below, f"{path}[]", table)
    else:
        yield path, value


def assert_documented(heading: str, *values: Any) -> None:
    """Assert that the tables have each field of these outputs, with its type, and that each field is in one of them.

    Raises AssertionError, which names the field.
    """
    table = rows(heading)
    found = [field for value in values for field in _fields(value, "", table)]
    for path, value in found:
        matching = [row for row in table if row.has(path)]
        assert matching, f"{PAGE.name}, {heading}: no row for {path}"
        assert all(row.allows(value) for row in matching), f"{PAGE.name}, {heading}: {path} is {value!r}"
    for row in table:
        assert row.is_optional or any(row.has(path) for path, _ in found), f"{heading}: {row.path} was not printed"
