"""`pylvs vrrp`, its API, and virtual routers in status, events and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.cli import daemon as views
from pylvs.cli import vrrp as commands
from pylvs.cli.daemon import reload
from pylvs.daemon.api.client import Client
from pylvs.daemon.api.metrics import vrrp_metrics
from pylvs.model.errors import PylvsError
from pylvs.vrrp import ipc
from pylvs.vrrp.client import Client as RouterClient
from tests.unit.daemon.commands import ask, during, invoked
from tests.unit.daemon.daemons import FakeHost, run, server, service, until
from tests.unit.daemon.fake_routers import set_behaviour
from tests.unit.daemon.test_bfd_sessions import STATUS
from tests.waiting import PATIENCE_S


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    """Return a host with two virtual routers, of which the first is master."""
    found = FakeHost(tmp_path / "state")
    found.write(service(server(1)), routers=["VI_1", "VI_2"])
    set_behaviour(found.state, age_s=3 * 86400)  # which "3 d" stands for, however long a test takes
    yield found
    found.end_processes()


def test_status_names_the_master_the_time_and_the_reason(host: FakeHost) -> None:
    page, numbers = during(
        host, lambda: invoked(host, commands.status), lambda: invoked(host, commands.status, "--json")
    )
    assert page.exit_code == 0
    lines = page.output.splitlines()
    assert re.fullmatch(
        r"virtual routers: process \d+, real-time priority 1, memory locked, at most 0\.25 ms late", lines[0]
    )
    assert lines[2] == "VI_1  MASTER since 3 d, priority 98 (configured 100)"
    assert lines[3:9] == [
        "  because    no advertisement came in time: for 3.61 s",
        "  addresses  192.0.2.1/24",
        "  device     eth0, VRID 51, version 2, every 1 s",
        "  tracks     script web is down (exit status 1), weight -2",
        "  adverts    7 sent, 3 received, dropped: 2 wrong password; became master: 1",
        "",
    ]
    assert lines[9].startswith("VI_2  BACKUP since ")
    assert lines[11] == "  master     10.0.0.9; this one takes over after 3.61 s without an advertisement"
    assert lines[-1] == "group G  MASTER: VI_1, VI_2"
    assert [each["name"] for each in json.loads(numbers.output)["instances"]] == ["VI_1", "VI_2"]


def test_status_shows_faults_and_mismatches(host: FakeHost) -> None:
    (reply,) = during(host, lambda: ask(host, "GET", "/v1/vrrp"))
    first = reply["instances"][0]
    first |= {"state": "FAULT", "faults": ["eth0 is down", "script web failed"], "mismatches": ["other addresses"]}
    first |= {"held_until": 1e9, "since": None, "master": ""}
    first["tracks"] = [
        {"kind": "file", "name": "load", "up": None, "number": 3, "weight": 1, "reason": ""},
        {"kind": "process", "name": "nginx", "up": None, "number": None, "weight": 0, "reason": ""},
        {"kind": "interface", "name": "eth1", "up": True, "number": None, "weight": 0, "reason": ""},
    ]
    second = reply["instances"][1]
    reply["instances"] += [second | {"master_down_s": 146.0, "takes_over_at": 1e9}]
    reply["instances"] += [second | {"preempt": False}, second | {"preempts_at": 1e9}, second | {"state": "MASTER"}]
    reply["instances"][-1]["rival"] = "10.0.0.7 holds them as well"
    reply["process"] |= {"realtime": 0, "locked": False, "helper_running": False}
    reply["data_plane"] = {"up": False, "reason": "no BPF here"}
    page = "\n".join(commands.lines(reply, 1e9 - 140))
    for text in (
        "no real-time priority, memory not locked",
        "no script runs and no mail is sent",
        "services may not be forwarded here: no BPF here",
        "VI_1  FAULT, priority 98",
        "  fault      eth0 is down\n             script web failed\n",
        "  holds back until 2001-09-09",
        "  tracks     file load is 3, weight 1\n             process nginx is not known yet\n",
        "             interface eth1 is up\n",
        "  differs    other addresses\n",
        " without an advertisement\n             not before, at any priority (nopreempt)\n",
        " without an advertisement\n             or, being better, not before 2001-09-09",
        " this one takes over after 146 s without an advertisement, at 2001-09-09",
        "  conflict   10.0.0.7 holds them as well\n",
    ):
        assert text in page


def test_why_explains_each_transition(host: FakeHost) -> None:
    both, one, numbers, none = during(
        host,
        lambda: invoked(host, commands.why),
        lambda: invoked(host, commands.why, "VI_2"),
        lambda: invoked(host, commands.why, "VI_2", "--json"),
        lambda: invoked(host, commands.why, "VI_3"),
    )
    assert [line.partition(" ")[2].partition(" ")[2] for line in both.output.splitlines()] == [
        "VI_1: FAULT -> BACKUP, because start",
        "VI_1: BACKUP -> MASTER, because no advertisement came in time: for 3.61 s",
        "VI_2: FAULT -> BACKUP, because start",
    ]
    assert one.output.count("\n") == 1
    assert json.loads(numbers.output)["VI_2"][0]["state"] == "BACKUP"
    assert none.exit_code == 1
    assert str(none.exception) == "VI_3: no such virtual router; there are: VI_1, VI_2"


def test_an_unknown_router_is_not_found(host: FakeHost) -> None:
    client = Client(host.state)
    replies = during(
        host,
        lambda: client.ask("GET", "/v1/vrrp/why?name=VI_9"),
        lambda: client.ask("POST", "/v1/vrrp/yield", {"name": "VI_9", "seconds": 1}),
        lambda: client.ask("POST", "/v1/vrrp/resume", {"name": "VI_9"}),
    )
    assert replies == [(404, {"error": "VI_9: no such virtual router; there are: VI_1, VI_2"})] * 3


def test_yield_and_resume(host: FakeHost) -> None:
    one, status, back, every, wrong, unknown = during(
        host,
        lambda: invoked(host, commands.yield_, "VI_1", "--for", "90s"),
        lambda: invoked(host, commands.status),
        lambda: invoked(host, commands.resume, "VI_1"),
        lambda: invoked(host, commands.yield_),
        lambda: invoked(host, commands.yield_, "--for", "soon"),
        lambda: invoked(host, commands.yield_, "VI_9"),
    )
    assert re.fullmatch(
        r"VI_1: does not take over before [\d-]+ [\d:]+[+-]\d\d:\d\d, or pylvs vrrp resume\n", one.output
    )
    assert "VI_1  BACKUP" in status.output
    assert "  holds back until " in status.output
    assert back.output == "VI_1: takes part again\n"
    assert [line.partition(":")[0] for line in every.output.splitlines()] == ["VI_1", "VI_2"]
    assert (wrong.exit_code, "is no length of time" in wrong.output) == (2, True)
    assert str(unknown.exception) == "VI_9: no such virtual router; there are: VI_1, VI_2"


@pytest.mark.parametrize("length", ["999999999h", "9" * 400 + "d", "366.1d"])
def test_a_yield_has_a_limit(host: FakeHost, length: str) -> None:
    wrong, status = during(
        host,
        lambda: invoked(host, commands.yield_, "--for", length),
        lambda: invoked(host, commands.status),
    )
    assert wrong.exit_code == 2
    assert f"--for {length}: must be from 0 to 366 days" in wrong.output.replace("\n", "")
    assert "VI_1  MASTER" in status.output
    assert "holds back" not in status.output


def test_the_commands_work_without_the_daemon(host: FakeHost) -> None:
    during(host, lambda: None, kill=True)
    done = invoked(host, commands.status)
    assert done.exit_code == 0
    assert "VI_1  MASTER" in done.output


def test_without_virtual_routers_the_error_is_one_line(host: FakeHost, tmp_path: Path) -> None:
    for command in (commands.status, commands.why, commands.yield_, commands.resume):
        done = invoked(host, command)
        assert done.exit_code == 1
        assert isinstance(done.exception, PylvsError)
        assert str(done.exception) == (
            f"no virtual routers run at {host.state}/vrrp; start pylvs run with a vrrp_instance, "
            "or name its --state-dir"
        )


def test_status_events_and_metrics_of_the_daemon_name_them(host: FakeHost) -> None:
    page, _, events, metrics = during(
        host,
        lambda: invoked(host, views.status),
        lambda: invoked(host, commands.yield_, "VI_1"),
        lambda: invoked(host, views.events),
        lambda: invoked(host, views.metrics),
    )
    assert "\nvirtual routers: VI_1 MASTER since 3 d, VI_2 BACKUP since 3 d (pylvs vrrp" in page.output
    assert "vrrp transition VI_1 MASTER -> BACKUP: yielded by the operator\n" in events.output
    for line in (
        "pylvs_vrrp_up 1.0",
        'pylvs_vrrp_state{router="VI_1"} 1.0',
        'pylvs_vrrp_priority{router="VI_2"} 98.0',
        'pylvs_vrrp_transitions_total{router="VI_1",state="master"} 1.0',
        'pylvs_vrrp_adverts_sent_total{router="VI_1"} 7.0',
        'pylvs_vrrp_adverts_received_total{router="VI_1"} 3.0',
        'pylvs_vrrp_adverts_dropped_total{reason="wrong_password",router="VI_1"} 2.0',
        "pylvs_vrrp_timer_longest_delay_seconds 0.00025",
    ):
        assert line in metrics.output.splitlines()


def test_a_daemon_without_virtual_routers_has_no_metrics_of_them() -> None:
    assert list(vrrp_metrics({"instances": [], "groups": [], "problem": ""})) == []
    (down,) = vrrp_metrics({"instances": [], "groups": [], "problem": "they are gone"})
    assert (down.name, down.samples) == ("pylvs_vrrp_up", [("", 0.0)])


@pytest.mark.parametrize(
    ("event", "fields", "name"),
    [
        ("helper", {"reason": "it was silent for 5 s"}, "vrrp_helper"),
        ("track", {"kind": "script", "name": "web", "state": "unknown", "reason": "no result"}, "vrrp_track"),
        ("data_plane", {"state": "unknown", "reason": "no report for 10 s"}, "vrrp_data_plane"),
        ("conflict", {"instance": "VI_1", "reason": "10.0.0.7 has its addresses, too"}, "vrrp_conflict"),
    ],
)
def test_each_event_of_the_process_is_one_of_the_daemon(
    event: str, fields: dict[str, str], name: str, host: FakeHost
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            sent = {"event": event, "instance": "", "time": 1.0, **fields}
            with RouterClient(host.state / "vrrp") as client:
                await asyncio.to_thread(client.ask, "emit", event=sent)
            await until(lambda: name in [each["event"] for each in daemon.events.recent()])
            (found,) = [each for each in daemon.events.recent() if each["event"] == name]
            assert fields.items() <= found.items()

    run(scenario())


def test_a_lost_helper_process_is_counted() -> None:
    process = {"longest_gap_ms": 0.0, "helper": False, "helper_lost": 3}
    found = {each.name: each.samples for each in vrrp_metrics({"instances": [], "problem": "x", "process": process})}
    assert found["pylvs_vrrp_helper_lost_total"] == [("", 3)]


def test_the_status_names_a_session_that_its_neighbor_has_disabled(host: FakeHost) -> None:
    set_behaviour(host.state, sessions=[STATUS | {"held": True}])
    page = during(host, lambda: invoked(host, commands.status))[0].output
    assert "\n  kept       the neighbor has disabled it; what tracks it stays as it was\n" in page


def test_the_api_has_the_same_commands(host: FakeHost) -> None:
    status, why, yielded, resumed, wrong, described = during(
        host,
        lambda: ask(host, "GET", "/v1/vrrp"),
        lambda: ask(host, "GET", "/v1/vrrp/why?name=VI_1"),
        lambda: ask(host, "POST", "/v1/vrrp/yield", {"name": "VI_1", "seconds": 60}),
        lambda: ask(host, "POST", "/v1/vrrp/resume"),
        lambda: Client(host.state).ask("POST", "/v1/vrrp/yield", {"name": "VI_1"}),
        lambda: ask(host, "GET", "/v1/openapi.json"),
    )
    assert [each["name"] for each in status["instances"]] == ["VI_1", "VI_2"]
    assert status["problem"] == ""
    assert [each["state"] for each in why["VI_1"]] == ["BACKUP", "MASTER"]
    assert (yielded, resumed) == ({"names": ["VI_1"]}, {"names": ["VI_1", "VI_2"]})
    assert wrong[0] == 400
    assert {"/v1/vrrp", "/v1/vrrp/why", "/v1/vrrp/yield", "/v1/vrrp/resume"} <= set(described["paths"])


def test_without_virtual_routers_the_api_reports_that(host: FakeHost) -> None:
    host.write(service(server(1)))
    status, refused = during(
        host,
        lambda: ask(host, "GET", "/v1/vrrp"),
        lambda: Client(host.state).ask("POST", "/v1/vrrp/yield", {"seconds": 60}),
    )
    assert status == {"instances": [], "groups": [], "sessions": [], "problem": ""}
    assert refused == (409, {"error": "no virtual routers run here: the configuration has no vrrp_instance"})


def test_a_reload_prints_the_warnings_of_virtual_routers(host: FakeHost) -> None:
    set_behaviour(host.state, warnings=["VI_2: eth0 is down"])
    (done,) = during(host, lambda: invoked(host, reload))
    assert done.exit_code == 0
    assert "pylvs: VI_2: eth0 is down\n" in done.output


class Speaker:
    """Answers a greeting with these bytes, and then sends nothing."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX, ipc.KIND)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with self._listener.accept()[0] as end:
            end.recv(1 << 16)
            if self._answer:
                end.sendall(self._answer)
            end.recv(1 << 16)


@pytest.mark.parametrize(
    ("answer", "patience_s", "text"),
    [
        (b"", 0.2, "no answer within 0.2 s"),
        (b"nope", PATIENCE_S, "the process at this socket is not pylvs-vrrp: it sent not JSON"),
        (b'{"hello":1,"pid":1}', PATIENCE_S, "the process at this socket is not pylvs-vrrp"),
    ],
)
def test_a_foreign_process_at_the_socket_is_reported_in_one_line(
    tmp_path: Path, answer: bytes, patience_s: float, text: str
) -> None:
    path = tmp_path / "vrrp"
    with Speaker(path, answer), pytest.raises(PylvsError, match=text):
        RouterClient(path, patience_s)


def test_a_socket_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vrrp"
    listener = socket.socket(socket.AF_UNIX, ipc.KIND)
    listener.bind(str(path))
    listener.listen()
    monkeypatch.setattr(ipc, "peer_of", lambda _: (1, 4711))
    with listener, pytest.raises(PylvsError, match="belongs to user 4711"):
        RouterClient(path)
