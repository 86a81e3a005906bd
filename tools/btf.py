"""Reads BTF out of an eBPF object file: the layout of every map, structure and read-only variable.

Used when the object is built; what it finds is stored beside the object and read back by `abi`.
Format: Documentation/bpf/btf.rst of the kernel; ELF of 64 bits, little-endian.
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
_SYMBOL_TABLE = 2  # SHT_SYMTAB
_NO_BITS = 8  # SHT_NOBITS: .bss
SIGNED = 1  # BTF_INT_SIGNED

MAP_TYPES = {
    1: "hash",
    2: "array",
    3: "prog_array",
    4: "perf_event_array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    10: "lru_percpu_hash",
    11: "lpm_trie",
    12: "array_of_maps",
    13: "hash_of_maps",
    14: "devmap",
    22: "queue",
    23: "stack",
    25: "devmap_hash",
    27: "ringbuf",
    30: "bloom_filter",
}


class LayoutError(ValueError):
    """The object's BTF has something that the tools cannot express; the text names it."""


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    link: int
    data: bytes
    size: int


@dataclass(slots=True)
class _Type:
    kind: int
    name: str
    size_or_type: int
    flag: bool
    extra: Any = None  # members, values, variables, the integer's encoding, the array's (type, count)


def _cut(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


class Elf:
    """Sections and symbols of an ELF object; ValueError for anything else."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a little-endian 64-bit ELF file")
        (offset,) = struct.unpack_from("<Q", data, 0x28)
        entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * entry_size) for i in range(count)]
        self.sections: list[_Section] = []
        strings = headers[names]
        table = data[strings[4] : strings[4] + strings[5]]
        for name, kind, _flags, _address, start, size, link, _info, _align, _entry in headers:
            body = b"" if kind == _NO_BITS else data[start : start + size]
            self.sections.append(_Section(_cut(table, name), kind, link, body, size))

    def section(self, name: str) -> _Section | None:
        """The section of this name, if there is one."""
        return next((each for each in self.sections if each.name == name), None)

    def symbols(self, section_name: str) -> dict[str, tuple[int, int]]:
        """Offset and size of each symbol in a section."""
        found: dict[str, tuple[int, int]] = {}
        for section in self.sections:
            if section.kind != _SYMBOL_TABLE:
                continue
            strings = self.sections[section.link].data
            for name, _info, _other, index, value, size in struct.iter_unpack("<IBBHQQ", section.data):
                if index < len(self.sections) and self.sections[index].name == section_name and name:
                    found[_cut(strings, name)] = (value, size)
        return found


class Btf:
    """The types of one object file."""

    def __init__(self, elf: Elf) -> None:
        section = elf.section(".BTF")
        if section is None:
            raise ValueError("no .BTF section: compile with -g")
        self.elf = elf
        magic, _version, _flags, header, types, types_size, strings, strings_size = struct.unpack_from(
            "<HBBIIIII", section.data
        )
        if magic != 0xEB9F:
            raise ValueError("the .BTF section does not begin with BTF's magic number")
        self._strings = section.data[header + strings : header + strings + strings_size]
        self.types: list[_Type] = [_Type(0, "void", 0, False)]
        self._read(section.data[header + types : header + types + types_size])

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
        """The type behind typedefs and qualifiers."""
        entry = self.types[number]
        while entry.kind in MODIFIERS:
            entry = self.types[entry.size_or_type]
        return entry

    def size(self, number: int) -> int:
        """Bytes of a type."""
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
        """A string of the string table."""
        return _cut(self._strings, offset)
