"""Programs and filters of other tools that see a packet before pylvs does, and what they do with it.

An eBPF program is run on one made-up packet (BPF_PROG_TEST_RUN): no device receives or sends it. Filters of other kinds
are evaluated as tc(8) prints them.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

from pylvs.bpf import kernel
from pylvs.bpf.libbpf import library
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.netlink import tc, xdp
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import Device
from pylvs.reference.packet import checksum, pseudo_header

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_LIMIT_S = 3.0
_TCX_INGRESS, _TCX_EGRESS = 46, 47  # BPF_TCX_INGRESS, _EGRESS
_MOST = 64  # programs of a device
_XDP_PASS = 2
_XDP = {0: "drops packets", 1: "drops packets", 3: "sends packets back", 4: "redirects packets"}
_CONTINUES = {-1, 3}  # TC_ACT_UNSPEC, TC_ACT_PIPE: the next filter decides
_BYPASSES, _DROPS, _TAKES, _REDIRECTS = (
    "bypasses pylvs for packets",
    "drops packets",
    "takes packets",
    "redirects packets",
)
_TC = {0: _BYPASSES, 2: _DROPS, 4: _TAKES, 5: _TAKES, 7: _REDIRECTS, 8: _TAKES}
_ACTIONS = {"pass": _BYPASSES, "ok": _BYPASSES, "drop": _DROPS, "shot": _DROPS}
_ACTIONS |= {"stolen": _REDIRECTS, "queued": _TAKES, "trap": _TAKES}
_SADDR = {4: bytes((198, 18, 200, 77)), 6: bytes.fromhex("26001f0000000000 0000000000000077".replace(" ", ""))}
_SPORT = 40000
_TCP, _SYN = 6, 0x02
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_OWN = "pylvs"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program or filter that decides on packets before pylvs: what it is, what it does, and how to remove it.

    Without a command: a process holds it.
    """

    what: str
    does: str
    command: str | None = None


def syn(device: Device, daddr: Address, port: int) -> bytes:
    """Return a frame with a SYN of a client, addressed to a device."""
    four = daddr.version == 4
    saddr = _SADDR[daddr.version]
    segment = struct.pack("!HHIIBBHHH", _SPORT, port, 1, 0, 5 << 4, _SYN, 65535, 0, 0)
    pseudo = pseudo_header(saddr, daddr.packed, _TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    if four:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, _TCP, 0) + saddr + daddr.packed
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    else:
        header = struct.pack("!IHBB", 6 << 28, len(segment), _TCP, 64) + saddr + daddr.packed
    link = device.mac + bytes((2, 0, 0, 0, 0xC, 0x77)) + struct.pack("!H", _ETHERTYPES[daddr.version])
    return link + header + segment


def at_xdp(device: Device, frame: bytes) -> Iterator[Foreign]:
    """Yield programs of other tools at XDP that do not pass a frame."""
    for program, words in ((device.xdp_native, "xdpdrv"), (device.xdp_generic, "xdpgeneric")):
        if program and not xdp.is_ours(program):
            verdict = _verdict(program, frame)
            if verdict is not None and verdict != _XDP_PASS:
                what = f"XDP program {program} ({xdp.program_name(program) or 'without a name'})"
                yield Foreign(what, _XDP.get(verdict, _DROPS), f"ip link set dev {device.name} {words} off")


def at_tc(
    device: Device, frame: bytes, port: int, *, egress: bool = False, may_accept: bool = False
) -> Iterator[Foreign]:
    """Yield programs and filters of other tools at TC that decide on a frame before pylvs; at egress, behind it.

    `may_accept`: nothing of pylvs follows, so they may end the evaluation of filters.
    """
    may_accept = may_accept or egress
    side = tc.EGRESS if egress else tc.INGRESS
    word = "egress" if egress else "ingress"
    for program in _tcx(device.index, _TCX_EGRESS if egress else _TCX_INGRESS):
        name = xdp.program_name(program)
        verdict = None if name.startswith(_OWN) else _verdict(program, frame)
        if verdict is not None and _signed(verdict) in _TC and not (may_accept and not verdict):
            yield Foreign(f"program {program} ({name}) at tcx/{word}", _TC[_signed(verdict)])
    with Netlink() as link:
        try:
            found = tc.filters(link, device.index, side)
        except NetlinkError:
            return
    ours = [each.priority for each in found if _is_ours(each)]
    first = min(ours, default=1 << 16)
    before = [each for each in found if (egress or each.priority < first) and not _is_ours(each)]
    if not before:
        return
    printed = _filters(device.name, word)
    for other in before:
        does = _does(other, printed, frame, port)
        if does and not (may_accept and does == _BYPASSES):
            kind = "bpf" if other.program else other.label
            yield Foreign(
                f"the {kind} filter of priority {other.priority} at tc {word}",
                does,
                f"tc filter del dev {device.name} {word} pref {other.priority}",
            )


def _is_ours(found: tc.Filter) -> bool:
    return any(tc.is_ours(found, role) for role in tc.PRIORITIES)


def _does(found: tc.Filter, printed: Sequence[Mapping[str, Any]], frame: bytes, port: int) -> str:
    """Return what a filter does with a frame; "" if the next one decides."""
    if found.program:
        verdict = _verdict(found.program, frame)
        return "" if verdict is None or _signed(verdict) in _CONTINUES else _TC.get(_signed(verdict), "")
    for listed in printed:
        options = listed.get("options", {})
        if listed.get("pref") == found.priority and "kind" in listed and matches(listed, options, frame, port):
            return action_of(options)
    return ""


def matches(found: Mapping[str, Any], options: Mapping[str, Any], frame: bytes, port: int) -> bool:
    """Return whether a filter that tc prints matches a frame; of conditions that are not known here, that they hold."""
    four = frame[12:14] == b"\x08\x00"
    if found.get("protocol") not in ("all", "ip" if four else "ipv6"):
        return False
    kind = found["kind"]
    if kind == "matchall":
        return True
    if kind == "flower":
        return _by_keys(options.get("keys", {}), frame, port, four)
    if kind == "u32" and "match" in options:
        match = options["match"]
        words = match if isinstance(match, list) else [match]
        return all(_by_word(each, frame[14:]) for each in words)
    return False


def _by_keys(keys: Mapping[str, Any], frame: bytes, port: int, four: bool) -> bool:
    daddr = ip_address(frame[30:34] if four else frame[38:54])
    known: dict[str, str] = {"ip_proto": "tcp", "dst_port": str(port), "src_port": str(_SPORT)}
    addresses = {"dst_ip": daddr, "src_ip": ip_address(_SADDR[daddr.version])}
    for name, value in keys.items():
        if name in known and str(value) != known[name]:
            return False
        if name in addresses:
            try:
                if addresses[name] not in ip_network(value, strict=False):
                    return False
            except ValueError:
                return False
    return True


def _by_word(match: Mapping[str, Any], header: bytes) -> bool:
    """Return whether a word of a u32 filter matches, counted from the network header."""
    try:
        value, mask, at = int(match["value"], 16), int(match["mask"], 16), int(match["off"])
    except (KeyError, ValueError, TypeError):
        return False
    if match.get("offmask") or not 0 <= at <= len(header) - 4:
        return False
    return int.from_bytes(header[at : at + 4], "big") & mask == value


def action_of(options: Mapping[str, Any]) -> str:
    """Return what the actions of a filter do; "" if the next filter decides."""
    for action in options.get("actions", ()):
        kind = action.get("control_action", {}).get("type", "")
        if action.get("kind") == "mirred" and "redirect" in str(action.get("mirred_action", "")):
            return _REDIRECTS
        if kind in _ACTIONS:
            return _ACTIONS[kind]
        if kind not in ("pipe", ""):
            return ""
    return ""


def _filters(device: str, word: str) -> Sequence[Mapping[str, Any]]:
    """Return the filters of a device as tc prints them; none if it does not."""
    path = shutil.which("tc", path=_PATH)
    if path is None:
        return ()
    command = [path, "-j", "filter", "show", "dev", device, word]
    with suppress(subprocess.TimeoutExpired, ValueError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        found = json.loads(done.stdout or "[]")
        return found if isinstance(found, list) else ()
    return ()


def _verdict(program: int, frame: bytes) -> int | None:
    """Return the verdict of a program on a frame; None if the kernel cannot run it so."""
    with suppress(PylvsError, OSError):
        descriptor = kernel.program_by_id(program)
        try:
            return kernel.run_program(descriptor, frame).verdict
        finally:
            os.close(descriptor)
    return None


def _signed(verdict: int) -> int:
    return verdict - (1 << 32) if verdict >> 31 else verdict


def _tcx(index: int, kind: int) -> list[int]:
    """Return the programs at tcx, which run before clsact; none before Linux 6.6."""
    programs, count = (ctypes.c_uint32 * _MOST)(), ctypes.c_uint32(_MOST)
    done = library().bpf_prog_query(index, kind, 0, None, programs, ctypes.byref(count))
    return list(programs[: count.value]) if done >= 0 else []
