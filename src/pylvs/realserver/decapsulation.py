"""Decapsulation on a real server: by the kernel's tunnel devices, or by a program at the ingress.

The kernel decapsulates IPIP by tunl0 (4-in-4), ip6tnl0 (6-in-6 and 4-in-6) and sit0 (6-in-4). If a kernel lacks the
device that a VIP needs, `realserver.bpf.c` decapsulates packets with an inner destination among the VIPs. The program
handles all GRE and GUE: a tunnel device of the kernel accepts packets with one kind of checksum only. It also handles
all IPIP if only some directors are accepted: a tunnel device of the kernel accepts packets from any source. It runs at
the TC ingress of devices. The filter keeps it alive, so nothing is pinned. A change attaches a new copy. The program
expects Ethernet headers, so it does not run on other devices: tunnels, VPNs, PPP.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

import pylvs
from pylvs.bpf.kernel import describe_program, map_by_id, program_by_id
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import HashMap, Map, PerCpuArray
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.routing import Network
from pylvs.model.service import Tunnel, TunnelKind
from pylvs.netlink import tc
from pylvs.netlink.changes import remove_device, set_up
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import Device, Routes, device, devices
from pylvs.system import proc
from pylvs.system.undo_log import Memory

OBJECT = Path(pylvs.__file__).parent / "bpf" / "objects" / "realserver.bpf.o"
PROGRAM, VIPS, PORTS, DIRECTORS, COUNTS = "decapsulate", "vips", "gue_ports", "directors", "counts"
ROLE = "realserver"

# device, its kind, the kernel module, and the inner version of IP (ip6tnl0: both, once its mode is "any")
TUNNELS = (
    ("tunl0", "ipip", "ipip", (4,)),
    ("ip6tnl0", "ip6tnl", "ip6_tunnel", (4, 6)),
    ("sit0", "sit", "sit", (6,)),
)
TUNNEL_DEVICES = {name for name, _, _, _ in TUNNELS}
TUNNEL_KINDS = {kind for _, kind, _, _ in TUNNELS}
NEEDED = {4: "tunl0", 6: "ip6tnl0"}  # without it the program decapsulates
_ETHERNET_ADDRESS_BYTES = 6
_NO_ETHERNET = (
    "without Ethernet headers pylvs decapsulates nothing; use tunnel devices of the kernel there: "
    "ip-link(8) (ipip, gre), ip-fou(8) (gue)"
)


class Counts(NamedTuple):
    """Packets since the program was attached, in the order of the program's counters."""

    unwrapped: int
    fragments: int  # outer packets that are fragments: passed to the stack, because the program does not reassemble
    congested: int  # dropped, as RFC 6040 wants
    failed: int
    corrupt: int  # dropped: a checksum of the tunnel was wrong
    foreign: int  # dropped: they came from no director


def tunnel_name(tunnel: Tunnel) -> str:
    """Return the name of a tunnel in the undo log: "ipip", "gre", "gue:6080"; the packets show the checksums."""
    name = tunnel.kind.name.lower()
    return f"{name}:{tunnel.port}" if tunnel.kind == TunnelKind.GUE else name


def _kinds(memory: Memory) -> dict[TunnelKind, list[int]]:
    """Return the recorded tunnels with their ports."""
    found: dict[TunnelKind, list[int]] = {}
    for name, _, port in (each.partition(":") for each in memory.tunnels):
        found.setdefault(TunnelKind[name.upper()], []).extend([int(port)] if port else [])
    return found


def up(memory: Memory, vips: Sequence[Address], concerned: Sequence[Device], chosen: bool = False) -> list[str]:
    """Decapsulate packets for these VIPs; return the changes as lines. Raises PylvsError.

    The program runs on the devices `concerned`. If the user has `chosen` them, all must have Ethernet headers.
    """
    kinds = _kinds(memory)
    versions = {vip.version for vip in vips} if TunnelKind.IPIP in kinds else set()
    done: list[str] = []
    wanted = () if memory.directors or not versions else TUNNELS
    made = {name for name, kind, module, _ in wanted if _kernel_device(memory, name, kind, module)}
    lacking = {version for version in versions if NEEDED[version] not in made}
    for name, _, _, inner in TUNNELS:
        if name in made and versions & set(inner) - lacking:
            done += _use(memory, name)
    by_program = {}
    for vip in vips:
        tunnels = [kind for kind in sorted(kinds) if kind != TunnelKind.IPIP or vip.version in lacking]
        if tunnels:
            by_program[vip] = tunnels
    done += _forget_gone(memory)
    if by_program:
        _check_ethernet(memory, concerned, chosen)
    if by_program or memory.programs:
        fit = [each.name for each in concerned if _has_ethernet(each)]
        attached = _attach_program(
            memory, by_program, kinds.get(TunnelKind.GUE, []), list(dict.fromkeys([*memory.programs, *fit]))
        )
        left_out = [each.name for each in concerned if each.name not in fit] if attached else []
        done += attached + [f"{name} is left out: {_NO_ETHERNET}" for name in left_out]
    if memory.directors:
        # Last: until the program runs, they decapsulate, and a failed attachment leaves them as they are.
        done += _leave_kernel_devices(memory)
    return done


def undo(memory: Memory, before: Memory) -> None:
    """Undo an `up` that failed; what was in force `before` stays. Raises PylvsError.

    `_attach_program` has restored the programs itself, because it has the descriptors of the replaced ones.
    """
    if not before.tunnels:
        down(memory)
    _leave_kernel_devices(memory, before)
    for name in ("tunnels", "directors", "programs", "unwrapped", "qdiscs"):
        getattr(memory, name)[:] = getattr(before, name)


def _has_ethernet(where: Device) -> bool:
    # An xfrm device shows the link address of the device below it, but its packets have no link header.
    return len(where.mac) == _ETHERNET_ADDRESS_BYTES and where.kind != "xfrm"


def _check_ethernet(memory: Memory, concerned: Sequence[Device], chosen: bool) -> None:
    """Raise Unsupported if the program would miss the director's packets for lack of Ethernet headers."""
    unfit = [each for each in concerned if not _has_ethernet(each)]
    if not unfit:
        return
    if chosen:
        raise Unsupported(f"--device {unfit[0].name}: {_NO_ETHERNET}")
    if len(unfit) == len(concerned) and not memory.programs:
        raise Unsupported(f"{', '.join(each.name for each in unfit)}: {_NO_ETHERNET}")
    names = {each.index: each.name for each in unfit}
    with Routes() as routes:
        for director in [ip_network(each) for each in memory.directors if f"director {each}" not in memory.unwrapped]:
            alone = director.prefixlen == director.max_prefixlen  # a network may have several routes
            route = routes.to(director.network_address) if alone else None
            if route and route.ifindex in names:
                where = f"its route leads by {names[route.ifindex]}, and {_NO_ETHERNET}"
                raise Unsupported(f"--director {director}: {where}; or name the device of its tunnels with --device")


def down(memory: Memory) -> list[str]:
    """Undo `up`. Raises PylvsError."""
    done = _detach_program(memory) + _leave_kernel_devices(memory)
    memory.tunnels.clear()
    memory.directors.clear()
    return done


def _leave_kernel_devices(memory: Memory, keep: Memory | None = None) -> list[str]:
    """Set down or remove the tunnel devices that `up` set up or made, except those of an earlier record."""
    kept_up, kept = (keep.devices_up, keep.devices_made) if keep else ([], [])
    done = []
    for name in [each for each in memory.devices_up if each in TUNNEL_DEVICES and each not in kept_up]:
        with contextlib.suppress(PylvsError):
            set_up(device(name), False)
            done.append(f"{name} is down")
        if name == "ip6tnl0":
            _ip6tnl_mode("ip6ip6")  # its mode from birth
        memory.devices_up.remove(name)
    for name in [each for each in memory.devices_made if each not in kept]:
        with contextlib.suppress(PylvsError):
            remove_device(device(name))
            done.append(f"{name} is removed")
        memory.devices_made.remove(name)
    return done


def status(memory: Memory) -> list[tuple[bool, str]]:
    """Return each device or program that decapsulates, as whether it does and a line."""
    found = [(True, f"unwrapped by {each.name}") for each in devices() if each.name in TUNNEL_DEVICES and each.up]
    found += [(True, _described(each)) for each in memory.unwrapped]
    found += [(False, f"the program at {name} has gone") for name in _follow_devices(memory)]
    for name, counts in program_counts(memory):
        if counts is None:
            found.append((False, f"the program at {name} has gone"))
            continue
        words = [f"{number} {what}" for what, number in counts._asdict().items() if number or what == "unwrapped"]
        found.append((True, f"by a program at {name}: {', '.join(words)}"))
    return found or [(False, "nothing unwraps packets any more")]


def _kernel_device(memory: Memory, name: str, kind: str, module: str) -> bool:
    """Return whether this namespace has a tunnel device of the kernel; load its module or add the device if needed."""
    if any(each.name == name for each in devices()):
        return True
    if modprobe := shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        subprocess.run([modprobe, "-q", module], capture_output=True, check=False)
    if any(each.name == name for each in devices()):
        return True
    # net.core.fb_tunnels_only_for_init_net: other namespaces have to make their own
    memory.devices_made.append(name)
    memory.save()
    done = subprocess.run(["ip", "link", "add", "name", name, "type", kind], capture_output=True, check=False)
    if done.returncode or not any(each.name == name for each in devices()):
        memory.devices_made.remove(name)
        return False
    return True


def _use(memory: Memory, name: str) -> list[str]:
    where = device(name)
    done = []
    if name == "ip6tnl0":
        _ip6tnl_mode("any")
    if not where.up:
        memory.devices_up.append(name)
        memory.save()
        set_up(where, True)
        done.append(f"{name} is up")
    return done + _disable_rp_filter(memory, name)


def _ip6tnl_mode(mode: str) -> None:
    """Set which packets ip6tnl0 decapsulates: "ip6ip6" IPv6 alone, "any" IPv4 as well."""
    command = ["ip", "-6", "tunnel", "change", "ip6tnl0", "mode", mode]  # by ioctl: netlink refuses before 6.2
    subprocess.run(command, capture_output=True, check=False)


def _disable_rp_filter(memory: Memory, name: str) -> list[str]:
    """Switch off the reverse path filter of a tunnel: its packets come from clients, whose route is another.

    The higher of a device's value and that of "all" counts: a filter in "all" moves to every other device.
    """
    done = []
    everywhere = proc.read_number("net/ipv4/conf/all/rp_filter")
    if everywhere:
        for link in devices():
            path = f"net/ipv4/conf/{link.name}/rp_filter"
            if link.kind not in TUNNEL_KINDS and proc.read_number(path) < everywhere:
                memory.set(path, str(everywhere))
        memory.set("net/ipv4/conf/all/rp_filter", "0")
        done.append("net.ipv4.conf.all.rp_filter = 0, and its former value on each device")
    if memory.set(f"net/ipv4/conf/{name}/rp_filter", "0"):
        done.append(f"net.ipv4.conf.{name}.rp_filter = 0")
    return done


def _attach_program(
    memory: Memory, vips: Mapping[Address, Sequence[TunnelKind]], ports: Sequence[int], names: Sequence[str]
) -> list[str]:
    """Run the program for these VIPs with their tunnels and these GUE ports; return the changes as lines.

    On each device it replaces the running program atomically. When it raises PylvsError, the former programs run.
    """
    done: list[str] = []
    known = [" ".join([str(vip), *(kind.name.lower() for kind in kinds)]) for vip, kinds in vips.items()]
    known += [f"port {port}" for port in ports] + [f"director {network}" for network in memory.directors]
    same = (known, list(names)) == (memory.unwrapped, memory.programs)
    if same and all(counts for _, counts in program_counts(memory)):
        return done
    with (
        _loaded(vips, ports, memory.directors) as program,
        Netlink() as link,
        _restored_on_failure(memory, link, names),
    ):
        for name in names:
            where = device(name)
            fresh = name not in memory.programs
            if fresh:
                memory.programs.append(name)
                memory.save()
            _set_filter(memory, link, where, program)
            if fresh:
                done.append(f"a program at the ingress of {name} unwraps packets")
    done += [_described(each) for each in known if each not in memory.unwrapped]
    memory.unwrapped = known
    return done


@contextmanager
def _restored_on_failure(memory: Memory, link: Netlink, names: Sequence[str]) -> Iterator[None]:
    """If the body fails, return these devices to their present programs, which keep their maps and counters."""
    programs, qdiscs = list(memory.programs), list(memory.qdiscs)
    with contextlib.ExitStack() as opened:
        former: dict[str, int] = {}
        for name in memory.programs:
            with contextlib.suppress(PylvsError, NetlinkError, OSError):
                if running := tc.our_filter(link, device(name).index, tc.INGRESS, ROLE):
                    former[name] = program_by_id(running.program)
                    opened.callback(os.close, former[name])
        try:
            yield
        except BaseException:
            for name in names:
                with contextlib.suppress(PylvsError, NetlinkError, OSError):
                    index = device(name).index
                    if name in former:
                        tc.set_filter(link, index, tc.INGRESS, ROLE, former[name])
                    else:
                        tc.remove_filter(link, index, tc.INGRESS, ROLE)
                    if name in memory.qdiscs and name not in qdiscs:
                        tc.remove_clsact(link, index)
            memory.programs[:], memory.qdiscs[:] = programs, qdiscs
            raise


def _described(recorded: str) -> str:
    """Return what is recorded of the program, "192.0.2.1 gre gue", "port 6080" or "director ...", for people."""
    subject, *rest = recorded.split()
    if subject == "director":
        return f"accepts tunnels of {recorded}"
    return f"decapsulates GUE at {recorded}" if subject == "port" else f"decapsulates {', '.join(rest)} for {subject}"


def _follow_devices(memory: Memory) -> list[str]:
    """Correct the names of renamed devices in the undo log. Drop removed devices, and return them."""
    there = devices()
    running = _filters(there)
    names = {each.name for each in there}
    renamed = [name for name in running if name not in memory.programs]
    gone = [name for name in memory.programs if name not in names]
    memory.programs[:] = [name for name in memory.programs if name in names] + renamed
    memory.qdiscs[:] = [name for name in memory.qdiscs if name in names]
    memory.qdiscs += [name for name in renamed if running[name].own_clsact]
    return gone[len(renamed) :]


def _filters(there: Sequence[Device]) -> dict[str, tc.Filter]:
    """Return our filters by the names of their devices."""
    with Netlink() as link:
        try:
            with_clsact = set(tc.clsact_devices(link))
            carriers = [each for each in there if each.index in with_clsact]
            ours = {each.name: tc.our_filter(link, each.index, tc.INGRESS, ROLE) for each in carriers}
            return {name: found for name, found in ours.items() if found is not None}
        except NetlinkError as error:
            if error.number == errno.EOPNOTSUPP:  # a kernel without NET_SCHED
                return {}
            raise error.as_failure("asking for the programs at the ingress") from None


def _forget_gone(memory: Memory) -> list[str]:
    """Drop devices that were removed from the undo log; return them as lines."""
    return [f"{name} is gone, and the program at its ingress" for name in _follow_devices(memory)]


def _detach_program(memory: Memory) -> list[str]:
    """Detach the program, and remove the clsact that was added for it; return the changes as lines."""
    _follow_devices(memory)
    done = []
    with Netlink() as link:
        for name in memory.programs:
            with contextlib.suppress(PylvsError, NetlinkError):  # the device may be gone, and its filter with it
                where = device(name)
                if tc.remove_filter(link, where.index, tc.INGRESS, ROLE):
                    done.append(f"the program at the ingress of {name} is off")
                if name in memory.qdiscs:
                    tc.remove_clsact(link, where.index)
    for recorded in (memory.programs, memory.unwrapped, memory.qdiscs):
        recorded.clear()
    return done


def program_counts(memory: Memory) -> list[tuple[str, Counts | None]]:
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
        with Map(map_by_id(number)) as found:
            if found.name == COUNTS:
                with PerCpuArray.duplicate(found.fd) as table:
                    return Counts(*(total for (total,) in table.all_sums()))
    return None


@contextmanager
def _loaded(
    vips: Mapping[Address, Sequence[TunnelKind]], ports: Sequence[int], directors: Sequence[str]
) -> Iterator[int]:
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
        with HashMap.duplicate(loaded.map_fd(DIRECTORS)) as table:
            for network in directors or ("::/0",):
                table.put(_network_key(ip_network(network)), bytes(4))
        yield loaded.program_fd(PROGRAM)


def _key(vip: Address) -> bytes:
    """Encode struct vip of the program: sixteen bytes of address, then the version of IP."""
    return vip.packed.ljust(16, b"\0") + vip.version.to_bytes(4, "little")


def _network_key(network: Network) -> bytes:
    """Encode struct network of the program: the prefix length, then the address, of IPv4 as mapped to IPv6."""
    mapped = bytes(10) + b"\xff\xff" if network.version == 4 else b""
    return (network.prefixlen + 8 * len(mapped)).to_bytes(4, "little") + mapped + network.network_address.packed


def _set_filter(memory: Memory, link: Netlink, where: Device, program: int) -> None:
    try:
        own_clsact = tc.has_own_clsact(link, where.index)  # also if the director added it
        if (tc.add_clsact(link, where.index) or own_clsact) and where.name not in memory.qdiscs:
            memory.qdiscs.append(where.name)
            memory.save()
        tc.set_filter(link, where.index, tc.INGRESS, ROLE, program, where.name in memory.qdiscs)
    except NetlinkError as error:
        raise error.as_failure(f"a program at the ingress of {where.name}") from None
    except FileExistsError as error:
        raise Busy(f"{where.name}: the filter {error.strerror} has the priority that pylvs needs; remove it") from None
