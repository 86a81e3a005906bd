"""Which real servers are named by the handshakes of clients: those that complete far less than the others."""

from __future__ import annotations

import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.handshakes import (
    FEWEST,
    FORGOTTEN_S,
    GRACE_S,
    MINUTE_S,
    RECENT_S,
    HandshakeHistory,
    at_most,
    chance,
    verdicts,
)
from pylvs.model.rows import Handshakes

counts = st.builds(
    lambda begun, failed: Handshakes(begun, begun - min(begun, failed)), st.integers(0, 5000), st.integers(0, 5000)
)


def history(*changes: tuple[float, dict[str, Handshakes]]) -> HandshakeHistory[str]:
    """Return a history that began without handshakes, one second before the first of these."""
    made: HandshakeHistory[str] = HandshakeHistory()
    made.update({}, changes[0][0] - 1)
    for at, counted in changes:
        made.update(counted, at)
    return made


# --- the judgement ---


@given(counts, st.integers(1, 12))
def test_no_server_is_named_if_all_are_equal(handshakes: Handshakes, servers: int) -> None:
    assert not verdicts(dict.fromkeys(range(servers), handshakes)).low


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.97])
def test_chance_names_hardly_any_server(share: float) -> None:
    """Servers complete the same share, as in a flood: each handshake at random, by a seed."""
    dice = random.Random(int(share * 100))
    named = 0
    for _ in range(400):
        begun = [dice.choice((6, 15, 40, 150)) for _ in range(4)]
        servers = {
            number: Handshakes(count, sum(dice.random() < share for _ in range(count)))
            for number, count in enumerate(begun)
        }
        named += len(verdicts(servers).low)
    assert named <= 4  # of 1600 servers; twice SIGNIFICANCE for two comparisons would be 1.6


@given(st.integers(FEWEST, 400), st.integers(2, 10), st.integers(0, 20))
def test_a_server_that_completes_none_is_named_beside_others(begun: int, others: int, lost: int) -> None:
    """Others lose up to a fifth of theirs. From 8 on the number of handshakes is enough beside any others."""
    fine = Handshakes(begun, begun - begun * lost // 100)
    servers = {"dead": Handshakes(begun, 0)} | {f"rs{number}": fine for number in range(others)}
    named = verdicts(servers).low
    assert not named.keys() - {"dead"}
    if begun >= 8:
        assert named.keys() == {"dead"}


@given(st.integers(20, 400), st.integers(1, 6), st.integers(1, 6))
def test_each_dead_server_is_named_even_if_most_are(begun: int, dead: int, alive: int) -> None:
    servers = {f"dead{number}": Handshakes(begun, 0) for number in range(dead)}
    servers |= {f"rs{number}": Handshakes(begun, begun) for number in range(alive)}
    assert verdicts(servers).low.keys() == {f"dead{number}" for number in range(dead)}
    assert not verdicts(servers).all_fail


@given(st.dictionaries(st.integers(0, 9), counts, max_size=8))
def test_a_server_with_few_handshakes_or_a_better_share_is_never_named(servers: dict[int, Handshakes]) -> None:
    best = max((each.share for each in servers.values() if each.begun), default=1.0)
    for name, text in verdicts(servers).low.items():
        assert servers[name].begun >= FEWEST
        assert servers[name].share < best / 4
        assert text.startswith(f"completes {servers[name].completed} of {servers[name].begun} handshakes, others ")


def test_the_service_is_named_if_all_servers_fail_alike() -> None:
    servers = {"rs1": Handshakes(20, 0), "rs2": Handshakes(21, 1)}
    assert verdicts(servers).all_fail == "completes 1 of 41 handshakes, all real servers alike"
    assert not verdicts(servers).low
    assert verdicts({"rs1": Handshakes(30, 0)}).all_fail  # the only server
    assert not verdicts({"rs1": Handshakes(FEWEST - 1, 0)}).all_fail
    assert not verdicts({"rs1": Handshakes(100, 45), "rs2": Handshakes(100, 55)}).all_fail


def test_other_limits_name_other_servers() -> None:
    servers = {"rs1": Handshakes(100, 70), "rs2": Handshakes(100, 100)}
    assert not verdicts(servers).low
    assert verdicts(servers, most_share=0.8).low == {"rs1": "completes 70 of 100 handshakes, others 100%"}
    assert not verdicts(servers, most_share=0.8, fewest=101).low


# --- its arithmetic ---


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_chance_is_the_sum_of_the_hypergeometric_distribution(own: int, failed: int, fine: int, lost: int) -> None:
    one, other = Handshakes(own + failed, own), Handshakes(fine + lost, fine)
    all_begun, all_completed = one.begun + other.begun, own + fine
    ways = sum(
        comb(all_completed, count) * comb(all_begun - all_completed, one.begun - count)
        for count in range(own + 1)
        if one.begun - count >= 0
    )
    assert chance(one, other) == pytest.approx(ways / comb(all_begun, one.begun), rel=1e-3)


@given(st.integers(1, 60), st.integers(0, 60))
def test_at_most_is_the_sum_of_the_binomial_distribution(begun: int, completed: int) -> None:
    completed = min(begun, completed)
    exact = sum(comb(begun, count) for count in range(completed + 1)) / 2**begun
    assert at_most(Handshakes(begun, completed), 0.5) == pytest.approx(exact, rel=1e-3)


# --- the last minute ---


def test_a_handshake_counts_as_failed_only_after_the_grace() -> None:
    made = history((10.0, {"rs1": Handshakes(8, 0)}))
    assert made.shaken(10.0).minute == {"rs1": Handshakes(0, 0)}
    made.update({"rs1": Handshakes(8, 0)}, 10.0 + GRACE_S)
    assert made.shaken(10.0 + GRACE_S).minute == {"rs1": Handshakes(8, 0)}


def test_a_slow_server_completes_all_of_its_handshakes() -> None:
    """Each SYN is answered two seconds later; one handshake a second."""
    made = history(*((float(at), {"rs1": Handshakes(at, max(0, at - 2))}) for at in range(1, 100)))
    for at in range(100, 200):
        made.update({"rs1": Handshakes(at, at - 2)}, float(at))
        (found,) = made.shaken(float(at)).minute.values()
        assert found.begun == found.completed
        assert 59 <= found.begun <= 67  # a window that begins with one of the older counts


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=200))
def test_no_window_has_more_than_its_time(steps: list[tuple[int, int]]) -> None:
    """What began within the last minute, apart from the grace, is in; what is older than steps allow is not."""
    made = history((0.0, {"rs1": Handshakes(1, 1)}))
    totals = [Handshakes(1, 1)]
    for second, (begun, completed) in enumerate(steps, 1):
        totals.append(totals[-1] + Handshakes(begun, min(begun, completed)))
        made.update({"rs1": totals[-1]}, float(second))
        found = made.shaken(float(second)).minute.get("rs1", Handshakes())
        settled = totals[max(0, second - int(GRACE_S))]
        inner = totals[max(0, second - int(MINUTE_S))]
        outer = totals[max(0, second - int(MINUTE_S + GRACE_S) - 7)] if second > 70 else Handshakes()
        assert max(0, settled.begun - inner.begun) <= found.begun <= settled.begun - outer.begun
        assert found.completed <= found.begun


def test_the_last_seconds_are_a_window_of_their_own() -> None:
    made = history(*((float(at), {"rs1": Handshakes(at, at)}) for at in range(1, 41)))
    for at in range(41, 61):
        made.update({"rs1": Handshakes(at, 40)}, float(at))
    found = made.shaken(60.0)
    assert found.minute == {"rs1": Handshakes(57, 40)}
    assert found.recent == {"rs1": Handshakes(int(RECENT_S), 0)}
    made.update({"rs1": Handshakes(60, 40)}, 60.0 + RECENT_S + GRACE_S)
    assert made.shaken(60.0 + RECENT_S + GRACE_S).recent == {}


def test_a_server_without_handshakes_for_a_minute_is_forgotten() -> None:
    made = history((1.0, {"rs1": Handshakes(8, 0)}))
    made.update({"rs1": Handshakes(8, 0)}, 1.0 + MINUTE_S)
    assert made.shaken(1.0 + MINUTE_S).minute == {"rs1": Handshakes(8, 0)}
    made.update({"rs1": Handshakes(8, 0)}, 1.0 + MINUTE_S + GRACE_S)
    assert made.shaken(1.0 + MINUTE_S + GRACE_S).minute == {}
    assert made.totals == {"rs1": Handshakes(8, 0)}


def test_counts_before_the_first_update_are_of_no_known_time() -> None:
    made: HandshakeHistory[str] = HandshakeHistory()
    made.update({"rs1": Handshakes(500, 0)}, 1.0)
    made.update({"rs1": Handshakes(501, 1), "rs2": Handshakes(1, 1)}, 2.0)
    assert made.shaken(9.0).minute == {"rs1": Handshakes(1, 1), "rs2": Handshakes(1, 1)}


def test_counts_that_begin_anew_continue() -> None:
    """The tables were made again: by a larger table, or by `pylvs down`."""
    made = history((1.0, {"rs1": Handshakes(10, 9)}), (2.0, {"rs1": Handshakes(3, 3)}))
    assert made.totals == {"rs1": Handshakes(13, 12)}
    made.update({}, 3.0)
    assert made.totals == {}
    made.update({"rs1": Handshakes(1, 0)}, 4.0)
    assert made.totals == {"rs1": Handshakes(1, 0)}
    made.update({}, 5.0)
    made.update({"rs1": Handshakes(3, 1)}, 6.0)  # it was gone, and continues
    assert made.totals == {"rs1": Handshakes(2, 1)}


def test_forget_lets_the_minute_begin_now() -> None:
    made = history((1.0, {"rs1": Handshakes(10, 0)}))
    made.forget(["rs1", "rs2"])
    made.update({"rs1": Handshakes(12, 2)}, 2.0)
    assert made.shaken(6.0).minute == {"rs1": Handshakes(2, 2)}


def test_a_server_that_is_gone_for_long_takes_no_memory() -> None:
    """Servers that are added and removed all day must not fill the daemon's memory."""
    made = history((0.0, {"old": Handshakes(9, 9)}))
    for at in (1.0, FORGOTTEN_S, FORGOTTEN_S + 1):
        made.update({}, at)
    assert "old" not in made._last
    assert not made._gone


def test_a_server_that_comes_back_continues() -> None:
    """Its counts go on in the packet path: those before do not count twice."""
    made = history((0.0, {"rs": Handshakes(9, 9)}))
    made.update({}, 1.0)
    made.update({"rs": Handshakes(11, 10)}, 2.0)
    assert made.totals == {"rs": Handshakes(2, 1)}
