"""What two directors compare, and what they differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerSummary:
    """A real server: digests of its settings and of its checks, and whether it is up; None: not checked yet."""

    settings: str
    checks: str
    up: bool | None


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """A virtual server: a digest of its settings, and its real servers by name."""

    settings: str
    servers: Mapping[str, ServerSummary] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a director is configured for, by the names that `pylvs status` prints."""

    services: Mapping[str, ServiceSummary] = field(default_factory=dict)
    timeouts: str = ""  # of connections: TCP, TCP after a FIN, UDP


@dataclass(frozen=True, slots=True)
class Difference:
    """A service or server in which two directors differ; `object` names it."""

    object: str
    text: str

    def __str__(self) -> str:
        return f"{self.object}: {self.text}"


def differences(ours: Summary, theirs: Summary) -> Iterator[Difference]:
    """Yield what is not the same in two directors, which should both serve the same."""
    if ours.timeouts != theirs.timeouts:
        yield Difference(
            "timeouts", f"of connections are {ours.timeouts} s here, {theirs.timeouts} s at the other director"
        )
    for name in sorted(ours.services.keys() | theirs.services.keys()):
        mine, other = ours.services.get(name), theirs.services.get(name)
        if mine is None or other is None:
            yield Difference(name, _only(mine is not None))
            continue
        if mine.settings != other.settings:
            yield Difference(name, "its settings differ at the other director")
        for server in sorted(mine.servers.keys() | other.servers.keys()):
            yield from _of_server(f"{server} of {name}", mine.servers.get(server), other.servers.get(server))


def _only(here: bool) -> str:
    return "only this director has it" if here else "only the other director has it"


def _of_server(name: str, mine: ServerSummary | None, other: ServerSummary | None) -> Iterator[Difference]:
    if mine is None or other is None:
        yield Difference(name, _only(mine is not None))
        return
    if mine.settings != other.settings:
        yield Difference(name, "its settings differ at the other director")
    if mine.checks != other.checks:
        yield Difference(name, "its checks differ at the other director")
    if None not in (mine.up, other.up) and mine.up is not other.up:
        states = ("up", "down") if mine.up else ("down", "up")
        yield Difference(name, f"it is {states[0]} here, and {states[1]} at the other director")
