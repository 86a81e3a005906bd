"""Client rules over the API: those of the table are listed, and those of the operator hold beside the file's."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylvs.cli import group as cli
from pylvs.daemon.api.application import document, execute
from pylvs.daemon.api.client import Client
from pylvs.daemon.leftovers import end_leftovers
from pylvs.daemon.state import operator_rules
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.client_rules import ClientRule, checked, overlaid, rule_of
from pylvs.model.errors import NoSpace, PylvsError
from pylvs.model.plain import to_plain
from pylvs.model.service import ServiceKey, VirtualService
from pylvs.model.wanted import WantedService
from pylvs.web.asked import Ask
from pylvs.web.tokens import OPERATE, READ
from tests.unit.daemon.commands import ask, during
from tests.unit.daemon.daemons import FOREIGN, OTHER, VIP, WEB, FakeHost, run, server, service, until
from tests.unit.daemon.schemas import wrong, wrong_in_reply

DENY, ALLOW, LIMIT = "deny 10.0.0.0/8", "allow 10.1.0.0/16", "limit 192.0.2.0/24 20/min per 28 burst 5 pass"
FILE = "pylvs.conf"
NAME = str(WEB)


def rules(*texts: str) -> tuple[ClientRule, ...]:
    return tuple(rule_of(text.split()) for text in texts)


def web(*texts: str, **more: Any) -> WantedService:
    return service(server(1), server(2), client_rules=rules(*texts), **more)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Return a host whose file has a service with the rule DENY, and one without rules."""
    made = FakeHost(tmp_path / "state")
    write(made, web(DENY), service(server(1), key=OTHER))
    return made


def write(host: FakeHost, *services: WantedService) -> None:
    host.write(*services)
    host.file = replace(host.file, files=(FILE,))


def in_table(host: FakeHost, key: ServiceKey = WEB) -> list[str]:
    return list(map(str, host.tables.client_rules().get(key, ())))


def change(host: FakeHost, what: str, **given: Any) -> tuple[int, Any]:
    return Client(host.state).ask("POST", f"/v1/client-rules/{what}", {"service": NAME, **given})


def lines(host: FakeHost, query: str = "") -> list[dict[str, Any]]:
    """Return the lines of the listing, which have their schema."""
    with Client(host.state).stream("GET", f"/v1/client-rules{query}") as response:
        found = [json.loads(line) for line in response.read().splitlines()]
    for each in found:
        assert list(wrong({"$ref": "#/components/schemas/ClientRuleLine"}, each)) == []
    return found


def pairs(host: FakeHost, query: str = "") -> list[tuple[str, str]]:
    return [(each["rule"], each["origin"]) for each in lines(host, query)]


def events(host: FakeHost) -> list[dict[str, Any]]:
    with Client(host.state).stream("GET", "/v1/events") as response:
        return [json.loads(line) for line in response.read().splitlines()]


def test_rules_of_the_operator_hold_beside_those_of_the_file(host: FakeHost) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW, LIMIT]),
        lambda: in_table(host),
        lambda: pairs(host),
        lambda: change(host, "delete", prefixes=["192.0.2.0/24"]),
        lambda: pairs(host),
        lambda: change(host, "replace", rules=["deny 203.0.113.0/24"]),
        lambda: pairs(host),
        lambda: change(host, "replace", rules=[]),
        lambda: in_table(host),
        lambda: in_table(host, OTHER),
    )
    reply = {"service": NAME, "problem": "", "not_kept": ""}
    assert answers[0] == (200, {**reply, "rules": 2})
    assert answers[1] == [DENY, ALLOW, LIMIT]
    assert answers[2] == [(DENY, "file"), (ALLOW, "operator"), (LIMIT, "operator")]
    assert answers[3] == (200, {**reply, "rules": 1})
    assert answers[4] == [(DENY, "file"), (ALLOW, "operator")]
    assert answers[5] == (200, {**reply, "rules": 1})
    assert answers[6] == [(DENY, "file"), ("deny 203.0.113.0/24", "operator")]
    assert answers[7] == (200, {**reply, "rules": 0})
    assert answers[8:] == [[DENY], []]


def test_a_rule_of_the_operator_decides_where_the_file_has_its_prefix(host: FakeHost) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=["allow 10.0.0.0/8"]),
        lambda: pairs(host),
        lambda: change(host, "delete", prefixes=["10.0.0.0/8"]),
        lambda: pairs(host),
    )
    assert answers[1] == [("allow 10.0.0.0/8", "operator")]
    assert answers[3] == [(DENY, "file")]


def test_a_service_may_be_named_by_its_key(host: FakeHost) -> None:
    write(host, replace(web(DENY), name="shop"))
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW]),
        lambda: change(host, "add", service="shop", rules=[LIMIT]),
        lambda: pairs(host, "?service=shop"),
        lambda: pairs(host, f"?service={NAME.replace(' ', '%20')}"),
    )
    assert [reply["service"] for _, reply in answers[:2]] == ["shop", "shop"]
    assert answers[2] == answers[3] == [(DENY, "file"), (ALLOW, "operator"), (LIMIT, "operator")]


def test_a_line_has_the_fields_of_its_rule(host: FakeHost) -> None:
    answers = during(host, lambda: change(host, "add", rules=[LIMIT]), lambda: lines(host))
    assert answers[1][1] == {
        "service": NAME,
        "rule": LIMIT,
        "prefix": "192.0.2.0/24",
        "action": "pass",
        "rate": 20,
        "period_s": 60,
        "burst": 5,
        "client_bits": 28,
        "origin": "operator",
    }


def test_a_listing_has_services_that_are_not_in_the_file(host: FakeHost) -> None:
    host.tables.add_service(VirtualService(FOREIGN))
    host.tables.change_client_rules(FOREIGN, lambda _: rules(ALLOW))
    found = during(host, lambda: lines(host), lambda: pairs(host, f"?service={str(FOREIGN).replace(' ', '%20')}"))
    assert [(each["service"], each["origin"]) for each in found[0]] == [(str(FOREIGN), "other"), (NAME, "file")]
    assert found[1] == [(ALLOW, "other")]


def test_a_long_listing_comes_whole(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.daemon.api.client_rules.RULES_AT_ONCE", 7)
    many = [f"deny 10.{high}.{low}.0/24" for high in range(10) for low in range(100)]
    write(host, web(*many))
    found = during(host, lambda: pairs(host), lambda: ask(host, "GET", "/v1/status"))
    assert found[0] == [(text, "file") for text in many]
    assert "10.0.1.0" not in json.dumps(found[1])  # the status does not grow by rules


def test_pages_of_a_listing_join_to_the_whole(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.daemon.api.client_rules.RULES_OF_A_PAGE", 3)
    many = [f"deny 10.{high}.0.0/16" for high in range(7)]
    write(host, web(*many))

    def page(start: int) -> Any:
        reply = ask(host, "GET", f"/v1/client-rules/page?service={NAME.replace(' ', '%20')}&start={start}")
        assert wrong_in_reply("GET", "/v1/client-rules/page", 200, reply) == []
        assert (reply["total"], reply["start"]) == (7, start)
        return [each["rule"] for each in reply["rules"]]

    found = during(host, *(partial(page, start) for start in (0, 3, 6, 7, 1000)))
    assert found == [many[:3], many[3:6], many[6:], [], []]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("start=-1", 400, "start: must be a whole number"),
        ("start=x", 400, "start: must be a whole number"),
        ("start=1e3", 400, "start: must be a whole number"),
        (f"start={10**19}", 400, "start: must be from 0 to 1048576"),
        ("service=nothing", 404, "nothing: no such service in the table"),
        ("namespace=1", 404, "another network namespace"),
        ("colour=1", 400, "does not take it"),
    ],
)
def test_a_wrong_page_is_refused(host: FakeHost, query: str, status: int, text: str) -> None:
    (found,) = during(host, lambda: Client(host.state).ask("GET", f"/v1/client-rules/page?{query}"))
    assert found[0] == status
    assert text in found[1]["error"]


def test_a_user_of_the_web_page_needs_the_role_operate(host: FakeHost, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            given = {"service": NAME, "rules": [ALLOW]}
            for role, expected in (READ, 403), (OPERATE, 200):
                asking = Ask("POST", "/v1/client-rules/add", given, "alice", "192.0.2.9", role)
                status, body = await execute(daemon, asking)
                assert status == expected, body
                assert in_table(host) == ([DENY, ALLOW] if role == OPERATE else [DENY])
            reading = Ask("GET", "/v1/client-rules/page", {"service": NAME}, "bob", "192.0.2.9", READ)
            status, body = await execute(daemon, reading)
            assert (status, json.loads(body)["total"]) == (200, 2)
            (event,) = [each for each in daemon.events.recent() if each["event"] == "operated"]
            assert (event["who"], event["operation"]) == ("alice", "client-rules/add")
            assert ALLOW in event["text"]

    run(scenario())
    assert "client-rules/add by a user of the web page" in log_output.getvalue()


def test_status_names_them_and_they_survive_a_reload(host: FakeHost) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW, LIMIT]),
        lambda: write(host, web(DENY, "deny 172.16.0.0/12"), service(server(1), key=OTHER)),
        lambda: ask(host, "POST", "/v1/reload"),
        lambda: in_table(host),
        lambda: ask(host, "GET", "/v1/status")["differs"],
        lambda: change(host, "replace", rules=[]),
        lambda: ask(host, "GET", "/v1/status")["differs"],
    )
    assert answers[3] == [DENY, ALLOW, "deny 172.16.0.0/12", LIMIT]
    assert answers[4][1:] == [f"client rules of {NAME} by the operator: {ALLOW}; {LIMIT}"]
    assert answers[6] == answers[4][:1]  # the file, which no test writes


@pytest.mark.parametrize("end", ["kill", "keep", "stop"])
def test_they_survive_a_restart_and_another_name_of_the_service(host: FakeHost, end: str) -> None:
    async def scenario() -> None:
        async with host.daemon(kill=end == "kill") as daemon:
            await asyncio.to_thread(change, host, "add", rules=[ALLOW])
            if end == "keep":
                daemon.stop(keep=True)
        write(host, replace(web(DENY), name="renamed"))
        for _ in range(2):  # the start saves the new name
            async with host.daemon(kill=True) as daemon:
                assert in_table(host) == [DENY, ALLOW]
                assert daemon.services.rules.described() == [f"client rules of renamed by the operator: {ALLOW}"]
                await daemon.services.saved()

    run(scenario())


def test_rules_of_a_service_that_a_reload_removes_end(host: FakeHost) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW]),
        lambda: write(host, service(server(1), key=OTHER)),
        lambda: ask(host, "POST", "/v1/reload"),
        lambda: write(host, web(DENY)),
        lambda: ask(host, "POST", "/v1/reload"),
        lambda: in_table(host),
        (host.state / "client_rules.json").exists,
    )
    assert answers[5:] == [[DENY], False]


def test_a_change_by_another_program_is_reverted_to_them(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            await asyncio.to_thread(change, host, "add", rules=[ALLOW])
            host.tables.change_client_rules(WEB, lambda _: [])
            await until(lambda: in_table(host) == [DENY, ALLOW])

    run(scenario())


def test_without_waiting_the_table_follows(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            status, reply = await asyncio.to_thread(change, host, "add", rules=[ALLOW], wait=False)
            assert (status, reply["rules"]) == (200, 1)
            await until(lambda: in_table(host) == [DENY, ALLOW])

    run(scenario())


def test_a_change_is_an_event_and_a_log_line(host: FakeHost, log_output: io.StringIO) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW]),
        lambda: change(host, "add", rules=[ALLOW]),
        lambda: change(host, "delete", prefixes=["10.1.0.0/16"]),
        lambda: events(host),
    )
    found = [(each["rules"], each["reason"]) for each in answers[3] if each["event"] == "client_rules"]
    assert found == [(1, f"added {ALLOW}"), (0, f"deleted {ALLOW}")]
    assert log_output.getvalue().count("client rules by the operator") == 2


@pytest.mark.parametrize(
    ("what", "given", "status", "text"),
    [
        ("add", {"rules": ["deny 10.0.0.1/8"]}, 400, "has bits behind its prefix; write 10.0.0.0/8"),
        ("add", {"rules": ["refuse 10.0.0.0/8"]}, 400, "must be allow PREFIX"),
        ("add", {"rules": [""]}, 400, "an empty rule"),
        ("add", {"rules": [ALLOW, "deny 10.1.0.0/16"]}, 400, "two rules for 10.1.0.0/16"),
        ("add", {"rules": ["deny 2001:db8::/32"]}, 400, "no address of the service is of IPv6"),
        ("add", {"rules": DENY}, 400, "rules: must be a list of strings"),
        ("add", {"rules": [7]}, 400, "rules: must be a list of strings"),
        ("add", {"rules": None}, 400, "rules: must be a list of strings"),
        ("add", {}, 400, "rules: is missing"),
        ("add", {"rules": [], "prefixes": []}, 400, "does not take it"),
        ("add", {"rules": [ALLOW], "service": "nothing"}, 404, "nothing: no such service in the configuration"),
        ("add", {"rules": [ALLOW], "service": str(FOREIGN)}, 404, "for others run pylvs filter"),
        ("add", {"rules": ["deny 192.0.2.0/24"]}, 409, f"the operator has another rule of this prefix: {LIMIT}"),
        ("delete", {"prefixes": ["10.0.0.0/8"]}, 409, f"its rule is in {FILE}: change client_rules there"),
        ("delete", {"prefixes": ["192.0.2.0/24", "10.9.0.0/16"]}, 404, "10.9.0.0/16: no such client rule"),
        ("delete", {"prefixes": ["10.0.0.1/8"]}, 400, "has bits behind its prefix"),
        ("replace", {"rules": ["limit 10.0.0.0/8"]}, 400, "must be allow PREFIX"),
        ("replace", {"rules": [ALLOW], "wait": 1}, 400, "wait: must be true or false"),
    ],
)
def test_what_is_refused_has_a_reason_and_changes_nothing(
    host: FakeHost, what: str, given: dict[str, Any], status: int, text: str
) -> None:
    answers = during(
        host,
        lambda: change(host, "add", rules=[LIMIT]),
        lambda: change(host, what, **given),
        lambda: in_table(host),
        lambda: change(host, "replace", rules=[])[1]["rules"],
    )
    assert answers[1][0] == status, answers[1]
    assert text in answers[1][1]["error"]
    assert "\n" not in answers[1][1]["error"]
    assert answers[2] == [DENY, LIMIT]


def test_a_listing_of_no_such_service_is_refused(host: FakeHost) -> None:
    (found,) = during(host, lambda: Client(host.state).ask("GET", "/v1/client-rules?service=nothing"))
    assert found == (404, {"error": "nothing: no such service in the table"})


def test_too_many_rules_are_refused_as_a_whole(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_rules, "MOST_OPERATOR_RULES", 2)
    answers = during(
        host,
        lambda: change(host, "add", rules=[ALLOW]),
        lambda: change(host, "add", service=str(OTHER), rules=[ALLOW, LIMIT]),
        lambda: change(host, "replace", rules=[ALLOW, LIMIT]),
        lambda: (in_table(host), in_table(host, OTHER)),
    )
    assert answers[1][0] == 409
    assert "3 client rules of the operator; all services have at most 2" in answers[1][1]["error"]
    assert answers[2][0] == 200
    assert answers[3] == ([DENY, ALLOW, LIMIT], [])


def test_rules_that_the_table_refuses_are_reported(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = host.tables.change_client_rules

    def full(key: ServiceKey, wanted: Any) -> None:
        if len(wanted([])) > 1:
            raise NoSpace("the table of client rules is full")
        edit(key, wanted)

    monkeypatch.setattr(host.tables, "change_client_rules", full)
    answers = during(host, lambda: change(host, "add", rules=[ALLOW]), lambda: in_table(host))
    status, reply = answers[0]
    assert (status, reply["rules"]) == (200, 1)
    assert reply["problem"].endswith("refused: the table of client rules is full")
    assert answers[1] == [DENY]


def test_a_damaged_file_of_rules_is_named(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            await asyncio.to_thread(change, host, "add", rules=[ALLOW])
            await daemon.services.saved()
        path = host.state / "client_rules.json"
        path.write_text(path.read_text().replace("allow", "perhaps"))
        with pytest.raises(Exception, match=r"client_rules\.json: damaged \(perhaps"):
            async with host.daemon():
                pass

    run(scenario())


def test_an_unchanged_row_stays_the_same_object(host: FakeHost) -> None:
    """The reconciler compares all fields of a row that is another object."""

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await asyncio.to_thread(change, host, "add", rules=[ALLOW])

            def rows() -> list[int]:
                return list(map(id, daemon.services.rules.rows(daemon.engine.desired_rows())))

            assert rows() == rows()
            before = rows()
            await asyncio.to_thread(change, host, "add", rules=[LIMIT])
            assert rows()[1:] == before[1:]
            assert rows()[0] != before[0]

    run(scenario())


@pytest.mark.parametrize("many", [0, 1, 5])
def test_overlaid_is_what_a_dictionary_makes(many: int) -> None:
    file = checked("", 4, rules(*(f"deny 10.{number}.0.0/16" for number in range(many)), DENY))
    own = checked("", 4, rules("allow 10.3.0.0/16", "allow 10.0.0.0/8", "deny 9.0.0.0/8", "allow 192.0.2.1"))
    for over in (), own[:1], own:
        expected = {rule.prefix: rule for rule in (*file, *over)}
        assert overlaid(file, over) == checked("", 4, expected.values())


def test_the_document_has_the_lists_of_a_request() -> None:
    body = document()["paths"]["/v1/client-rules/add"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["rules"]["type"] == "array"
    assert body["properties"]["rules"]["items"] == {"type": "string"}
    assert body["required"] == ["service", "rules"]


def filtered(host: FakeHost, words: str) -> tuple[int, str, str]:
    """Return exit status, output and error output of `pylvs filter` with --override."""
    given = ["filter", *words.split(), "--override", "--state-dir", str(host.state)]
    done = CliRunner().invoke(cli.pylvs, given, standalone_mode=False)
    if isinstance(done.exception, PylvsError):
        return 1, done.stdout, f"{done.exception}\n"
    assert done.exception is None, done.exception
    return done.return_value or 0, done.stdout, done.stderr


def test_the_command_changes_and_lists_rules_of_the_operator(host: FakeHost, tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text("deny 203.0.113.0/24  # a comment\n\ndeny 198.51.100.0/24\n")
    name = f"-t {VIP}:80"
    answers = during(
        host,
        lambda: filtered(host, f"add {name} {ALLOW}"),
        lambda: in_table(host),
        lambda: filtered(host, f"add {name} --file {file} --replace"),
        lambda: filtered(host, "list"),
        lambda: filtered(host, f"del {name} 203.0.113.0/24"),
        lambda: filtered(host, f"list {name}"),
        lambda: json.loads(filtered(host, f"list {name} --json")[1]),
        lambda: filtered(host, f"del {name} --all"),
        lambda: filtered(host, "list"),
        lambda: in_table(host),
    )
    assert answers[0] == answers[2] == answers[4] == answers[7] == (0, "", "")
    assert answers[1] == [DENY, ALLOW]
    assert answers[3] == (0, f"{name} deny 198.51.100.0/24\n{name} deny 203.0.113.0/24\n", "")
    assert answers[5] == (0, f"{name} deny 198.51.100.0/24\n", "")
    assert answers[6] == [{"service": NAME, "prefix": "198.51.100.0/24", "action": "drop"}]
    assert answers[8][1].startswith("no client rules here")
    assert answers[9] == [DENY]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (f"del -t {VIP}:80 10.0.0.0/8", f"{NAME}: 10.0.0.0/8: its rule is in {FILE}"),
        (f"add -t {VIP}:81 {ALLOW}", "TCP 192.0.2.1:81: no such service in the configuration"),
        (f"add -t {VIP}:80 deny 10.0.0.1/8", "has bits behind its prefix"),
    ],
)
def test_the_command_prints_why_the_daemon_refuses(host: FakeHost, words: str, text: str) -> None:
    answers = during(host, lambda: filtered(host, words), lambda: in_table(host))
    status, output, error = answers[0]
    assert (status, output, error.count("\n")) == (1, "", 1)
    assert text in error
    assert answers[1] == [DENY]


def test_the_command_fails_if_the_table_or_the_disk_refuses(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    write = StateDirectory.write

    def written(self: StateDirectory, name: str, content: Any) -> None:
        if name == "client_rules":
            raise PylvsError(f"{self.file(name)}: No space left on device: this state would be lost in a crash")
        write(self, name, content)

    def refused(key: ServiceKey, wanted: Any) -> None:
        raise NoSpace("the table of client rules is full")

    monkeypatch.setattr(StateDirectory, "write", written)
    answers = during(
        host,
        lambda: monkeypatch.setattr(host.tables, "change_client_rules", refused),
        lambda: filtered(host, f"add -t {VIP}:80 {ALLOW}"),
    )
    status, output, error = answers[1]
    assert (status, output) == (1, "")
    table, disk = error.splitlines()
    assert table.startswith(f"pylvs: not in the table yet: {NAME}: client rules")
    assert table.endswith("the table of client rules is full")
    assert disk.startswith(f"pylvs: a restart of the daemon ends it: {host.state}/client_rules.json")


def test_the_heir_of_a_unit_gets_them(tmp_path: Path) -> None:
    former, heir = StateDirectory(tmp_path / "former"), StateDirectory(tmp_path / "heir")
    for state in former, heir:
        state.acquire()
    content = {"services": {NAME: {"keys": to_plain((WEB,), tuple[ServiceKey, ...]), "rules": [ALLOW]}}}
    former.write("client_rules", content)
    former.release()
    end_leftovers(former, print, keep_table=True, heir=(heir, 0))
    (found,) = operator_rules.load_rules(heir).items()
    assert (found[0], found[1].keys, list(map(str, found[1].rules))) == (NAME, (WEB,), [ALLOW])
    assert operator_rules.load_rules(former) == {}
    heir.release()
