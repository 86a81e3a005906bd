"""Reconcile what is attached with the devices that should be: read the facts, let `plan` decide, and do it.

The kernel reports what is attached, notes of the state hold what was commanded, and the tables what is needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from pylvs.bpf import libbpf
from pylvs.dataplane.devices import attach, device_map, lo, selection
from pylvs.dataplane.devices import plan as planning
from pylvs.dataplane.devices.modes import Attachment, Drivers, Mode, strips_tags
from pylvs.dataplane.devices.plan import CHANGING, OFF, UNATTACHED, WANTED, Attach, Facts, Plan
from pylvs.dataplane.devices.selection import Concerns
from pylvs.dataplane.state import BARE, EGRESS, OLD_GATE, TC, XDP, State
from pylvs.dataplane.tables import Tables, Versions
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import NoSuchDevice, PylvsError
from pylvs.netlink import links, xdp
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.model.rows import DeviceProblem


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What still fails, until a later call; and what other programs had changed and this call put right."""

    problems: Sequence[DeviceProblem] = ()
    restored: Sequence[str] = ()


def request(tables: Tables, device: str, mode: Mode) -> Attachment:
    """Attach a device now and always, for `pylvs attach`. Raises what `attach.attach` does, and InvalidOperation."""
    found, state = links.device(device), tables.state
    facts = _with_programs(tables, _facts(tables, Concerns()))
    step = planning.request(facts, _drivers(facts, planning.asked(facts, found.index)), found.index, mode)
    state.set_note(CHANGING, "by hand")  # the next edit tidies up after an error or a kill
    done = _attach(tables, step)
    state.set_note(f"{WANTED}{found.index}", f"{mode} {found.name}")
    state.set_note(f"{UNATTACHED}{found.index}", None)
    _finish(tables)
    return done


def release(tables: Tables, device: str) -> bool:
    """Detach a device and exclude it, for `pylvs detach`; return whether it was attached."""
    found, state = links.device(device), tables.state
    state.set_note(CHANGING, "by hand")
    state.set_note(f"{WANTED}{found.index}", f"{OFF} {found.name}")
    device_map.stop_redirects(tables, found.index)
    done = attach.detach(found.index, state)
    if found.loopback:
        lo.accept_local(state, state.notes(), False)
    _finish(tables)
    return done


def reconcile(tables: Tables, changes: Concerns) -> Reconciled:
    """Attach the pinned programs to the desired devices, and detach the others.

    The caller holds the lock. `changes` is what an edit added; if it removed something, the whole table is evaluated.
    The next call retries a device that failed.
    """
    facts = _with_programs(tables, _facts(tables, changes))
    return _apply(tables, facts, planning.plan(facts, _drivers(facts, planning.asked(facts))))


def missing(tables: Tables) -> list[DeviceProblem]:
    """Return the devices that should be attached and are not, with reasons; excluded ones only if they are needed."""
    return planning.missing(_facts(tables, Concerns(shrunk=True)))


# Facts.


def _facts(tables: Tables, changes: Concerns) -> Facts:
    """Read what decides which devices are attached."""
    state = tables.state
    notes, everything = state.notes(), links.devices()
    concerns = selection.concerns_of(tables) if changes.shrunk else changes
    needed = set[int]()
    if concerns:
        needed = selection.needed_devices(concerns, selection.ways_of(tables, concerns, everything), everything)
    return Facts(
        devices=everything,
        attached={each.ifindex: each for each in attach.attached(state, everything)},
        remembered=attach.noted(notes),
        notes=notes,
        in_use=_is_in_use(tables),
        concerns=concerns,
        whole=changes.shrunk,
        needed=needed,
        now_s=int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        accepts_local=lo.accepts_local(notes),
    )


def _with_programs(tables: Tables, facts: Facts) -> Facts:
    """Add what decides how a device is attached. Tables of another layout lack it."""
    slots, programs = device_map.taken(tables), attach.entry_ids(tables.state)
    return replace(facts, programs=programs, slots=slots, slot_count=tables.devices.count)


def _drivers(facts: Facts, asked: Sequence[Device]) -> Drivers:
    """Ask the kernel about the drivers of these devices: there may be thousands that run TC."""
    if not asked:
        return Drivers()
    features = links.xdp_features(each.index for each in asked)
    stripping = {index for each in asked for index in strips_tags(each, facts.devices)}
    programs = {number for each in facts.devices for number in (each.xdp_native, each.xdp_generic) if number}
    ours = {each.xdp for each in facts.attached.values()}
    foreign = {number: xdp.program_name(number) for number in programs - ours}
    return Drivers(features, {index: links.stripped_tags(index) for index in stripping}, foreign)


def _is_in_use(tables: Tables) -> bool:
    """Return whether the table holds a service or a connection."""
    return any(Versions(tables).facts().get("services")) or bool(tables.pool.get(0, "used"))


# What a plan says is done.


def _apply(tables: Tables, facts: Facts, plan: Plan) -> Reconciled:
    state = tables.state
    _set_notes(state, plan.notes)
    device_map.write(tables, plan.entries)
    if plan.interrupted:
        from pylvs.dataplane.devices import loads  # late: needed only after a process was killed

        loads.drop_half_loaded(state)
    elif plan.changes:
        state.set_note(CHANGING, "by an edit")  # until `_finish`
    _leave_xdp(tables, plan.leave_xdp)
    problems, restored = dict(plan.refused), list[str]()
    for step in plan.attach:
        try:
            _attach(tables, step)
            restored += [step.again] if step.again else []
        except NoSuchDevice:
            continue  # the device was deleted at this moment
        except PylvsError as error:
            problems[step.device.index] = planning.refusal(step.device, error, step.needed)
    for index in plan.detach:
        device_map.stop_redirects(tables, index)
        with contextlib.suppress(NoSuchDevice):
            attach.detach(index, state)
    if plan.changes or facts.whole:
        _finish(tables)
    reasons = {index: each.reason for index, each in problems.items()}
    _set_notes(state, planning.renumbered(facts.notes, UNATTACHED, reasons))
    _tidy(state)
    of_lo = _forward_lo(tables) if facts.in_use else Reconciled()
    unaccepted, accepted = lo.accept_local(state, facts.notes, plan.accept_local)
    refused = [problems[index] for index in sorted(problems)]
    return Reconciled(
        [*refused, *plan.taken_out, *of_lo.problems, *unaccepted], [*restored, *of_lo.restored, *accepted]
    )


def _attach(tables: Tables, step: Attach) -> Attachment:
    device, state = step.device, tables.state
    with contextlib.ExitStack() as opened:
        tc = opened.enter_context(_entry(state, BARE if device.bare else TC))
        out = opened.enter_context(_entry(state, EGRESS)) if step.egress else None
        device_map.write(tables, step.entries)
        if step.stop != "none":
            device_map.stop_redirects(tables, device.index, to_all=step.stop == "all")
        return attach.attach(
            device.index,
            step.mode,
            state,
            tc_fd=tc,
            open_xdp=functools.partial(_entry, state, XDP),
            egress_fd=out,
            reason=step.reason,
            insist=step.insist,
        )


@contextlib.contextmanager
def _entry(state: State, name: str) -> Iterator[int]:
    """Yield a descriptor of an entry program, or of the gate's; load it if necessary."""
    from pylvs.dataplane import load  # late: most edits attach nothing

    if state.has_gate:
        from pylvs.dataplane.devices import gate  # late: only `pylvs adopt` has one

        program = gate.entry(state, name)
    else:
        program = load.open_entry(state, name)
    try:
        yield program
    finally:
        os.close(program)


def _leave_xdp(tables: Tables, indices: Sequence[int]) -> None:
    """Detach devices from XDP; TC still forwards."""
    for index in indices:
        device_map.stop_redirects(tables, index)
        with contextlib.suppress(PylvsError):  # `detach` raises it again
            attach.detach_xdp(index)


def _finish(tables: Tables) -> None:
    """Let XDP know the devices that are attached now, and end the note that they change."""
    everything = links.devices()
    there = attach.attached(tables.state, everything)
    features = dict[int, int]()
    if any(each.mode == "native" for each in there):
        features = links.xdp_features(each.index for each in everything)
    device_map.redirect_to(tables, device_map.transmitters(there, everything, features))
    device_map.clear_others(tables, there, everything)
    slots = device_map.Slots(device_map.taken(tables), tables.devices.count)
    commanded = Facts(everything, notes=tables.state.notes()).commanded
    by_xdp = {each.ifindex for each in there if each.mode != "tc"}
    for device in everything:
        if device.index in by_xdp:
            device_map.write(tables, slots.take(device, everything, commanded))
    tables.state.set_note(CHANGING, None)


def _set_notes(state: State, notes: Mapping[str, str | None]) -> None:
    for name, text in notes.items():
        state.set_note(name, text)


def _tidy(state: State) -> None:
    """Remove what killed processes left, and loads that no device uses any more."""
    if os.path.isdir(state.pin_path(OLD_GATE)) and not state.has_gate:
        from pylvs.dataplane.devices import gate  # late: only `pylvs adopt` makes one

        gate.remove(state)
    drafts, loads = state.leftovers()
    for name in drafts:
        libbpf.unpin(state.pin_path(name))
    if loads:
        from pylvs.dataplane.devices.loads import drop_others  # late: most edits find no other load

        drop_others(state, loads)


# The settings of lo.


def _forward_lo(tables: Tables) -> Reconciled:
    """Turn on forwarding of lo, for IP versions of services and real servers."""
    refused, was_off = lo.forward_lo(tables.state)
    used = [version for version in sorted({*refused, *was_off}) if _has_version(tables, version)]
    return Reconciled(
        [refused[version] for version in used if version in refused],
        [was_off[version] for version in used if version in was_off],
    )


def not_forwarding(tables: Tables) -> list[str]:
    """Return the settings of lo without which packets of the table's IP versions are not forwarded, and which are 0."""
    used = [version for version in (4, 6) if _has_version(tables, version)] if _is_in_use(tables) else []
    return [setting for version in used if (setting := lo.forwarding_off(version))]


def _has_version(tables: Tables, version: int) -> bool:
    """Return whether a service or a real server has an address of this IP version."""
    if Versions(tables).facts().get("services")[version == 6]:
        return True
    table = tables.destinations
    top = tables.book.get(0, "destination_top")
    form = table.codec.view("family", "used")
    return any(used and family == version for family, used in form.iter_unpack(table.array.elements(0, top)))
