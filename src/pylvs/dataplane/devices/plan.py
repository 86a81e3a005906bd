"""Which device is attached, and by which mode: a plan from facts, without I/O. `attachments` reads and applies them.

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

from collections.abc import Collection, Mapping, Sequence

from pylvs.dataplane.devices.device_map import Entry, Slots
from pylvs.dataplane.devices.modes import (
    ON_REQUEST,
    Attachment,
    Drivers,
    Mode,
    auto_changed,
    choose_mode,
    fixed_reason,
)
from pylvs.dataplane.devices.selection import Concerns, below_vlans, comes_in_by, may_transmit, needed_outputs
from pylvs.dataplane.state import BARE, EGRESS, TC, XDP
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import Busy, InvalidOperation, PylvsError
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, Literal

    from pylvs.model.rows import DeviceProblem

    Stop = Literal["none", "own", "all"]
else:
    Stop = str

GRACE_S = 60  # attaching native XDP resets many cards: it stays so long after the last service
WANTED, OFF = "wanted-", "off"  # notes: set by hand: mode and name of a device, by its index
NEEDED = "needed-"  # devices that services and real servers need, by index
UNATTACHED = "unattached-"  # why a device is not attached, by its index
CHANGING = "changing"  # a device is being attached or detached, or its program loaded
OWN_SERVER = "own-server"
_IDLE = "idle-since"
_NOT_NEEDED = "no service or real server needs XDP on it"


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about attachments, as it was at one moment.

    `attached` is what the kernel reports, by ifindex. `remembered` are the devices that the director attached: some may
    have no program any more. `concerns` are those of the whole table, or of what an edit added (not `whole`), and
    `needed` the devices that they need. `programs` are the ids of the entry programs. `slots` are those in use of the
    map by which XDP knows devices (`device_map`). `now_s` is the time since the boot.
    """

    devices: Sequence[Device]
    attached: Mapping[int, Attachment] = field(default_factory=dict)
    remembered: Collection[int] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    in_use: bool = True  # the table holds a service or a connection
    concerns: Concerns = field(default_factory=Concerns)
    whole: bool = True
    needed: Collection[int] = ()
    programs: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    slot_count: int = 1
    now_s: int = 0
    accepts_local: bool = False  # pylvs has turned accept_local of lo on

    @property
    def by_index(self) -> dict[int, Device]:
        return {each.index: each for each in self.devices}

    @property
    def all_needed(self) -> set[int]:
        """Return the devices that services and NAT destinations need, also those of former edits."""
        noted = set() if self.whole else {each.index for each in self.devices if f"{NEEDED}{each.index}" in self.notes}
        return noted | set(self.needed)

    @property
    def own_server(self) -> bool:
        """Return whether a real server is on this host, by this edit or a former one."""
        return self.concerns.own_server or (OWN_SERVER in self.notes and not self.whole)

    @property
    def commanded(self) -> dict[int, Mode | None]:
        """Return the modes set by hand, None for an excluded device. A device made again is found by its name."""
        by_name = {each.name: each.index for each in self.devices}
        there = {each.index for each in self.devices}
        found: dict[int, Mode | None] = {}
        for index, text in sorted(numbered(self.notes, WANTED).items()):
            mode, _, name = text.partition(" ")
            now = index if index in there else by_name.get(name)
            if now is not None:
                noted: Any = mode  # a Mode, as `pylvs attach` wrote it
                found[now] = None if mode == OFF else noted
        return found


@dataclass(frozen=True, slots=True)
class Attach:
    """Run the programs on a device, in place of what runs there. `reason` is that of the mode.

    `insist`: else the device runs TC if its driver refuses the mode. `stop`: to which devices XDP must not redirect
    from now on, because their drivers may not transmit. `again` is the line that reports that a program was gone.
    """

    device: Device
    mode: Mode
    reason: str
    insist: bool = True
    egress: bool = False
    entries: Sequence[Entry] = ()
    stop: Stop = "none"
    needed: bool = False
    again: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in the order of these fields. A note of None is removed."""

    notes: Mapping[str, str | None]
    entries: Sequence[Entry]
    interrupted: bool  # a process was killed that had not attached everything
    leave_xdp: Sequence[int]  # of those that are detached: a bond refuses XDP while one of its ports runs a program
    attach: Sequence[Attach]
    refused: Mapping[int, DeviceProblem]  # those that cannot be attached, by ifindex
    detach: Sequence[int]
    accept_local: bool
    taken_out: Sequence[DeviceProblem]  # needed devices that `pylvs detach` excluded

    @property
    def changes(self) -> bool:
        """Return whether a device is attached or detached."""
        return bool(self.interrupted or self.attach or self.detach)


def numbered(notes: Mapping[str, str], prefix: str) -> dict[int, str]:
    """Return the notes with a prefix, by the device index in their names."""
    return {int(name.removeprefix(prefix)): text for name, text in notes.items() if name.startswith(prefix)}


def renumbered(notes: Mapping[str, str], prefix: str, wanted: Mapping[int, str]) -> dict[str, str | None]:
    """Return the notes to write, so that those with a prefix are these, by device index."""
    noted = numbered(notes, prefix)
    gone: dict[str, str | None] = dict.fromkeys((f"{prefix}{index}" for index in noted.keys() - wanted.keys()), None)
    return gone | {f"{prefix}{index}": text for index, text in wanted.items() if noted.get(index) != text}


def asked(facts: Facts, requested: int = 0) -> list[Device]:
    """Return the devices about whose drivers `plan` must know, or `request` for one."""
    needed = facts.all_needed
    wanted = needed | below_vlans(needed, facts.by_index) | {requested}
    wanted |= {index for index, mode in facts.commanded.items() if mode == "auto"}
    wanted |= {index for index, there in facts.attached.items() if there.mode == "native"}  # unless an obstacle came
    wanted |= {each.index for each in may_transmit(facts.concerns.outputs, facts.devices)}
    return [each for each in facts.devices if each.index in wanted and not fixed_reason(each)]


def request(facts: Facts, drivers: Drivers, index: int, mode: Mode) -> Attach:
    """Return how to attach a device by command. Raises Busy, InvalidOperation."""
    return _Planner(facts, drivers, ()).step(facts.by_index[index], mode, ON_REQUEST)


def plan(facts: Facts, drivers: Drivers) -> Plan:
    """Return what attaches the desired devices, and detaches the others."""
    needed = facts.all_needed
    needed |= needed_outputs(facts.concerns.outputs - needed, needed, facts.devices, drivers)
    in_grace, idle_note = _grace(facts)
    commanded, wanted = facts.commanded, _wanted(facts, needed, in_grace)
    leaving = sorted((facts.attached.keys() | set(facts.remembered)) - wanted.keys())
    leave_xdp = [index for index in leaving if index in facts.attached and facts.attached[index].xdp]
    planner, by_index = _Planner(facts, drivers, leave_xdp), facts.by_index
    entries = planner.refreshed(wanted)
    attach: list[Attach] = []
    refused: dict[int, DeviceProblem] = {}
    for index, mode in sorted(wanted.items()):
        device, there = by_index[index], facts.attached.get(index)
        if there and planner.is_right(there, device, mode):
            continue
        given = ON_REQUEST if index in commanded else _NOT_NEEDED if mode == "tc" or not there else there.reason
        try:
            attach.append(replace(planner.step(device, mode, given), needed=index in needed))
        except PylvsError as error:
            refused[index] = refusal(device, error, index in needed)
    own_clients = any(each.version == 4 for each in facts.concerns.by_nat) or (facts.accepts_local and not facts.whole)
    excluded = [index for index in sorted(needed) if commanded.get(index, "") is None]
    return Plan(
        notes=renumbered(facts.notes, NEEDED, dict.fromkeys(needed, "by a service or a real server"))
        | _own_server_note(facts)
        | idle_note,
        entries=entries,
        interrupted=CHANGING in facts.notes,
        leave_xdp=leave_xdp,
        attach=attach,
        refused=refused,
        detach=leaving,
        accept_local=own_clients and any(by_index[index].loopback for index in wanted),
        taken_out=[_taken_out(by_index[index], needed=True) for index in excluded],
    )


def _own_server_note(facts: Facts) -> dict[str, str | None]:
    if facts.own_server == (OWN_SERVER in facts.notes):
        return {}
    return {OWN_SERVER: "yes" if facts.own_server else None}


def _grace(facts: Facts) -> tuple[bool, dict[str, str | None]]:
    """Return whether the table has been empty for less than GRACE_S, and the note of since when it is."""
    since = facts.notes.get(_IDLE)
    if facts.in_use:
        return False, {_IDLE: None} if since else {}
    if since is None:
        return True, {_IDLE: str(facts.now_s)}
    return facts.now_s - int(since) < GRACE_S, {}


def _wanted(facts: Facts, needed: set[int], in_grace: bool) -> dict[int, Mode]:
    """Return the mode of each desired device."""
    by_index, commanded = facts.by_index, facts.commanded
    by_xdp = needed | below_vlans(needed, by_index)
    found = dict[int, Mode | None]()
    for device in facts.devices if facts.in_use else ():
        if comes_in_by(device, by_index):
            found[device.index] = "auto" if device.index in by_xdp or device.loopback else "tc"
    found |= commanded
    for index, there in facts.attached.items() if in_grace else ():
        if there.mode == "native" and index not in found and comes_in_by(by_index[index], by_index):
            found[index] = "native"
    return {index: mode for index, mode in found.items() if mode is not None}


class _Planner:
    """Decides about one device after the other, while those of `leave_xdp` run XDP no more."""

    def __init__(self, facts: Facts, drivers: Drivers, leave_xdp: Collection[int]) -> None:
        self._facts = facts
        self._drivers = drivers
        self._commanded = facts.commanded
        self._slots = Slots(facts.slots, facts.slot_count)
        self._devices = [
            replace(each, xdp_native=0, xdp_generic=0) if each.index in leave_xdp else each for each in facts.devices
        ]

    def refreshed(self, wanted: Collection[int]) -> list[Entry]:
        """Return the entries of those devices that run XDP already."""
        there = self._facts.attached
        by_xdp = [each for each in self._devices if each.index in wanted and each.index in there]
        return [entry for each in by_xdp if there[each.index].xdp for entry in self._entries(each)]

    def _entries(self, device: Device) -> list[Entry]:
        return self._slots.take(device, self._devices, self._commanded)

    def _runs_egress(self, device: Device) -> bool:
        return self._facts.own_server and not (device.loopback or device.bare)

    def is_right(self, there: Attachment, device: Device, mode: Mode) -> bool:
        """Return whether a device runs the programs that it should run."""
        programs = self._facts.programs
        if bool(there.egress) != self._runs_egress(device) or there.egress not in (0, programs[EGRESS]):
            return False
        if there.ingress != programs[BARE if device.bare else TC]:
            return False
        if there.mode != there.intended or (there.xdp and there.xdp != programs[XDP]):
            return False
        changed = auto_changed(there, device, self._devices, self._drivers)
        if mode == "auto":
            return there.reason != _NOT_NEEDED and not changed
        return mode == there.mode or (mode == "tc" and there.reason != ON_REQUEST and not changed)

    def step(self, device: Device, mode: Mode, reason: str) -> Attach:
        """Return how to attach a device. Raises Busy, InvalidOperation."""
        insist, there = mode != "auto", self._facts.attached.get(device.index)
        if device.bare and mode in ("native", "generic"):
            raise InvalidOperation(f"{device.name}: its packets come without link addresses: --mode tc is its only one")
        if mode != "tc" and not device.bare and (other := self._slots.other(device.index)):
            same = f"XDP tells devices apart by ifindex modulo {self._facts.slot_count}, and {other} has the same"
            if insist:
                raise Busy(f"{device.name}: {same}")
            mode, reason = "tc", same
        if mode == "auto":
            mode, reason = choose_mode(device, self._devices, self._drivers)
        entries = self._entries(device) if mode != "tc" else []
        stop: Stop = "none"
        if there is None or there.mode != mode:
            stop = "all" if mode == "native" else "own" if there and there.mode == "native" else "none"
        egress, again = self._runs_egress(device), self._again(device, there)
        return Attach(device, mode, reason, insist, egress, entries, stop, again=again)

    def _again(self, device: Device, there: Attachment | None) -> str:
        """Return a line if a program that pylvs had attached, by its notes, was gone from a device."""
        notes = self._facts.notes
        if there is None:
            lost = device.index in self._facts.remembered
        else:
            had_egress = OWN_SERVER in notes and self._runs_egress(device)
            lost = there.mode != there.intended or not there.ingress or (had_egress and not there.egress)
        killed = CHANGING in notes  # a process that had not attached everything
        return f"{device.name}: its program was removed, and is attached again" if lost and not killed else ""


def missing(facts: Facts) -> list[DeviceProblem]:
    """Return the devices that should be attached and are not, with reasons; excluded ones only if they are needed."""
    commanded, noted, by_index = facts.commanded, numbered(facts.notes, UNATTACHED), facts.by_index
    found = []
    for device in facts.devices:
        needed = device.index in facts.needed
        wanted = facts.in_use and device.index not in commanded and comes_in_by(device, by_index)
        if device.index in facts.attached or not (wanted or needed or device.index in noted):
            continue
        if commanded.get(device.index, "") is None:
            found.append(_taken_out(device, needed))
            continue
        later = "it came, or its program was taken off, after the last edit; the next edit attaches it"
        found.append(_problem(device, noted.get(device.index, later), needed))
    return found


def refusal(device: Device, error: PylvsError, needed: bool) -> DeviceProblem:
    """Return the problem of a device that could not be attached."""
    return _problem(device, str(error).removeprefix(f"{device.name}: "), needed)


def _taken_out(device: Device, needed: bool) -> DeviceProblem:
    """Return the problem of a device that `pylvs detach` excluded."""
    return _problem(device, f"pylvs detach took it out; pylvs attach {device.name} restores it", needed, by_hand=True)


def _problem(device: Device, reason: str, needed: bool, by_hand: bool = False) -> DeviceProblem:
    from pylvs.model.rows import DeviceProblem  # late: most edits attach every device

    return DeviceProblem(device.name, reason, needed, by_hand=by_hand)
