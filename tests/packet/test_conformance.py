"""Recordings of the real IPVS, replayed at both hooks: every frame, count, state and timer must agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle_support.command_server import command_server
from tests.oracle_support.replays import ORACLE, Replay, proof, replay

# Scenarios that depend on the hook: they run at both.
METHODS = ("dr_basic", "dr_basic_v6", "nat_basic", "nat_basic_v6", "tun_basic", "tun_basic_v6")
# States do not depend on the hook. The longest come first, so that workers end at about the same time.
LIFETIMES = (
    "reuse",
    "quiesce",
    "tcp_states_secure",
    "statistics",
    "tcp_states_dr",
    "tcp_states_nat",
    "tcp_states_tun",
    "expiry",
    "tun_mixed",
    "defences_bounded",
    "marks",
    "persistence",
    "neighbours_move",
    "fragments",
    "ftp_other_methods",
    "sched_mh",
    "sched_sh",
    "sctp_errors",
    "extension_headers",
    "ip_options",
    "routed_local",
    "many_services",
    "own_client",
    "sched_dh",
    "sched_dh_mark",
    "cache_bypass_states",
    "sched_fo",
    "sched_lblc_mark",
    "sched_lblcr_mark",
    "sched_lc",
    "sched_nq",
    "sched_ovf",
    "sched_rr",
    "sched_sed",
    "sched_wlc",
    "sched_wrr",
)
# Each of these makes 10 to 80 directors, and loads the programs for each. A sample of its parts always runs,
# all of it in `./dev test-all`.
LONG = (
    "icmp_paths",
    "crowds",
    "timeouts",
    "tun_kinds",
    "ipsec",
    "persistence_life",
    "neighbours",
    "sctp_states",
    "nowhere",
    "places",
    "sctp_paths",
    "conntrack",
    "icmp_errors",
    "icmp_counts",
    "tcp_states_dr_v6",
    "tcp_states_nat_v6",
    "sctp_spread",
    "thresholds",
    "nat_edges",
    "persistence_ports",
    "cache_bypass",
    "routes",
    "reroutes",
)
# tests/packet/test_sip.py replays what matters of these without a wire.
AT_NIGHT = ("sip", "sip_characters")
# Every seventh part of a long scenario runs. Families, methods and kinds repeat every two, three and five parts, so a
# step of seven meets all combinations.
SAMPLE = 7
# Of a backup that is fed by hand, by part of the scenario. docs/reference/sync.md has the reasons.
_BACKUP_FED = {
    # Active and inactive connections are counted by their states, not by the flag of the message.
    "takeover, {} syncid 0": (
        "a connection in each state",
        "tables after that",
        "active and inactive",
        "the second becomes active",
        "the first becomes inactive",
        "the first names another server",
        "inactive and another server",
        "timeouts",
        "the same connection twice",
        "the daemon stopped",
        "counts at last",
    ),
    "strangers, {} syncid 0": (
        # A connection counts as soon as a service lists its real server.
        "the server added",
        "back at weight 0",
        "the method is another here",
        # Those of a deleted service are forwarded by the method of their real server.
        "to the removed service",
        "of the old connection",
    ),
    "templates, {} syncid 0 -p 300": (
        # Templates with NO_CPORT, and connections with ONE_PACKET, are not stored; the bit of a state that IPVS reads.
        "templates",
        "client 7: SYN",
        "tables after that",
        "odd flags",
        "a mark",
        # A connection without the client's port has packets from port 0 alone.
        "any port of client 8",
    ),
}
# Steps that must differ, for reasons in docs/differences.md. All other steps must agree.
DIFFERENT = {
    "conntrack": {
        f"conntrack 1 {family} {method}, tracking on: {step}"
        for family in ("v4", "v6")
        for method, histories in (("dr", ("SAPFA", "SR")), ("nat", ("SyAPpFfA", "SyAR")), ("tun", ("SAPFA", "SR")))
        for step in (
            *(f"r1 {fate}, after {history}: PS" for fate in ("at weight 0", "gone") for history in histories),
            "tables at last",
        )
    },
    "neighbours": {
        f"unanswered, {way}: {packets}who is told"
        for way in ("v4 dr", "v4 nat", "v4 tun", "v6 dr")
        for packets in ("", "two packets later: ")
    },
    "quiesce": {
        f"quiesce, {kind} expire_nodest_conn 0: {deletion}: live one {number}"
        for kind in ("v4 dr", "v4 nat", "v4 tun", "v6 dr", "v6 nat")
        for deletion in ("service removed", "table cleared")
        for number in (0, 1)
    },
    "sync_backup": {
        *(
            f"{part.format(way)}: {step}"
            for part, steps in _BACKUP_FED.items()
            for way in ("v4 dr", "v4 nat", "v6 tun")
            for step in steps
        ),
        # Connections of a real server that was deleted here are dropped; by IPv6 in a tunnel, IPVS drops them, too.
        *(f"strangers, {way} syncid 0: to the removed one" for way in ("v4 dr", "v4 nat")),
        # By IPv6 in a tunnel, connections to a real server that no service lists are forwarded.
        *(f"strangers, v6 tun syncid 0: to {server}" for server in ("the unknown server", "the unknown port", "it")),
        "templates, v6 tun syncid 0 -p 300: of an unknown mark",
        # With backup_only, the stack's RST changes no connection.
        *(
            f"backup_only, v4 dr syncid 0 backup_only 1: {step}"
            for step in ("daemon stopped, known: S", "daemon stopped, unknown: S", "tables")
        ),
    },
    "reroutes": {"v4 a larger MTU snat_reroute 1: UDP of 1500 bytes"},
    "sip": {
        f"servers v4 nat -p 90 port 5080: {step}"
        for step in (
            "answered by r1",
            "answered by r2",
            "answered by r3",
            "the client again",
            "r1 begins a call",
            "r1 again",
            "the called one answers",
            "its other port answers",
            "r2 goes on with that call",
            "the called one answers r2",
            "without a Call-ID",
            "from another port",
            "from no server",
            "to the director",
            "with TTL 1",
            "without a Call-ID, nat_icmp_send",
            "a call, nat_icmp_send",
            "from a server at weight 0",
            "from a removed server",
            "statistics",
        )
    },
}
# These start a process for each command, as an administrator does, at both hooks: `pylvs attach`, `down` and `sysctl`,
# and ipvsadm's -A, -R, -Ln and -Lnc. All scenarios start `pylvs mark`, and tests/interop/test_ipvsadm.py starts some of
# ipvsadm's own cases. In all other scenarios commands are forks of one process that has imported them.
STARTED = ("nat_basic", "tcp_states_secure")
# Recordings of features that the data plane does not have.
NOT_YET: dict[str, str] = {}
# Of sync daemons. tests/unit/sync/test_recordings.py and tests/packet/test_sync_feed.py replay their messages in every
# run. At night whole daemons do, as processes.
SYNC = ("sync_master", "sync_backup")
WHOLE = "long: a sample of it is played in every run"
REPLAYED = "tests/packet/test_sip.py replays its messages in every run"
DAEMONS = "minutes: it starts a daemon for each director; other tests replay its messages in every run"
PLAYED = [
    *(pytest.param("tc", name, SAMPLE, id=f"tc-{name}-sample") for name in LONG),
    *(pytest.param("tc", name, 1, id=f"tc-{name}") for name in (*LIFETIMES, *METHODS)),
    *(pytest.param("generic", name, 1, id=f"generic-{name}") for name in METHODS),
    *(pytest.param("tc", name, 1, id=f"tc-{name}", marks=pytest.mark.nightly(WHOLE)) for name in LONG),
    *(pytest.param("tc", name, 1, id=f"tc-{name}", marks=pytest.mark.nightly(REPLAYED)) for name in AT_NIGHT),
    *(pytest.param("tc", name, 1, id=f"tc-{name}", marks=pytest.mark.nightly(DAEMONS)) for name in SYNC),
]


@pytest.fixture(scope="module")
def commands() -> Iterator[dict[str, str]]:
    """Return an environment in which `ipvsadm` and `pylvs` run without a start of the interpreter."""
    with command_server() as environment:
        yield environment


def test_every_recording_is_compared() -> None:
    recorded = {path.stem for path in (ORACLE.parent / "golden").glob("*.json")}
    assert recorded == {*METHODS, *LIFETIMES, *LONG, *AT_NIGHT, *NOT_YET, *SYNC}
    assert recorded >= DIFFERENT.keys()
    assert recorded >= set(STARTED)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "scenario", "every"), PLAYED)
def test_the_director_does_what_ipvs_did(
    mode: str, scenario: str, every: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    commands = {} if scenario in STARTED else request.getfixturevalue("commands")
    different = DIFFERENT.get(scenario, set())

    def play() -> Replay:
        return replay(mode, scenario, every, tmp_path, commands)

    made = proof(play, different, request.node.nodeid)
    assert made.different == different & made.compared, made.text
    assert made.compared, made.text
    assert made.different or not different, "the sample has none of the steps that differ"
