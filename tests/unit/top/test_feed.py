"""What is read and when: pauses, a daemon that ends, hangs and comes back, and the table alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.api.client import NoDaemon, NoReply
from pylvs.model.errors import RUN_AS_ROOT, NotPermitted, PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.model.transfer import encode_row
from pylvs.system.unix_http import NEEDS
from pylvs.top import feed as feed_module
from pylvs.top import start
from pylvs.top.actions import Action
from pylvs.top.feed import PATIENCE_S, PAUSES, RETRY_S, Feed, Pace
from pylvs.top.rates import TOTAL
from tests.unit.top.examples import STATUS, TABLE, WEB

NO_DROPS: dict[str, Any] = {"tables": True, "devices": [], "reasons": []}


class World:
    """A daemon, a table and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cost_s = 0.0  # of a request
        self.failure: PylvsError | None = None
        self.asked: list[str] = []
        self.state = Path("/nowhere")

    def clock(self) -> float:
        return self.now

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        self.now += self.cost_s
        if self.failure is not None:
            raise self.failure
        self.asked.append(path)
        replies = {
            "/v1/status": STATUS,
            "/v1/table": {"services": list(map(encode_row, TABLE))},
            "/v1/drops": NO_DROPS,
            "/v1/drain": {"servers": [], "not_kept": "the disk is full"},
            "/v1/enable": {"error": "no such server"},
        }
        return 200, replies[path]

    def services(self) -> list[ServiceRow]:
        return list(TABLE)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(feed_module, "Client", lambda _: made)
    monkeypatch.setattr(feed_module, "open_director", lambda: made)
    monkeypatch.setattr(feed_module, "report", lambda: NO_DROPS)
    monkeypatch.setattr(Feed, "_remember_events", lambda _: None)
    return made


def feed(world: World, state_dir: Path | None = None) -> Feed:
    return Feed(state_dir, world.clock, lambda: 1000 + world.now)


def test_with_a_daemon_all_is_its_own(world: World) -> None:
    of = feed(world)
    first = of.first()
    assert world.asked == ["/v1/status", "/v1/table", "/v1/drops"]
    assert [each.service for each in first.rows][1] == WEB
    assert (first.fault, first.read_at) == ("", 1100)
    assert of.history.of(TOTAL) == [47]


def test_each_request_has_its_period(world: World) -> None:
    of = feed(world)
    of.first()
    world.asked.clear()
    for _ in range(40):
        world.now += 0.25
        of.read()
    counts = {path: world.asked.count(path) for path in set(world.asked)}
    assert counts == {"/v1/status": 2, "/v1/table": 5, "/v1/drops": 2}


def test_a_large_table_is_read_less_often(world: World) -> None:
    pace = Pace(2.0, world.clock)
    pace.begin()
    world.now += 1.0
    pace.end()
    assert pace.due == world.now + PAUSES
    pace.hasten()
    assert pace.due == world.now + PAUSES, "an event does not shorten the pause"
    pace.begin()
    pace.end()
    assert pace.due == world.now + 2
    pace.hasten()
    assert pace.due == world.now + 1, "one refresh a second"
    pace.end(failed=True)
    assert pace.due == world.now + RETRY_S


@pytest.mark.parametrize("failure", [NoDaemon("no pylvs run answers"), NoReply("it hangs")])
def test_a_daemon_that_ends_is_a_line_and_later_the_table_alone(world: World, failure: PylvsError) -> None:
    of = feed(world)
    before = of.first()
    world.failure = failure
    world.now += 6
    lost = of.read()
    assert (lost.fault, lost.fault_since) == (str(failure), 1106)
    assert lost.rows == before.rows, "a restart takes some seconds"
    world.now += PATIENCE_S
    alone = of.read()
    assert alone.status is None
    assert alone.rows[0].service == "TCP 10.0.0.100:80"
    assert (alone.fault, alone.fault_since) == (str(failure), 1106)
    world.failure = None
    world.now += RETRY_S
    back = of.read()
    assert (back.fault, back.rows[1].service) == ("", WEB)


def test_a_named_daemon_has_no_table_here(world: World) -> None:
    of = feed(world, Path("/elsewhere"))
    before = of.first()
    world.failure = NoDaemon("no pylvs run answers")
    world.now += 60
    of.read()
    world.now += 60
    assert of.read().rows == before.rows
    with pytest.raises(NoDaemon):
        feed(world, Path("/elsewhere")).first()


def test_without_a_daemon_it_opens_with_the_table(world: World) -> None:
    world.failure = NoDaemon("no pylvs run answers")
    of = feed(world)
    first = of.first()
    assert (first.status, first.fault, len(first.rows)) == (None, "", 3)
    world.now += 10
    assert of.read().fault == ""
    world.failure = None
    world.now += RETRY_S
    assert of.read().status == STATUS


def test_a_daemon_that_hangs_at_the_start_is_a_line(world: World) -> None:
    world.failure = NoReply("it hangs")
    assert feed(world).first().fault == "it hangs"


@pytest.mark.parametrize(
    ("failure", "table"),
    [
        (NotPermitted(NEEDS), None),
        (NoDaemon("no pylvs run answers"), NotPermitted(RUN_AS_ROOT)),
    ],
)
def test_another_user_gets_one_line(
    world: World, failure: PylvsError, table: PylvsError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        assert table is not None
        raise table

    world.failure = failure
    monkeypatch.setattr(feed_module, "open_director", refused)
    with pytest.raises(NotPermitted, match=NEEDS):
        feed(world).first()


def test_a_table_that_cannot_be_read_is_a_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    of = feed(world)
    of.first()
    ask = world.ask

    def busy(method: str, path: str, content: Any = None) -> tuple[int, Any]:
        return (503, {"error": "the table was not read"}) if path == "/v1/table" else ask(method, path)

    monkeypatch.setattr(world, "ask", busy)
    world.now += 2
    assert of.read().fault == "the table was not read"
    monkeypatch.setattr(world, "ask", ask)
    world.now += 2
    assert of.read().fault == ""


def test_an_action_is_one_request(world: World) -> None:
    of = feed(world)
    of.first()
    assert of.act(Action("/v1/drain", {}, "drain it", ())) == (
        "done: drain it; a restart of the daemon ends it: the disk is full"
    )
    with pytest.raises(PylvsError, match="no such server"):
        of.act(Action("/v1/enable", {}, "enable it", ()))


def test_events_are_those_before_and_new_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    of = feed(world)
    old, new = b'{"event": "reloaded", "at": 1}\n', b'{"event": "server_up", "at": 2}\n'

    @contextmanager
    def stream(method: str, path: str, endless: bool = False) -> Iterator[list[bytes]]:
        yield [old, new] if endless else [old]
        if endless:
            of.stop()

    monkeypatch.setattr(world, "stream", stream, raising=False)
    of.follow()
    assert [each["event"] for each in of.read().events] == ["reloaded", "server_up"]


def test_what_the_console_needs_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_terminal(stream: str) -> Callable[[], None]:
        def check() -> None:
            for name in ("stdin", "stdout", "stderr"):
                monkeypatch.setattr(f"sys.{name}.isatty", lambda here=name: here != stream, raising=False)
            start.check_terminal()

        return check

    monkeypatch.setenv("TERM", "xterm")
    for stream, name in (("stdin", "input"), ("stdout", "output"), ("stderr", "error output")):
        with pytest.raises(PylvsError, match=f"needs a terminal, and its {name} is none"):
            without_terminal(stream)()
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(PylvsError, match="TERM=dumb"):
        without_terminal("")()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.47.1")
    with pytest.raises(PylvsError, match=r"textual 2\.1 or newer, and 0\.47\.1 is installed: pip install"):
        start.check_library()
    monkeypatch.setitem(__import__("sys").modules, "textual", None)
    with pytest.raises(PylvsError, match=r"needs the Python package textual: pip install 'pylvs\[top\]'"):
        start.check_library()
