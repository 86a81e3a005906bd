"""The virtual routers of this host, by pylvs-vrrp or by keepalived."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from pylvs.daemon import DEFAULT_FILE
from pylvs.daemon.state.directory import StateDirectory
from pylvs.doctor.configuration import File, compiled, read_file
from pylvs.doctor.facts import Facts
from pylvs.doctor.processes import keepaliveds
from pylvs.doctor.running import status_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import VrrpInstance

_PATIENCE_S = 2.0  # for pylvs-vrrp


@dataclass(frozen=True, slots=True)
class Router:
    """A virtual router in the file, and its state. `status` is that of pylvs-vrrp, empty if keepalived runs it."""

    instance: VrrpInstance
    state: str  # MASTER, BACKUP, FAULT
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(filter(None, (self.instance.interface, str(self.status.get("device", "")))))

    @property
    def addresses(self) -> frozenset[Address]:
        """Return the virtual addresses that its advertisements have."""
        held = (each.interface.ip for each in self.instance.addresses)
        return frozenset(each for each in held if each.version == self.instance.family)

    def __str__(self) -> str:
        return f"virtual router {self.instance.name}"

    @property
    def packets(self) -> int:
        """Return the IP version of its packets."""
        instance = self.instance
        return (instance.peers[0].address if instance.peers else instance.multicast).version

    @property
    def source(self) -> Address | None:
        """Return the source address of its advertisements; None if it is not known."""
        text = self.status.get("source") or ""
        return ip_address(text) if text else self.instance.source


def file_of(facts: Facts) -> File:
    """Return the file of the virtual routers: that of the daemon, or keepalived's."""
    return facts.once("routers_file", lambda: _read(facts))


def _read(facts: Facts) -> File:
    status = status_of(facts)
    if status and status["files"]:
        return read_file(status["files"][0])
    others = [each.file for each in facts.once("keepaliveds", keepaliveds) if each.routers]
    return read_file(others[0] if others else DEFAULT_FILE)


def routers_of(facts: Facts) -> list[Router]:
    """Return the virtual routers of this host: those of pylvs-vrrp, or of a keepalived that runs its file."""
    return facts.once("routers", lambda: _routers(facts))


def _routers(facts: Facts) -> list[Router]:
    state = StateDirectory(facts.state_dir)
    status: Mapping[str, Any] = {}
    if state.routers_path.exists():
        from pylvs.vrrp.client import Client  # late: only hosts with pylvs-vrrp

        with suppress(PylvsError), Client(state.routers_path, _PATIENCE_S) as client:
            status = client.ask("status")
    running = {each["name"]: each for each in status.get("instances", ())}
    if not running and not keepalived_runs_routers(facts):
        return []
    held = {each.address for each in facts.addresses}
    found = []
    for instance in compiled(file_of(facts).document).vrrp.instances:
        if running and instance.name not in running:
            continue
        master = any(each.interface.ip in held for each in instance.addresses)
        state_now = running[instance.name]["state"] if running else "MASTER" if master else "BACKUP"
        found.append(Router(instance, state_now, running.get(instance.name, {})))
    return found


def standby_of(facts: Facts) -> frozenset[Address]:
    """Return the addresses that this host would hold as master, and does not hold now."""
    found = [router for router in routers_of(facts) if router.state != "MASTER"]
    instances = (router.instance for router in found)
    return frozenset(held.interface.ip for instance in instances for held in (*instance.addresses, *instance.excluded))


def keepalived_runs_routers(facts: Facts) -> bool:
    """Return whether a keepalived of this network namespace runs virtual routers."""
    return any(each.routers for each in facts.once("keepaliveds", keepaliveds))
