"""VRRP-MIB (RFC 2787) and VRRPV3-MIB (RFC 6527), from a configuration and the status of the virtual routers. Pure.

As in keepalived 2.2.7, VRRP-MIB has the virtual routers of version 2 and IPv4, and VRRPV3-MIB those of both versions.
Neither has one without addresses. The index of a device is that below a VMAC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Authentication, VrrpInstance
from pylvs.model.wanted import Configuration
from pylvs.snmp.agentx import Kind, Oid, Value, VarBind
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.values import (
    Row,
    Rows,
    counter32,
    counter64,
    integer,
    octets,
    table,
    ticks,
    trap_named,
    truth,
    unsigned,
)
from pylvs.vrrp.protocol.adverts import AdvertError
from pylvs.vrrp.protocol.machine import TransitionReason

V2: Oid = (1, 3, 6, 1, 2, 1, 68)
V3: Oid = (1, 3, 6, 1, 2, 1, 207)
NEW_MASTER_V2, AUTH_FAILURE = (*V2, 0, 1), (*V2, 0, 2)
NEW_MASTER_V3, PROTOCOL_ERROR = (*V3, 0, 1), (*V3, 0, 2)
STATES = {"BACKUP": 2, "MASTER": 3}
INITIALIZE = 1
AUTHENTICATIONS = {None: 1, Authentication.PASS: 2, Authentication.AH: 3}
# Why advertisements are dropped, as both MIBs count them.
LENGTH = (AdvertError.TRUNCATED, AdvertError.TRAILING)
FAILED = (AdvertError.PASSWORD, AdvertError.DIGEST, AdvertError.REPLAYED)
AUTH_ERRORS = {AdvertError.AUTHENTICATION: 2, **dict.fromkeys(FAILED, 3)}  # authTypeMismatch, authFailure
PROTOCOL_ERRORS = {AdvertError.TTL: 1, AdvertError.VERSION: 2, AdvertError.CHECKSUM: 3, AdvertError.VRID: 4}
NOT_MASTER, PRIORITY, PREEMPTED, NO_RESPONSE = range(4)
REASONS = {
    TransitionReason.RELEASED: PRIORITY,
    TransitionReason.BETTER: PREEMPTED,
    TransitionReason.OWNER: PREEMPTED,
}
ACTIVE = integer(1)  # a RowStatus


class Router:
    """One virtual router: its configuration beside its status."""

    def __init__(self, instance: VrrpInstance, status: RouterStatus) -> None:
        self.instance = instance
        self.report: Mapping[str, Any] = status.instances.get(instance.name, {})
        self._status = status
        self.addresses = [each.interface.ip for each in instance.addresses]

    @property
    def index_v2(self) -> Oid:
        return (self._status.index_of(self.instance.interface), self.instance.vrid)

    @property
    def index_v3(self) -> Oid:
        return (*self.index_v2, 1 if self.instance.family == 4 else 2)

    @property
    def is_v2(self) -> bool:
        """Whether VRRP-MIB has it."""
        return self.instance.version == 2 and self.instance.family == 4 and bool(self.addresses)

    @property
    def source(self) -> Address | None:
        """The primary address."""
        return ip_address(self.report["source"]) if self.report.get("source") else None

    @property
    def master(self) -> Address:
        """The address of the master; zeros if none is known."""
        known = self.report.get("master")
        return ip_address(known) if known else ip_address("0.0.0.0" if self.instance.family == 4 else "::")

    @property
    def link_address(self) -> Value:
        return Value(Kind.OCTETS, self._status.link_address_of(self._status.device_of(self.instance)))

    @property
    def state(self) -> Value:
        return integer(STATES.get(self._status.state(self.instance), INITIALIZE))

    @property
    def initialized_at(self) -> float:
        """The Unix time when it left the state Initialize; 0 in that state."""
        return float(self.report.get("initialized_at") or 0.0)

    @property
    def uptime_s(self) -> float:
        """The time since then."""
        return max(self._status.now - self.initialized_at, 0.0) if self.initialized_at else 0.0

    def count(self, name: str) -> int:
        """Return one of its counters."""
        return int(self.report.get("counters", {}).get(name, 0))

    def dropped(self, *errors: AdvertError) -> int:
        """Return how many advertisements were dropped for these reasons."""
        found = self.report.get("counters", {}).get("dropped", {})
        return sum(found.get(each.value, 0) for each in errors)

    @property
    def reason(self) -> int:
        """Why it became master the last time."""
        why = self.report.get("master_why", "")
        return REASONS.get(TransitionReason(why), NO_RESPONSE) if why else NOT_MASTER

    @property
    def protocol_error(self) -> int:
        """The last error of the protocol in an advertisement; 0 for none."""
        last = self.report.get("last_error")
        return PROTOCOL_ERRORS.get(AdvertError(last), 0) if last else 0


def routers(configuration: Configuration, status: RouterStatus) -> list[Router]:
    """Return the virtual routers that VRRPV3-MIB has."""
    found = (Router(each, status) for each in configuration.vrrp.instances)
    return [each for each in found if each.addresses]


def objects_v2(configuration: Configuration, status: RouterStatus, master_started_at: float = 0.0) -> dict[Oid, Value]:
    """Return the objects of VRRP-MIB; sysUpTime was 0 at that Unix time."""
    found = [each for each in routers(configuration, status) if each.is_v2]
    tables: dict[Oid, Rows] = {
        (1, 3): [(each.index_v2, _operation_v2(each, master_started_at)) for each in found],
        (1, 4): [((*each.index_v2, *address.packed), {2: ACTIVE}) for each in found for address in each.addresses],
        (2, 4): [(each.index_v2, _statistics_v2(each)) for each in found],
    }
    scalars: dict[Oid, Value] = {
        (1, 1): integer(2),  # the version of the protocol
        (1, 2): integer(1 if configuration.settings.snmp.traps else 2),
        (2, 1): counter32(_dropped(found, AdvertError.CHECKSUM)),
        (2, 2): counter32(_dropped(found, AdvertError.VERSION)),
        (2, 3): counter32(status.unknown),
    }
    return _objects(V2, scalars, tables)


def _objects(prefix: Oid, scalars: Mapping[Oid, Value], tables: Mapping[Oid, Rows]) -> dict[Oid, Value]:
    objects = {(*prefix, *name, 0): value for name, value in scalars.items()}
    for name, rows in tables.items():
        objects |= table((*prefix, *name), rows)
    return objects


def _dropped(several: Iterable[Router], error: AdvertError) -> int:
    return sum(each.dropped(error) for each in several)


def _ip_address(address: Address | None) -> Value | None:
    return None if address is None else Value(Kind.ADDRESS, address.packed)


def _operation_v2(router: Router, master_started_at: float) -> Row:
    instance, since = router.instance, router.initialized_at
    return {
        2: router.link_address,
        3: router.state,
        4: integer(1),  # up, by the administrator
        5: integer(instance.priority),
        6: integer(len(router.addresses)),
        7: _ip_address(router.master),
        8: _ip_address(router.source),
        9: integer(AUTHENTICATIONS[instance.authentication]),
        11: integer(int(instance.advert_interval_s)),
        12: truth(instance.preempt),
        13: ticks(max(since - master_started_at, 0.0) if since else 0.0),
        14: integer(1),  # IP
        15: ACTIVE,
    }


def _statistics_v2(router: Router) -> Row:
    return {
        1: counter32(router.count("became_master")),
        2: counter32(router.count("received")),
        3: counter32(router.dropped(AdvertError.INTERVAL)),
        4: counter32(router.dropped(*FAILED)),
        5: counter32(router.dropped(AdvertError.TTL)),
        6: counter32(router.count("zero_received")),
        7: counter32(router.count("zero_sent")),
        8: counter32(router.dropped(AdvertError.TYPE)),
        9: counter32(router.dropped(AdvertError.DESTINATION)),
        10: counter32(0),  # a type of authentication that does not exist counts as another one
        11: counter32(router.dropped(AdvertError.AUTHENTICATION)),
        12: counter32(router.dropped(*LENGTH)),
    }


def objects_v3(configuration: Configuration, status: RouterStatus) -> dict[Oid, Value]:
    """Return the objects of VRRPV3-MIB."""
    found = routers(configuration, status)
    tables: dict[Oid, Rows] = {
        (1, 1, 1): [(each.index_v3, _operation_v3(each)) for each in found],
        (1, 1, 2): [((*each.index_v3, *address.packed), {2: ACTIVE}) for each in found for address in each.addresses],
        (1, 2, 5): [(each.index_v3, _statistics_v3(each)) for each in found],
    }
    scalars: dict[Oid, Value] = {
        (1, 2, 1): counter64(_dropped(found, AdvertError.CHECKSUM)),
        (1, 2, 2): counter64(_dropped(found, AdvertError.VERSION)),
        (1, 2, 3): counter64(status.unknown),
        (1, 2, 4): ticks(0),
    }
    return _objects(V3, scalars, tables)


def _operation_v3(router: Router) -> Row:
    instance, source = router.instance, router.source
    return {
        3: octets(router.master),
        4: octets(source) if source else None,
        5: router.link_address,
        6: router.state,
        7: unsigned(instance.priority),
        8: integer(len(router.addresses)),
        9: integer(round(instance.advert_interval_s * 100)),
        10: truth(instance.preempt),
        11: truth(instance.accept),
        12: ticks(router.uptime_s),
        13: ACTIVE,
    }


def _statistics_v3(router: Router) -> Row:
    return {
        1: counter32(router.count("became_master")),
        2: integer(router.reason),
        3: counter64(router.count("received")),
        4: counter64(router.dropped(AdvertError.INTERVAL)),
        5: counter64(router.dropped(AdvertError.TTL)),
        6: integer(router.protocol_error),
        7: counter64(router.count("zero_received")),
        8: counter64(router.count("zero_sent")),
        9: counter64(router.dropped(AdvertError.TYPE)),
        10: counter64(router.dropped(AdvertError.DESTINATION)),
        11: counter64(router.dropped(*LENGTH)),
        12: ticks(0),
        13: unsigned(round(router.instance.advert_interval_s * 1000)),
    }


def new_master_traps(name: str, configuration: Configuration, status: RouterStatus) -> Iterator[list[VarBind]]:
    """Yield the notifications of the enabled MIBs that a virtual router became master."""
    settings = configuration.settings.snmp
    for router in (each for each in routers(configuration, status) if each.instance.name == name):
        source = router.source
        if settings.rfc_v2 and router.is_v2:
            yield trap_named(NEW_MASTER_V2, ((*V2, 1, 3, 1, 7, *router.index_v2), _ip_address(source)))
        if settings.rfc_v3 and source is not None:
            yield trap_named(
                NEW_MASTER_V3,
                ((*V3, 1, 1, 1, 1, 3, *router.index_v3), octets(source)),
                ((*V3, 1, 2, 5, 1, 2, *router.index_v3), integer(router.reason)),
            )


def dropped_traps(
    dropped: Mapping[str, Any], configuration: Configuration, status: RouterStatus
) -> Iterator[list[VarBind]]:
    """Yield the notifications of the enabled MIBs about a dropped advertisement: instance, flaw and source."""
    settings, error = configuration.settings.snmp, AdvertError(dropped["flaw"])
    for router in (each for each in routers(configuration, status) if each.instance.name == dropped["instance"]):
        index = (status.index_of(status.device_of(router.instance)), *router.index_v3[1:])  # that of the VMAC, here
        if settings.rfc_v2 and router.is_v2 and error in AUTH_ERRORS:
            yield trap_named(
                AUTH_FAILURE,
                ((*V2, 1, 5, *index[:2]), _ip_address(ip_address(dropped["source"]))),
                ((*V2, 1, 6, *index[:2]), integer(AUTH_ERRORS[error])),
            )
        if settings.rfc_v3 and error in PROTOCOL_ERRORS:
            yield trap_named(PROTOCOL_ERROR, ((*V3, 1, 2, 5, 1, 6, *index), integer(PROTOCOL_ERRORS[error])))
