"""Read sections and symbols of an eBPF object file, and shorten it: ELF of 64 bits, little-endian."""

from __future__ import annotations

import struct

from pylvs.model.dataclass import dataclass

_SYMBOL_TABLE = 2  # SHT_SYMTAB
_NO_BITS = 8  # SHT_NOBITS: .bss
_NO_FILE = (0, _NO_BITS)  # SHT_NULL, SHT_NOBITS: sections without bytes in the file
_HEADER = "<IIQQQQIIQQ"  # Elf64_Shdr
_OFFSET, _SIZE, _ALIGNMENT = 4, 5, 8  # of sh_offset, sh_size, sh_addralign


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    link: int
    data: bytes
    size: int


def _cut(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


class Elf:
    """Sections and symbols of an ELF object; ValueError for anything else."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a little-endian 64-bit ELF file")
        (offset,) = struct.unpack_from("<Q", data, 0x28)
        entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        headers = [struct.unpack_from(_HEADER, data, offset + i * entry_size) for i in range(count)]
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


def without_debug(data: bytes) -> bytes:
    """Return an object without the content of sections that libbpf ignores: two thirds of the compiler's output.

    They are DWARF, and the relocations of DWARF and BTF. Their headers stay, so that no index changes.
    """
    elf = Elf(data)
    (start,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count = struct.unpack_from("<HH", data, 0x3A)
    headers = [list(struct.unpack_from(_HEADER, data, start + i * entry_size)) for i in range(count)]
    result = bytearray(data[:0x40])
    for header, section in zip(headers, elf.sections, strict=True):
        if section.kind in _NO_FILE:
            continue
        content = b"" if section.name.startswith((".debug", ".rel.debug", ".rel.BTF")) else section.data
        result += bytes(-len(result) % max(header[_ALIGNMENT], 1))
        header[_OFFSET], header[_SIZE] = len(result), len(content)
        result += content
    result += bytes(-len(result) % 8)
    struct.pack_into("<Q", result, 0x28, len(result))
    for header in headers:
        result += struct.pack(_HEADER, *header)
    return bytes(result)
