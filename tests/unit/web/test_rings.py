"""The history of the web page: which series are kept, and how many."""

from __future__ import annotations

import pytest

from pylvs.web import rings
from pylvs.web.rings import History, Key, Values


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> History:
    """Return a history with space for two services and three servers."""
    monkeypatch.setattr(rings, "MOST_SERVICES", 2)
    monkeypatch.setattr(rings, "MOST_SERVERS", 3)
    return History()


def sample(services: str, servers: str) -> dict[Key, Values]:
    """Return rows of the director, of services, and of servers of the first one."""
    width = len(rings.OF_SERVICE), len(rings.OF_SERVER)
    rows: dict[Key, Values] = {("", ""): [1.0] * width[0]}
    rows |= {(each, ""): [1.0] * width[0] for each in services}
    return rows | {("a", each): [1.0] * width[1] for each in servers}


def kept(history: History, *keys: Key) -> list[bool]:
    return [not history.reply(key, False, 0.0, 1.0)["kept"] for key in keys]


def test_the_first_series_are_kept(history: History) -> None:
    history.put(1.0, sample("abc", "1234"))
    assert kept(history, ("", ""), ("a", ""), ("b", ""), ("c", "")) == [True, True, True, False]
    assert kept(history, ("a", "1"), ("a", "3"), ("a", "4")) == [True, True, False]


def test_a_new_one_takes_the_space_of_one_that_is_gone(history: History) -> None:
    history.put(1.0, sample("ab", "123"))
    history.put(2.0, sample("acd", "1345"))
    assert kept(history, ("a", ""), ("b", ""), ("c", ""), ("d", "")) == [True, False, True, False]
    assert kept(history, ("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("a", "5")) == [True, False, True, True, False]


def test_a_sample_searches_the_kept_series_once(history: History) -> None:
    """Those beyond the limit must not cost a search each: a sample of 10,000 servers took seconds."""
    asked = 0

    class Counted(dict[Key, Values]):
        def __contains__(self, key: object) -> bool:
            nonlocal asked
            asked += 1
            return super().__contains__(key)

    rows = {("a", f"{number}"): [1.0] * len(rings.OF_SERVER) for number in range(1000)}
    history.put(1.0, rows)
    history.put(2.0, Counted(rows))
    assert asked <= 3


def test_a_series_that_is_gone_stays_while_there_is_space(history: History) -> None:
    history.put(1.0, sample("a", "12"))
    history.put(2.0, sample("a", "1"))
    assert kept(history, ("a", "2")) == [True]
