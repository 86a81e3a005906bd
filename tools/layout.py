"""Turns the BTF of the object files into the description of their maps that Python reads (`abi.json`, `abi.txt`).

Runs when the objects are built, never at run time. Bit-fields are refused: two readers would disagree about them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs.bpf.abi import format_of
from tools import btf
from tools.btf import Btf, Elf, LayoutError

Description = dict[str, Any]
_SIZES = ("max_entries", "map_flags", "key_size", "value_size", "map_extra", "numa_node", "pinning")


class Layout:
    """Collects the structures, enumerations, maps and variables of one object."""

    def __init__(self, data: bytes) -> None:
        self._btf = Btf(Elf(data))
        self.structs: Description = {}
        self.enums: Description = {}
        self.maps: Description = {}
        self.variables: Description = {}
        self._read_sections()
        self._read_enums()

    def _read_sections(self) -> None:
        for entry in self._btf.types:
            if entry.kind != btf.DATASEC:
                continue
            if entry.name == ".maps":
                for number, _offset, _size in entry.extra:
                    variable = self._btf.types[number]
                    self.maps[variable.name] = self._map(variable.name, variable.size_or_type)
            elif entry.name.startswith((".rodata", ".data", ".bss")):
                self.variables[entry.name] = self._section(entry)

    def _section(self, entry: Any) -> Description:
        symbols = self._btf.elf.symbols(entry.name)  # the compiler leaves the offsets in BTF at 0
        variables = {}
        for number, _offset, _size in entry.extra:
            variable = self._btf.types[number]
            if variable.name in symbols:
                field = self._field(variable.name, symbols[variable.name][0], variable.size_or_type)
                variables[variable.name] = field
        return variables

    def _read_enums(self) -> None:
        for entry in self._btf.types:
            if entry.kind not in (btf.ENUM, btf.ENUM64):
                continue
            values = self.enums.setdefault(entry.name, {})
            for enumerator in entry.extra:
                low = enumerator[1]
                if entry.kind == btf.ENUM64:
                    low |= enumerator[2] << 32
                if entry.flag:  # signed
                    bits = entry.size_or_type * 8
                    low = low - (1 << bits) if low >> (bits - 1) & 1 else low
                values[self._btf.text(enumerator[0])] = low

    def _map(self, name: str, number: int) -> Description:
        entry = self._btf.strip(number)
        found: Description = {"type": "", "key_size": 0, "value_size": 0, "max_entries": 0, "map_flags": 0}
        for offset, member, _bits in entry.extra:
            label = self._btf.text(offset)
            if label == "values":
                pointed = self._btf.strip(self._btf.strip(member).extra[0]).size_or_type
                if self._btf.strip(pointed).kind == btf.STRUCT:
                    found["inner"] = self._map(f"{name}.inner", pointed)
                found["value_size"] = found["value_size"] or 4
                continue
            pointed = self._btf.strip(member).size_or_type
            if label in ("key", "value"):
                found[f"{label}_size"] = self._btf.size(pointed)
                found[label] = self._field(label, 0, pointed)
            elif label == "type":
                kind = self._btf.strip(pointed).extra[1]
                found["type"] = btf.MAP_TYPES.get(kind, str(kind))
            elif label in _SIZES:
                found[label] = self._btf.strip(pointed).extra[1]
        return found

    def _typedef_chain(self, number: int) -> set[str]:
        names = set()
        while (entry := self._btf.types[number]).kind in btf.MODIFIERS:
            names.add(entry.name)
            number = entry.size_or_type
        return names

    def _field(self, name: str, offset: int, number: int, owner: str = "") -> Description:
        """Name, offset, size, kind, count (0: not an array), and the type's name where it has one."""
        entry = self._btf.strip(number)
        count = 0
        element = number
        while entry.kind == btf.ARRAY:
            element, length = entry.extra
            count = (count or 1) * length
            entry = self._btf.strip(element)
        field: Description = {
            "name": name,
            "offset": offset,
            "size": self._btf.size(number),
            "count": count,
            "kind": "unsigned",
        }
        if entry.kind in (btf.STRUCT, btf.UNION):
            field["kind"] = "struct" if entry.kind == btf.STRUCT else "union"
            field["type"] = self._struct(entry, entry.name or f"{owner}.{name}".lstrip("."))
        elif entry.kind == btf.INT:
            if entry.extra >> 24 & btf.SIGNED:
                field["kind"] = "signed"
            if self._typedef_chain(element) & {"__be16", "__be32", "__be64"}:
                field["network_order"] = True
        elif entry.kind in (btf.ENUM, btf.ENUM64):
            field["kind"] = "signed" if entry.flag else "unsigned"
            field["enum"] = entry.name
        elif entry.kind == btf.PTR:
            field["kind"] = "pointer"
        elif entry.kind == btf.FWD:
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
            name = self._btf.text(label)
            if bits or bit_offset % 8:
                raise LayoutError(f"{owner}.{name}: bit-fields are not allowed in a structure that Python reads")
            offset = base + bit_offset // 8
            inner = self._btf.strip(member)
            if not name and inner.kind in (btf.STRUCT, btf.UNION):
                fields += self._members(inner, owner, offset)
            else:
                fields.append(self._field(name, offset, member, owner))
        return fields


_SCRATCH = ("works", "stages_xdp", "stages_tc", "copies")  # of no meaning to another pylvs
_PRIVATE = ("abi", "prog")
_SHARED_SECTIONS = ".data."


def digest(data: bytes) -> str:
    """What tells one content from another."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def tables(whole: Description, of: str) -> str:
    """A digest of all that two pylvs must agree on to share the tables of an object: maps, structures, numbers.

    Variables in a section `.data.NAME` are a map, too, which the loader pins; other sections belong to each load.
    """
    maps = {name: each for name, each in whole["objects"][of]["maps"].items() if name not in _SCRATCH}
    structures: Description = {}
    names = [each[part].get("type", "") for each in maps.values() for part in ("key", "value") if part in each]
    sections = whole["objects"][of]["variables"]
    shared = {name: each for name, each in sections.items() if name.startswith(_SHARED_SECTIONS)}
    names += [field.get("type", "") for each in shared.values() for field in each.values()]
    while names:
        name = names.pop()
        if name and name not in structures:
            structures[name] = whole["structs"][name]
            names += [field.get("type", "") for field in structures[name]["fields"]]
    numbers = {name: values for name, values in whole["enums"].items() if name not in _PRIVATE}
    parts = [maps, structures, numbers, *([shared] if shared else [])]
    return digest(json.dumps(parts, sort_keys=True).encode())


def describe(objects: Mapping[str, bytes]) -> Description:
    """The description of several objects; LayoutError where two disagree about a structure or an enumeration."""
    whole: Description = {"structs": {}, "enums": {}, "objects": {}}
    for name, data in sorted(objects.items()):
        layout = Layout(data)
        for section, found in (("structs", layout.structs), ("enums", layout.enums)):
            for label, description in found.items():
                known = whole[section].setdefault(label, description)
                if not label:
                    known.update(description)  # enumerations without a name share one list
                elif known != description:
                    raise LayoutError(f"{name}: {label} differs from that of another object")
        whole["objects"][name] = {"maps": layout.maps, "variables": layout.variables, "digest": digest(data)}
    for name, found in whole["objects"].items():
        found["tables"] = tables(whole, name)
    return whole


def lines(whole: Description) -> str:
    """What every command reads of a description: structures, enumerations, digests."""
    found = []
    for name, structure in whole["structs"].items():
        fields = [
            f"{each['name']}:{each['offset']}:{each['size']}:{format_of(each)}:{each['count']}:{each.get('type', '')}"
            for each in structure["fields"]
        ]
        found.append(["struct", name, str(structure["size"]), *fields])
    for name, values in whole["enums"].items():
        found.append(["enum", name or "-", *(f"{label}={value}" for label, value in values.items())])
    found += [["object", name, each["digest"], each["tables"]] for name, each in whole["objects"].items()]
    return "".join(" ".join(words) + "\n" for words in sorted(found))


def write(directory: Path) -> Path:
    """Describe every object in a directory in `abi.json` and `abi.txt` beside them."""
    suffix = ".bpf.o"
    objects = {each.name.removesuffix(suffix): each.read_bytes() for each in directory.glob(f"*{suffix}")}
    target = directory / "abi.json"
    whole = describe(objects)
    target.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    target.with_suffix(".txt").write_text(lines(whole))
    return target
