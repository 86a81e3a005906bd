"""The decapsulating program (`realserver.bpf.c`) at the TC ingress of devices.

The filter keeps it alive, so nothing is pinned. A change attaches a new copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pylvs
from pylvs.bpf.kernel import describe_program
from pylvs.bpf.libbpf import BpfObject, check, library
from pylvs.bpf.maps import HashMap, Map, PerCpuArray
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.service import TunnelKind
from pylvs.netlink import tc
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import Device, device, devices
from pylvs.system.undo_log import Memory

OBJECT = Path(pylvs.__file__).parent / "bpf" / "objects" / "realserver.bpf.o"
PROGRAM, VIPS, PORTS, COUNTS = "decapsulate", "vips", "gue_ports", "counts"
ROLE = "realserver"


def attach(
    memory: Memory,
    vips: Mapping[Address, Sequence[TunnelKind]],
    ports: Sequence[int],
    names: Sequence[str],
) -> list[str]:
    """Run the program for these VIPs with their tunnels and these GUE ports; return the changes as lines.

    On each device it replaces the running program atomically. Raises PylvsError.
    """
    done: list[str] = []
    known = [" ".join([str(vip), *(kind.name.lower() for kind in kinds)]) for vip, kinds in vips.items()]
    known += [f"port {port}" for port in ports]
    if known == memory.unwrapped and list(names) == memory.programs and all(counts for _, counts in status(memory)):
        return done
    with _loaded(vips, ports) as program, Netlink() as link:
        for name in names:
            where = device(name)
            fresh = name not in memory.programs
            if fresh:
                memory.programs.append(name)
                memory.save()
            _set(memory, link, where, program)
            if fresh:
                done.append(f"a program at the ingress of {name} unwraps packets")
    memory.unwrapped = known
    return done


def forget_gone(memory: Memory) -> list[str]:
    """Drop devices that were removed or renamed from the undo log; return them as lines."""
    there = {each.name for each in devices()}
    gone = [name for name in memory.programs if name not in there]
    memory.programs[:] = [name for name in memory.programs if name in there]
    memory.qdiscs[:] = [name for name in memory.qdiscs if name in there]
    return [f"{name} is gone, and the program at its ingress" for name in gone]


def detach(memory: Memory) -> list[str]:
    """Detach the program, and remove the clsact that was added for it; return the changes as lines."""
    done = []
    with Netlink() as link:
        for name in memory.programs:
            with contextlib.suppress(PylvsError, NetlinkError):  # the device may be gone, and its filter with it
                where = device(name)
                if tc.remove_filter(link, where.index, tc.INGRESS, ROLE):
                    done.append(f"the program at the ingress of {name} is off")
                if name in memory.qdiscs:
                    tc.remove_clsact(link, where.index)
    memory.programs.clear()
    memory.unwrapped.clear()
    memory.qdiscs.clear()
    return done


class Counts(NamedTuple):
    """Packets since the program was attached, in the order of the program's counters."""

    unwrapped: int
    fragments: int  # outer packets that are fragments: passed to the stack, because the program does not reassemble
    congested: int  # dropped, as RFC 6040 wants
    failed: int
    corrupt: int  # dropped: a checksum of the tunnel was wrong


def status(memory: Memory) -> list[tuple[str, Counts | None]]:
    """Return each device with the counters of our program; None if the program is gone."""
    found: list[tuple[str, Counts | None]] = []
    with Netlink() as link:
        for name in memory.programs:
            counts = None
            with contextlib.suppress(PylvsError, NetlinkError):
                running = tc.our_filter(link, device(name).index, tc.INGRESS, ROLE)
                counts = _counts(running.program) if running else None
            found.append((name, counts))
    return found


def _counts(program: int) -> Counts | None:
    for number in describe_program(program).map_ids:
        descriptor = check(library().bpf_map_get_fd_by_id(number), f"opening map {number}")
        with Map(descriptor) as found:
            if found.name == COUNTS:
                with PerCpuArray.duplicate(found.fd) as table:
                    return Counts(*(total for (total,) in table.all_sums()))
    return None


@contextmanager
def _loaded(vips: Mapping[Address, Sequence[TunnelKind]], ports: Sequence[int]) -> Iterator[int]:
    """Yield the program's descriptor, with filled maps. Raises PylvsError."""
    if not OBJECT.exists():
        raise Unsupported(f"{OBJECT}: the program that unwraps packets was not built; install pylvs with pip")
    with BpfObject(OBJECT) as loaded:
        loaded.load()
        with HashMap.duplicate(loaded.map_fd(VIPS)) as table:
            for vip, kinds in vips.items():
                table.put(_key(vip), sum(1 << kind for kind in kinds).to_bytes(4, "little"))
        with HashMap.duplicate(loaded.map_fd(PORTS)) as table:
            for port in ports:
                table.put(port.to_bytes(2, "big"), bytes(4))
        yield loaded.program_fd(PROGRAM)


def _key(vip: Address) -> bytes:
    """Encode struct vip of the program: sixteen bytes of address, then the version of IP."""
    return vip.packed.ljust(16, b"\0") + vip.version.to_bytes(4, "little")


def _set(memory: Memory, link: Netlink, where: Device, program: int) -> None:
    try:
        if tc.add_clsact(link, where.index):
            memory.qdiscs.append(where.name)
            memory.save()
        tc.set_filter(link, where.index, tc.INGRESS, ROLE, program)
    except NetlinkError as error:
        raise error.as_failure(f"a program at the ingress of {where.name}") from None
    except FileExistsError as error:
        raise Busy(f"{where.name}: the filter {error.strerror} has the priority that pylvs needs; remove it") from None
