"""Turns the BTF of the object files into the description of their maps that Python reads (`abi.json`, `abi.txt`).

Runs when the objects are built, never at run time. Bit-fields are refused: two readers would disagree about them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs.bpf import abi, btf
from pylvs.bpf.abi import words_of
from pylvs.bpf.btf import Btf, Description, LayoutError
from tools.elf import Elf

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
_SIZES = ("max_entries", "map_flags", "key_size", "value_size", "map_extra", "numa_node", "pinning")


class Layout:
    """Collects the structures, enumerations, maps and variables of one object."""

    def __init__(self, data: bytes) -> None:
        self._elf = Elf(data)
        section = self._elf.section(".BTF")
        if section is None:
            raise ValueError("no .BTF section: compile with -g")
        self._btf = Btf(section.data)
        self.maps: Description = {}
        self.variables: Description = {}
        self._read_sections()
        self.structs, self.enums = self._btf.structs, self._btf.enums

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
        symbols = self._elf.symbols(entry.name)  # the compiler leaves the offsets in BTF at 0
        variables = {}
        for number, _offset, _size in entry.extra:
            variable = self._btf.types[number]
            if variable.name in symbols:
                field = self._btf.field(variable.name, symbols[variable.name][0], variable.size_or_type)
                variables[variable.name] = field
        return variables

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
                found[label] = self._btf.field(label, 0, pointed)
            elif label == "type":
                kind = self._btf.strip(pointed).extra[1]
                found["type"] = MAP_TYPES.get(kind, str(kind))
            elif label in _SIZES:
                found[label] = self._btf.strip(pointed).extra[1]
        return found


_SCRATCH = ("scratches", "stages_xdp", "stages_tc", "copies", *abi.UNPINNED)  # of no meaning to another pylvs
_TRACED_ENUMS = ("limits", "hook", "verdict", "choice", "known")
# Those of `pylvs trace`, and of copies between directors, belong to a session, which loads the maps, too.
_PRIVATE = ("abi", "prog", "variant", "tracer", "transfer_limits", *(f"trace_{name}" for name in _TRACED_ENUMS))
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
    found = words_of(whole["structs"], whole["enums"])
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
