"""One server of one service: whether it is up, with which weight, and what the operator says about that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pylvs.health.check_state import CheckState, sets_weight
from pylvs.health.events import (
    CheckFailed,
    CheckInconclusive,
    CheckRecovered,
    Event,
    ServerDown,
    ServerUp,
    WeightChanged,
)
from pylvs.health.outcome import Outcome
from pylvs.health.overrides import NOTHING_SAID, Override, Standing
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import MAX_WEIGHT, Destination, DestinationKey
from pylvs.model.wanted import WantedServer


@dataclass(slots=True, eq=False)
class Link:
    """A check as this server sees it: until its first outcome counts, what the server `presumed` holds."""

    state: CheckState
    presumed: bool

    @property
    def good(self) -> bool:
        """Whether the check speaks for the server."""
        return self.presumed if self.state.good is None else self.state.good


class ServerState:
    """A server's state; everything that follows from it is a function of it."""

    __slots__ = (
        "announced",
        "counted_weight",
        "held_weight",
        "links",
        "override",
        "reason",
        "service",
        "shown",
        "since",
        "told_weight",
        "up",
        "wanted",
    )

    def __init__(self, service: str, wanted: WantedServer, at: float) -> None:
        self.service = service
        self.wanted = wanted
        self.links: list[Link] = []
        self.override: Override = NOTHING_SAID
        self.up = True
        self.announced = False  # whether somebody was told of its first state, or need not be
        self.since = at
        self.reason = "not checked yet"
        self.told_weight = wanted.destination.weight  # by the last event that named it
        self.counted_weight = 0  # in the service's sum
        self.shown: Destination | None = None  # its place in the service's rows
        self.held_weight: int | None = None  # a dynamic weight from before, until the checks that set one have spoken

    @property
    def key(self) -> DestinationKey:
        """What names it within the service."""
        return self.wanted.destination.key

    @property
    def name(self) -> tuple[str, DestinationKey]:
        """What names it in the whole configuration."""
        return self.service, self.key

    @property
    def checked(self) -> bool:
        """Whether every check has had an outcome that counts."""
        return all(link.state.good is not None for link in self.links)

    def judge(self) -> bool:
        """What the checks come to: up when none speaks against it."""
        return all(link.good for link in self.links)

    def health_weight(self) -> int:
        """The weight by configuration and checks.

        Each check that sets one moves it by its difference to the configured one: of a single check that is what it
        says.
        """
        configured = self.wanted.destination.weight
        if self.held_weight is not None and self._weights_unknown():
            return self.held_weight
        moved = sum(link.state.weight - configured for link in self.links if link.state.weight is not None)
        return min(max(configured + moved, 0), MAX_WEIGHT)

    def weight(self) -> int:
        """The effective weight: the operator's word, else `health_weight`; 0 while drained or disabled."""
        if self.override.standing is not Standing.ENABLED:
            return 0
        return self.health_weight() if self.override.weight is None else self.override.weight

    def weight_up(self) -> int:
        """What it adds to the quorum."""
        return self.weight() if self.up else 0

    def destination(self, sorry: bool) -> Destination | None:
        """Its row in the table, or None; `sorry`: the sorry server serves instead of the real ones.

        A drained server that is up keeps its place then, so that its connections may end in peace.
        """
        standing = self.override.standing
        if standing is Standing.DISABLED:
            return None
        if self.up and (not sorry or standing is Standing.DRAINED):
            return self._weighing(self.weight())
        return self._weighing(0) if self.wanted.inhibit_on_failure else None

    def told(self, state: CheckState, before: bool | None, outcome: Outcome, at: float) -> Iterator[Event]:
        """A check of it had an outcome that may matter; `before`: what the check counted as. What happened."""
        check = state.check
        if outcome.inconclusive:
            yield CheckInconclusive(
                at=at, service=self.service, server=self.key, reason=outcome.reason, check=check.word
            )
            return
        if not outcome.ok:
            yield CheckFailed(
                at=at,
                service=self.service,
                server=self.key,
                reason=outcome.reason,
                check=check.word,
                attempt=state.failures,
                attempts=state.failures if state.good is False else check.pace.retry + 1,
                counted=state.good is False,
                log_all=check.pace.log_all_failures,
            )
        elif state.good and before is False:
            yield CheckRecovered(at=at, service=self.service, server=self.key, reason=outcome.reason, check=check.word)
        yield from self.moved(f"{check.word}: {outcome.reason}", at)

    def moved(self, reason: str, at: float) -> Iterator[Event]:
        """Judge anew after anything that the state follows from changed; what happened."""
        before, self.up = self.up, self.judge()
        known_down = any(link.state.good is False for link in self.links)
        weight = self.weight()
        if self.up and not before:
            self._since(at, reason)
            self.told_weight = weight
            yield ServerUp(at=at, service=self.service, server=self.key, reason=reason, weight=weight)
        elif not self.up and (before or (known_down and not self.announced)):
            self._since(at, reason)
            yield ServerDown(at=at, service=self.service, server=self.key, reason=reason, initial=not before)
        elif self.up and self.checked and not self.announced:
            self._since(self.since, reason)  # up from the start, as presumed: no news
        if self.up and weight != self.told_weight:
            was, self.told_weight = self.told_weight, weight
            yield WeightChanged(at=at, service=self.service, server=self.key, reason=reason, before=was, weight=weight)

    def _since(self, at: float, reason: str) -> None:
        self.since, self.reason, self.announced = at, reason, True

    def _weighing(self, weight: int) -> Destination:
        configured = self.wanted.destination
        return configured if weight == configured.weight else replace(configured, weight=weight)

    def _weights_unknown(self) -> bool:
        return any(link.state.good is None and sets_weight(link.state.check) for link in self.links)
