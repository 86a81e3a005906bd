"""Tables of another layout are migrated with their connections: those of a build of changed sources, and back."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

import hatch_build
from pylvs.bpf import maps
from pylvs.cli.director import show as shown
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.overview import overview
from pylvs.dataplane.state import ON_DEMAND, State
from pylvs.dataplane.upgrade import former, migrate
from pylvs.ipvsadm.commands import Session
from pylvs.model.client_rules import rule_of
from pylvs.model.errors import NoSpace, NoSuchService, Unsupported
from pylvs.model.marks import MarkRule
from pylvs.model.rows import Counters, Rates
from pylvs.model.service import Protocol, ServiceKey, Timeouts
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network, tcp, udp
from tests.packet.host import DROPPED, VIP4, VIP6, Host, key, new_host, server6
from tests.packet.test_fragments import fragments, sent_to_server
from tests.packet.test_killed_load import (
    NAT_SERVER,
    FewPrograms,
    Nothing,
    add_nat_link,
    edit,
    killed,
    open_traffic,
    serving_host,
)
from tests.packet.test_takeover import LIST_CONNECTIONS, as_build
from tests.packet.wire import wire
from tests.waiting import until

pytestmark = pytest.mark.timeout(1200)  # some load the programs thirty times
ROOT = Path(__file__).resolve().parents[2]
DR, NAT, TUNNEL, PERSISTENT, MH, WRR = 80, 81, 83, 84, 85, 87  # ports of SERVICES
SERVICES = f"""
-A -t {VIP4}:80 -s rr
-a -t {VIP4}:80 -r 10.77.0.11 -g
-A -t {VIP4}:81 -s rr
-a -t {VIP4}:81 -r {NAT_SERVER} -m
-A -t {VIP4}:82 -s rr
-A -t {VIP4}:83 -s rr
-a -t {VIP4}:83 -r 10.77.0.12 -i
-A -t [{VIP6}]:80 -s rr
-a -t [{VIP6}]:80 -r [fd77::11]:80 -g
-A -t [{VIP6}]:81 -s rr
-a -t [{VIP6}]:81 -r [fd77::12]:81 -m
-A -t [{VIP6}]:83 -s rr
-a -t [{VIP6}]:83 -r [fd77::13]:83 -i
-A -t {VIP4}:84 -s rr -p 600 -M 255.255.255.0
-a -t {VIP4}:84 -r 10.77.0.11 -g -w 1
-a -t {VIP4}:84 -r 10.77.0.12 -g -w 2 -x 1000 -y 500
-a -t {VIP4}:84 -r 10.77.0.13 -g -w 3
-a -t {VIP4}:84 -r 10.77.0.14 -g
-A -u {VIP4}:85 -s mh -b mh-port
-a -u {VIP4}:85 -r 10.77.0.15 -g
-a -u {VIP4}:85 -r 10.77.0.16 -i --tun-type gue --tun-port 6080
-A -t {VIP4}:86 -s lblcr
-a -t {VIP4}:86 -r 10.77.0.15 -g
-a -t {VIP4}:86 -r 10.77.0.16 -g
-A -t {VIP4}:87 -s wrr
-a -t {VIP4}:87 -r 10.77.0.11 -g -w 1
-a -t {VIP4}:87 -r 10.77.0.12 -g -w 3
-A -f 7 -s rr
-a -f 7 -r 10.77.0.17 -g
"""
RULE = MarkRule(value=7, family=4, protocol=6, target=ip_network(f"{VIP4}/32"), target_ports=((88, 88),))
CLIENT_RULES = [rule_of(line.split()) for line in ("deny 203.0.113.0/24", "limit 203.0.113.64/26 1/h burst 1")]
LISTINGS = ("-Ln", "-Sn", "-Ln --thresholds", "-Ln --persistent-conn", "-L --timeout")
FLOWS = [(version, port) for version in (4, 6) for port in (DR, NAT, TUNNEL)]
EDIT = "from pylvs.ipvsadm.main import main; sys.argv[:] = ['ipvsadm', '--set', '0', '0', '0']; sys.exit(main())"


class SomePrograms(FewPrograms):
    """The object with the programs that these tests need."""

    NEEDED = (
        *("new", "persist", "connect", "reply", "parse_slow", "defrag", "encap", "fwd_slow", "fragment"),
        *("schedule_rr", "schedule_wrr", "schedule_mh"),
    )


@pytest.fixture(autouse=True)
def some_programs() -> Iterator[None]:
    with mock.patch.object(load, "BpfObject", SomePrograms):
        yield


PORT_AND_METHOD = "\tbe16 port; /* of the real server */\n\tu8 method;\n\tu8 flags; /* enum conn_flags */\n"
CHANGES = [
    ("config.h", "struct destination {\n", "struct destination {\n\tu64 test_added;\n"),
    ("config.h", "struct service_version {\n", "struct service_version {\n\tu16 test_moved[4];\n"),
    ("conntrack.h", "entry6;\n\t};\n", "entry6;\n\t};\n\tu64 test_longer[8];\n"),
    ("conntrack.h", f"\tu32 destination;\n{PORT_AND_METHOD}}};\n", f"{PORT_AND_METHOD}\tu32 destination;\n}};\n"),
]
ADDED = (
    "from pylvs.dataplane.upgrade import former\n"
    "former._ADDED.update(destination=['test_added'], service_version=['test_moved'])\n"
)


@pytest.fixture(scope="module")
def other_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the objects of a build whose maps have more fields, and others in another order."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "bpf", tree / "bpf")
    for name in "bench", "realserver", "wire":
        (tree / f"bpf/{name}.bpf.c").unlink()
    for name, own, other in CHANGES:
        text = (tree / "bpf/abi" / name).read_text()
        assert text.count(own) == 1
        (tree / "bpf/abi" / name).write_text(text.replace(own, other))
    shutil.copytree(ROOT / "tools", tree / "tools")
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("objects"))
    hatch_build.build(tree, objects=tree / "objects")
    return tree / "objects"


def migrate_there(host: Host, objects: Path) -> None:
    """Let the other build migrate the tables; the host then runs its programs."""
    done = as_build(objects, ADDED + EDIT)
    assert (done.returncode, done.stderr) == (0, "")
    host.close_programs()
    host.director = BpfDirector(State.open())


@pytest.fixture
def other(other_layout: Path) -> Iterator[Host]:
    """Return a host with services of each kind, whose tables and programs are those of the other build."""
    with new_host(connections=1024) as host:
        add_nat_link()
        assert Session(host.director, io.StringIO(SERVICES), io.StringIO(), io.StringIO()).run(["-R"]).status == 0
        ipvsadm(host, *f"-d -t {VIP4}:84 -r 10.77.0.14".split())
        host.director.set_timeouts(Timeouts(800, 100, 200))
        for name, value in ("conn_reuse_mode", 0), ("expire_nodest_conn", 1):
            host.director.change_setting(name, value)
        host.director.change_mark_rules(lambda _: [RULE])
        host.director.change_client_rules(key(DR), lambda _: CLIENT_RULES)
        migrate_there(host, other_layout)
        yield host


def addresses(version: int) -> dict[str, str]:
    return {"source": CLIENT4, "target": VIP4} if version == 4 else {"source": CLIENT6, "target": VIP6}


def ipvsadm(host: Host, *words: str) -> str:
    out, errors = io.StringIO(), io.StringIO()
    outcome = Session(host.director, io.StringIO(), out, errors).run(words)
    assert (outcome.status, errors.getvalue()) == (0, "")
    return out.getvalue()


def opened(host: Host, version: int, port: int, sport: int = 4000) -> list[str]:
    """Open a connection, and return where its packets are sent to."""
    frames = [tcp(flags, sport, port, **addresses(version)) for flags in ("S", "A")]
    return [where(host.forwarded(frame, "tc")) for frame in frames]


def where(frame: bytes) -> str:
    """Return the link address and the network address that a frame is sent to."""
    packet = Ether(frame)
    return f"{packet.dst} {packet.payload.dst}"


def answered(host: Host, version: int, sport: int = 4000) -> tuple[str, int]:
    """Let the NAT server answer, and return saddr and source port of what its client receives."""
    server = NAT_SERVER if version == 4 else server6(2)
    client = CLIENT4 if version == 4 else CLIENT6
    header = TCP(sport=NAT, dport=sport, flags="A")
    packet = Ether(host.forwarded(build(ether() / network(server, client) / header), "tc")).payload
    return packet.src, packet[TCP].sport


def without_multicasts(reasons: dict[str, int]) -> dict[str, int]:
    """Leave out what kernels of test hosts send by themselves at any time."""
    return {name: count for name, count in reasons.items() if name != "other host"}


def test_what_another_build_made_continues(other: Host) -> None:
    host, state = other, other.director.state
    before = {flow: opened(host, *flow) for flow in FLOWS}
    persistent = opened(host, 4, PERSISTENT)
    order = [where(host.forwarded(tcp("S", sport, WRR), "tc")) for sport in range(5000, 5008)]
    hashed = {sport: where(host.forwarded(udp(sport, MH), "tc")) for sport in range(6000, 6006)}
    there = former.Former(state)
    with maps.ArrayMap.open(state.loaded_path("estimators")) as timers:
        timers.put(0, timers.get(0) or b"")  # stops the timer
    counted = there.counted()[0]
    there.records("destination_bases").set(0, "connections", 1)  # what `ipvsadm -Z` writes
    estimates = there.records("estimates")
    estimates.set(0, "last", 7, 6, 5, 4, 3)
    for name in "estimates", "service_estimates":
        there.records(name).set(0, "averages", 10 << 10, 20 << 10, 30 << 10, 40 << 5, 50 << 5)
    passed = estimates.get(0, "passed")
    with pytest.raises(Unsupported, match=r"those of pylvs.*ipvsadm --set 0 0 0") as caught:
        host.director.edition()
    assert caught.value.tables_of == state.made_by() != "unknown"
    listings = {words: ipvsadm(host, *words.split()) for words in LISTINGS}
    host.director.close()
    connections = listed(ipvsadm(host, "-Lnc"))
    assert len(connections) == len(FLOWS) + 2 + len(order) + len(hashed), "and a persistent one with its template"
    show = overview()
    assert (show["object"], show["connections"]) == (str(state.build()), len(connections))
    assert {each["device"] for each in show["devices"]} == {"lo", "d0", "e0", "e1"}
    text = invoked(shown)
    assert f"tables: {show['object']}, connections {show['connections']} of 1024" in text
    settings = host.director.settings()
    assert (settings["conn_reuse_mode"], settings["expire_nodest_conn"], settings["conn_max"]) == (0, 1, 1024)
    (row,) = host.director.service(key(DR)).destinations
    assert (row.counters, row.active, row.inactive) == (Counters(6, 6, 5, 4, 3), 1, 0)
    assert row.rates == host.director.service(key(DR)).rates == Rates(10, 20, 30, 40, 50)
    assert host.director.mark_rules() == [RULE]
    with pytest.raises(NoSuchService):
        host.director.service(key(9))
    assert host.director.client_rules() == {key(DR): tuple(CLIENT_RULES)}
    host.director.migrate()
    host.close_programs()

    assert host.director.client_rules() == {key(DR): tuple(CLIENT_RULES)}
    assert established(ipvsadm(host, "-Lnc")) == [each for each in connections if "ESTABLISHED" in each]
    names = ("services", "master", "standby", "forwarded")
    assert [overview()[name] for name in names] == [show[name] for name in names]
    assert without_multicasts(overview()["reasons"]) == without_multicasts(show["reasons"])
    denied = tcp("S", 4000, DR, source="203.0.113.5", target=VIP4)
    assert host.run(denied, "tc").verdict == DROPPED["tc"]
    assert host.director.settings() == settings
    assert {words: ipvsadm(host, *words.split()) for words in LISTINGS} == listings, "as before the migration"
    assert all(os.path.exists(state.loaded_path(name)) for name in ON_DEMAND)
    assert host.director.timeouts() == Timeouts(800, 100, 200)
    assert host.director.mark_rules() == [RULE]

    def shows_all() -> bool:  # from the estimator's next round on
        (row,) = host.director.service(key(DR)).destinations
        return (row.counters.connections, row.counters.in_packets) == (counted[0] - 1, counted[1])

    until(shows_all, "the counters continue")
    (row,) = host.director.service(key(DR)).destinations
    assert (row.active, row.inactive) == (1, 0)
    assert host.director.service(key(DR)).counters.connections == counted[0] - passed[0]

    for flow, (_, to) in before.items():
        frame = tcp("A", 4000, flow[1], **addresses(flow[0]))
        assert where(host.forwarded(frame, "tc")) == to, flow
    assert answered(host, 4) == (VIP4, NAT)
    assert answered(host, 6) == (VIP6, NAT)
    neighbour = str(ip_address(CLIENT4) + 1)
    assert where(host.forwarded(tcp("S", 4000, PERSISTENT, source=neighbour), "tc")) == persistent[1]
    assert [where(host.forwarded(tcp("S", sport, WRR), "tc")) for sport in range(5008, 5016)] == order
    assert {sport: where(host.forwarded(udp(sport, MH), "tc")) for sport in hashed} == hashed
    assert state.leftovers() == ([], [])


def invoked(command: click.Command) -> str:
    """Return what a command of pylvs prints."""
    done = CliRunner().invoke(command, [], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def listed(text: str) -> list[list[str]]:
    """Return the rows of a listing of connections, without their timeouts."""
    rows = [line.split() for line in text.splitlines()[2:]]
    return sorted([protocol, *rest] for protocol, _, *rest in rows)


def established(text: str) -> list[list[str]]:
    """Return those of TCP that stay for minutes."""
    return [each for each in listed(text) if "ESTABLISHED" in each]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("before", [1, 2])
def test_a_packet_whose_fragments_come_before_and_after(other_layout: Path, version: int, before: int) -> None:
    """A first fragment waits in a store of its own, by keyed hashes."""
    frames = fragments(version, 5000, 3000, 1000)
    with new_host(mode="tc") as host:
        host.serve(ServiceKey(Protocol.UDP, ip_address(addresses(version)["target"]), 53), 1)
        for frame in frames[:before]:
            assert host.run(frame, "tc").verdict == DROPPED["tc"]
        migrate_there(host, other_layout)
        host.director.migrate()
        with wire() as link:
            for frame in frames[before:]:
                last = host.run(frame, "tc").data
            assert len(sent_to_server(link, last)) == len(frames)


def unchanged(state: State) -> object:
    """Return what a refused migration must not change."""
    return [names for _, *names in os.walk(state.path)], state.notes()


def test_a_field_that_is_missing_is_named_and_nothing_changes(host: Host, other_layout: Path) -> None:
    state = host.director.state
    before = unchanged(state)
    done = as_build(other_layout, EDIT)
    assert done.returncode
    assert re.fullmatch(r".*: the map services\.versions lacks the field test_moved\n", done.stderr), done.stderr
    assert unchanged(state) == before
    host.director.flush()


def test_a_migration_without_memory_leaves_nothing_behind(other: Host) -> None:
    """A second connection table would take the memory that the next try needs."""
    refused = mock.patch.object(migrate.Migration, "copy", side_effect=NoSpace("no memory"))
    with refused, pytest.raises(NoSpace, match="no memory"):
        other.director.migrate()
    assert other.director.state.leftovers() == ([], [])
    opened(other, 4, DR)


def command() -> None:
    """Do what the first command of a newer pylvs does."""
    director = BpfDirector(State.open())
    director.set_timeouts(Timeouts(800, 100, 200))
    assert not director.device_problems()


@pytest.fixture
def host() -> Iterator[Host]:
    with serving_host() as made:
        yield made


def test_killed_at_any_step(host: Host, other_layout: Path) -> None:
    saved, number, state = ipvsadm(host, "-Sn"), 0, host.director.state
    migrate_there(host, other_layout)
    with open_traffic() as traffic:
        has_switched = False
        while killed(number, command):
            traffic.check()
            number += 1
            if not has_switched and state.has_own_layout():
                assert number > 20, "steps before the switch"
                has_switched, number = True, 0
        assert has_switched
        traffic.check()
        edit()
        traffic.check()
        assert state.leftovers() == ([], [])
        assert state.unfinished() is None
        assert ipvsadm(host, "-Sn") == saved


def test_there_and_back(host: Host, other_layout: Path) -> None:
    host.director.zero()  # leaves a note, as a migration does
    with host.director.batch():
        for name in ON_DEMAND:  # a migration loads all
            load.provide(host.director.state, name)
    nothing = Nothing(host)
    slot = host.director.slot(key(DR)) or 0
    host.director.tables.service_estimates.set(slot, "averages", *[1 << 60] * 5)
    host.director.tables.conn_counts.set(0, "idle_s", 8)
    host.director.tables.book.set(0, "trash_began_s", 9)
    own = host.director.state.build()
    with open_traffic() as traffic:
        saved, counted = ipvsadm(host, "-Sn"), host.director.service(key(DR)).counters.in_packets
        forwarded = host.director.packet_counts().forwarded["d0"]
        assert forwarded.xdp
        done = as_build(other_layout, ADDED + LIST_CONNECTIONS)
        assert (done.returncode, done.stderr) == (0, "")
        assert listed(done.stdout) == listed(ipvsadm(host, "-Lnc"))
        done = as_build(other_layout, ADDED + EDIT)
        assert (done.returncode, done.stderr) == (0, "")
        build = host.director.state.build()
        assert build is not None
        assert build.tables == json.loads((other_layout / "abi.json").read_text())["objects"]["director"]["tables"]
        traffic.check()
        with pytest.raises(Unsupported, match="by a new process"):
            host.director.services()
        host.director = BpfDirector(State.open())
        host.director.migrate()
        traffic.check()
        assert host.director.state.build() == own
        assert ipvsadm(host, "-Sn") == saved
        counters = host.director.service(key(DR)).counters
        assert counters.in_packets == counted + 2 * 3, "each check sends three packets of clients"
        assert host.director.service(key(DR)).rates.connections > 1 << 20, "less with each round of the estimator"
        tables = host.director.tables
        assert (tables.conn_counts.get(0, "idle_s"), tables.book.get(0, "trash_began_s")) == (8, 9)
        later = host.director.packet_counts().forwarded["d0"]
        assert later.xdp + later.tc == forwarded.xdp + forwarded.tc + 2 * 2 * 3, "to two servers"
    nothing.check()


def test_a_field_in_use_that_is_unknown_is_named(host: Host, other_layout: Path) -> None:
    assert as_build(other_layout, ADDED + EDIT).returncode == 0
    state = State.open()
    there = former.Former(state).records("destinations")
    there.set(0, "test_added", 1)
    before = unchanged(state)
    with pytest.raises(Unsupported, match=r"the map destinations: test_added is in use"):
        BpfDirector(state).migrate()
    assert unchanged(state) == before
    there.set(0, "test_added", 0)
    BpfDirector(state).migrate()
    assert state.has_own_layout()


def test_an_upgrade_that_another_build_left_unfinished_is_refused(host: Host, other_layout: Path) -> None:
    assert as_build(other_layout, ADDED + EDIT).returncode == 0
    state = State.open()
    state.set_note("maps/unfinished", "programs")
    with pytest.raises(Unsupported, match="not finished"):
        BpfDirector(state).migrate()
    assert as_build(other_layout, ADDED + EDIT).returncode == 0
    BpfDirector(state).migrate()
