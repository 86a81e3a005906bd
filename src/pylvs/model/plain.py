"""Dataclasses to and from plain values: those that JSON can express. Processes of pylvs exchange these.

`from_plain` checks each field against its type, so a peer can only make objects of the requested type. A dataclass is
an object of its fields without those that have their default. Where its class is ambiguous, its name comes first:
["TcpCheck", {...}].

| type | plain value |
|---|---|
| str, bool, None, Any | itself |
| int, float | itself; a float is finite |
| bytes | hexadecimal digits |
| addresses, networks, interfaces, paths | text |
| enumeration, flags | name, number |
| tuple, list, frozenset | list |
| mapping | object; list of pairs if the keys are no texts |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any

from pylvs.model.dataclass import UNSET

_ADDRESSES = (IPv4Address, IPv6Address, IPv4Interface, IPv6Interface, IPv4Network, IPv6Network)
_MAPPINGS = (Mapping, dict)
_LARGEST = sys.float_info.max

Convert = Callable[[Any], Any]


class Malformed(ValueError):
    """A plain value is none of the type; the text has the path of the field: `services[3].quorum: must be int`."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self._reason, self._path = reason, path

    def inside(self, part: str) -> Malformed:
        """Return the same error of a value that has this one as a part."""
        return Malformed(self._reason, part + self._path)

    def __str__(self) -> str:
        path = self._path.removeprefix(".")
        return f"{path}: {self._reason}" if path else self._reason


def to_plain(value: Any, kind: Any = None, names: Mapping[str, Any] | None = None) -> Any:
    """Return the plain value of an object of this type: a class or a union, by default the object's class.

    `names` has the types of annotations that their module imports for type checkers only.
    """
    return _converter(type(value) if kind is None else kind, names or {}).encode(value)


def from_plain(kind: Any, value: Any, names: Mapping[str, Any] | None = None) -> Any:
    """Return the object of this type, for which `to_plain` returned the value. Raises Malformed, and nothing else."""
    return _converter(kind, names or {}).decode(value)


class _Converter:
    """How values of one type are converted; `types` are those of its plain values."""

    __slots__ = ("decode", "encode", "types")

    def __init__(self, encode: Convert, decode: Convert, *types: type) -> None:
        self.encode, self.decode, self.types = encode, decode, types


_known: dict[Any, _Converter] = {}


def _converter(kind: Any, names: Mapping[str, Any]) -> _Converter:
    """Return the converter of a type, which is made once."""
    found = _known.get(kind)
    if found is None:
        found = _known[kind] = _make(kind, names)
    return found


def _make(kind: Any, names: Mapping[str, Any]) -> _Converter:
    origin = getattr(kind, "__origin__", None)
    if isinstance(kind, UnionType):
        return _union(kind.__args__, names)
    if origin is tuple and kind.__args__[-1] is not ...:
        return _fixed_tuple([_converter(each, names) for each in kind.__args__])
    if origin in (tuple, list, frozenset):
        return _sequence(origin, _converter(kind.__args__[0], names))
    if origin in _MAPPINGS:
        return _mapping(*(_converter(each, names) for each in kind.__args__))
    if kind is Any:
        return _Converter(_same, _same, object)
    if not isinstance(kind, type):
        raise TypeError(f"{kind}: values of this type have no plain value")
    if "__declared__" in kind.__dict__:
        classes = _with_subclasses(kind)
        return _tagged(classes, names) if len(classes) > 1 else _dataclass(kind, names)
    if kind in (str, bool, NoneType):
        return _Converter(_same, _checked(kind), kind)
    return _scalar(kind)


def _same(value: Any) -> Any:
    return value


def _checked(*kinds: type) -> Convert:
    """Return the decoder of a value that is plain itself."""
    text = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)

    def decode(value: Any) -> Any:
        if type(value) not in kinds:
            raise Malformed(f"must be {text}, not {_name(value)}")
        return value

    return decode


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _scalar(kind: Any) -> _Converter:
    text = _checked(str)
    if issubclass(kind, Flag):
        known = sum(each.value for each in kind)
        return _Converter(int, lambda value: kind(_within(known, value)), int)
    if issubclass(kind, Enum):
        members = kind.__members__
        return _Converter(attrgetter("name"), lambda value: members[_one_of(members, text(value))], str)
    if kind is int:
        return _Converter(_same, _checked(int), int)
    if kind is float:
        return _Converter(_same, _finite, int, float)
    if kind is bytes:
        return _Converter(bytes.hex, lambda value: _parsed(bytes.fromhex, "hexadecimal digits", text(value)), str)
    if kind in _ADDRESSES or hasattr(kind, "__fspath__"):
        return _Converter(str, lambda value: _parsed(kind, kind.__name__, text(value)), str)
    raise TypeError(f"{kind.__name__}: values of this type have no plain value")


def _within(known: int, value: Any) -> int:
    if type(value) is not int or value & ~known:
        raise Malformed(f"must be the number of flags within {known:#x}")
    return value


def _one_of(names: Iterable[str], value: str) -> str:
    if value not in names:
        raise Malformed(f"must be one of {', '.join(names)}")
    return value


_number = _checked(float, int)


def _finite(value: Any) -> Any:
    if not -_LARGEST <= _number(value) <= _LARGEST:  # not so a NaN
        raise Malformed("must be finite")
    return value


def _parsed(parse: Convert, what: str, text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        raise Malformed(f"must be {what}") from None


def _union(kinds: tuple[Any, ...], names: Mapping[str, Any]) -> _Converter:
    """Return the converter of a union: the class or the plain value says which of its types a value has."""
    classes = tuple(sub for each in kinds if "__declared__" in vars(each) for sub in _with_subclasses(each))
    others = [each for each in kinds if "__declared__" not in vars(each)]
    if len(classes) > 1:
        choices = [(classes, _tagged(classes, names))]
    else:
        choices = [(classes, _converter(each, names)) for each in classes]
    texts = [each for each in others if each in _ADDRESSES]
    if len(texts) > 1:
        choices.append((tuple(texts), _either(texts)))
        others = [each for each in others if each not in texts]
    choices += [((each,), _converter(each, names)) for each in others]
    return _choice(choices)


def _either(kinds: list[Any]) -> _Converter:
    """Return the converter of IPv4 or IPv6."""
    first, second = kinds
    text, what = _checked(str), f"{first.__name__} or {second.__name__}"

    def decode(value: Any) -> Any:
        kind = second if ":" in text(value) else first
        return _parsed(kind, what, value)

    return _Converter(str, decode, str)


def _choice(choices: list[tuple[tuple[Any, ...], _Converter]]) -> _Converter:
    by_type: dict[type, _Converter] = {}
    for made in (each for _, each in choices):
        for kind in made.types:
            if kind in by_type and made.decode is not by_type[kind].decode and kind is not int:
                raise TypeError(f"a {kind.__name__} would be ambiguous")
            by_type.setdefault(kind, made)
    # A float may be an int.
    by_class = by_type | {getattr(kind, "__origin__", kind): made for kinds, made in choices for kind in kinds}
    wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in by_type)

    def encode(value: Any) -> Any:
        made = by_class.get(type(value))
        if made is None:  # the type is abstract
            made = next(each for kind, each in by_class.items() if isinstance(value, kind))
        return made.encode(value)

    def decode(value: Any) -> Any:
        made = by_type.get(type(value))
        if made is None:
            raise Malformed(f"must be {wanted}, not {_name(value)}")
        return made.decode(value)

    return _Converter(encode, decode, *by_type)


def _parts(decode: Convert, values: Iterable[Any]) -> list[Any]:
    found = list[Any]()
    try:
        for value in values:
            found.append(decode(value))
    except Malformed as error:
        raise error.inside(f"[{len(found)}]") from None
    return found


_list = _checked(list)


def _sequence(kind: Any, part: _Converter) -> _Converter:
    return _Converter(
        lambda values: [part.encode(each) for each in values],
        lambda value: kind(_parts(part.decode, _list(value))),
        list,
    )


def _fixed_tuple(parts: list[_Converter]) -> _Converter:
    def decode(value: Any) -> tuple[Any, ...]:
        if len(_list(value)) != len(parts):
            raise Malformed(f"must be a list of {len(parts)}")
        return tuple(_parts(lambda pair: pair[0].decode(pair[1]), zip(parts, value, strict=True)))

    return _Converter(
        lambda values: [part.encode(each) for part, each in zip(parts, values, strict=True)], decode, list
    )


def _mapping(key: _Converter, value: _Converter) -> _Converter:
    if key.encode is not _same or key.types != (str,):
        pairs = _sequence(dict, _fixed_tuple([key, value]))
        return _Converter(lambda values: pairs.encode(values.items()), pairs.decode, list)
    checked = _checked(dict)

    def decode(values: Any) -> dict[str, Any]:
        found = dict[str, Any]()
        name = ""
        try:
            for name, each in checked(values).items():
                found[name] = value.decode(each)
        except Malformed as error:
            raise error.inside(f"[{name}]" if name else "") from None
        return found

    return _Converter(lambda values: {name: value.encode(each) for name, each in values.items()}, decode, dict)


def _with_subclasses(kind: Any) -> tuple[Any, ...]:
    """Return a dataclass with all classes below it. The class that `dataclass` has replaced may still exist."""
    below = (each for sub in kind.__subclasses__() if "__declared__" in vars(sub) for each in _with_subclasses(sub))
    return kind, *below


def _tagged(classes: tuple[Any, ...], names: Mapping[str, Any]) -> _Converter:
    known = {each.__name__: _dataclass(each, names) for each in classes}
    if len(known) < len(classes):
        raise TypeError("classes of one name would be ambiguous")
    text = _checked(str)

    def decode(value: Any) -> Any:
        if len(_list(value)) != 2:
            raise Malformed("must be a list of the class and its fields")
        name = _one_of(known, text(value[0]))
        try:
            return known[name].decode(value[1])
        except Malformed as error:
            raise error.inside(f".{name}") from None

    def encode(value: Any) -> list[Any]:
        name = type(value).__name__
        return [name, known[name].encode(value)]

    return _Converter(encode, decode, list)


def _dataclass(cls: Any, names: Mapping[str, Any]) -> _Converter:
    encoders, decoders, required = list[tuple[str, Any, Convert]](), dict[str, Convert](), set[str]()
    for name, field in cls.__record__.items():
        made = _converter(_annotated(cls, name, field.type, names), names)
        constant = isinstance(field.default_factory, type)  # not so time.time
        encoders.append((name, field.default_factory() if constant else field.default, made.encode))
        decoders[name] = made.decode
        if field.default is UNSET and field.default_factory is UNSET:
            required.add(name)
    values = attrgetter(*decoders) if len(decoders) > 1 else lambda value: [getattr(value, each) for each in decoders]

    def encode(value: Any) -> dict[str, Any]:
        found = {}
        for (name, default, convert), part in zip(encoders, values(value), strict=True):
            if part is not default and (default is UNSET or part != default):
                found[name] = convert(part)
        return found

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise Malformed(f"must be the fields of {cls.__name__}, not {_name(value)}")
        found = {}
        name = ""
        try:
            for name, each in value.items():
                found[name] = decoders[name](each)
        except KeyError:
            raise Malformed(f"{cls.__name__} has no such field", f".{name}") from None
        except Malformed as error:
            raise error.inside(f".{name}") from None
        if not required <= found.keys():
            raise Malformed(f"{cls.__name__} needs {', '.join(sorted(required - found.keys()))}")
        return cls(**found)

    return _Converter(encode, decode, dict)


def _annotated(cls: Any, name: str, annotation: str, names: Mapping[str, Any]) -> Any:
    """Return the type of a field. Annotations are texts, as in all modules of pylvs."""
    declaring = next(each for each in cls.__mro__ if name in vars(each).get("__annotations__", ()))
    return eval(annotation, {**vars(sys.modules[declaring.__module__]), **names})
