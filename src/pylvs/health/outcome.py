"""What one check found out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Up or down, the reason in a few words for the history, and a weight where the check sets one.

    `weight` replaces the configured weight as long as the check keeps saying so; None leaves it. `ok` with weight 0
    drains: up, but no new connections. `inconclusive` means that this machine had no means to make the check (no
    descriptors, no memory, no free port): it says nothing of the server, which stays as it was.
    """

    ok: bool
    reason: str
    weight: int | None = None
    inconclusive: bool = False


# A checker is made once from its `model.checks.Check` and called for each probe. It answers within the check's timeout,
# of which several pages or hosts have one each. It raises nothing but CancelledError, and leaves no socket or process.
Probe = Callable[[], Awaitable[Outcome]]
