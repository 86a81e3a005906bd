"""Defects that are planted into the product, to show that each invariant can fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from pylvs.model.vrrp import VrrpInstance
from pylvs.vrrp import router
from pylvs.vrrp.garp import GarpScheduler
from pylvs.vrrp.protocol import adverts
from pylvs.vrrp.protocol import machine as machines
from pylvs.vrrp.protocol.machine import PRIORITY_STOP, Advertise, Become, Machine, State
from pylvs.vrrp.router import Router, SyncGroup
from pylvs.vrrp.router_service import RouterService
from pylvs.vrrp.tracking import TrackedObject
from pylvs.vrrp.vip_manager import VipManager


@dataclass(frozen=True, slots=True)
class Defect:
    """`make` returns the wrong function, from the right one that is `owner`'s attribute."""

    name: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]
    found_by: tuple[int, ...]  # each of these invariants finds it alone

    def __str__(self) -> str:
        return self.name

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        right = self.owner.__dict__[self.attribute]
        function = right.fget if isinstance(right, property) else right
        wrong = self.make(function)
        with mock.patch.object(self.owner, self.attribute, property(wrong) if isinstance(right, property) else wrong):
            yield


def _silent_master(right: Any) -> Any:
    def wake(self: Machine, now: float) -> Any:
        machine, actions = right(self, now)
        return machine, [] if self.state is State.MASTER else actions

    return wake


def _never_master(right: Any) -> Any:
    def wake(self: Machine, now: float) -> Any:
        return right(self, now) if self.state is State.MASTER else (replace(self, due=now + self.down_s), [])

    return wake


def _endless(right: Any) -> Any:
    return lambda self, now: right(self, now) if self.state is State.MASTER else (self, [])


def _ignores_priority_0(right: Any) -> Any:
    return lambda self, now, advert, source: (
        (self, []) if advert.priority == PRIORITY_STOP else right(self, now, advert, source)
    )


def _yields_always(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        return right(self, now, replace(advert, priority=advert.priority and 255), source)

    return received


def _yields_never(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        return right(self, now, replace(advert, priority=min(advert.priority, 1)), source)

    return received


def _wrong_tie(right: Any) -> Any:
    return lambda address: (address.version, -int(address))


def _always_preempts(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        machine, actions = right(replace(self, instance=replace(self.instance, preempt=True)), now, advert, source)
        return replace(machine, instance=self.instance), actions

    return received


def _never_preempts(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        machine, actions = right(replace(self, instance=replace(self.instance, preempt=False)), now, advert, source)
        return replace(machine, instance=self.instance), actions

    return received


def _own_interval(right: Any) -> Any:
    return lambda self: self.instance.advert_interval_s


def _too_early(right: Any) -> Any:
    return lambda self: 0.9 * self.instance.advert_interval_s


def _without_skew(right: Any) -> Any:
    return lambda self: 0.0


def _quiet_end(right: Any) -> Any:
    def fail(self: Machine, *args: Any, **more: Any) -> Any:
        machine, actions = right(self, *args, **more)
        return machine, [action for action in actions if isinstance(action, Become)]

    return fail


def _no_answer(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        machine, actions = right(self, now, advert, source)
        kept = [each for each in actions if machine.state is not State.MASTER or not isinstance(each, Advertise)]
        return machine, kept

    return received


def _leaves_silently(right: Any) -> Any:
    def received(self: Machine, now: float, advert: Any, source: Any) -> Any:
        machine, actions = right(self, now, advert, source)
        return machine, [each for each in actions if machine.state is State.MASTER or not isinstance(each, Advertise)]

    return received


def _first_only(right: Any) -> Any:
    def take(self: VipManager, instance: VrrpInstance) -> None:
        right(self, replace(instance, addresses=instance.addresses[:1], excluded=()))

    return take


def _nothing(right: Any) -> Any:
    return lambda *_: None


def _no_repeats(right: Any) -> Any:
    return lambda self, addresses, repeat: right(self, addresses, min(1, repeat))


def _no_second_round(right: Any) -> Any:
    def begin(self: GarpScheduler, now: float, addresses: Any) -> None:
        right(self, now, addresses)
        self._rounds.clear()

    return begin


def _no_announcement(right: Any) -> Any:
    return lambda self, now: right(self, now)[:0]


def _never_again(right: Any) -> Any:
    return lambda self, now, released=False: False


def _at_once(right: Any) -> Any:
    return lambda self, now: False


def _wrong_checksum(right: Any) -> Any:
    def encode(*args: Any, **more: Any) -> bytes:
        made = bytearray(right(*args, **more))
        made[6] ^= 1
        return bytes(made)

    return encode


def _weightless(right: Any) -> Any:
    return lambda base, watched: base


DEFECTS = (
    Defect("a master that never becomes backup", Machine, "_receive_as_master", _yields_never, (1, 2)),
    Defect("a master that becomes backup of any other", Machine, "_receive_as_master", _yields_always, (2,)),
    Defect("a master that does not answer", Machine, "_receive_as_master", _no_answer, (2,)),
    Defect("the smaller address wins", machines, "address_order", _wrong_tie, (2,)),
    Defect("a wrong checksum", adverts, "encode", _wrong_checksum, (2, 8)),
    Defect("a backup that never takes over", Machine, "wake", _never_master, (3, 8)),
    Defect("a timer that is set to the past", Machine, "wake", _endless, (0,)),
    Defect("priority 0 is ignored", Machine, "receive", _ignores_priority_0, (2, 3)),
    Defect("nopreempt is ignored", Machine, "_receive_as_backup", _always_preempts, (3,)),
    Defect("preempt is ignored", Machine, "_receive_as_backup", _never_preempts, (3, 9)),
    Defect("the master's interval is ignored", Machine, "interval_s", _own_interval, (3,)),
    Defect("no skew", Machine, "skew_s", _without_skew, (3,)),
    Defect("a backup that waits for less than one interval", Machine, "down_s", _too_early, (3, 10)),
    Defect("a late backup takes over before it reads", Router, "_defer_if_stalled", _at_once, (3,)),
    Defect("a master that advertises once", Machine, "wake", _silent_master, (4, 8)),
    Defect("an end without priority 0", Machine, "fail", _quiet_end, (4,)),
    Defect("addresses are not removed", VipManager, "remove_resources", _nothing, (5,)),
    Defect("only the first address is added", VipManager, "add_resources", _first_only, (5,)),
    Defect(
        "an address removed by another program is not added again", RouterService, "_resources_lost", _nothing, (5,)
    ),
    Defect("roles are not published", RouterService, "roles_changed", _nothing, (5,)),
    Defect("no announcement", GarpScheduler, "wake", _no_announcement, (6,)),
    Defect("each address is announced once", GarpScheduler, "_enqueue", _no_repeats, (6,)),
    Defect("no second round of announcements", GarpScheduler, "begin", _no_second_round, (6,)),
    Defect("a worse master is not answered by announcements", GarpScheduler, "again", _never_again, (6,)),
    Defect("the members of a sync group change state separately", SyncGroup, "_lead", _nothing, (7,)),
    Defect("the loser of a split brain sends nothing", Machine, "_receive_as_master", _leaves_silently, (11,)),
    Defect("an object without a result ends a mastership", TrackedObject, "known", lambda _: lambda self: True, (12,)),
    Defect("tracked objects have no effect", router, "effective_priority", _weightless, (9,)),
)
