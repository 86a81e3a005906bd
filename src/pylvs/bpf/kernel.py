"""What this kernel and this machine have: version, types, clock, memory; and the size of table that follows."""

from __future__ import annotations

import os
import time

from pylvs.bpf import libbpf
from pylvs.model.errors import Unsupported

OLDEST = (6, 1)
TYPES = "/sys/kernel/btf/vmlinux"
_BYTES_OF_MEMORY_PER_CONNECTION = 16 << 10  # as conntrack reckons
FEWEST_CONNECTIONS, MOST_CONNECTIONS = 16384, 262144
_UNLIMITED = 1 << 62


def release() -> tuple[int, int]:
    """Version and patch level of the running kernel."""
    import re  # late: only to make the tables asks for the version

    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def require() -> None:
    """Raises Unsupported, naming what is missing, where the data plane cannot run."""
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
    """HZ, which the kernel tells as the resolution of its coarse clock."""
    return round(1 / time.clock_getres(6))  # CLOCK_MONOTONIC_COARSE


def local_ports() -> tuple[int, int]:
    """First and last of the ports that this network namespace gives to its own connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low, high = file.read().split()
    return int(low), int(high)


def possible_cpus() -> int:
    """How many processors there may ever be: the values of an element of a per-CPU map."""
    return libbpf.possible_cpus()


def memory_total() -> int:
    """Bytes of memory of the machine."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) << 10
    raise Unsupported("/proc/meminfo does not tell MemTotal")


def memory_limit() -> int:
    """Bytes that this process and its maps may take: the least of the machine's and its control groups' limits."""
    return min([memory_total(), *_group_limits()])


def _group_limits() -> list[int]:
    """The limits of this process's control group and all above it, of both versions."""
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
    """Mount point, and the part of the hierarchy it shows, of each cgroup file system of a kind."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            place, _, what = line.partition(" - ")
            words, described = place.split(), what.split()
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
    """The connections that the table holds unless told otherwise: one for each 16 KiB of memory, within bounds."""
    fitting = memory_limit() // _BYTES_OF_MEMORY_PER_CONNECTION
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, fitting))
