"""`dataclass`, `field` and `replace` of the module dataclasses, without what those cost at import.

The module dataclasses imports inspect and compiles about seven methods of every class, which was most of the start of
`ipvsadm` and of `pylvs run`. Here classes share all methods but `__init__`, which is compiled for the first instance.
Type checkers see the originals. `fields`, `asdict` and `is_dataclass` of dataclasses take these classes, too.

`slots=True` is required; `frozen`, `eq` and `kw_only` are supported, `order` and InitVar are not.
"""

from __future__ import annotations

from operator import attrgetter

TYPE_CHECKING = False  # typing costs as much as dataclasses; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNSET: Any = object()


def _dataclass(
    *, slots: bool, frozen: bool = False, eq: bool = True, kw_only: bool = False
) -> Callable[[type[Any]], type[Any]]:
    if not slots:
        raise TypeError("slots=True is required; other dataclasses are those of the module dataclasses")
    return lambda cls: _build(cls, frozen, eq, kw_only)


def _replace(instance: Any, /, **changes: Any) -> Any:
    for name, each in instance.__record__.items():
        if each.init and name not in changes:
            changes[name] = getattr(instance, name)
    return instance.__class__(**changes)


class _Field:
    """How one field is initialized, compared and shown."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "repr", "type")

    def __init__(
        self,
        *,
        default: Any = _UNSET,
        default_factory: Any = _UNSET,
        init: bool = True,
        repr: bool = True,
        compare: bool = True,
    ) -> None:
        self.default, self.default_factory = default, default_factory
        self.init, self.repr, self.compare = init, repr, compare
        self.type, self.kw_only = "", False


def _build(cls: type[Any], frozen: bool, eq: bool, kw_only: bool) -> type[Any]:
    """The class with slots in the place of its annotations, and with the methods of a dataclass."""
    members = dict(cls.__dict__)
    fields: dict[str, _Field] = {}
    inherited: set[str] = set()
    for base in reversed(cls.__mro__[1:]):
        fields.update(base.__dict__.get("__record__", ()))
        slots = base.__dict__.get("__slots__", ())
        inherited.update((slots,) if isinstance(slots, str) else slots)
    for name, annotation in members.get("__annotations__", {}).items():
        if not annotation.startswith("ClassVar"):
            default = members.pop(name, _UNSET)
            each = default if isinstance(default, _Field) else _Field(default=default)
            each.type, each.kw_only = annotation, kw_only
            fields[name] = each
    members.pop("__dict__", None)
    members.pop("__weakref__", None)
    members["__slots__"] = tuple(name for name in fields if name not in inherited)
    members["__record__"] = fields
    members["__dataclass_fields__"] = _Original(frozen, eq, kw_only)
    members["__dataclass_params__"] = _Original(frozen, eq, kw_only)
    positional = tuple(name for name, each in fields.items() if each.init and not each.kw_only)
    members.setdefault("__match_args__", positional)
    members.setdefault("__repr__", _repr)
    members["__reduce__"] = _reduce
    if frozen:
        members["__setattr__"], members["__delattr__"] = _refuse_setting, _refuse_deleting
    if eq:
        _compare(members, [name for name, each in fields.items() if each.compare], frozen)
    metaclass: Any = type(cls)
    made: type[Any] = metaclass(cls.__name__, cls.__bases__, members)
    if "__init__" not in members:
        made.__init__ = _first_init(made, frozen)
    return made


def _compare(members: dict[str, Any], names: list[str], frozen: bool) -> None:
    values: Callable[[Any], Any] = attrgetter(*names) if names else lambda _: ()

    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    own_hash = "__hash__" in members and not (members["__hash__"] is None and "__eq__" in members)
    members.setdefault("__eq__", __eq__)
    if not own_hash:
        members["__hash__"] = (lambda self: hash(values(self))) if frozen else None


def _first_init(cls: Any, frozen: bool) -> Any:
    """An `__init__` that compiles the real one: most classes of a command never have an instance."""

    def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807
        cls.__init__ = made = _compile_init(cls, frozen)
        made(self, *values, **named)

    return __init__


def _compile_init(cls: Any, frozen: bool) -> Any:
    positional, keywords, lines = ["self"], list[str](), list[str]()
    known: dict[str, Any] = {"_UNSET": _UNSET}
    for name, each in cls.__record__.items():
        value, default = name, ""
        if each.default_factory is not _UNSET:
            known[f"_make_{name}"] = each.default_factory
            value = f"_make_{name}() if {name} is _UNSET else {name}" if each.init else f"_make_{name}()"
            default = "=_UNSET"
        elif each.default is not _UNSET:
            known[f"_default_{name}"] = each.default
            value = name if each.init else f"_default_{name}"
            default = f"=_default_{name}"
        elif not each.init:
            continue  # `__post_init__` sets it
        if each.init:
            (keywords if each.kw_only else positional).append(name + default)
        known[f"_set_{name}"] = getattr(cls, name).__set__
        lines.append(f"_set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    if keywords:
        positional.append("*")
    body = "\n    ".join(lines or ["pass"])
    exec(f"def __init__({', '.join(positional + keywords)}):\n    {body}", known)
    init = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, each in self.__record__.items() if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _reduce(self: Any) -> Any:
    """For copy and pickle, which could not set the fields of a frozen class."""
    values = {name: getattr(self, name) for name in self.__record__ if hasattr(self, name)}
    return _restored, (self.__class__, values)


def _restored(cls: Any, values: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    for name, value in values.items():
        getattr(cls, name).__set__(made, value)
    return made


def _refuse_setting(_self: Any, name: str, _value: Any) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(_self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


class _Original:
    """What functions of the module dataclasses read of a class, made when the first of them asks."""

    def __init__(self, frozen: bool, eq: bool, kw_only: bool) -> None:
        self._options: dict[str, Any] = {"frozen": frozen, "eq": eq, "kw_only": kw_only}
        self._name = ""

    def __set_name__(self, _cls: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, _instance: Any, cls: Any) -> Any:
        import dataclasses

        rows = []
        for name, each in cls.__record__.items():
            options: dict[str, Any] = {key: getattr(each, key) for key in ("init", "repr", "compare", "kw_only")}
            for key in "default", "default_factory":
                if getattr(each, key) is not _UNSET:
                    options[key] = getattr(each, key)
            rows.append((name, each.type, dataclasses.field(**options)))
        made: Any = dataclasses.make_dataclass(cls.__name__, rows, **self._options)
        cls.__dataclass_params__, cls.__dataclass_fields__ = made.__dataclass_params__, made.__dataclass_fields__
        return getattr(made, self._name)


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    dataclass, field, replace = _dataclass, _Field, _replace
