"""The dataclasses of pylvs behave as those of the standard library, which a command does not import."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from pylvs.model.dataclass import dataclass, field, replace

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Base(Generic[Content]):
    KIND: ClassVar[str] = "base"

    first: Content
    second: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Derived(Base[int]):
    third: str = "3"
    hidden: int = field(default=4, repr=False, compare=False)


@dataclass(slots=True, kw_only=True)
class Changing:
    one: int
    two: int = 2
    three: int = field(init=False)

    def __post_init__(self) -> None:
        self.three = self.one + self.two


@dataclass(slots=True, eq=False)
class Itself:
    value: int = 0


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(slots=True)
class Checked:
    one: int
    two: int

    def __init__(self, one: int, *, two: int = 0) -> None:
        self.one, self.two = int(one), int(two)


def test_it_is_filled_as_the_originals_are() -> None:
    assert (Base("x").first, Base("x").second, Base("x", [1]).second) == ("x", [], [1])
    assert Base("x").second is not Base("x").second
    assert Derived(1, third="y").third == "y"
    assert Derived.__match_args__ == ("first", "second", "third", "hidden")
    assert Changing(one=1).three == 3
    changing = Changing(one=1)
    changing.two = 5
    assert changing.two == 5
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        Base()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'fourth'"):
        Derived(1, fourth=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Changing(1)  # type: ignore[call-arg]


def test_a_frozen_one_stays_as_it_is() -> None:
    one: Any = Derived(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'third'"):
        one.third = "x"
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'third'"):
        del one.third
    assert not hasattr(one, "__dict__")


def test_it_compares_hashes_and_prints_as_the_originals_do() -> None:
    assert Derived(1, []) == Derived(1, [], hidden=5)
    assert Derived(1) != Derived(2)
    assert Base(1) != Derived(1)
    assert hash(Derived(1, (), "a")) == hash(Derived(1, (), "a", 9))  # type: ignore[arg-type]
    assert repr(Derived(1)) == "Derived(first=1, second=[], third='3')"
    assert Itself() != Itself()
    assert len({Itself(), Itself()}) == 2
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Changing(one=1))


def test_functions_of_the_standard_library_take_it() -> None:
    one = Derived(1, [2])
    assert dataclasses.is_dataclass(Derived)
    assert [each.name for each in dataclasses.fields(one)] == ["first", "second", "third", "hidden"]
    assert dataclasses.fields(Derived)[2].default == "3"
    assert dataclasses.asdict(one) == {"first": 1, "second": [2], "third": "3", "hidden": 4}
    assert dataclasses.replace(one, third="x") == replace(one, third="x") == Derived(1, [2], "x")
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(pickle.dumps(Changing(one=1))).three == 3

    @dataclasses.dataclass(frozen=True)
    class Further(Derived):
        fifth: int = 5

    assert Further(1).fifth == 5


def test_it_is_replaced_as_the_originals_are() -> None:
    assert replace(Empty()) == Empty()
    assert replace(Itself(1), value=2).value == 2
    assert replace(Changing(one=1), two=5).three == 6  # computed again
    assert replace(Derived(1, hidden=9), third="x").hidden == 9
    assert replace(Checked(1, two=2), one=5) == Checked(5, two=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'fourth'"):
        replace(Derived(1), fourth=1)  # type: ignore[call-arg]


def test_what_it_does_not_support_is_refused() -> None:
    with pytest.raises(TypeError, match="slots=True"):
        dataclass(slots=False)(Itself)
    with pytest.raises(TypeError):
        dataclass(slots=True, order=True)(Itself)


def test_it_imports_neither_dataclasses_nor_typing() -> None:
    code = (
        "import sys; from pylvs.model.dataclass import dataclass\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class One:\n"
        "    value: 'int' = 1\n"
        "assert repr(One()) == 'One(value=1)'\n"
        "print({'dataclasses', 'inspect', 're', 'typing'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
