"""Attach programs to devices, detach them, list what is attached, and set the sysctls of lo that packets need.

The kernel reports what is attached. Notes of the state hold only the reason for a mode, and whether pylvs added clsact.

`forwarding` of lo lets `bpf_fib_lookup` work with ip_forward=0; it enables nothing else. `accept_local` of lo lets
replies of NAT servers reach clients on this host (`to_own_client` in bpf/ctx/scratch.h), because their saddr is an
address of this host. lo receives no packet from outside, and other devices still refuse such a saddr. Notes of the
state hold the former values, which are restored.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

from pylvs.bpf import kernel
from pylvs.dataplane.state import State
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, InvalidOperation, NoSuchDevice, PylvsError
from pylvs.netlink import links, tc, xdp
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import Device

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from pylvs.model.rows import DeviceProblem

    Mode = Literal["auto", "native", "generic", "tc"]
else:
    Mode = str

MODES: tuple[Mode, ...] = ("auto", "native", "generic", "tc")
ROLE = "director"  # of the filters at TC; a real server on this host has others
_NOTE = f"device-{ROLE}-"
_MADE_CLSACT, _FOUND_CLSACT = "made", "found"
ON_REQUEST = "on request"
_HIDDEN, _OCCUPIES, _IS_PORT = "unseen by XDP", "is at XDP already", "it is a port"  # parts of reasons
_NO_PORT, _ITS_PORT, _NO_NATIVE_PORTS = "it has no port", "its port", "the drivers of its ports have no native XDP"
_MAY_PASS = (_HIDDEN, _OCCUPIES, _IS_PORT, _NO_PORT, _ITS_PORT, _NO_NATIVE_PORTS)  # in reasons that edits check again
_FORWARDING, _ACCEPT_LOCAL = {4: "forwarding-ipv4", 6: "forwarding-ipv6"}, "accept-local"
_SETTINGS = {  # by the names of their notes
    "forwarding-ipv4": "/proc/sys/net/ipv4/conf/lo/forwarding",
    "forwarding-ipv6": "/proc/sys/net/ipv6/conf/lo/forwarding",
    "accept-local": "/proc/sys/net/ipv4/conf/lo/accept_local",
}
_COPIED = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}  # the kernel copies them to every device
_NOT_NATIVE = {  # kinds of devices for which `auto` means TC, and why
    "veth": "a veth loses natively forwarded frames unless its peer cooperates",
    "tun": "a tap's frames may have unfinished checksums, which XDP leaves to TC",
    "vlan": "a VLAN device has no native XDP; the device below it may have",
    "team": "a team has no native XDP",
}
# Likewise for drivers of a bus: the frames of other guests of this machine come as their stacks sent them.
_UNFINISHED_BY_BUS = {"xen": "frames of a Xen guest may have unfinished checksums, which XDP leaves to TC"}
_TX_CHECKSUMS = {"tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6"}  # ethtool's features


@dataclass(frozen=True, slots=True)
class Attachment:
    """The programs on a device: `mode` is "native", "generic" or "tc"; a program id of 0 means none.

    `intended` is the mode that pylvs attached. It differs from `mode` after another program has removed XDP.
    """

    device: str
    ifindex: int
    mode: Mode
    reason: str
    intended: Mode
    xdp: int = 0
    ingress: int = 0
    egress: int = 0


def choose_mode(device: Device, everything: list[Device] | None = None) -> tuple[Mode, str]:
    """Return the mode that `auto` means on a device, "native" or "tc", and the reason.

    Where the kernel does not report a driver's features, the driver may refuse "native"; `attach` then uses TC.
    """
    if device.bare:
        return "tc", "its packets come without link addresses"
    if device.kind in _NOT_NATIVE:
        return "tc", _NOT_NATIVE[device.kind]
    if device.bus in _UNFINISHED_BY_BUS:
        return "tc", _UNFINISHED_BY_BUS[device.bus]
    if device.loopback:
        return "tc", "the loopback device has no native XDP"
    if obstacle := _obstacle(device, everything or links.devices()):
        return "tc", obstacle
    features = links.native_xdp(device.index)
    if features is None:
        return "native", "no other program is at XDP, and the driver takes it"
    if not features & links.XDP_BASIC:
        return "tc", _NO_NATIVE_PORTS if device.kind == "bond" else "its driver has no native XDP"
    return "native", "its driver has native XDP and no other program is there"


def auto_changed(there: Attachment, device: Device, everything: list[Device]) -> bool:
    """Return whether `auto` would decide otherwise than it did: an obstacle to native XDP has come or gone."""
    if there.mode == "native":
        return bool(_obstacle(device, everything))
    if not any(words in there.reason for words in _MAY_PASS):
        return False
    return choose_mode(device, everything) != (there.mode, there.reason)


def _obstacle(device: Device, everything: list[Device]) -> str:
    """Return what prevents native XDP on a device at the moment; "" if nothing does. All have words of `_MAY_PASS`."""
    for program in (device.xdp_native, device.xdp_generic):
        if program and not xdp.is_ours(program):
            return f"{_foreign(program)} {_OCCUPIES}"
    if device.master:
        return f"{_IS_PORT} of another device (bridge, bond or VRF)"
    ports = _obstacle_of_ports(device, everything) if device.kind == "bond" else ""
    return ports or _hidden_tags(device, everything)


def _hidden_tags(device: Device, everything: list[Device]) -> str:
    """Return why XDP on a device below VLAN devices does not see their tags; "" if it does, or there are none."""
    vlans = {each.vlan_protocol: each.name for each in everything if each.vlan_protocol and each.lower == device.index}
    if not vlans:
        return ""
    ports = [each.index for each in everything if device.kind == "bond" and each.master == device.index]
    stripped = set[int]().union(*map(links.stripped_tags, ports or [device.index]))
    hidden = sorted(vlans.keys() & stripped)
    if not hidden:
        return ""
    option = "rxvlan" if hidden[0] == links.ETH_P_8021Q else "rx-vlan-stag-hw-parse"
    return f"{vlans[hidden[0]]} stands on it and the card takes VLAN tags off, {_HIDDEN} (ethtool: {option})"


def _obstacle_of_ports(bond: Device, everything: list[Device]) -> str:
    """Return why a bond should not run XDP at its ports; "" if it can."""
    ports = [each for each in everything if each.master == bond.index]
    for port in ports:
        if port.kind == "veth":
            return f"{_ITS_PORT} {port.name} is a veth, which loses natively forwarded frames"
        if port.kind in _NOT_NATIVE or port.bus in _UNFINISHED_BY_BUS:
            return f"{_ITS_PORT} {port.name}: {_NOT_NATIVE.get(port.kind) or _UNFINISHED_BY_BUS[port.bus]}"
        if port.xdp_native or port.xdp_generic:  # the program of a bond is not reported at its ports
            return f"{_ITS_PORT} {port.name} runs an XDP program of its own"
    return "" if ports else _NO_PORT


def loses_frames(device: Device) -> str:
    """Return why native XDP on a device loses what it sends, and the remedy; "" if it does not.

    A veth's peer takes such frames only while it runs XDP itself or has GRO on; the kernel drops others silently.
    Before Linux 6.3 it does not report whether the peer takes them: then the answer is "".
    """
    features = links.native_xdp(device.index) if device.kind == "veth" else None
    if features is None or features & links.XDP_TRANSMIT:
        return ""
    return (
        f"{device.name}: native XDP would lose the frames that it sends, because the other end of this veth does not"
        " take them; switch GRO on at the other end (ethtool -K PEER gro on), or use --mode tc"
    )


def leaves_to_tc(device: Device) -> str:
    """Return why XDP on a device leaves most packets to TC, and the remedy; "" if no reason is known.

    XDP passes packets with unfinished checksums to TC. A veth's peer, a container, sends them unless its checksum
    offload is off.
    """
    if device.kind == "tun":
        return f"{device.name}: {_NOT_NATIVE['tun']}; --mode tc costs less"
    if device.bus in _UNFINISHED_BY_BUS:
        return f"{device.name}: {_UNFINISHED_BY_BUS[device.bus]}; --mode tc costs less"
    if device.kind != "veth":
        return ""
    remedy = "ethtool -K PEER tx off at the other end lets XDP send its packets; otherwise --mode tc costs less"
    from pylvs.netlink import other_end  # late: only `pylvs attach` asks

    with other_end.inside_lower(device) as found:
        if not found:
            return (
                f"{device.name}: the other end of this veth is in a namespace that cannot be found. If its checksum"
                f" offload is on, XDP leaves its packets to TC: {remedy}"
            )
        peer = links.device(device.lower)
        if not _TX_CHECKSUMS & links.active_features(peer.index):
            return ""
    return (
        f"{device.name}: the other end of this veth, {peer.name}, sends unfinished checksums, so XDP leaves its packets"
        f" to TC: {remedy.replace('PEER', peer.name)}"
    )


def _foreign(program: int) -> str:
    name = xdp.program_name(program)
    return f"program {program} ({name}), which is not of pylvs," if name else f"program {program}, not of pylvs,"


def attach(
    device: str | int,
    mode: Mode,
    state: State,
    *,
    tc_fd: int,
    open_xdp: Callable[[], AbstractContextManager[int]] | None = None,
    egress_fd: int | None = None,
    reason: str = "",
) -> Attachment:
    """Attach at TC and, by mode, at XDP, in place of what was attached before.

    `open_xdp` is called only for a mode of XDP, because loading that program is slow.
    A failure changes nothing. Raises NoSuchDevice, Busy with the program that is in the way, Unsupported if the driver
    lacks the mode, NotPermitted, InvalidOperation.
    """
    if mode not in MODES:
        raise InvalidOperation(f"{mode}: no such mode; there are: {', '.join(MODES)}")
    found = links.device(device)
    chosen, reason = (mode, reason or ON_REQUEST) if mode != "auto" else choose_mode(found)
    if chosen != "tc" and open_xdp is None:
        chosen, reason = "tc", "there is no XDP program to attach"
    if chosen in xdp.MODES:
        _refuse_foreign_xdp(found)
    doing = _naming(f"{found.name}: attaching")
    with doing, Netlink() as link, ExitStack() as kept, ExitStack() as undo:  # `undo`: in reverse order after a failure
        xdp_fd = kept.enter_context(open_xdp()) if chosen in xdp.MODES and open_xdp else None
        made = _made_clsact(link, state, found.index) or not tc.has_clsact(link, found.index)
        if made:  # noted before, so that a kill leaves no clsact behind for good
            note = _note(found.index)
            undo.callback(_undo, state.set_note, note, state.note(note))
            state.set_note(note, f"{_MADE_CLSACT} {chosen} {reason}")
        _add_clsact(link, found, undo)
        _set_side(link, found, tc.INGRESS, tc_fd, made, kept, undo)
        _set_side(link, found, tc.EGRESS, egress_fd, made, kept, undo)
        if xdp_fd is not None:
            chosen, reason = _attach_xdp(link, found, chosen, reason, xdp_fd, insist=mode != "auto")
        if chosen == "tc":
            _detach_xdp(link, found)
        undo.pop_all()
    state.set_note(_note(found.index), f"{_MADE_CLSACT if made else _FOUND_CLSACT} {chosen} {reason}")
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
            raise Busy(
                f"{device.name}: {_foreign(program)} is at XDP; detach it (ip link set dev {device.name} xdp off)"
                " or use --mode tc"
            )


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
        raise
    with Netlink() as link:
        done = _detach_xdp(link, found)
        done = _detach_tc(link, found, state) or done
    if state.exists:
        state.set_note(_note(found.index), None)
    return done


def attached(state: State, everything: list[Device] | None = None) -> list[Attachment]:
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


def replace_programs(state: State, instead: Mapping[int, int]) -> None:
    """Replace programs on devices, those with these ids by these descriptors. Devices that refuse keep theirs."""
    with Netlink() as link:
        for each in attached(state):
            with contextlib.suppress(NetlinkError, FileExistsError):
                for side, program in ((tc.INGRESS, each.ingress), (tc.EGRESS, each.egress)):
                    if program in instead:
                        tc.set_filter(link, each.ifindex, side, ROLE, instead[program])
                if each.xdp in instead:
                    xdp.set_program(link, each.ifindex, each.mode, instead[each.xdp], each.xdp)


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
        intended=intended if intended in MODES else mode,
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


# The settings of lo.


def _sysctl(path: str) -> str:
    """Return a setting. Raises OSError."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _set_sysctl(path: str, value: str) -> None:
    """Write a setting. Raises OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def _turn_on(state: State, note: str) -> bool:
    """Turn a setting on, and return whether it was off. Raises OSError."""
    before = _sysctl(_SETTINGS[note])
    if before == "1":
        return False
    noted = state.note(note)
    if noted is None:
        state.set_note(note, before)  # first: a process that is killed leaves no setting that is not restored
    try:
        _set_sysctl(_SETTINGS[note], "1")
    except OSError:
        if noted is None:
            state.set_note(note, None)
        raise
    return True


def _put_back(state: State, note: str) -> None:
    before = state.note(note)
    if before is not None:
        with contextlib.suppress(OSError):
            _set_sysctl(_SETTINGS[note], before)
        state.set_note(note, None)


def forward_lo(state: State) -> tuple[dict[int, DeviceProblem], dict[int, str]]:
    """Turn on forwarding of lo, for IPv4 and IPv6; return why that failed, and what was off, by IP version.

    The first edit turns it on. Later, the kernel turns it off while it copies `ip_forward=0` to every device.
    """
    found, was_off = {}, {}
    for version, note in _FORWARDING.items():
        try:
            if _turn_on(state, note):
                was_off[version] = (
                    f"lo: {_sysctl_name(note)} was 0, as {_COPIED[version]}=0 sets it, so packets were not forwarded by"
                    f" IPv{version}; it is 1 again"
                )
        except FileNotFoundError:  # a kernel without IPv6
            continue
        except OSError as error:
            reason = f"{_refused(note, error)}; packets are not forwarded by IPv{version}"
            found[version] = _lo_problem(reason, needed=True)
    return found, was_off


def forwarding_off(version: int) -> str:
    """Return the name of the setting of lo that stops forwarding by this IP version; "" if it is on."""
    note = _FORWARDING[version]
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        return _sysctl_name(note) if _sysctl(_SETTINGS[note]) == "0" else ""
    return ""


def _sysctl_name(note: str) -> str:
    return _SETTINGS[note].removeprefix("/proc/sys/").replace("/", ".")


def _refused(note: str, error: OSError) -> str:
    return f"{_sysctl_name(note)} cannot be set to 1: {error.strerror}"


def _lo_problem(reason: str, needed: bool = False) -> DeviceProblem:
    from pylvs.model.rows import DeviceProblem  # late: most kernels accept the settings

    return DeviceProblem("lo", reason, needed, attached=True)


def accepts_local(notes: Mapping[str, str]) -> bool:
    """Return whether `accept_local` turned the setting on."""
    return _ACCEPT_LOCAL in notes


def accept_local(state: State, notes: Mapping[str, str], wanted: bool) -> tuple[list[DeviceProblem], list[str]]:
    """Turn on accept_local of lo, or restore it; return why that failed, and whether another program turned it off."""
    effect = "clients on this host do not reach NAT services of IPv4"
    if not wanted:
        if accepts_local(notes):
            _put_back(state, _ACCEPT_LOCAL)
        return [], []
    try:
        was_off = _turn_on(state, _ACCEPT_LOCAL) and accepts_local(notes)
    except OSError as error:
        return [_lo_problem(f"{_refused(_ACCEPT_LOCAL, error)}; {effect}")], []
    return [], [f"lo: {_sysctl_name(_ACCEPT_LOCAL)} was set to 0; it is 1 again"] if was_off else []


def restore_lo(state: State) -> None:
    """Restore all settings."""
    for note in _SETTINGS:
        _put_back(state, note)
