"""Facts about kernel and machine (version, BTF, clock, memory), and calls of bpf(2) on maps, programs and links."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time

from pylvs.bpf.libbpf import check, library
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.system import syscalls

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")

OLDEST = (6, 1)
TYPES = "/sys/kernel/btf/vmlinux"
# Of memory, for one connection: a table takes a 32nd of it.
_BYTES_PER_CONNECTION = 4 << 10
_AVAILABLE_BYTES_PER_CONNECTION = 2 << 10  # of available memory, for many namespaces
FEWEST_CONNECTIONS, MOST_CONNECTIONS = 16384, 1 << 22  # more would make the first edit slow: memory is zeroed
CONNECTIONS = "PYLVS_CONN_MAX"  # environment variable: the capacity of tables that this process makes
_UNLIMITED = 1 << 62
PROG_TYPE_SCHED_CLS, PROG_TYPE_XDP, PROG_TYPE_SK_LOOKUP, ATTACH_SK_LOOKUP = 3, 6, 30, 36  # linux/bpf.h
_ATTACH_XDP, _XDP_HAS_FRAGS = 37, 1 << 5  # BPF_XDP, BPF_F_XDP_HAS_FRAGS; as libbpf loads a program of "xdp.frags"
_LD_IMM64, _LOAD_WORD, _ADD, _CALL, _MOVE, _EXIT = 0x18, 0x61, 0x07, 0x85, 0xB7, 0x95  # instructions
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _TAIL_CALL = 1, 2, 12
_XDP_PASS, _TC_ACT_UNSPEC = 2, -1
_RUN_TIME = 0  # BPF_STATS_RUN_TIME
_INFO_SIZE = 256
# struct bpf_test_run_opts: sz, data_in, data_out, data_size_in, data_size_out, ctx_in, ctx_out, ctx_size_in,
# ctx_size_out, retval, repeat, duration, flags, cpu, batch_size
TEST_RUN = struct.Struct("@NPPIIPPIIIiIIII")


def release() -> tuple[int, int]:
    """Return version and patch level of the running kernel: (6, 1)."""
    numbers = "".join(each if each.isdigit() else " " for each in os.uname().release).split()
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else (0, 0)


def require() -> None:
    """Raise Unsupported, with what is missing, if the programs cannot run on this kernel."""
    if release() < OLDEST:
        raise Unsupported(
            f"kernel {os.uname().release} is too old: Linux {'.'.join(map(str, OLDEST))} or newer is needed"
        )
    if not os.path.exists(TYPES):
        raise Unsupported(
            f"kernel {os.uname().release} has no BTF ({TYPES} is missing):"
            " one built with CONFIG_DEBUG_INFO_BTF is needed"
        )


def ticks_per_second() -> int:
    """Return HZ, by the resolution of the kernel's coarse clock."""
    return round(1 / time.clock_getres(6))  # CLOCK_MONOTONIC_COARSE


def local_ports() -> tuple[int, int]:
    """Return the first and the last ephemeral port of this network namespace."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = file.read().split()
    return int(low), int(high)


def first_unprivileged_port() -> int:
    """Return the first port of this network namespace that needs no privilege."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        return int(file.read())


def memory_total() -> int:
    """Return the machine's memory in bytes."""
    return _memory("MemTotal")


def memory_available() -> int:
    """Return the bytes that programs can get now without swapping."""
    return _memory("MemAvailable")


def _memory(name: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    raise Unsupported(f"/proc/meminfo does not tell {name}")


def memory_limit() -> int:
    """Return the memory in bytes that this process and its maps may use, by machine and control groups."""
    return min([memory_total(), *_group_limits()])


def _group_limits() -> list[int]:
    """Return the limits of this process's control group and its parents, of cgroup v1 and v2."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    for _number, controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        limit_file = "memory.limit_in_bytes" if controllers else "memory.max"
        for mount, mounted in _group_mounts("cgroup" if controllers else "cgroup2", "memory" if controllers else ""):
            inner = os.path.relpath(path, mounted) if path.startswith(mounted) else "."
            directory = os.path.normpath(os.path.join(mount, inner))
            while directory.startswith(mount):
                found += _number_in(os.path.join(directory, limit_file))
                directory = os.path.dirname(directory)
    return found


def _group_mounts(kind: str, option: str) -> list[tuple[str, str]]:
    """Return each cgroup mount of a kind: its mount point, and the root of the mount in the hierarchy."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            mount, _, what = line.partition(" - ")
            words, described = mount.split(), what.split()
            if described[0] == kind and (not option or option in described[2].split(",")):
                found.append((words[4], words[3]))
    return found


def _number_in(path: str) -> list[int]:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() and int(text) < _UNLIMITED else []


def connection_limit() -> int:
    """Return the default capacity of the connection table, a power of two, by the memory of the machine.

    The environment may name another one. Raises InvalidOperation.
    """
    given = os.environ.get(CONNECTIONS)
    if given:
        from pylvs.model.settings import parse_setting  # late: most edits make no table

        if connections := parse_setting(f"conn_max={given}")[1]:
            return connections
    fitting = min(memory_limit() // _BYTES_PER_CONNECTION, memory_available() // _AVAILABLE_BYTES_PER_CONNECTION)
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, 1 << max(fitting.bit_length() - 1, 0)))


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The kernel's information on a map."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """The kernel's information on a program."""

    type: int
    id: int
    name: str
    map_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """The number of a program's runs while the kernel had run statistics on, and their total time."""

    runs: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a test run; `duration_ns` is the mean of one round."""

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
    """Return type, sizes and name of a map."""
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    kind, number, key, value, entries, flags, name = struct.unpack_from("<6I16s", buffer)
    return MapInfo(kind, number, key, value, entries, flags, _name(name))


def map_by_id(number: int) -> int:
    """Return a new descriptor of a map. The caller closes it."""
    return check(library().bpf_map_get_fd_by_id(number), f"opening map {number}")


def map_types(descriptor: int) -> tuple[int, int, int]:
    """Return the id of a map's BTF, and there the types of its keys and its values; 0 for what it has not."""
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    number, key, value = struct.unpack_from("<3I", buffer, 64)
    return number, key, value


def read_btf(number: int) -> bytes:
    """Return a block of BTF by its id. Raises NotPermitted without CAP_SYS_ADMIN."""
    descriptor = check(library().bpf_btf_get_fd_by_id(number), f"opening BTF {number}")
    try:
        buffer = ctypes.create_string_buffer(_INFO_SIZE)  # struct bpf_btf_info: btf, btf_size, id
        _info(descriptor, buffer)
        data = ctypes.create_string_buffer(struct.unpack_from("<I", buffer, 8)[0])
        buffer = ctypes.create_string_buffer(struct.pack("<QI", ctypes.addressof(data), len(data)), _INFO_SIZE)
        _info(descriptor, buffer)
        return data.raw
    finally:
        os.close(descriptor)


def program_info(descriptor: int) -> ProgramInfo:
    """Return type, name and maps of a program."""
    # struct bpf_prog_info: type, id, tag[8], lengths and addresses of the code, load_time, uid, nr_map_ids, map_ids
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    kind, number = struct.unpack_from("<II", buffer)
    (count,) = struct.unpack_from("<I", buffer, 52)
    name = _name(struct.unpack_from("<16s", buffer, 64)[0])
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    ids = (ctypes.c_uint32 * max(count, 1))()
    struct.pack_into("<IQ", buffer, 52, count, ctypes.addressof(ids))
    _info(descriptor, buffer)
    return ProgramInfo(kind, number, name, tuple(ids[:count]))


def program_runs(descriptor: int) -> Runs:
    """Return a program's run statistics of all CPUs, which count only after `keep_run_statistics`."""
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
    raise syscalls.failure(number, "turning on the statistics of eBPF programs", needed=("CAP_SYS_ADMIN",))


def link_netns(descriptor: int) -> int:
    """Return the inode of the network namespace of a link; 0 after the namespace is gone."""
    # struct bpf_link_info: type, id, prog_id, (4 bytes of padding), then for a namespace: netns_ino, attach_type
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    _info(descriptor, buffer)
    return int(struct.unpack_from("<I", buffer, 16)[0])


def program_by_id(number: int) -> int:
    """Return a new descriptor of a loaded program. The caller closes it."""
    return check(library().bpf_prog_get_fd_by_id(number), f"opening program {number}")


def describe_program(number: int) -> ProgramInfo:
    """Return the information on a program by its id."""
    descriptor = program_by_id(number)
    try:
        return program_info(descriptor)
    finally:
        os.close(descriptor)


def load_instructions(kind: int, name: str, code: bytes, expected_attach_type: int = 0, flags: int = 0) -> int:
    """Load a program from instructions, and return its descriptor. The caller closes it."""
    # struct bpf_prog_load_opts: sz, attempts, expected_attach_type, prog_btf_fd, prog_flags, ... (`sz` omits the rest)
    options = ctypes.create_string_buffer(struct.pack("<QIIII", 24, 0, expected_attach_type, 0, flags), 24)
    instructions = ctypes.create_string_buffer(code, len(code))
    count = len(code) // 8
    done = library().bpf_prog_load(kind, name.encode(), b"GPL", instructions, count, options)
    return check(done, f"loading program {name}")


def load_switch(is_xdp: bool, programs: int, selected: int, first: int) -> int:
    """Load a program that only tail-calls, and return its descriptor. The caller closes it.

    It calls program number `first` + N of the program array, where N is the first value of the array `selected`.
    """

    def load_address(register: int, pseudo: int, descriptor: int) -> bytes:
        return struct.pack("<BBhi", _LD_IMM64, pseudo << 4 | register, 0, descriptor) + bytes(8)

    code = (
        load_address(2, _PSEUDO_MAP_FD, programs)
        + load_address(4, _PSEUDO_MAP_VALUE, selected)
        + struct.pack("<BBhi", _LOAD_WORD, 4 << 4 | 3, 0, 0)  # r3 = *r4
        + struct.pack("<BBhi", _ADD, 3, 0, first)
        + struct.pack("<BBhi", _CALL, 0, 0, _TAIL_CALL)
        + struct.pack("<BBhi", _MOVE, 0, 0, _XDP_PASS if is_xdp else _TC_ACT_UNSPEC)
        + struct.pack("<BBhi", _EXIT, 0, 0, 0)
    )
    if is_xdp:
        return load_instructions(PROG_TYPE_XDP, "pylvs_switch", code, _ATTACH_XDP, _XDP_HAS_FRAGS)
    return load_instructions(PROG_TYPE_SCHED_CLS, "pylvs_switch", code)


def create_link(program: int, target: int, attach_type: int) -> int:
    """Attach a program by a link, and return its descriptor. The caller closes it."""
    return check(library().bpf_link_create(program, target, attach_type, None), "attaching a link")


def run_program(program: int, data: bytes, context: bytes = b"", repeat: int = 1, flags: int = 0) -> Run:
    """Run a program on one packet, `repeat` times, without a network (BPF_PROGTEST_RUN)."""
    width, length = len(context), len(data)
    # One block has the options, the context before and after, the packet, and the result with headers that are added.
    before = TEST_RUN.size
    after = before + width
    source = after + width
    out = source + length
    block = bytearray(out + length + 1024)
    block[before:after] = context
    block[source:out] = data
    at = ctypes.addressof(ctypes.c_char.from_buffer(block))
    contexts = (at + before, at + after) if context else (0, 0)
    ends = (at + source, at + out, length, len(block) - out, *contexts, width, width)
    TEST_RUN.pack_into(block, 0, TEST_RUN.size, *ends, 0, repeat, 0, flags, 0, 0)
    check(library().bpf_prog_test_run_opts(program, at), "running a program on a made-up packet")
    _, _, _, _, length, _, _, _, width, verdict, _, duration_ns, *_ = TEST_RUN.unpack_from(block)
    return Run(verdict, bytes(block[out : out + length]), bytes(block[after : after + width]), duration_ns)


def uninterrupted(run: Callable[[], Result]) -> Result:
    """Return the result of a function that runs a program repeatedly.

    Any signal interrupts the kernel, also one without a handler, such as when a stopped process continues. Then the
    function is called again.
    """
    while True:
        try:
            return run()
        except PylvsError as error:
            if error.errno != errno.EINTR:
                raise
