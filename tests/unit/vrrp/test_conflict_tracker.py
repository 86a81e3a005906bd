"""Claims of others: what is said of them, and what is answered."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Announcements
from pylvs.vrrp.conflicts import DEFEND_INTERVAL_S, LOG_INTERVAL_S, MAX_LOGGED, ConflictResponse, ConflictTracker
from pylvs.vrrp.garp import GarpRateLimit, GarpScheduler
from pylvs.vrrp.protocol.arp_ndp import AddressBinding

VIP, SECOND = ip_address("10.0.0.100"), ip_address("fd00::100")
MAC, OTHER = bytes.fromhex("02000000000b"), bytes.fromhex("02000000000c")


def test_a_claimant_is_named_with_the_address_that_it_is_known_by() -> None:
    claims = ConflictTracker({MAC: "10.0.0.2", OTHER: str(VIP)}.__getitem__)
    assert claims.respond(0, AddressBinding(VIP, MAC, "eth0")) == ConflictResponse(
        "10.0.0.100 is claimed by 02:00:00:00:00:0b (10.0.0.2) on eth0", True
    )
    assert claims.respond(0, AddressBinding(VIP, OTHER)).text == "10.0.0.100 is claimed by 02:00:00:00:00:0c"


def test_the_same_claim_is_told_once_in_its_interval_and_counted() -> None:
    claims = ConflictTracker()
    heard = [claims.respond(now, AddressBinding(VIP, MAC)).text for now in range(int(LOG_INTERVAL_S) + 1)]
    assert [bool(words) for words in heard] == [True, *[False] * (int(LOG_INTERVAL_S) - 1), True]
    assert heard[-1] == "10.0.0.100 is claimed by 02:00:00:00:00:0b, and was 59 times since it was last told"


def test_an_address_is_answered_for_once_in_the_defence_interval_whoever_claims_it() -> None:
    claims = ConflictTracker()
    assert claims.respond(0, AddressBinding(VIP, MAC)).answer
    assert not claims.respond(1, AddressBinding(VIP, OTHER)).answer
    assert claims.respond(1, AddressBinding(SECOND, OTHER)).answer
    assert claims.respond(DEFEND_INTERVAL_S, AddressBinding(VIP, MAC)).answer


def test_a_flood_of_claimants_is_told_of_in_few_lines_and_kept_in_little_memory() -> None:
    claims = ConflictTracker()
    told = [claims.respond(0, AddressBinding(VIP, number.to_bytes(6, "big"))).text for number in range(5000)]
    assert sum(bool(words) for words in told) == MAX_LOGGED
    after = claims.respond(LOG_INTERVAL_S, AddressBinding(VIP, MAC)).text
    assert after == f"10.0.0.100 is claimed by 02:00:00:00:00:0b; {5000 - MAX_LOGGED} claims of others were not told"


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from((VIP, SECOND)), st.binary(min_size=6, max_size=6)), max_size=60
    )
)
def test_answers_and_lines_are_never_closer_than_they_may_be(events: list[tuple[float, Address, bytes]]) -> None:
    claims, now = ConflictTracker(), 0.0
    answers: dict[Address, list[float]] = {VIP: [], SECOND: []}
    lines: list[float] = []
    for pause, address, mac in events:
        now += pause
        heard = claims.respond(now, AddressBinding(address, mac))
        if heard.answer:
            answers[address].append(now)
        if heard.text:
            lines.append(now)
    for times in answers.values():
        assert all(second >= first + DEFEND_INTERVAL_S for first, second in pairwise(times))
    assert all(later >= first + LOG_INTERVAL_S for first, later in zip(lines, lines[MAX_LOGGED:], strict=False))


def test_two_hosts_that_both_hold_an_address_and_hear_each_other_fall_silent() -> None:
    """Each answers the other's announcements; the answers to answers end."""
    hosts = [(GarpScheduler(Announcements(), GarpRateLimit()), ConflictTracker(), mac) for mac in (MAC, OTHER)]
    for announcer, _, _ in hosts:
        announcer.begin(0.0, [("eth0", VIP)])
    sent: list[float] = []
    while (now := min((due for host in hosts if (due := host[0].due) is not None), default=None)) is not None:
        for mine, other in (hosts, hosts[::-1]):
            for _, address in mine[0].wake(now):
                sent.append(now)
                if other[1].respond(now, AddressBinding(address, mine[2])).answer:
                    other[0].again(now, "claimed")
        assert now < 60, "they never end"
    assert len(sent) <= 2 * (2 + 2 * 2) * Announcements().repeat
