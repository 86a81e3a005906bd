"""Read BTF: the structures and enumerations of an object file, or of a map that the kernel holds.

Bit-fields are refused: two readers would disagree about them.
Format: Documentation/bpf/btf.rst of the kernel, little-endian.
"""

from __future__ import annotations

import struct
from typing import Any

from pylvs.model.dataclass import dataclass

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = range(
    1, 16
)
FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(16, 20)
MODIFIERS = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}
SIGNED = 1  # BTF_INT_SIGNED

Description = dict[str, Any]


class LayoutError(ValueError):
    """The object's BTF has something that the tools cannot express; the text names it."""


@dataclass(slots=True)
class _Type:
    kind: int
    name: str
    size_or_type: int
    flag: bool
    extra: Any = None  # members, values, variables, the integer's encoding, the array's (type, count)


def _cut(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


class Btf:
    """The types in a block of BTF. `structs` has the structures that `field` met, `enums` all enumerations."""

    def __init__(self, data: bytes) -> None:
        """Read a block of BTF. Raises ValueError for anything else."""
        magic, _version, _flags, header, types, types_size, strings, strings_size = struct.unpack_from(
            "<HBBIIIII", data
        )
        if magic != 0xEB9F:
            raise ValueError("BTF does not begin with its magic number")
        self._strings = data[header + strings : header + strings + strings_size]
        self.types: list[_Type] = [_Type(0, "void", 0, False)]
        self.structs: Description = {}
        self.enums: Description = {}
        self._read(data[header + types : header + types + types_size])
        self._read_enums()

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            name, info, size_or_type = struct.unpack_from("<III", data, at)
            at += 12
            count, kind, flag = info & 0xFFFF, info >> 24 & 0x1F, bool(info >> 31)
            entry = _Type(kind, _cut(self._strings, name), size_or_type, flag)
            layout = {STRUCT: "<III", UNION: "<III", ENUM: "<II", ENUM64: "<III", DATASEC: "<III", FUNC_PROTO: "<II"}
            if kind in layout:
                width = struct.calcsize(layout[kind])
                entry.extra = [struct.unpack_from(layout[kind], data, at + i * width) for i in range(count)]
                at += count * width
            elif kind in (INT, VAR, DECL_TAG):
                (entry.extra,) = struct.unpack_from("<I", data, at)
                at += 4
            elif kind == ARRAY:
                element, _index, length = struct.unpack_from("<III", data, at)
                entry.extra = (element, length)
                at += 12
            self.types.append(entry)

    def strip(self, number: int) -> _Type:
        """Return the type behind typedefs and qualifiers."""
        entry = self.types[number]
        while entry.kind in MODIFIERS:
            entry = self.types[entry.size_or_type]
        return entry

    def size(self, number: int) -> int:
        """Return the bytes of a type."""
        entry = self.strip(number)
        if entry.kind in (INT, STRUCT, UNION, ENUM, ENUM64, FLOAT):
            return entry.size_or_type
        if entry.kind == PTR:
            return 8
        if entry.kind == ARRAY:
            element, length = entry.extra
            return self.size(element) * int(length)
        raise LayoutError(f"type {number} ({entry.name or entry.kind}) has no size")

    def text(self, offset: int) -> str:
        """Return a string of the string table."""
        return _cut(self._strings, offset)

    def _read_enums(self) -> None:
        for entry in self.types:
            if entry.kind not in (ENUM, ENUM64):
                continue
            values = self.enums.setdefault(entry.name, {})
            for enumerator in entry.extra:
                low = enumerator[1]
                if entry.kind == ENUM64:
                    low |= enumerator[2] << 32
                if entry.flag:  # signed
                    bits = entry.size_or_type * 8
                    low = low - (1 << bits) if low >> (bits - 1) & 1 else low
                values[self.text(enumerator[0])] = low

    def _typedef_chain(self, number: int) -> set[str]:
        names = set()
        while (entry := self.types[number]).kind in MODIFIERS:
            names.add(entry.name)
            number = entry.size_or_type
        return names

    def field(self, name: str, offset: int, number: int, owner: str = "") -> Description:
        """Return name, offset, size, kind, count (0: not an array), and the type's name if it has one."""
        entry = self.strip(number)
        count = 0
        element = number
        while entry.kind == ARRAY:
            element, length = entry.extra
            count = (count or 1) * length
            entry = self.strip(element)
        field: Description = {
            "name": name,
            "offset": offset,
            "size": self.size(number),
            "count": count,
            "kind": "unsigned",
        }
        if entry.kind in (STRUCT, UNION):
            field["kind"] = "struct" if entry.kind == STRUCT else "union"
            field["type"] = self._struct(entry, entry.name or f"{owner}.{name}".lstrip("."))
        elif entry.kind == INT:
            if entry.extra >> 24 & SIGNED:
                field["kind"] = "signed"
            if self._typedef_chain(element) & {"__be16", "__be32", "__be64"}:
                field["network_order"] = True
        elif entry.kind in (ENUM, ENUM64):
            field["kind"] = "signed" if entry.flag else "unsigned"
            field["enum"] = entry.name
        elif entry.kind == PTR:
            field["kind"] = "pointer"
        elif entry.kind == FWD:
            raise LayoutError(f"{owner}.{name}: its type is declared but not defined")
        return field

    def _struct(self, entry: Any, name: str) -> str:
        if name in self.structs:
            return name
        description: Description = {"size": entry.size_or_type, "fields": []}
        self.structs[name] = description
        description["fields"] = self._members(entry, name, 0)
        return name

    def _members(self, entry: Any, owner: str, base: int) -> list[Description]:
        fields: list[Description] = []
        for label, member, position in entry.extra:
            bits = position >> 24 if entry.flag else 0
            bit_offset = position & 0xFFFFFF if entry.flag else position
            name = self.text(label)
            if bits or bit_offset % 8:
                raise LayoutError(f"{owner}.{name}: bit-fields are not allowed in a structure that Python reads")
            offset = base + bit_offset // 8
            inner = self.strip(member)
            if not name and inner.kind in (STRUCT, UNION):
                fields += self._members(inner, owner, offset)
            else:
                fields.append(self.field(name, offset, member, owner))
        return fields
