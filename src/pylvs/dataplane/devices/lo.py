"""The sysctls of lo that packets need.

`forwarding` lets `bpf_fib_lookup` work with ip_forward=0; it enables nothing else. `accept_local` lets replies of NAT
servers reach clients on this host (`to_own_client` in bpf/ctx/scratch.h), because their saddr is an address of this
host. lo receives no packet from outside, and other devices still refuse such a saddr. Notes of the state hold the
former values, which are restored.
"""

from __future__ import annotations

import contextlib

from pylvs.dataplane.state import State

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pylvs.model.rows import DeviceProblem

_FORWARDING, _ACCEPT_LOCAL = {4: "forwarding-ipv4", 6: "forwarding-ipv6"}, "accept-local"
_SETTINGS = {  # by the names of their notes
    "forwarding-ipv4": "/proc/sys/net/ipv4/conf/lo/forwarding",
    "forwarding-ipv6": "/proc/sys/net/ipv6/conf/lo/forwarding",
    "accept-local": "/proc/sys/net/ipv4/conf/lo/accept_local",
}
_COPIED = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}  # the kernel copies them to every device


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
