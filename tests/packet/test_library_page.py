"""The examples of docs/reference/python.md, run in their order on one director."""

from __future__ import annotations

import doctest
import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylvs
from tests.packet.host import Host

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_do_what_it_shows(director_host: Host) -> None:
    parser, names, shown = doctest.DocTestParser(), dict[str, object](), list[str]()
    runner = doctest.DocTestRunner(verbose=False)
    text = PAGE.read_text()
    for block in BLOCK.finditer(text):
        test = parser.get_doctest(block[1], names, PAGE.name, str(PAGE), text.count("\n", 0, block.start()) + 1)
        test.globs = names  # one namespace for all blocks
        runner.run(test, out=shown.append, clear_globs=False)
    assert not runner.failures, "".join(shown)
    assert runner.tries > 20


def fields(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the fields and properties that a public class declares, with their types as the page writes them."""
    declared = vars(kind).get("__annotations__", {}) if hasattr(kind, "__match_args__") else {}
    types = {name: getattr(each, "__forward_arg__", each) for name, each in declared.items()}
    for name, member in vars(kind).items():
        if isinstance(member, property):
            assert member.fget is not None
            types[name] = member.fget.__annotations__["return"]
    yield from ((name, each.replace(" | ", " or ")) for name, each in types.items() if not name.startswith("_"))


CLASSES = [each for name in pylvs.__all__ if inspect.isclass(each := getattr(pylvs, name))]
ENUMERATIONS = [kind for kind in CLASSES if issubclass(kind, enum.Enum)]
ERRORS = [kind for kind in CLASSES if issubclass(kind, pylvs.Error)]


def test_every_public_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    for name in pylvs.__all__:
        assert re.search(rf"\b{name}\b", text), name
    assert all(hasattr(pylvs, name) for name in pylvs.__all__)
    assert set(dir(pylvs)) >= set(pylvs.__all__)


def test_every_field_is_on_the_page_with_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([^|]+) \| ([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    found = [(kind, name, type_) for kind, name, type_, _ in rows]
    expected = [
        (kind.__name__, *each) for kind in CLASSES if kind not in (*ENUMERATIONS, *ERRORS) for each in fields(kind)
    ]
    assert {kind for kind, *_ in expected} >= {"Connection", "Counters", "DeviceProblem", "TableUse", "Timeouts"}
    assert sorted(found) == sorted(expected)
    for kind, name, _, meaning in rows:
        assert not name.endswith("_s") or "seconds" in meaning, f"{kind}.{name} has no unit"


def test_every_field_of_an_error_is_on_the_page() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGE.read_text().partition("\n## Errors\n")[2], re.MULTILINE))
    for kind in ERRORS:
        names = set(inspect.signature(kind.__init__).parameters) - {"self", "text", "args", "kwargs"}
        assert set(re.findall(r"`(\w+)`", rows.get(kind.__name__, ""))) == names, kind


@pytest.mark.parametrize("kind", ENUMERATIONS)
def test_every_member_of_an_enumeration_is_on_the_page(kind: type[enum.Enum]) -> None:
    text = PAGE.read_text()
    for member in kind:
        assert re.search(rf"`{kind.__name__}\.{member.name}`|`{kind.__name__}\.\w+`.*`{member.name}`", text), member
