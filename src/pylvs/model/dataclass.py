"""`dataclass`, `field` and `replace` like those of the module dataclasses, but cheap to import.

The module dataclasses imports inspect and compiles about seven methods of every class, which was most of the start of
`ipvsadm` and of `pylvs run`. Here classes share their methods, and one with many instances gets a compiled `__init__`.
Type checkers use the originals. `fields`, `asdict` and `is_dataclass` of dataclasses take these classes, too.

`slots=True` is required; `frozen`, `eq` and `kw_only` are supported, `order` and InitVar are not.
"""

from __future__ import annotations

from operator import attrgetter

TYPE_CHECKING = False  # typing costs as much as dataclasses; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# late: dataclasses costs more than a whole command; few processes need it

UNSET: Any = object()
_UNCOMPILED = 20  # instances that are made without a compiled `__init__`


def _dataclass(
    *, slots: bool, frozen: bool = False, eq: bool = True, kw_only: bool = False
) -> Callable[[type[Any]], type[Any]]:
    if not slots:
        raise TypeError("slots=True is required; other dataclasses are those of the module dataclasses")
    return lambda cls: _build(cls, frozen, eq, kw_only)


def field_names(cls: Any) -> tuple[str, ...]:
    """Return the names of the fields, those of base classes first; `fields` of dataclasses is far slower."""
    return tuple(cls.__record__)


def _replace(instance: Any, /, **changes: Any) -> Any:
    return instance.__class__.__replaced__(instance, **changes)


class _Field:
    """How one field is initialized, compared and shown."""

    __slots__ = ("compare", "default", "default_factory", "init", "kw_only", "repr", "type")

    def __init__(
        self,
        *,
        default: Any = UNSET,
        default_factory: Any = UNSET,
        init: bool = True,
        repr: bool = True,
        compare: bool = True,
    ) -> None:
        self.default, self.default_factory = default, default_factory
        self.init, self.repr, self.compare = init, repr, compare
        self.type, self.kw_only = "", False


def _build(cls: type[Any], frozen: bool, eq: bool, kw_only: bool) -> type[Any]:
    """Return the class with slots for its annotations, and with the methods of a dataclass.

    Work that the first use of the class can do is left to it: see `_Late`.
    """
    members = dict(cls.__dict__)
    names = [name for name, each in members.get("__annotations__", {}).items() if not each.startswith("ClassVar")]
    declared = {name: members.pop(name, UNSET) for name in names}
    inherited = {name for base in cls.__mro__[1:-1] for name in base.__dict__.get("__slots__", ())}
    members.pop("__dict__", None)
    members.pop("__weakref__", None)
    members["__slots__"] = tuple(name for name in names if name not in inherited)
    members["__declared__"] = declared, kw_only, {"frozen": frozen, "eq": eq, "kw_only": kw_only}
    members |= _LATE
    members.setdefault("__repr__", _repr)
    members.setdefault("__init__", _init)
    members["__reduce__"] = _reduce
    if frozen:
        members["__setattr__"], members["__delattr__"] = _refuse_setting, _refuse_deleting
    if eq:
        if "__hash__" not in members or (members["__hash__"] is None and "__eq__" in members):
            members["__hash__"] = _hash if frozen else None
        members.setdefault("__eq__", _eq)
    metaclass: Any = type(cls)
    made: type[Any] = metaclass(cls.__name__, cls.__bases__, members)
    return made


class _Late:
    """An attribute of a class that is computed at its first use."""

    def __init__(self, name: str, compute: Callable[[Any], Any]) -> None:
        self._name, self._compute = name, compute

    def __get__(self, _instance: Any, cls: Any) -> Any:
        value = self._compute(cls)
        setattr(cls, self._name, value)
        return value


def _record(cls: Any) -> dict[str, _Field]:
    """Return the fields by name, those of base classes first."""
    found: dict[str, _Field] = {}
    for base in reversed(cls.__mro__):
        if "__declared__" in base.__dict__:
            declared, kw_only, _ = base.__declared__
            for name, default in declared.items():
                field = found[name] = default if isinstance(default, _Field) else _Field(default=default)
                field.type, field.kw_only = base.__annotations__[name], kw_only
    return found


def _values(cls: Any) -> Callable[[Any], Any]:
    """Return the getter of the values that are compared and hashed."""
    names = [name for name, each in cls.__record__.items() if each.compare]
    return attrgetter(*names) if names else staticmethod(lambda _: ())


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__values__
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__values__(self))


def _init(self: Any, *values: Any, **named: Any) -> None:
    """Fill the first instances field by field; compile an `__init__` for a class that has more of them."""
    cls = next(base for base in self.__class__.__mro__ if "__declared__" in base.__dict__)
    if cls.__instances__ < _UNCOMPILED and _fill(self, cls.__record__, values, dict(named)):
        cls.__instances__ += 1
        if hasattr(cls, "__post_init__"):
            self.__post_init__()
        return
    cls.__init__ = made = _compile_init(cls)
    made(self, *values, **named)


def _fill(self: Any, fields: dict[str, _Field], values: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Set the fields; return False for wrong arguments, whose error the compiled method raises."""
    given = iter(values)
    for name, field in fields.items():
        value = next(given, UNSET) if field.init and not field.kw_only else UNSET
        if value is UNSET and field.init:
            value = named.pop(name, UNSET)
        if value is UNSET:
            value = field.default if field.default_factory is UNSET else field.default_factory()
        if value is not UNSET:
            object.__setattr__(self, name, value)
        elif field.init:
            return False
    return not named and next(given, UNSET) is UNSET


def _compile_init(cls: Any) -> Any:
    frozen = cls.__declared__[2]["frozen"]
    positional, keywords, lines = ["self"], list[str](), list[str]()
    known: dict[str, Any] = {"UNSET": UNSET}
    for name, field in cls.__record__.items():
        value, default = name, ""
        if field.default_factory is not UNSET:
            known[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is UNSET else {name}" if field.init else f"_make_{name}()"
            default = "=UNSET"
        elif field.default is not UNSET:
            known[f"_default_{name}"] = field.default
            value = name if field.init else f"_default_{name}"
            default = f"=_default_{name}"
        elif not field.init:
            continue  # `__post_init__` sets it
        if field.init:
            (keywords if field.kw_only else positional).append(name + default)
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


def _compile_replace(cls: Any) -> Any:
    """Return `replace` of one class: a dictionary of all fields would take several times as long."""
    names = [name for name, each in cls.__record__.items() if each.init]
    parameters = ["_self", "/", *(["*"] if names else []), *(f"{name}=UNSET" for name in names)]
    arguments = [f"{name}=_self.{name} if {name} is UNSET else {name}" for name in names]
    known: dict[str, Any] = {"UNSET": UNSET}
    exec(f"def replace({', '.join(parameters)}):\n    return _self.__class__({', '.join(arguments)})", known)
    return staticmethod(known["replace"])


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, each in self.__record__.items() if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _reduce(self: Any) -> Any:
    """Support copy and pickle, which could not set the fields of a frozen class."""
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


def _original(cls: Any) -> Any:
    """Return an equal class of the module dataclasses, for functions of that module."""
    import dataclasses

    rows = []
    for name, field in cls.__record__.items():
        options: dict[str, Any] = {key: getattr(field, key) for key in ("init", "repr", "compare", "kw_only")}
        for key in "default", "default_factory":
            if getattr(field, key) is not UNSET:
                options[key] = getattr(field, key)
        rows.append((name, field.type, dataclasses.field(**options)))
    return dataclasses.make_dataclass(cls.__name__, rows, **cls.__declared__[2])


def _positional(cls: Any) -> tuple[str, ...]:
    return tuple(name for name, each in cls.__record__.items() if each.init and not each.kw_only)


_LATE = {
    name: _Late(name, compute)
    for name, compute in (
        ("__record__", _record),
        ("__values__", _values),
        ("__replaced__", _compile_replace),
        ("__match_args__", _positional),
        ("__dataclass_fields__", lambda cls: _original(cls).__dataclass_fields__),
        ("__dataclass_params__", lambda cls: _original(cls).__dataclass_params__),
    )
} | {"__instances__": 0}

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    dataclass, field, replace = _dataclass, _Field, _replace
