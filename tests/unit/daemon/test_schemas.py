"""The schemas of replies, events and log lines: conftest.py compares them with all that the daemons of tests send."""

from __future__ import annotations

import io
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.daemon.api.application import document
from pylvs.daemon.api.reference import reference
from pylvs.daemon.api.routes import ROUTES
from pylvs.daemon.api.schema import VERSION, event_types
from pylvs.daemon.notifications import encode_event
from pylvs.health.events import Overridden, Override, ServerDown
from pylvs.model.service import DestinationKey
from pylvs.system import logs
from tests.unit.daemon.schemas import wrong_in_event, wrong_in_log_line, wrong_in_reply

SERVER = DestinationKey(ip_address("10.0.0.1"), 80)


def test_the_reference_is_that_of_the_code(repository: Path) -> None:
    """`python -m pylvs.daemon.api.reference > docs/reference/api.md` writes it."""
    assert (repository / "docs/reference/api.md").read_text() == reference()


def test_each_reply_has_a_schema() -> None:
    found = document()
    assert found["info"]["version"] == VERSION
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            ((kind, content),) = operation["responses"]["200"]["content"].items()
            assert "schema" in content or kind.startswith("text/plain"), f"{method} {path}"


def test_each_number_of_a_request_has_limits() -> None:
    """Without one, a number may be more than a clock or a wait of the kernel takes."""
    numbers = {
        f"{each.path} {name}": field.schema()
        for each in ROUTES
        for name, field in each.takes.items()
        if field.kind in (int, float)
    }
    named = {"/v1/drain deadline_s", "/v1/weight weight", "/v1/vrrp/yield seconds", "/v1/client-rules/page start"}
    assert numbers.keys() == named
    assert [name for name, schema in numbers.items() if not {"minimum", "maximum"} <= schema.keys()] == []


def test_an_unknown_field_a_missing_one_and_a_wrong_type_are_found() -> None:
    assert wrong_in_reply("POST", "/v1/stop", 200, {"pid": 7}) == []
    for reply in ({"pid": 7, "colour": 1}, {}, {"pid": "seven"}):
        assert wrong_in_reply("POST", "/v1/stop", 200, reply)
    assert wrong_in_reply("POST", "/v1/stop", 409, {"error": "no"}) == []
    assert wrong_in_reply("POST", "/v1/stop", 409, {"pid": 7})


def test_events_of_health_checks_have_the_fields_of_their_classes() -> None:
    down = encode_event(ServerDown(at=1.5, service="web", server=SERVER, reason="refused"))
    assert wrong_in_event(down) == []
    assert wrong_in_event({**down, "server": 3})
    assert wrong_in_event({**down, "event": "server_gone"}) == ["the event server_gone has no schema"]
    override = Overridden(at=1.5, service="web", server=SERVER, reason="the operator", override=Override())
    assert wrong_in_event(encode_event(override)) == []
    assert {"server_down", "quorum_lost", "reloaded", "vrrp_transition"} <= event_types().keys()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_log_lines_have_their_schema(level: str) -> None:
    out = io.StringIO()
    logs.set_up("json", out, {"PYLVS_LOG_LEVEL": "debug"})
    getattr(logs.get_logger(), level)("server down", service="web", attempts=3)
    try:
        raise ValueError("no")
    except ValueError:
        logs.get_logger().exception("this is a bug")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert [each for line in lines for each in wrong_in_log_line(line)] == []
    assert wrong_in_log_line('{"event": "x", "level": "loud", "time": "now"}')
