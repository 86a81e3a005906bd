"""The canned daemon of the web page's tests replies as a real one does."""

from __future__ import annotations

import pytest

from tests.json_page import assert_documented
from tests.unit.daemon.schemas import wrong
from tests.web_server import HOSTILE, drops, peer, traced


@pytest.mark.parametrize("text", [HOSTILE, ""])
def test_the_other_director_has_the_fields_of_the_schema(text: str) -> None:
    assert list(wrong({"$ref": "#/components/schemas/PeerReply"}, peer(text))) == []


def test_drops_and_records_of_a_trace_have_the_documented_fields() -> None:
    assert_documented("pylvs drops", drops([("a", "dropped", 1, "b")], "eth0"))
    assert_documented("pylvs trace", traced(1, "a"))
