"""Codecs agree with what the program's BTF says, and with what the program itself reads and writes."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.bpf import kernel
from pylvs.bpf.abi import OBJECTS, Abi
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import MmapArray, PerCpuArray
from pylvs.model.errors import Unsupported
from tests.unit.calls import calls_of
from tools import layout


@pytest.fixture(scope="module")
def abi(objects: Path) -> Abi:
    return Abi(str(objects))


def test_a_structure_is_packed_and_unpacked(abi: Abi) -> None:
    record = abi.struct("record")
    raw = record.pack({"peer.port": socket.htons(80), "peer.tag": b"ab", "pair.high": 9}, v6=(1, 2, 3, 4), delta=-5)
    assert len(raw) == record.size == 64
    assert raw[20:22] == b"\x00\x50"
    values = record.unpack_from(b"xx" + raw, 2)
    assert values["v4"] == 1, "a union's members share their bytes"
    assert values["v6"] == (1, 2, 3, 4)
    assert (values["peer.tag"], values["delta"], values["pair.high"], values["pair.low"]) == (b"ab", -5, 9, 0)
    assert values["trail"] == bytes(16)


def test_bytes_serve_for_any_field_and_pad_with_zeros(abi: Abi) -> None:
    peer = abi.struct("peer")
    assert peer.pack(address=b"\x0a\x00\x00\x01", tag=b"z") == b"\x0a\x00\x00\x01\x00\x00z\x00"
    assert abi.struct("record").pack(peer=peer.pack(port=7))[16:24] == peer.pack(port=7)


def test_what_does_not_fit_is_refused_with_the_fields_name(abi: Abi) -> None:
    peer = abi.struct("peer")
    for value in (-1, 1 << 16, b"abc", "80"):
        with pytest.raises(ValueError, match="port"):
            peer.pack(port=value)
    with pytest.raises(KeyError, match="no field prot"):
        peer.pack(prot=80)


def test_writing_some_fields_leaves_the_others_alone(abi: Abi) -> None:
    record = abi.struct("record")
    buffer = bytearray(b"\xff" * 64)
    record.pack_into(buffer, 0, seen=0)
    assert buffer == b"\xff" * 24 + bytes(8) + b"\xff" * 32


def test_a_view_reads_chosen_fields_of_many_structures(abi: Abi) -> None:
    record = abi.struct("record")
    view = record.view("v4:4s", "peer.port", "seen", "delta")
    assert view.size == record.size
    raw = b"".join(record.pack({"peer.port": i}, v4=b"\x7f\0\0\1", seen=i * i, delta=-i) for i in range(5))
    assert list(view.iter_unpack(raw)) == [(b"\x7f\0\0\1", i, i * i, -i) for i in range(5)]
    for wrong in (("seen", "v4"), ("v4", "v6"), ("v4:8s",)):
        with pytest.raises(ValueError, match="record"):
            record.view(*wrong)


def test_constants_maps_and_variables_are_found_by_name(abi: Abi) -> None:
    assert abi.constant("ABI_NUMBER") == 7
    assert abi.enum("sign")["BELOW"] == -1
    assert abi.objects["small"]["maps"]["records"]["max_entries"] == 128
    assert abi.variable("small", "step")[0] == ".rodata"
    with pytest.raises(KeyError, match="no variable nothing"):
        abi.variable("small", "nothing")


def test_variables_set_by_name_are_what_the_program_reads(abi: Abi, small: BpfObject) -> None:
    abi.set_variables(small, {"step": 4, "chosen": {"rounds": 11, "number": 7}})
    small.load()
    kernel.run_program(small.program_fd("small_xdp"), bytes(64), repeat=3)
    assert PerCpuArray.duplicate(small.map_fd("hits")).sums(0) == (12,)
    with MmapArray.duplicate(small.map_fd("words")) as words:
        assert words.words[0] == 33


def test_a_codecs_sizes_are_those_of_the_loaded_maps(abi: Abi, small: BpfObject) -> None:
    small.load()
    for name, declared in abi.objects["small"]["maps"].items():
        info = kernel.map_info(small.map_fd(name))
        assert (info.key_size, info.value_size) == (declared["key_size"], declared["value_size"]), name


def test_the_error_for_objects_that_were_not_built_names_how_to_build_them(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"python hatch_build\.py"):
        Abi(str(tmp_path))


def test_reading_the_description_builds_nothing_that_is_not_asked_for(objects: Path) -> None:
    """Every command reads the description and builds a codec for each structure that it uses.

    The test counts calls, which are the same on every machine. The bench measures the time of commands.
    """
    description = Abi(str(objects))
    assert calls_of(lambda: Abi(str(objects))) < 100
    once = calls_of(lambda: description.struct("record"))
    assert calls_of(lambda: description.struct("record")) < once


@pytest.mark.parametrize("structure", ["root", "facts", "settings"])
def test_the_digest_of_the_tables_covers_the_variables_that_builds_share(structure: str) -> None:
    whole = json.loads(Path(OBJECTS, "abi.json").read_text())
    before = layout.tables(whole, "director")
    assert before == whole["objects"]["director"]["tables"]
    first, second = whole["structs"][structure]["fields"][:2]
    first["name"], second["name"] = second["name"], first["name"]
    assert layout.tables(whole, "director") != before


def test_importing_it_brings_no_heavy_module() -> None:
    source = str(Path(__file__).resolve().parents[3] / "src")
    script = "import sys; import pylvs.bpf.abi, pylvs.bpf.maps; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert not {"click", "rich", "asyncio", "logging", "subprocess"} & set(done.stdout.split())


def test_a_zeroed_structure_is_all_zeros(abi: Abi) -> None:
    for name in abi.structures:
        codec = abi.struct(name)
        assert codec.pack() == bytes(codec.size)
        assert struct.calcsize(codec.view().format) == codec.size
