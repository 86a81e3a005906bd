"""tcpdump's filter language, compiled by libpcap to the instructions of classic BPF."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_uint8, c_uint16, c_uint32, c_void_p
from functools import cache
from typing import NamedTuple

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, Unsupported

SONAMES = ("libpcap.so.0.8", "libpcap.so.1")  # Debian and Ubuntu; others
DLT_EN10MB = 1  # Ethernet
_SNAP = 0x40000  # what a matching program returns; `pylvs trace` only tests for 0
_NETMASK_UNKNOWN = 0xFFFFFFFF
LONGEST_EXPRESSION = 8 << 10  # bytes; the optimizer of libpcap takes the square of the length
_JUMP_ALWAYS = 0x05  # BPF_JMP | BPF_JA
_BACKWARDS = 1 << 31


class BadFilter(PylvsError):
    """A filter does not compile; the text has libpcap's words."""


class Instruction(NamedTuple):
    """struct bpf_insn of classic BPF."""

    code: int
    jt: int
    jf: int
    k: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. Without instructions every frame matches."""

    expression: str
    instructions: tuple[Instruction, ...]


class _Instruction(ctypes.Structure):
    _fields_ = (("code", c_uint16), ("jt", c_uint8), ("jf", c_uint8), ("k", c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("count", c_uint), ("instructions", POINTER(_Instruction)))


_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "pcap_open_dead": (c_void_p, (c_int, c_int)),
    "pcap_close": (None, (c_void_p,)),
    "pcap_compile": (c_int, (c_void_p, POINTER(_Program), c_char_p, c_int, c_uint32)),
    "pcap_freecode": (None, (POINTER(_Program),)),
    "pcap_geterr": (c_char_p, (c_void_p,)),
}


@cache
def _library() -> ctypes.CDLL:
    for name in SONAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function_name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, function_name)
            function.restype, function.argtypes = result, arguments
        return library
    raise Unsupported(
        "there is no libpcap, which compiles filters; install it: apt install libpcap0.8 (Debian, Ubuntu),"
        " dnf install libpcap (Fedora). Without a filter it is not needed"
    )


def compile_filter(expression: str) -> Filter:
    """Compile an expression of pcap-filter(7) for Ethernet frames. Raises BadFilter, and Unsupported without libpcap.

    Names of hosts are resolved, as by tcpdump.
    """
    if not expression.strip():
        return Filter("", ())
    text = expression.encode("utf-8", "surrogateescape")
    if len(text) > LONGEST_EXPRESSION:
        raise BadFilter(f"the filter has {len(text)} bytes, at most {LONGEST_EXPRESSION} are possible")
    if b"\0" in text:
        raise BadFilter("the filter contains a zero byte")
    library = _library()
    handle = library.pcap_open_dead(DLT_EN10MB, _SNAP)
    if not handle:
        raise MemoryError("libpcap gets no memory")
    program = _Program()
    try:
        if library.pcap_compile(handle, byref(program), text, 1, _NETMASK_UNKNOWN) != 0:
            words = library.pcap_geterr(handle).decode("utf-8", "replace")
            raise BadFilter(f"filter '{expression}': {words}; see man pcap-filter")
        try:
            found = tuple(Instruction(*_fields(program.instructions[at])) for at in range(program.count))
        finally:
            library.pcap_freecode(byref(program))
    finally:
        library.pcap_close(handle)
    if any(each.code == _JUMP_ALWAYS and each.k >= _BACKWARDS for each in found):
        raise BadFilter(f"filter '{expression}': protochain needs a loop, which no BPF program may have; write proto")
    return Filter(expression, found)


def _fields(instruction: _Instruction) -> tuple[int, int, int, int]:
    return instruction.code, instruction.jt, instruction.jf, instruction.k
