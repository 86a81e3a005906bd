"""The desired attachments: which devices run the programs, and by which mode. Every edit reconciles them.

IPVS sees every packet of its network namespace. So while the table holds a service or a connection, every device that
receives packets first is attached. Ports of bridges and bonds are not, nor devices that `pylvs detach` excluded.

A device runs XDP if services or real servers need that (`selection`). The others run TC alone. Attaching native XDP
resets many cards, so it stays for a minute after the last service.

lo is attached for clients on this host. While a real server is on this host, its replies are handled at TC egress of
the attached devices. lo has no program there: what it sends comes in again at its ingress.

Notes store what `pylvs attach` and `pylvs detach` set, by index and name of the device. A device that cannot be
attached is reported, noted, and retried; it does not stop the others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from pylvs.bpf import abi, kernel, libbpf
from pylvs.dataplane.devices import attach
from pylvs.dataplane.devices.selection import (
    Concerns,
    below_vlans,
    can_carry,
    comes_in_by,
    concerns_of,
    needed_devices,
    needed_outputs,
)
from pylvs.dataplane.state import BARE, EGRESS, ENTRIES, LOADED, TC, XDP, State
from pylvs.dataplane.tables import Tables, Versions, replace_keys
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, InvalidOperation, NoSuchDevice, PylvsError
from pylvs.netlink import links
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.model.rows import DeviceProblem

GRACE_S = 60  # attaching native XDP resets many cards: it stays so long after the last service
_WANTED, _OFF = "wanted-", "off"  # set by hand: mode and name of a device, by its index
_NEEDED = "needed-"  # devices that services and real servers need, by index
_UNATTACHED = "unattached-"  # why a device is not attached, by its index
_CHANGING = "changing"  # a device is being attached or detached, or its program loaded
_OWN_SERVER = "own-server"
_IDLE = "idle-since"
_ONE_BUFFER = 3498  # the longest MTU whose frames are in one page with XDP's headroom
_BOND = "bond"
_NOT_NEEDED = "no service or real server needs XDP on it"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What still fails, until a later call; and what other programs had changed and this call put right."""

    problems: Sequence[DeviceProblem] = ()
    restored: Sequence[str] = ()


def request(tables: Tables, device: str, mode: attach.Mode) -> attach.Attachment:
    """Attach a device now and always, for `pylvs attach`. Raises what `attach.attach` does."""
    found, state = links.device(device), tables.state
    state.set_note(_CHANGING, "by hand")  # the next edit tidies up after an error or a kill
    done = _attach(tables, found, mode, state.note(_OWN_SERVER) is not None)
    state.set_note(f"{_WANTED}{found.index}", f"{mode} {found.name}")
    state.set_note(f"{_UNATTACHED}{found.index}", None)
    _note_devices(tables)
    return done


def release(tables: Tables, device: str) -> bool:
    """Detach a device and exclude it, for `pylvs detach`; return whether it was attached."""
    found, state = links.device(device), tables.state
    state.set_note(_CHANGING, "by hand")
    state.set_note(f"{_WANTED}{found.index}", f"{_OFF} {found.name}")
    _stop_redirects(tables, found.index)
    done = attach.detach(found.index, state)
    if found.loopback:
        attach.accept_local(state, state.notes(), False)
    _note_devices(tables)
    return done


@contextlib.contextmanager
def _entry(state: State, name: str) -> Iterator[int]:
    """Yield a descriptor of an entry program; load it if necessary."""
    from pylvs.dataplane import load  # late: most edits attach nothing

    program = load.open_entry(state, name)
    try:
        yield program
    finally:
        os.close(program)


def _attach(
    tables: Tables,
    device: Device,
    mode: attach.Mode,
    own_server: bool,
    reason: str = "",
    before: attach.Attachment | None = None,
) -> attach.Attachment:
    """Attach a device; `before` is what it runs now."""
    state = tables.state
    with contextlib.ExitStack() as opened:
        if device.bare:
            if mode in ("native", "generic"):
                raise InvalidOperation(
                    f"{device.name}: its packets come without link addresses: --mode tc is its only one"
                )
            bare = opened.enter_context(_entry(state, BARE))
            return attach.attach(device.index, mode, state, tc_fd=bare, reason=reason)
        if mode != "tc" and (other := _other_device(tables, device.index)):
            same = f"XDP tells devices apart by ifindex modulo {abi.constant('DEVICES')}, and {other} has the same"
            if mode != "auto":
                raise Busy(f"{device.name}: {same}")
            mode, reason = "tc", same
        tc = opened.enter_context(_entry(state, TC))
        out = opened.enter_context(_entry(state, EGRESS)) if own_server and not device.loopback else None
        xdp = functools.partial(_entry, state, XDP)
        everything = links.devices() if mode != "tc" else []  # there may be thousands that run TC
        chosen = attach.choose_mode(device, everything)[0] if mode == "auto" else mode
        if chosen != "tc":
            _refresh(tables, [device], everything)
        if "native" in (chosen, before and before.mode) and (before is None or before.mode != chosen):
            _stop_redirects(tables, device.index, to_all=chosen == "native")
        return attach.attach(device.index, mode, state, tc_fd=tc, open_xdp=xdp, egress_fd=out, reason=reason)


def _other_device(tables: Tables, index: int) -> int:
    """Return the other device in the slot of this one; 0: none, or a VLAN device, which can do without."""
    slot = index % abi.constant("DEVICES")
    other: int = tables.devices.get(slot, "ifindex")
    return 0 if other == index or tables.devices.get(slot, "trunk") else other


def _write_device(tables: Tables, device: Device, bond: int = 0, trunk: int = 0, vid: int = 0) -> None:
    slot = device.index % abi.constant("DEVICES")
    fields = {
        "ifindex": device.index,
        "mac": device.mac,
        "present": 1,
        "bond": bond,
        "trunk": trunk,
        "vid": vid,
    }
    there = tables.devices.get(slot, "ifindex")
    if device.loopback or (there not in (0, device.index) if trunk else _other_device(tables, device.index)):
        return
    if any(tables.devices.get(slot, name) != value for name, value in fields.items()):  # XDP may be reading it
        tables.devices.write(slot, fields)


def _write_vlans(tables: Tables, device: Device, everything: list[Device]) -> None:
    """Let XDP of a device find the VLAN devices on it by their tags. TC alone serves one whose slot is taken."""
    for each in everything:
        if each.lower == device.index and each.vlan_protocol == links.ETH_P_8021Q:
            by_hand = tables.state.note(f"{_WANTED}{each.index}") or "auto"
            if by_hand.startswith("auto"):
                _write_device(tables, each, trunk=device.index, vid=each.vid)


def _write_ports(tables: Tables, device: Device, everything: list[Device]) -> None:
    """Let XDP find a bond by its ports. A port whose slot another device has passes its packets to TC."""
    for port in everything:
        if device.kind == _BOND and port.master == device.index:
            _write_device(tables, port, device.index)


def _refresh(tables: Tables, by_xdp: list[Device], everything: list[Device]) -> None:
    """Write devices that run XDP: also again, as the MAC address, the ports or the VLANs of one may have changed."""
    for device in by_xdp:
        _write_device(tables, device)
        _write_ports(tables, device, everything)
        _write_vlans(tables, device, everything)


def _note_devices(tables: Tables) -> None:
    """Update the devices to which XDP may redirect.

    Without native XDP these are all attached devices. Else they are those whose driver transmits redirected frames,
    attached or not. If XDP may receive frames in several buffers, the driver must transmit those, too.
    """
    everything = links.devices()
    there = attach.attached(tables.state, everything=everything)
    all_xdp = {each.ifindex for each in there if each.mode in ("native", "generic")}
    able = set[int]()
    if all_xdp:
        native = {each.ifindex for each in there if each.mode == "native"}
        able = _transmitters(native, all_xdp, everything) if native else {each.ifindex for each in there}
    most = abi.constant("TRANSMITTERS")  # frames for other devices pass to TC
    replace_keys(tables.transmitters, {struct.pack("<I", index) for index in sorted(able)[:most]}, value=None)
    kept = all_xdp | {each.index for each in everything if each.master in all_xdp}  # with the ports of bonds
    for slot in range(tables.devices.count):
        if tables.devices.get(slot, "ifindex") not in (0, *kept):
            tables.devices.clear(slot)
    _refresh(tables, [each for each in everything if each.index in all_xdp], everything)
    tables.state.set_note(_CHANGING, None)


def _transmitters(native: set[int], by_xdp: set[int], everything: list[Device]) -> set[int]:
    """Return the devices whose drivers transmit frames of native XDP.

    Without our program, a veth does so as long as its peer takes the frames. Another program may leave at any time.
    """
    features = links.xdp_features(each.index for each in everything)
    jumbo = any(each.mtu > _ONE_BUFFER for each in everything if each.index in by_xdp)
    wanted = links.XDP_TRANSMIT | (links.XDP_TRANSMIT_FRAGS if jumbo else 0)
    return {
        each.index
        for each in everything
        if features.get(each.index, 0) & wanted == wanted
        and (each.index in native or (can_carry(each) and not (each.bare or each.kind == "veth" or each.xdp_native)))
    }


def _stop_redirects(tables: Tables, ifindex: int, to_all: bool = False) -> None:
    """Let XDP pass packets for a device, or for all, to TC: its driver may not transmit them after the next step."""
    for key in list(tables.transmitters.keys()) if to_all else [struct.pack("<I", ifindex)]:
        tables.transmitters.remove(key)


def entry_ids(state: State) -> dict[str, int]:
    """Return the ids of the pinned entry programs; 0 of one that is not loaded."""
    found = dict.fromkeys(ENTRIES, 0)
    for name in ENTRIES:
        with state.opened(f"{LOADED}/{name}") as program:
            if program is not None:
                found[name] = kernel.program_info(program).id
    return found


def with_other_programs(state: State) -> list[str]:
    """Return the names of devices whose packets run programs at TC that are not those of the load in force."""
    own = entry_ids(state).values()
    return [each.device for each in attach.attached(state) if each.ingress and each.ingress not in own]


def _looks_out(device: Device, own_server: bool) -> bool:
    """Return whether a device runs a program at TC egress."""
    return own_server and not (device.loopback or device.bare)


def _is_right(
    there: attach.Attachment,
    numbers: Mapping[str, int],
    device: Device,
    mode: attach.Mode,
    own_server: bool,
    everything: list[Device],
) -> bool:
    """Return whether a device runs the programs that it should run, of those with these ids."""
    if bool(there.egress) != _looks_out(device, own_server) or there.egress not in (0, numbers[EGRESS]):
        return False
    if there.ingress != numbers[BARE if device.bare else TC]:
        return False
    if there.mode != there.intended or (there.xdp and there.xdp != numbers[XDP]):
        return False
    if mode == "auto":
        return there.reason != _NOT_NEEDED and not attach.auto_changed(there, device, everything)
    if mode == there.mode:
        return True
    return mode == "tc" and there.reason != attach.ON_REQUEST and not attach.auto_changed(there, device, everything)


def _attached_again(
    device: Device, there: attach.Attachment | None, notes: Mapping[str, str], own_server: bool
) -> list[str]:
    """Return a line if a program that pylvs had attached, by its notes, was gone from a device."""
    if there is None:
        lost = device.index in attach.noted(notes)
    else:
        looked_out = _OWN_SERVER in notes and _looks_out(device, own_server)
        lost = there.mode != there.intended or not there.ingress or (looked_out and not there.egress)
    killed = _CHANGING in notes  # a process that had not attached everything
    return [f"{device.name}: its program was removed, and is attached again"] if lost and not killed else []


def reconcile(tables: Tables, changes: Concerns) -> Reconciled:
    """Attach the pinned programs to the desired devices, and detach the others.

    The caller holds the lock. `changes` is what an edit added; if it removed something, the whole table is evaluated.
    The next call retries a device that failed.
    """
    state = tables.state
    notes = state.notes()
    everything = links.devices()
    by_index = {each.index: each for each in everything}
    there = {each.ifindex: each for each in attach.attached(state, everything=everything)}
    in_use = _is_in_use(tables)
    concerns = concerns_of(tables) if changes.shrunk else changes
    needed = _note_needed(tables, notes, concerns, everything, changes.shrunk)
    own_server = _note_own_server(state, notes, concerns.own_server, changes.shrunk)
    by_hand = _by_hand(notes, everything)
    wanted: dict[int, attach.Mode] = {}
    by_xdp = needed | below_vlans(needed, by_index)
    for device in everything if in_use else ():
        if comes_in_by(device, by_index):
            wanted[device.index] = "auto" if device.index in by_xdp or device.loopback else "tc"
    wanted = {index: mode for index, mode in (wanted | by_hand).items() if mode is not None}
    if _in_grace(state, notes, empty=not in_use):
        idle = [by_index[index] for index in there.keys() - wanted.keys() - by_hand.keys()]
        native = [each.index for each in idle if there[each.index].mode == "native" and comes_in_by(each, by_index)]
        wanted |= dict.fromkeys(native, "native")
    leaving = sorted((set(there) | attach.noted(notes)) - set(wanted))
    numbers, problems, restored = entry_ids(state), {}, list[str]()
    _refresh(tables, [by_index[index] for index in wanted if index in there and there[index].xdp], everything)
    changed = _CHANGING in notes  # by a process that was killed
    if changed:
        _drop_half_loaded(state)
    by_xdp_before = [index for index in leaving if index in there and there[index].xdp]
    if by_xdp_before:
        changed = _note_changing(state, changed)
        _leave_xdp(tables, by_xdp_before)
    for index, mode in sorted(wanted.items()):
        device, before = by_index[index], there.get(index)
        if before and _is_right(before, numbers, device, mode, own_server, everything):
            continue
        changed = _note_changing(state, changed)
        try:
            reason = "" if index in by_hand else _NOT_NEEDED if mode == "tc" or not before else before.reason
            _attach(tables, device, mode, own_server, reason, before)
            restored += _attached_again(device, before, notes, own_server)
        except NoSuchDevice:
            continue  # the device was deleted at this moment
        except PylvsError as error:
            from pylvs.model.rows import DeviceProblem  # late: most edits attach every device

            problems[index] = DeviceProblem(device.name, str(error).removeprefix(f"{device.name}: "), index in needed)
    for index in leaving:
        changed = _note_changing(state, changed)
        _stop_redirects(tables, index)
        with contextlib.suppress(NoSuchDevice):
            attach.detach(index, state)
    if changed or changes.shrunk:
        _note_devices(tables)
    _set_numbered(state, notes, _UNATTACHED, {index: each.reason for index, each in problems.items()})
    _tidy(state)
    of_lo = _forward_lo(tables) if in_use else Reconciled()
    own_clients = any(each.version == 4 for each in concerns.by_nat) or (
        attach.accepts_local(notes) and not changes.shrunk
    )
    by_lo = any(by_index[index].loopback for index in wanted)
    unaccepted, accepted = attach.accept_local(state, notes, own_clients and by_lo)
    taken_out = [_taken_out(by_index[index], True) for index in sorted(needed) if by_hand.get(index, "") is None]
    return Reconciled(
        [*problems.values(), *taken_out, *of_lo.problems, *unaccepted], [*restored, *of_lo.restored, *accepted]
    )


def _taken_out(device: Device, needed: bool) -> DeviceProblem:
    """Return the problem of a device that `pylvs detach` excluded."""
    from pylvs.model.rows import DeviceProblem  # late: operators seldom do that

    reason = f"pylvs detach took it out; pylvs attach {device.name} restores it"
    return DeviceProblem(device.name, reason, needed, by_hand=True)


def _leave_xdp(tables: Tables, indices: list[int]) -> None:
    """Detach devices from XDP; TC still forwards. A bond refuses XDP while one of its ports runs a program."""
    for index in indices:
        _stop_redirects(tables, index)
        with contextlib.suppress(PylvsError):  # `detach` raises it again
            attach.detach_xdp(index)


def _forward_lo(tables: Tables) -> Reconciled:
    """Turn on forwarding of lo, for IP versions of services and real servers."""
    refused, was_off = attach.forward_lo(tables.state)
    used = [version for version in sorted({*refused, *was_off}) if _has_version(tables, version)]
    return Reconciled(
        [refused[version] for version in used if version in refused],
        [was_off[version] for version in used if version in was_off],
    )


def not_forwarding(tables: Tables) -> list[str]:
    """Return the settings of lo without which packets of the table's IP versions are not forwarded, and which are 0."""
    used = [version for version in (4, 6) if _has_version(tables, version)] if _is_in_use(tables) else []
    return [setting for version in used if (setting := attach.forwarding_off(version))]


def _note_changing(state: State, noted: bool) -> bool:
    """Note that devices change, until `_note_devices`; return True."""
    if not noted:
        state.set_note(_CHANGING, "by an edit")
    return True


def _drop_half_loaded(state: State) -> None:
    from pylvs.dataplane import upgrade  # late: needed only after a process was killed

    upgrade.drop_half_loaded(state)


def _tidy(state: State) -> None:
    """Remove what killed processes left, and loads that no device uses any more."""
    drafts, loads = state.leftovers()
    for name in drafts:
        libbpf.unpin(state.pin_path(name))
    if loads:
        from pylvs.dataplane import upgrade  # late: most edits find no other load

        upgrade.drop_other_loads(state, loads)


def missing(tables: Tables) -> list[DeviceProblem]:
    """Return the devices that should be attached and are not, with reasons; excluded ones only if they are needed."""
    from pylvs.model.rows import DeviceProblem

    state = tables.state
    notes = state.notes()
    everything = links.devices()
    by_index = {each.index: each for each in everything}
    there = {each.ifindex for each in attach.attached(state, everything=everything)}
    by_hand = _by_hand(notes, everything)
    in_use = _is_in_use(tables)
    noted = _numbered(notes, _UNATTACHED)
    needed = needed_devices(tables, concerns_of(tables), everything)
    found = []
    for device in everything:
        wanted = in_use and device.index not in by_hand and comes_in_by(device, by_index)
        if device.index in there or not (wanted or device.index in needed or device.index in noted):
            continue
        if by_hand.get(device.index, "") is None:
            found.append(_taken_out(device, device.index in needed))
            continue
        reason = "it came, or its program was taken off, after the last edit; the next edit attaches it"
        if device.index in noted:
            reason = noted[device.index]
        found.append(DeviceProblem(device.name, reason, device.index in needed))
    return found


def _is_in_use(tables: Tables) -> bool:
    """Return whether the table holds a service or a connection."""
    return any(Versions(tables).facts().get("services")) or bool(tables.pool.get(0, "used"))


def _has_version(tables: Tables, version: int) -> bool:
    """Return whether a service or a real server has an address of this IP version."""
    if Versions(tables).facts().get("services")[version == 6]:
        return True
    table = tables.destinations
    top = tables.book.get(0, "destination_top")
    form = table.codec.view("family", "used")
    return any(used and family == version for family, used in form.iter_unpack(table.array.elements(0, top)))


def _numbered(notes: Mapping[str, str], prefix: str) -> dict[int, str]:
    """Return the notes with a prefix, by the device index in their names."""
    return {int(name.removeprefix(prefix)): text for name, text in notes.items() if name.startswith(prefix)}


def _set_numbered(state: State, notes: Mapping[str, str], prefix: str, wanted: Mapping[int, str]) -> None:
    """Make these the notes with a prefix, by device index."""
    noted = _numbered(notes, prefix)
    for index in noted.keys() - wanted.keys():
        state.set_note(f"{prefix}{index}", None)
    for index, text in wanted.items():
        if noted.get(index) != text:
            state.set_note(f"{prefix}{index}", text)


def _by_hand(notes: Mapping[str, str], everything: list[Device]) -> dict[int, attach.Mode | None]:
    """Return the modes set by hand, None for an excluded device. A device made again is found by its name."""
    by_name = {each.name: each.index for each in everything}
    there = {each.index for each in everything}
    found: dict[int, attach.Mode | None] = {}
    for index, text in sorted(_numbered(notes, _WANTED).items()):
        mode, _, name = text.partition(" ")
        now = index if index in there else by_name.get(name)
        if now is not None:
            noted: Any = mode  # a Mode, as `request` wrote it
            found[now] = None if mode == _OFF else noted
    return found


def _note_needed(
    tables: Tables, notes: Mapping[str, str], concerns: Concerns, everything: list[Device], whole: bool
) -> set[int]:
    """Return the devices that services and real servers need, and note them for the next edit."""
    found = set() if whole else {each.index for each in everything if f"{_NEEDED}{each.index}" in notes}
    if concerns:
        found |= needed_devices(tables, concerns, everything)
        found |= needed_outputs(concerns.outputs - found, found, everything)
    _set_numbered(tables.state, notes, _NEEDED, dict.fromkeys(found, "by a service or a real server"))
    return found


def _note_own_server(state: State, notes: Mapping[str, str], own_server: bool, whole: bool) -> bool:
    """Return whether a real server is on this host, and note it for the next edit."""
    noted = _OWN_SERVER in notes
    found = own_server or (noted and not whole)
    if found != noted:
        state.set_note(_OWN_SERVER, "yes" if found else None)
    return found


def _in_grace(state: State, notes: Mapping[str, str], empty: bool) -> bool:
    """Return whether the table has been empty for less than GRACE_S, and note since when it is."""
    since = notes.get(_IDLE)
    if not empty:
        if since:
            state.set_note(_IDLE, None)
        return False
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    if since is None:
        state.set_note(_IDLE, str(now))
        return True
    return now - int(since) < GRACE_S
