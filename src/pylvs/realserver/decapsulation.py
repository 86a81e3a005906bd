"""Decapsulation on a real server: by the kernel's tunnel devices, or by a program at the ingress.

The kernel decapsulates IPIP by tunl0 (4-in-4), ip6tnl0 (6-in-6 and 4-in-6) and sit0 (6-in-4). If a kernel lacks the
device that a VIP needs, `realserver.bpf.c` decapsulates packets with an inner destination among the VIPs. The program
handles all GRE and GUE: a tunnel device of the kernel accepts packets with one kind of checksum only.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Sequence

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.service import Tunnel, TunnelKind
from pylvs.netlink.changes import remove_device, set_up
from pylvs.netlink.links import Device, device, devices
from pylvs.realserver import ingress
from pylvs.system import proc
from pylvs.system.undo_log import Memory

# device, its kind, the kernel module, and the inner version of IP (ip6tnl0: both, once its mode is "any")
TUNNELS = (
    ("tunl0", "ipip", "ipip", (4,)),
    ("ip6tnl0", "ip6tnl", "ip6_tunnel", (4, 6)),
    ("sit0", "sit", "sit", (6,)),
)
TUNNEL_DEVICES = {name for name, _, _, _ in TUNNELS}
TUNNEL_KINDS = {kind for _, kind, _, _ in TUNNELS}
NEEDED = {4: "tunl0", 6: "ip6tnl0"}  # without it the program decapsulates


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


def up(memory: Memory, vips: Sequence[Address], concerned: Sequence[Device]) -> list[str]:
    """Decapsulate packets for these VIPs; return the changes as lines. Raises PylvsError."""
    kinds = _kinds(memory)
    versions = {vip.version for vip in vips} if TunnelKind.IPIP in kinds else set()
    made = {name: _kernel_device(memory, name, kind, module) for name, kind, module, _ in TUNNELS if versions}
    done: list[str] = []
    lacking = {version for version in versions if not made[NEEDED[version]]}
    for name, _, _, inner in TUNNELS:
        if versions and made[name] and versions & set(inner) - lacking:
            done += _use(memory, name)
    by_program = {}
    for vip in vips:
        tunnels = [kind for kind in sorted(kinds) if kind != TunnelKind.IPIP or vip.version in lacking]
        if tunnels:
            by_program[vip] = tunnels
    done += ingress.forget_gone(memory)
    if by_program or memory.programs:
        names = list(dict.fromkeys([*memory.programs, *(each.name for each in concerned)]))
        done += ingress.attach(memory, by_program, kinds.get(TunnelKind.GUE, []), names)
    return done


def down(memory: Memory) -> list[str]:
    """Undo `up`. Raises PylvsError."""
    done = ingress.detach(memory)
    for name in memory.devices_up:
        if name in TUNNEL_DEVICES:
            with contextlib.suppress(PylvsError):
                set_up(device(name), False)
                done.append(f"{name} is down")
        if name == "ip6tnl0":
            _ip6tnl_mode("ip6ip6")  # its mode from birth
    memory.devices_up = [name for name in memory.devices_up if name not in TUNNEL_DEVICES]
    for name in memory.devices_made:
        with contextlib.suppress(PylvsError):
            remove_device(device(name))
            done.append(f"{name} is removed")
    memory.devices_made.clear()
    memory.tunnels.clear()
    return done


def status(memory: Memory) -> list[tuple[bool, str]]:
    """Return each device or program that decapsulates, as whether it does and a line."""
    found = [(True, f"unwrapped by {each.name}") for each in devices() if each.name in TUNNEL_DEVICES and each.up]
    for name, counts in ingress.status(memory):
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
        for each in devices():
            path = f"net/ipv4/conf/{each.name}/rp_filter"
            if each.kind not in TUNNEL_KINDS and proc.read_number(path) < everywhere:
                memory.set(path, str(everywhere))
        memory.set("net/ipv4/conf/all/rp_filter", "0")
        done.append("net.ipv4.conf.all.rp_filter = 0, and its former value on each device")
    if memory.set(f"net/ipv4/conf/{name}/rp_filter", "0"):
        done.append(f"net.ipv4.conf.{name}.rp_filter = 0")
    return done
