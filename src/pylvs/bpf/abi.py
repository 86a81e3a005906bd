"""The layout of maps by the objects' own BTF: codecs of structures, constants, declarations of maps, variables.

The build writes the layout into `objects`. `abi.txt` has structures, constants and digests. Every command reads it, ten
times as fast as JSON. `abi.json` has the maps and variables as well.
Integers are as the processor loads them: a `__be16` holds network order, so store `socket.htons(port)` or its bytes.
"""

from __future__ import annotations

import os
import struct as _struct
from collections.abc import Mapping, Sequence

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.bpf.libbpf import BpfObject

# Maps that no load pins: those of a session of `pylvs trace`, and how entry programs call it (bpf/trace/entry.h).
TRACED = ("trace_records", "trace_areas", "trace_counts", "trace_budgets")
TRACERS = ("tracers_xdp", "tracers_tc")
TRANSFERRED = ("transfer_records", "transfer_calls", "transfer_sent")  # of a process that copies to another director
UNPINNED = (*TRACED, *TRACERS, *TRANSFERRED)
OBJECTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "objects")
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_REBUILD = "the eBPF objects are missing: install pylvs again; in a source tree: python hatch_build.py"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a structure. `format` is that of the struct module; `length` is 0 unless the field is an array."""

    name: str
    offset: int
    size: int
    format: str
    length: int
    type: str  # of a nested structure, else empty


def format_of(description: Mapping[str, Any]) -> str:
    count, kind, size = description["count"], description["kind"], description["size"]
    if kind in ("struct", "union"):
        return f"{size}s"
    letter = _LETTERS[size // (count or 1)]
    if kind == "signed":
        letter = letter.lower()
    if not count:
        return letter
    return f"{size}s" if size == count else f"{count}{letter}"


def words_of(structures: Mapping[str, Any], enums: Mapping[str, Any]) -> list[list[str]]:
    """Return the words of the lines of `abi.txt` with these structures and enumerations, as `btf` describes them."""
    found = []
    for name, structure in structures.items():
        fields = [
            f"{each['name']}:{each['offset']}:{each['size']}:{format_of(each)}:{each['count']}:{each.get('type', '')}"
            for each in structure["fields"]
        ]
        found.append(["struct", name, str(structure["size"]), *fields])
    for name, values in enums.items():
        found.append(["enum", name or "-", *(f"{label}={value}" for label, value in values.items())])
    return found


def _described(description: Mapping[str, Any]) -> Field:
    return Field(
        description["name"],
        description["offset"],
        description["size"],
        format_of(description),
        description["count"],
        description.get("type", ""),
    )


def encode(field: Field, value: object) -> bytes:
    """Return the bytes of a field, from an integer, a sequence of integers for an array, or bytes, padded with zeros.

    Raises ValueError, which names the field, if the value does not fit.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        if len(value) > field.size:
            raise ValueError(f"{field.name}: {len(value)} bytes are too many, {field.size} fit")
        return bytes(value).ljust(field.size, b"\0")
    try:
        if isinstance(value, Sequence):
            return _struct.pack("<" + field.format, *value)
        return _struct.pack("<" + field.format, value)
    except _struct.error as error:
        raise ValueError(f"{field.name}: {value!r} does not fit: {error}") from None


class Codec:
    """Packs and unpacks a structure.

    Fields of nested structures are named `outer.inner`; a nested structure as a whole is bytes under its own name.
    """

    def __init__(self, abi: Abi, name: str) -> None:
        self.name = name
        self.size = int(abi.structures[name][0])
        self.fields: dict[str, Field] = {}
        self._leaves: list[tuple[str, int, _struct.Struct, bool]] = []
        self._parts: list[tuple[str, int, _struct.Struct, bool]] = []
        self._collect(abi, name, "", 0)
        self._row = self._one_form()
        self._numbers = {
            field.name: (field.offset, _struct.Struct("<" + field.format))
            for field in self.fields.values()
            if not field.length and not field.format.endswith("s")
        }
        self._names = tuple(name for name, *_ in self._parts)
        self._zeros = tuple((name, b"" if form.format.endswith("s") else 0) for name, _, form, _ in self._parts)

    def _one_form(self) -> _struct.Struct | None:
        """Return one format for the whole structure; None if it has arrays of numbers or overlapping parts (unions)."""
        form, at = "<", 0
        for _, offset, part, single in self._parts:
            if offset < at or not single:
                return None
            form += f"{offset - at}x{part.format[1:]}"
            at = offset + part.size
        return _struct.Struct(f"{form}{self.size - at}x")

    def _collect(self, abi: Abi, structure: str, prefix: str, base: int) -> None:
        for word in abi.structures[structure][1:]:
            label, offset, size, form, length, kind = word.split(":")
            field = Field(prefix + label, base + int(offset), int(size), form, int(length), kind)
            self.fields[field.name] = field
            single = not field.length or field.format.endswith("s")
            part = (field.name, field.offset, _struct.Struct("<" + field.format), single)
            if not prefix:
                self._parts.append(part)
            if field.type and not field.length:
                self._collect(abi, field.type, f"{field.name}.", field.offset)
            else:
                self._leaves.append(part)

    def offset(self, name: str) -> int:
        """Return the offset of a field. Raises KeyError."""
        return self.fields[name].offset

    def unpack_from(
        self, buffer: bytes | bytearray | memoryview, offset: int = 0, whole: bool = False
    ) -> dict[str, Any]:
        """Return all fields by name: integers, tuples of them, or bytes for byte arrays and arrays of structures.

        With `whole`, nested structures are bytes, too.
        """
        if whole and self._row is not None:
            return dict(zip(self._names, self._row.unpack_from(buffer, offset), strict=True))
        found: dict[str, Any] = {}
        for name, start, form, single in self._parts if whole else self._leaves:
            values = form.unpack_from(buffer, offset + start)
            found[name] = values[0] if single else values
        return found

    def pack(self, values: Mapping[str, object] | None = None, /, **more: object) -> bytes:
        """Return a structure with these fields; all others are 0. Raises KeyError, ValueError."""
        buffer = bytearray(self.size)
        self.pack_into(buffer, 0, values, **more)
        return bytes(buffer)

    def pack_into(
        self,
        buffer: bytearray | memoryview,
        offset: int = 0,
        values: Mapping[str, object] | None = None,
        /,
        **more: object,
    ) -> None:
        """Write these fields, and leave the others unchanged. Raises KeyError, ValueError."""
        for name, value in {**(values or {}), **more}.items():
            number = self._numbers.get(name)
            if number is not None and isinstance(value, int):
                try:
                    number[1].pack_into(buffer, offset + number[0], value)
                    continue
                except _struct.error:
                    pass  # `encode` raises the error with its text
            try:
                field = self.fields[name]
            except KeyError:
                raise KeyError(f"struct {self.name} has no field {name}") from None
            start = offset + field.offset
            buffer[start : start + field.size] = encode(field, value)

    def pack_row_into(self, buffer: bytearray | memoryview, offset: int, values: Mapping[str, Any]) -> None:
        """Write the whole structure from fields as `unpack_from` returns them with `whole`; missing ones are 0.

        Raises ValueError for values that do not fit, and for structures with arrays or overlapping fields.
        """
        if self._row is None:
            raise ValueError(f"struct {self.name} has arrays or overlapping fields")
        try:
            self._row.pack_into(buffer, offset, *[values.get(name, zero) for name, zero in self._zeros])
        except _struct.error as error:
            raise ValueError(f"struct {self.name}: {error}") from None

    def view(self, *names: str) -> _struct.Struct:
        """Return a `struct.Struct` of this structure's size that reads only these fields: for listings.

        Names come in the order of their offsets; `name:4s` reads a field in another format of the same length.
        Raises ValueError when they overlap or are out of order.
        """
        form, at = "<", 0
        for spec in names:
            name, _, wanted = spec.partition(":")
            field = self.fields[name]
            wanted = wanted or field.format
            if field.offset < at or _struct.calcsize("<" + wanted) != field.size:
                raise ValueError(f"struct {self.name}: {spec} is out of order, overlaps, or has another length")
            form += f"{field.offset - at}x{wanted}"
            at = field.offset + field.size
        return _struct.Struct(f"{form}{self.size - at}x")


def _words_in(directory: str) -> list[list[str]]:
    try:
        with open(os.path.join(directory, "abi.txt"), encoding="utf-8") as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        raise Unsupported(f"{directory}: {_REBUILD}") from None


class Abi:
    """The layout of the objects in one directory, or the one of another build, from the words of its lines."""

    def __init__(self, directory: str, words: list[list[str]] | None = None) -> None:
        """Read `abi.txt`, unless its words are given. Raises Unsupported if it is missing."""
        lines = _words_in(directory) if words is None else words
        self.directory = directory
        self.structures = {line[1]: line[2:] for line in lines if line[0] == "struct"}  # size and fields, as written
        self._enums = {line[1]: line[2:] for line in lines if line[0] == "enum"}
        self._builds = {line[1]: line[2:] for line in lines if line[0] == "object"}  # digests: of it, of its tables
        self._codecs: dict[str, Codec] = {}
        self._constants: dict[str, int] | None = None
        self._objects: dict[str, Any] | None = None

    def struct(self, name: str) -> Codec:
        """Return the codec of a structure. Raises KeyError."""
        codec = self._codecs.get(name)
        if codec is None:
            codec = self._codecs[name] = Codec(self, name)
        return codec

    @property
    def enums(self) -> dict[str, dict[str, int]]:
        """The values of all enumerations by name."""
        return {name: _numbers(words) for name, words in self._enums.items()}

    def enum(self, name: str) -> dict[str, int]:
        """Return the values of an enumeration by name. Raises KeyError."""
        return _numbers(self._enums[name])

    def constant(self, name: str) -> int:
        """Return the value of an enumerator of any enumeration. Raises KeyError."""
        if self._constants is None:
            self._constants = _numbers([word for words in self._enums.values() for word in words])
        return self._constants[name]

    @property
    def objects(self) -> dict[str, Any]:
        """Maps and variables of each object."""
        if self._objects is None:
            import json  # late: only commands that load the object need it

            with open(os.path.join(self.directory, "abi.json"), "rb") as file:
                self._objects = json.load(file)["objects"]
        return self._objects

    def variable(self, of: str, name: str) -> tuple[str, Field]:
        """Return the data section of a variable, and its field there. Raises KeyError."""
        for section, variables in self.objects[of]["variables"].items():
            if name in variables:
                return section, _described(variables[name])
        raise KeyError(f"object {of} has no variable {name}")

    def digest(self, of: str) -> str:
        """Return the digest of an object, which differs between builds."""
        return self._builds[of][0]

    def tables(self, of: str) -> str:
        """Return the digest of the tables' layout: builds with the same one can share tables."""
        return self._builds[of][1]

    def path(self, of: str) -> str:
        """Return the path of an object's file."""
        return os.path.join(self.directory, f"{of}.bpf.o")

    def set_variables(self, opened: BpfObject, values: Mapping[str, object]) -> None:
        """Set initial values of an object's variables, before it is loaded.

        A value is what `encode` takes, or a mapping for a structure. Raises KeyError, ValueError.
        """
        of = os.path.basename(opened.path).removesuffix(".bpf.o")
        for name, value in values.items():
            section, field = self.variable(of, name)
            if isinstance(value, Mapping):
                value = self.struct(field.type).pack(value)
            opened.set_data(section, field.offset, encode(field, value))


def _numbers(words: Sequence[str]) -> dict[str, int]:
    pairs = (word.split("=") for word in words)
    return {name: int(value) for name, value in pairs}


_shipped: Abi | None = None


def shipped() -> Abi:
    """Return the layout of the objects of this pylvs. Raises Unsupported if they were not built."""
    global _shipped
    if _shipped is None:
        _shipped = Abi(OBJECTS)
    return _shipped


def struct(name: str) -> Codec:
    """Return the codec of a structure of the shipped objects."""
    return shipped().struct(name)


def constant(name: str) -> int:
    """Return the value of an enumerator of the shipped objects, such as `NOTHING`."""
    return shipped().constant(name)
