"""Attach programs to a device, detach them, and list what is attached.

The kernel reports what is attached. Notes of the state hold only the reason for a mode, and whether pylvs added clsact.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

from pylvs.bpf import kernel
from pylvs.dataplane.devices.modes import ON_REQUEST, Attachment, Mode, foreign_program
from pylvs.dataplane.state import ENTRIES, GATE, LOADED, State
from pylvs.model.errors import Busy, NoSuchDevice, PylvsError
from pylvs.netlink import links, tc, xdp
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

ROLE = "director"  # of the filters at TC; a real server on this host has others
_NOTE = f"device-{ROLE}-"
_MADE_CLSACT, _FOUND_CLSACT = "made", "found"
_RECEIVED, _SO_FAR = "received-", "so far"  # a note by ifindex: what the device had received when it was attached
_RUNNING: tuple[Mode, ...] = ("native", "generic", "tc")


def attach(
    device: str | int,
    mode: Mode,
    state: State,
    *,
    tc_fd: int,
    open_xdp: Callable[[], AbstractContextManager[int]] | None = None,
    egress_fd: int | None = None,
    reason: str = ON_REQUEST,
    insist: bool = True,
) -> Attachment:
    """Attach at TC and, by mode ("native", "generic", "tc"), at XDP, in place of what was attached before.

    `open_xdp` is called only for a mode of XDP, because loading that program is slow. Without `insist`, a driver that
    refuses the mode gets TC.
    A failure changes nothing. Raises NoSuchDevice, Busy with the program that is in the way, Unsupported if the driver
    lacks the mode, NotPermitted.
    """
    found = links.device(device)
    if mode in xdp.MODES:
        _refuse_foreign_xdp(found)
    doing = _naming(f"{found.name}: attaching")
    with doing, Netlink() as link, ExitStack() as kept, ExitStack() as undo:  # `undo`: in reverse order after a failure
        xdp_fd = kept.enter_context(open_xdp()) if mode in xdp.MODES and open_xdp else None
        made = _made_clsact(link, state, found.index) or not tc.has_clsact(link, found.index)
        if made:  # noted before, so that a kill leaves no clsact behind for good
            note = _note(found.index)
            undo.callback(_undo, state.set_note, note, state.note(note))
            state.set_note(note, f"{_MADE_CLSACT} {mode} {reason}")
        _add_clsact(link, found, undo)
        with _receiving(state, found.index):
            _set_side(link, found, tc.INGRESS, tc_fd, made, kept, undo)
        _set_side(link, found, tc.EGRESS, egress_fd, made, kept, undo)
        if xdp_fd is not None:
            mode, reason = _attach_xdp(link, found, mode, reason, xdp_fd, insist)
        if mode == "tc":
            _detach_xdp(link, found)
        undo.pop_all()
    state.set_note(_note(found.index), f"{_MADE_CLSACT if made else _FOUND_CLSACT} {mode} {reason}")
    with _naming(f"{found.name}: asking what runs there"), Netlink() as link:
        after = _query(link, links.device(found.index), state)
    if after is None:
        raise Busy(f"{found.name}: another program detached it at the same time")
    return after


@contextlib.contextmanager
def _naming(doing: str) -> Iterator[None]:
    """Raise a refusal by the kernel as the error that names what was being done."""
    try:
        yield
    except NetlinkError as error:
        raise error.as_failure(doing) from None


def _undo(step: Callable[..., object], *arguments: object) -> None:
    """Undo one step after a failure. The first error counts: the device may be gone, and this step fails, too."""
    with contextlib.suppress(NetlinkError, PylvsError, OSError):
        step(*arguments)


def _add_clsact(link: Netlink, device: Device, undo: ExitStack) -> None:
    """Add clsact to the device if it has none."""
    try:
        made = tc.add_clsact(link, device.index)
    except NetlinkError as error:
        if error.number in (errno.EEXIST, errno.EBUSY, errno.EINVAL):
            raise Busy(
                f"{device.name}: an ingress qdisc of another program occupies the position of clsact;"
                f" see: tc qdisc show dev {device.name}"
            ) from None
        raise error.as_failure(f"{device.name}: attaching at TC") from None
    if made:
        undo.callback(_undo, tc.remove_clsact, link, device.index)


def _set_side(
    link: Netlink, device: Device, side: int, program: int | None, made_clsact: bool, kept: ExitStack, undo: ExitStack
) -> None:
    """Set the program of our filter on one side; None removes the filter."""
    try:
        with _naming(f"{device.name}: attaching at TC"):
            before = tc.our_filter(link, device.index, side, ROLE)
            if before is not None:
                old = kernel.program_by_id(before.program)
                kept.callback(os.close, old)
                undo.callback(_undo, tc.set_filter, link, device.index, side, ROLE, old, before.own_clsact)
            elif program is not None:
                undo.callback(_undo, tc.remove_filter, link, device.index, side, ROLE)
            if program is None:
                tc.remove_filter(link, device.index, side, ROLE)
            else:
                tc.set_filter(link, device.index, side, ROLE, program, made_clsact)
    except FileExistsError as error:
        raise Busy(
            f"{device.name}: filter {error.strerror} of another program has priority {tc.PRIORITIES[ROLE]} at TC;"
            f" see: tc filter show dev {device.name} {'ingress' if side == tc.INGRESS else 'egress'}"
        ) from None


def _refuse_foreign_xdp(device: Device) -> None:
    for program in (device.xdp_native, device.xdp_generic):
        if program and not xdp.is_ours(program):
            foreign = foreign_program(program, xdp.program_name(program))
            remedy = f"detach it (ip link set dev {device.name} xdp off) or use --mode tc"
            raise Busy(f"{device.name}: {foreign} is at XDP; {remedy}")


def _attach_xdp(link: Netlink, device: Device, mode: Mode, reason: str, program: int, insist: bool) -> tuple[Mode, str]:
    """Attach XDP, and return mode and reason: "tc" if the driver refuses and `insist` is false."""
    here, there = (
        (device.xdp_native, device.xdp_generic) if mode == "native" else (device.xdp_generic, device.xdp_native)
    )
    other: Mode = "generic" if mode == "native" else "native"
    try:
        if there:  # the kernel refuses both modes at once; TC forwards until the new one is there
            xdp.set_program(link, device.index, other, -1, there)
        xdp.set_program(link, device.index, mode, program, here)
    except NetlinkError as error:
        if there:
            _restore_xdp(link, device, other, there)
        if not insist:
            return "tc", f"its driver refuses native XDP ({error.reason or error})"
        raise error.as_failure(f"{device.name}: attaching {mode} XDP") from None
    return mode, reason


def _restore_xdp(link: Netlink, device: Device, mode: Mode, program: int) -> None:
    try:
        descriptor = kernel.program_by_id(program)
    except PylvsError:
        return  # the program is gone with its last reference: TC alone forwards
    try:
        xdp.set_program(link, device.index, mode, descriptor)
    except NetlinkError:
        return
    finally:
        os.close(descriptor)


def _detach_xdp(link: Netlink, device: Device) -> bool:
    done = False
    for mode, program in (("native", device.xdp_native), ("generic", device.xdp_generic)):
        if program and xdp.is_ours(program):
            with _naming(f"{device.name}: detaching from XDP"):
                xdp.set_program(link, device.index, mode, -1, program)
            done = True
    return done


def _detach_tc(link: Netlink, device: Device, state: State) -> bool:
    with _naming(f"{device.name}: detaching from TC"):
        made_clsact = _made_clsact(link, state, device.index)
        done = [tc.remove_filter(link, device.index, side, ROLE) for side in (tc.INGRESS, tc.EGRESS)]
        if made_clsact:
            tc.remove_clsact(link, device.index)
    return any(done)


def detach_xdp(device: int) -> None:
    """Detach our program from XDP alone; TC forwards what comes. Raises NoSuchDevice, NotPermitted, KernelRefused."""
    with Netlink() as link:
        _detach_xdp(link, links.device(device))


def detach(device: str | int, state: State) -> bool:
    """Detach our programs, and remove clsact if pylvs added it and it is empty.

    Return whether anything was attached.

    Raises NoSuchDevice, NotPermitted.
    """
    try:
        found = links.device(device)
    except NoSuchDevice:
        if state.exists and not isinstance(device, str):
            state.set_note(_note(device), None)
            state.set_note(f"{_RECEIVED}{device}", None)
        raise
    _end_receiving(state, found.index)
    with Netlink() as link:
        done = _detach_xdp(link, found)
        done = _detach_tc(link, found, state) or done
    if state.exists:
        state.set_note(_note(found.index), None)
    return done


@contextlib.contextmanager
def _receiving(state: State, ifindex: int) -> Iterator[None]:
    """Note what a device has received when it is attached within the block, unless it is attached already.

    Packets that come during the block may be counted or not.
    """
    name = f"{_RECEIVED}{ifindex}"
    note = state.note(name) or f"{_SO_FAR} 0 0"
    begins = note.startswith(_SO_FAR)
    least, most = map(int, note.removeprefix(_SO_FAR).split()) if begins else (0, 0)
    before = links.traffic(ifindex).in_packets
    yield
    if begins:
        state.set_note(name, f"{before - most} {links.traffic(ifindex).in_packets - least}")


def _end_receiving(state: State, ifindex: int) -> None:
    """Note what a device has received while it was attached."""
    found = received(state, ifindex) if state.exists else None
    if found is not None:
        state.set_note(f"{_RECEIVED}{ifindex}", f"{_SO_FAR} {found[0]} {found[1]}")


def received(state: State, ifindex: int) -> tuple[int, int] | None:
    """Return the least and the most that a device has received while it was attached; None: not known.

    It is the kernel's count.
    """
    note = state.note(f"{_RECEIVED}{ifindex}")
    if note is None:
        return None
    first, second = map(int, note.removeprefix(_SO_FAR).split())
    if note.startswith(_SO_FAR):
        return first, second
    try:
        now = links.traffic(ifindex).in_packets
    except NoSuchDevice:
        return None
    return now - second, now - first


def attached(state: State, everything: Sequence[Device] | None = None) -> list[Attachment]:
    """Return what pylvs attached to the devices of this namespace, by their index.

    `everything` saves a dump of the devices.
    """
    found = []
    with Netlink() as link, _naming("asking which devices are attached"):
        with_clsact = set(tc.clsact_devices(link))
        for device in everything or links.devices():
            if device.index in with_clsact or device.xdp_native or device.xdp_generic:
                attachment = _query(link, device, state, device.index in with_clsact)
                if attachment:
                    found.append(attachment)
    return found


def entry_ids(state: State) -> dict[str, int]:
    """Return the ids of the entry programs that devices should run, or of the gate's; 0 of one that is not loaded."""
    found, directory = dict.fromkeys(ENTRIES, 0), GATE if state.has_gate else LOADED
    for name in ENTRIES:
        with state.opened(f"{directory}/{name}") as program:
            if program is not None:
                found[name] = kernel.program_info(program).id
    return found


def with_other_programs(state: State) -> list[str]:
    """Return the names of devices whose packets run programs at TC that are not those of the load in force."""
    own = entry_ids(state).values()
    return [each.device for each in attached(state) if each.ingress and each.ingress not in own]


def replace_programs(state: State, instead: Mapping[int, int]) -> None:
    """Replace programs on devices, those with these ids by these descriptors. Devices that refuse keep theirs."""
    with Netlink() as link:
        for device in attached(state):
            with contextlib.suppress(NetlinkError, FileExistsError):
                for side, program in ((tc.INGRESS, device.ingress), (tc.EGRESS, device.egress)):
                    if program in instead:
                        tc.set_filter(link, device.ifindex, side, ROLE, instead[program])
                if device.xdp in instead:
                    xdp.set_program(link, device.ifindex, device.mode, instead[device.xdp], device.xdp)


def noted(notes: Mapping[str, str]) -> set[int]:
    """Return the indices of the devices that the director attached, by its notes: some may have no program any more."""
    return {int(name.removeprefix(_NOTE)) for name in notes if name.startswith(_NOTE)}


def detach_all(state: State) -> list[Attachment]:
    """Detach our programs from every device, and return what was attached."""
    there = attached(state)
    left = noted(state.notes())  # a clsact, after a kill
    for index in left | {each.ifindex for each in there}:
        with contextlib.suppress(NoSuchDevice):  # the device was deleted
            detach(index, state)
    return there


def _query(link: Netlink, device: Device, state: State, has_clsact: bool = True) -> Attachment | None:
    native, generic = (
        program if program and xdp.is_ours(program) else 0 for program in (device.xdp_native, device.xdp_generic)
    )
    ours = [tc.our_filter(link, device.index, side, ROLE) if has_clsact else None for side in (tc.INGRESS, tc.EGRESS)]
    ingress, egress = (each.program if each else 0 for each in ours)
    if not (native or generic or ingress or egress):
        return None
    mode: Mode = "native" if native else "generic" if generic else "tc"
    _, intended, reason = ((state.note(_note(device.index)) if state.exists else None) or "  ").split(" ", 2)
    return Attachment(
        device=device.name,
        ifindex=device.index,
        mode=mode,
        reason=reason or "not known",
        intended=intended if intended in _RUNNING else mode,
        xdp=native or generic,
        ingress=ingress,
        egress=egress,
    )


def _note(ifindex: int) -> str:
    return f"{_NOTE}{ifindex}"


def _made_clsact(link: Netlink, state: State, ifindex: int) -> bool:
    """Return whether pylvs added clsact: for the director, or for the program of a real server on this host."""
    noted = state.exists and (state.note(_note(ifindex)) or "").startswith(_MADE_CLSACT)
    return noted or tc.has_own_clsact(link, ifindex)
