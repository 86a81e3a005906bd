"""End what a daemon left: its virtual routers, and its services in the table.

A daemon that was killed leaves both, for the next one to continue. `pylvs stop` and `pylvs vrrp stop` end them without
a daemon.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address, ip_interface
from typing import Literal

from pylvs.daemon import Options, units
from pylvs.daemon.state.directory import (
    DRAINS_FILE,
    NAMESPACES_FILE,
    OVERRIDES_FILE,
    RULES_FILE,
    SERVICES_FILE,
    StateDirectory,
)
from pylvs.daemon.state.saved import load_owned, save_owned
from pylvs.daemon.via_vip import DEVICES_FILE, VipChecks
from pylvs.dataplane.director import open_director
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import NoSuchService, PylvsError, counted, text_of
from pylvs.model.routing import HeldAddress
from pylvs.model.service import ServiceKey
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.netlink import links
from pylvs.netlink.addresses import release
from pylvs.system import lock
from pylvs.system.logs import get_logger
from pylvs.system.namespaces import NAMED, inside_network, network_cookie
from pylvs.vrrp import PID_FILE
from pylvs.vrrp.client import Client
from pylvs.vrrp.ipc import NoRouters

ADDRESSES_FILE = "vrrp_addresses"  # of the virtual routers; for a process that hangs
ROUTERS_STOP_S = 22.0  # notify scripts of the end
KILLED_S = 5.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The network namespaces of a daemon and of its tables: for each the file, "" if it has none, and the cookie.

    The file of tables without a name is a descriptor of the daemon, which ends with it. With `keep_table` the services
    stay at its end.
    """

    daemon: tuple[str, int]
    tables: tuple[str, int]
    keep_table: bool = False

    @classmethod
    def of(cls, options: Options, daemon: int, tables: int) -> Namespaces:
        """Return those of the running daemon, with these cookies."""
        name = options.placement.net_namespace if options.placement else ""
        own = str(NAMED / name) if name else ""
        return cls((own, daemon), (options.tables_namespace or own, tables), options.keep_table)

    def save(self, state: StateDirectory) -> None:
        """Note them for `entered`. Raises PylvsError."""
        content = {"daemon": self.daemon, "tables": self.tables, "keep_table": self.keep_table}
        state.write(NAMESPACES_FILE, content)


@contextmanager
def entered(state: StateDirectory, which: Literal["daemon", "tables"]) -> Iterator[bool]:
    """Within the block, be in a network namespace of the last daemon; without a note, in the present one.

    The block gets False if that namespace is gone, with all that was in it, and another one has its name. Raises
    PylvsError if it cannot be entered: an edit elsewhere would change what others own.
    """
    present = network_cookie()
    with state.decoding(NAMESPACES_FILE) as saved:
        file, cookie = saved[which] if saved else ("", state.name_cookie() or present)
    with ExitStack() as stack:
        if cookie != present:
            what = "its tables" if which == "tables" else "pylvs run"
            if not file or (file.startswith("/proc/") and not _leads_to(file, cookie)):
                text = f"{state.path}: the network namespace of {what} has no name, and is not this one"
                raise PylvsError(f"{text}: run this command there")
            try:
                stack.enter_context(inside_network(file))
            except OSError as error:
                text = f"{state.path}: the network namespace of {what}, {file}, cannot be entered"
                raise PylvsError(f"{text}: {error.strerror}; what is there stays") from None
        yield network_cookie() == cookie


def _leads_to(descriptor: str, cookie: int) -> bool:
    """Return whether a daemon's descriptor is still of this network namespace: its process ID may be used again."""
    try:
        with inside_network(descriptor):
            return network_cookie() == cookie
    except OSError:
        return False


def end_former(state: StateDirectory, tables: int) -> None:
    """End what the unit's last daemon left in another state directory; then note this one. Errors are logged.

    After a change of `net_namespace` or `instance` no daemon continues there, and the unit notes one directory only.
    Services in these `tables`, by their namespace's cookie, are this daemon's from now on: no connection must break.
    So are overrides and drains: a server under maintenance must not get connections because the daemon moved.
    """
    former = units.former(state.path)
    if former is None:
        return
    log = get_logger()
    try:
        end_leftovers(StateDirectory(former), lambda text: log.info(text, state_dir=str(former)), heir=(state, tables))
    except (PylvsError, OSError) as error:
        text = f"{former}: virtual routers or services of the last daemon stay: {text_of(error)}"
        log.error(f"{text}; run: pylvs stop --state-dir {former}")
    units.note(state.path)


def end_leftovers(
    state: StateDirectory, report: Report, keep_table: bool = False, heir: tuple[StateDirectory, int] | None = None
) -> None:
    """End the virtual routers and the services of a daemon that has ended. Raises PylvsError, Busy if one runs.

    An heir gets the overrides, the operator's client rules and drains, and the services if they are in its tables.
    """
    state.acquire()
    try:
        stop_routers(state, report)
        if heir is not None:
            _hand_over(state, *heir)
        delete_services(state, report, keep_table)
    finally:
        state.release()


def _hand_over(state: StateDirectory, heir: StateDirectory, tables: int) -> None:
    for name in OVERRIDES_FILE, RULES_FILE, DRAINS_FILE:
        if (content := state.read(name)) is not None:  # newer than what an earlier daemon left to the heir
            heir.write(name, content)
            state.write(name, None)
    if state.tables_cookie() == tables and (owned := load_owned(state)):
        save_owned(heir, dict(owned) | dict(load_owned(heir)))
        state.write(SERVICES_FILE, None)


def save_addresses(state: StateDirectory, routers: VrrpConfiguration) -> None:
    """Note the addresses of virtual routers. Raises PylvsError."""
    held = [each for router in routers.instances for each in (*router.addresses, *router.excluded)]
    state.write(ADDRESSES_FILE, sorted({str(each.interface.ip) for each in held}))


def stop_routers(state: StateDirectory, report: Report, patience_s: float = ROUTERS_STOP_S) -> bool:
    """Let pylvs-vrrp give up its addresses and end; kill one that hangs. Return whether it ran. Raises PylvsError."""
    try:
        pid = _asked_to_stop(state, patience_s)
    except NoRouters:
        return False
    except PylvsError as error:
        return _kill(state, report, str(error))
    report(f"virtual routers: process {pid} has given up its addresses and ended")
    return True


def _asked_to_stop(state: StateDirectory, patience_s: float) -> int:
    """Request the end and wait for it; return the process. Raises NoRouters, PylvsError."""
    with Client(state.routers_path) as client:
        pid = client.pid
        end = end_of(pid)
        client.ask("stop")
    if not end(patience_s):
        raise PylvsError(f"process {pid} does not end within {patience_s:g} s")
    return pid


def end_of(pid: int) -> Callable[[float], bool]:
    """Return a function that waits for the end of this process; it returns whether the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda _: True

    def wait(timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = bool(poll.poll(timeout_s * 1000))
        os.close(descriptor)
        return ended

    return wait


def _kill(state: StateDirectory, report: Report, why: str) -> bool:
    """Kill pylvs-vrrp, and delete its addresses; return whether it ran. Raises PylvsError."""
    pid = lock.holder(state.path / PID_FILE)
    if not pid:
        return False
    end = end_of(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    if not end(KILLED_S):
        raise PylvsError(f"virtual routers: {why}, and process {pid} cannot be killed: it still holds its addresses")
    with state.decoding(ADDRESSES_FILE) as saved:
        addresses = {ip_address(each) for each in saved or ()}
    with entered(state, "daemon") as there:
        deleted = _delete(addresses) if there else []
    report(
        f"virtual routers: {why}: process {pid} was killed, and its addresses deleted: {', '.join(deleted) or 'none'}"
    )
    return True


def _delete(addresses: Iterable[Address]) -> list[str]:
    """Delete these addresses from all devices; return those that were there. Raises PylvsError."""
    wanted = set(addresses)
    names = {each.index: each.name for each in links.devices()}
    found = [
        (HeldAddress(interface=ip_interface((each.address, each.prefix))), names[each.index])
        for each in links.addresses()
        if each.address in wanted and each.index in names
    ]
    errors = [each.error for each in release(found) if each.error]
    if errors:
        raise PylvsError("; ".join(errors))
    return [f"{held.interface.ip} of {device}" for held, device in found]


def delete_services(state: StateDirectory, report: Report, keep_table: bool = False) -> None:
    """Delete the services of the last daemon, and revert its settings of the host. Raises PylvsError.

    With `keep_table`, or if that daemon had it, the services stay.
    """
    with state.decoding(NAMESPACES_FILE) as saved:
        keep = keep_table or bool(saved and saved.get("keep_table"))
    owned = {} if keep else load_owned(state)
    deleted = 0
    if owned:
        with entered(state, "tables") as there:
            deleted = _delete_owned(owned) if there else 0
        state.write(SERVICES_FILE, None)
    if state.read(DEVICES_FILE) is not None:
        with entered(state, "daemon") as there:
            if there:
                VipChecks().restore(state)
        state.write(DEVICES_FILE, None)
    if not keep:
        state.write(NAMESPACES_FILE, None)
    if deleted:
        report(f"{counted(deleted, 'service')} deleted from the table")


def _delete_owned(owned: Iterable[ServiceKey]) -> int:
    """Delete these services; return how many there were. Raises PylvsError."""
    director = open_director()
    deleted = 0
    for key in owned:
        with suppress(NoSuchService):
            director.delete_service(key)
            deleted += 1
    return deleted
