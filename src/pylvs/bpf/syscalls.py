"""Calls of bpf(2) that are not about one kind of map: information, links, and running a program on made-up packets."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from pylvs.bpf.libbpf import check, library
from pylvs.model.dataclass import dataclass
from pylvs.system import kernel_errors

# linux/bpf.h
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
PROG_TYPE_SK_LOOKUP = 30
ATTACH_SK_LOOKUP = 36

_INFO_SIZE = 256
_RUN_TIME = 0  # BPF_STATS_RUN_TIME


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program; `tag` is a digest of its instructions."""

    type: int
    id: int
    tag: str
    name: str
    map_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """How often a program ran while the kernel kept run statistics, and how long that took in all."""

    runs: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did to a made-up packet; `duration_ns` is the mean of one round."""

    verdict: int
    data: bytes
    context: bytes
    duration_ns: int


def _info(descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    size = ctypes.c_uint32(len(buffer))
    check(library().bpf_obj_get_info_by_fd(descriptor, buffer, ctypes.byref(size)), "asking the kernel for information")


def _name(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def map_info(descriptor: int) -> MapInfo:
    """Type, sizes and name of a map."""
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    kind, number, key, value, entries, flags, name = struct.unpack_from("<6I16s", buffer)
    return MapInfo(kind, number, key, value, entries, flags, _name(name))


def program_info(descriptor: int) -> ProgramInfo:
    """Type, tag, name and maps of a program."""
    # struct bpf_prog_info: type, id, tag[8], jited and xlated lengths and places, load_time, uid, nr_map_ids, map_ids
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    kind, number, tag = struct.unpack_from("<II8s", buffer)
    (count,) = struct.unpack_from("<I", buffer, 52)
    name = _name(struct.unpack_from("<16s", buffer, 64)[0])
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    ids = (ctypes.c_uint32 * max(count, 1))()
    struct.pack_into("<IQ", buffer, 52, count, ctypes.addressof(ids))
    _info(descriptor, buffer)
    return ProgramInfo(kind, number, tag.hex(), name, tuple(ids[:count]))


def program_runs(descriptor: int) -> Runs:
    """A program's run statistics, of all processors; they stand still unless `keep_run_statistics` turned them on."""
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    time_ns, count = struct.unpack_from("<QQ", buffer, 192)
    return Runs(count, time_ns)


def keep_run_statistics() -> int:
    """Let the kernel time every run of every program of the machine until the descriptor is closed.

    Raises NotPermitted without CAP_SYS_ADMIN, Unsupported before Linux 5.8.
    """
    done = library().bpf_enable_stats(_RUN_TIME)
    if done >= 0:
        return int(done)
    number = ctypes.get_errno() or -done
    number = errno.EOPNOTSUPP if number == errno.EINVAL else number
    raise kernel_errors.failure(number, "turning on the statistics of eBPF programs", needed=("CAP_SYS_ADMIN",))


def link_netns(descriptor: int) -> int:
    """The inode of the network namespace a link is attached to; 0 once that namespace is gone."""
    # struct bpf_link_info: type, id, prog_id, (4 bytes of padding), then for a namespace: netns_ino, attach_type
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    return int(struct.unpack_from("<I", buffer, 16)[0])


def program_by_id(number: int) -> int:
    """A new descriptor of a loaded program, the caller's to close."""
    return check(library().bpf_prog_get_fd_by_id(number), f"opening program {number}")


def describe_program(number: int) -> ProgramInfo:
    """Information on a program by its number."""
    descriptor = program_by_id(number)
    try:
        return program_info(descriptor)
    finally:
        os.close(descriptor)


def load_instructions(kind: int, name: str, code: bytes, expected_attach_type: int = 0) -> int:
    """Load a program given as instructions; the descriptor is the caller's to close."""
    # struct bpf_prog_load_opts: sz, attempts, expected_attach_type, ... (the rest may stay out: sz says so)
    options = ctypes.create_string_buffer(struct.pack("<QII", 16, 0, expected_attach_type), 16)
    instructions = ctypes.create_string_buffer(code, len(code))
    count = len(code) // 8
    done = library().bpf_prog_load(kind, name.encode(), b"GPL", instructions, count, options)
    return check(done, f"loading program {name}")


def create_link(program: int, target: int, attach_type: int) -> int:
    """Attach a program by a link (here: to the network namespace `target`); the descriptor is the caller's."""
    return check(library().bpf_link_create(program, target, attach_type, None), "attaching a link")


class _TestOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


def run_program(
    program: int,
    data: bytes,
    context: bytes = b"",
    repeat: int = 1,
    room: int | None = None,
    flags: int = 0,
) -> Run:
    """Run a program on one packet, `repeat` times, without a network (BPF_PROG_TEST_RUN).

    `room` is how long the packet may come out: 1024 bytes longer than it went in unless given.
    """
    options = _TestOptions(sz=ctypes.sizeof(_TestOptions), repeat=repeat, flags=flags)
    source = ctypes.create_string_buffer(data, max(len(data), 1))
    size = len(data) + 1024 if room is None else room
    out = ctypes.create_string_buffer(max(size, 1))
    options.data_in, options.data_size_in = ctypes.addressof(source), len(data)
    options.data_out, options.data_size_out = ctypes.addressof(out), size
    context_in = ctypes.create_string_buffer(context, max(len(context), 1))
    context_out = ctypes.create_string_buffer(max(len(context), 1))
    if context:
        options.ctx_in, options.ctx_size_in = ctypes.addressof(context_in), len(context)
        options.ctx_out, options.ctx_size_out = ctypes.addressof(context_out), len(context)
    check(library().bpf_prog_test_run_opts(program, ctypes.byref(options)), "running a program on a made-up packet")
    return Run(
        options.retval,
        out.raw[: options.data_size_out],
        context_out.raw[: options.ctx_size_out] if context else b"",
        options.duration,
    )
