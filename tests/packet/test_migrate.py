"""Tables of another layout are migrated with their connections: those of commit 5189436, and those of another build."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from collections.abc import Iterator
from ipaddress import ip_address
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
from pylvs.dataplane import former, load, migrate
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.overview import overview
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import ON_DEMAND, State
from pylvs.ipvsadm.commands import Session
from pylvs.model.errors import NoSpace, NoSuchService, Unsupported
from pylvs.model.rows import Counters, Rates
from pylvs.model.service import Protocol, ServiceKey, Timeouts
from tests.packet.earlier import host as earlier_module
from tests.packet.earlier.host import NAT_SERVER, Tree, archived, earlier_host
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network, tcp, udp
from tests.packet.host import DROPPED, VIP4, VIP6, Host, key, new_host, server4, server6
from tests.packet.test_fragments import fragments, sent_to_server
from tests.packet.test_killed_load import FewPrograms, Nothing, edit, killed, open_traffic, serving_host
from tests.packet.test_takeover import LIST_CONNECTIONS, as_build
from tests.packet.wire import wire

pytestmark = pytest.mark.timeout(1200)  # some load the programs thirty times
ROOT = Path(__file__).resolve().parents[2]
DR, NAT, TUNNEL, PERSISTENT, MH, WRR = 80, 81, 83, 84, 85, 87  # ports of the recorded services
NAT_PORT = 8080  # of real servers
LISTINGS = ("-Ln", "-Sn", "-Ln --thresholds", "-Ln --persistent-conn", "-L --timeout")
FLOWS = [(version, port) for version in (4, 6) for port in (DR, NAT, TUNNEL)]
LIST = "from pylvs.ipvsadm.main import main; sys.argv[:] = ['ipvsadm', '-Ln']; sys.exit(main())"
EDIT = "from pylvs.ipvsadm.main import main; sys.argv[:] = ['ipvsadm', '--set', '0', '0', '0']; sys.exit(main())"


class SomePrograms(FewPrograms):
    """The object, of this build or of commit 5189436, with the programs that these tests need."""

    NEEDED = (
        *("new", "persist", "connect", "reply", "parse_slow", "defrag", "encap", "fwd_slow", "fragment"),
        *("trouble", "odd", "wrap", "cut"),
        *("schedule_rr", "schedule_wrr", "schedule_mh"),
    )


@pytest.fixture(autouse=True)
def some_programs() -> Iterator[None]:
    with (
        mock.patch.object(load, "BpfObject", SomePrograms),
        mock.patch.object(earlier_module, "BpfObject", SomePrograms),
    ):
        yield


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Host]:
    """Return a host with the tables, programs and attachments of commit 5189436."""
    with earlier_host(tmp_path) as made:
        yield made


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


def former_counts(host: Host) -> dict[int, tuple[int, ...]]:
    """Return the counters of each destination in the maps of commit 5189436, by slot."""
    with maps.PerCpuArray.open(host.director.state.loaded_path("statistics")) as found:
        return {slot: found.sums(slot) for slot in range(16)}


def test_what_an_earlier_build_made_continues(earlier: Host) -> None:
    host = earlier
    before = {flow: opened(host, *flow) for flow in FLOWS}
    persistent = opened(host, 4, PERSISTENT)
    order = [where(host.forwarded(tcp("S", sport, WRR), "tc")) for sport in range(5000, 5008)]
    hashed = {sport: where(host.forwarded(udp(sport, MH), "tc")) for sport in range(6000, 6006)}
    counted = former_counts(host)
    with maps.ArrayMap.open(host.director.state.loaded_path("destination_bases")) as bases:
        bases.put(0, struct.pack("<5Q", 1, 0, 0, 0, 0))  # what `ipvsadm -Z` writes
    with maps.ArrayMap.open(host.director.state.loaded_path("devices")) as former_devices:
        former_devices.put(700 % 64, struct.pack("<I6s6x", 700, bytes(6))[: former_devices.value_size])
    with pytest.raises(Unsupported, match=r"those of pylvs.*ipvsadm --set 0 0 0") as caught:
        host.director.edition()
    assert caught.value.tables_of == host.director.state.made_by() != "unknown"
    listings = {words: ipvsadm(host, *words.split()) for words in LISTINGS}
    with maps.ArrayMap.open(host.director.state.loaded_path("estimators")) as timers:
        timers.put(0, timers.get(0) or b"")  # stops the timer
    estimates = former.Former(host.director.state).records("estimates")
    estimates.set(0, "last", 7, 6, 5, 4, 3)
    estimates.set(0, "averages", 10 << 10, 20 << 10, 30 << 10, 40 << 5, 50 << 5)
    host.director.close()
    connections = listed(ipvsadm(host, "-Lnc"))
    assert len(connections) > len(FLOWS) + len(hashed), "and a template"
    show = overview()
    assert (show["object"], show["connections"]) == (str(host.director.state.build()), len(connections))
    assert [each["device"] for each in show["devices"]] == ["lo", "d0", "e0"]
    assert not {"half_open", "half_open_share", "forwarded"} & show.keys(), "that commit does not count them"
    assert not {"rp_filter", "forwarded"} & show["devices"][0].keys()
    text = invoked(shown)
    assert f"tables: {show['object']}, connections {show['connections']} of 1024" in text
    settings = host.director.settings()
    (row,) = host.director.service(key(DR)).destinations
    assert (row.counters, row.active, row.inactive) == (Counters(6, 6, 5, 4, 3), 1, 0)
    assert row.rates == host.director.service(key(DR)).rates == Rates(10, 20, 30, 40, 50)
    assert host.director.packet_counts().totals == Counters(7, 6, 5, 4, 3)
    assert host.director.mark_rules()[0].value == 7
    with pytest.raises(NoSuchService):
        host.director.service(key(9))
    with mock.patch.object(attachments, "_finish"):  # it removes the device that does not exist
        host.director.migrate()
    host.close_programs()

    assert ipvsadm(host, "-Sn") == archived("saved").decode()
    assert established(ipvsadm(host, "-Lnc")) == [each for each in connections if "ESTABLISHED" in each]
    names = ("services", "reasons", "master", "standby")
    assert [overview()[name] for name in names] == [show[name] for name in names]
    assert host.director.settings() == settings
    assert {words: ipvsadm(host, *words.split()) for words in LISTINGS} == listings, "as before the migration"
    assert all(os.path.exists(host.director.state.loaded_path(name)) for name in ON_DEMAND)
    devices = host.director.tables.devices
    assert (devices.get(700, "ifindex"), devices.get(700 % 64, "ifindex")) == (700, 0)
    assert host.director.timeouts() == Timeouts(800, 100, 200)
    settings = host.director.settings()
    assert (settings["conn_reuse_mode"], settings["expire_nodest_conn"], settings["conn_max"]) == (0, 1, 1024)
    (rule,) = host.director.mark_rules()
    assert (rule.value, rule.target_ports, str(rule.target)) == (7, ((88, 88),), f"{VIP4}/32")
    (row,) = host.director.service(key(DR)).destinations
    assert (row.counters.connections, row.counters.in_packets) == (counted[0][0] - 1, counted[0][1])
    assert host.director.service(key(DR)).counters.connections == counted[0][0]
    assert (row.active, row.inactive) == (1, 0)

    for flow, (_, to) in before.items():
        frame = tcp("A", 4000, flow[1], **addresses(flow[0]))
        assert where(host.forwarded(frame, "tc")) == to, flow
    assert answered(host, 4) == (VIP4, NAT)
    assert answered(host, 6) == (VIP6, NAT)
    assert host.director.service(key(DR)).destinations[0].counters.in_packets > counted[0][1]
    neighbour = str(ip_address(CLIENT4) + 1)
    assert where(host.forwarded(tcp("S", 4000, PERSISTENT, source=neighbour), "tc")) == persistent[1]
    assert [where(host.forwarded(tcp("S", sport, WRR), "tc")) for sport in range(5008, 5016)] == order
    assert {sport: where(host.forwarded(udp(sport, MH), "tc")) for sport in hashed} == hashed
    assert host.director.state.leftovers() == ([], [])
    assert not [name for name in os.listdir(host.director.state.path) if name.startswith("pylvs_")]
    assert host.director.state.note("object") is None, "the earlier build refuses tables without this note"


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


def saved_services() -> str:
    """Return services of each method and family, and persistent ones, as `ipvsadm -R` reads them."""
    lines = []
    for vip, address_of in (VIP4, server4), (f"[{VIP6}]", server6):
        servers = [f"[{each}]" if ":" in each else each for each in map(address_of, (1, 2, 3))]
        for port, real_port, flag in (DR, DR, "-g"), (NAT, NAT_PORT, "-m"), (TUNNEL, TUNNEL, "-i"):
            lines.append(f"-A -t {vip}:{port} -s rr")
            lines += [f"-a -t {vip}:{port} -r {each}:{real_port} {flag}" for each in servers]
        lines.append(f"-A -t {vip}:{PERSISTENT} -s rr -p 600")
        lines += [f"-a -t {vip}:{PERSISTENT} -r {each}:{PERSISTENT} -g" for each in servers]
    return "\n".join([*lines, ""])


def test_connections_of_ipv6_that_were_in_hash_maps_continue(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    ports, sports = (DR, NAT, TUNNEL, PERSISTENT), range(4000, 4020)
    with tree.host(saved_services()) as host:
        flows = [(version, port, sport) for version in (4, 6) for port in ports for sport in sports]
        before = {flow: opened(host, *flow) for flow in flows}
        rows = listed(tree.ipvsadm("-Lnc"))
        assert len(rows) == len(flows) + 2, "two templates"
        assert listed(ipvsadm(host, "-Lnc")) == rows, "before the migration"
        assert overview()["connections"] == len(rows)
        host.director.migrate()
        host.close_programs()
        assert listed(ipvsadm(host, "-Lnc")) == rows
        for (version, port, sport), (_, to) in before.items():
            frame = tcp("A", sport, port, **addresses(version))
            assert where(host.forwarded(frame, "tc")) == to
        assert listed(ipvsadm(host, "-Lnc")) == rows, "no packet made a connection"
        for each in host.director.connections():
            if each.virtual_port != NAT:
                continue
            vip, client = (VIP4, CLIENT4) if each.client.version == 4 else (VIP6, CLIENT6)
            header = TCP(sport=NAT_PORT, dport=each.client_port, flags="A")
            answer = build(ether() / network(str(each.destination), client) / header)
            assert Ether(host.forwarded(answer, "tc")).payload.src == vip


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_whose_fragments_come_before_and_after(earlier: Host, version: int) -> None:
    frames = fragments(version, 5000, 3000, 1000)
    edited = ServiceKey(Protocol.UDP, ip_address(addresses(version)["target"]), 53)
    for frame in frames[:-1]:
        assert earlier.run(frame, "tc").verdict == DROPPED["tc"]
    earlier.director.migrate()
    earlier.close_programs()
    earlier.serve(edited, 1)
    with wire() as link:
        last = earlier.run(frames[-1], "tc").data
        assert len(sent_to_server(link, last)) == len(frames)


def test_a_field_that_is_missing_is_named_and_nothing_changes(earlier: Host) -> None:
    state = earlier.director.state
    before = [names for _, *names in os.walk(state.path)], state.notes()
    with mock.patch.dict(former._RENAMED):
        del former._RENAMED["saddr"]
        with pytest.raises(Unsupported, match=r"the map destinations lacks the field saddr$") as caught:
            earlier.director.migrate()
    assert caught.value.tables_of == state.made_by()
    assert ([names for _, *names in os.walk(state.path)], state.notes()) == before
    opened(earlier, 4, DR)


def test_a_migration_without_memory_leaves_nothing_behind(earlier: Host) -> None:
    """A second connection table would take the memory that the next try needs."""
    refused = mock.patch.object(migrate.Migration, "copy", side_effect=NoSpace("no memory"))
    with refused, pytest.raises(NoSpace, match="no memory"):
        earlier.director.migrate()
    assert earlier.director.state.leftovers() == ([], [])
    opened(earlier, 4, DR)


def command() -> None:
    """Do what the first command of a newer pylvs does."""
    director = BpfDirector(State.open())
    director.set_timeouts(Timeouts(800, 100, 200))
    assert not director.device_problems()


def test_killed_at_any_step(earlier: Host) -> None:
    earlier.close_programs()
    number, state = 0, earlier.director.state
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
        assert ipvsadm(earlier, "-Sn") == archived("saved").decode()


# --- another build of the same source ---


PORT_AND_METHOD = "\tbe16 port; /* of the real server */\n\tu8 method;\n\tu8 flags; /* enum conn_flags */\n"
CHANGES = [
    ("config.h", "struct destination {\n", "struct destination {\n\tu64 test_added;\n"),
    ("config.h", "struct service_version {\n", "struct service_version {\n\tu16 test_moved[4];\n"),
    ("conntrack.h", "entry6;\n\t};\n", "entry6;\n\t};\n\tu64 test_longer[8];\n"),
    ("conntrack.h", f"\tu32 destination;\n{PORT_AND_METHOD}}};\n", f"{PORT_AND_METHOD}\tu32 destination;\n}};\n"),
]
ADDED = (
    "from pylvs.dataplane import former\n"
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


@pytest.fixture
def host() -> Iterator[Host]:
    with serving_host() as made:
        yield made


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


@pytest.mark.parametrize("version", [4, 6])
def test_a_lone_fragment_there_and_back(other_layout: Path, version: int) -> None:
    """One fragment waits in a store of its own, by keyed hashes."""
    frames = fragments(version, 5000, 3000, 1000)
    with new_host(mode="tc") as host:
        host.serve(ServiceKey(Protocol.UDP, ip_address(addresses(version)["target"]), 53), 1)
        assert host.run(frames[0], "tc").verdict == DROPPED["tc"]
        done = as_build(other_layout, ADDED + EDIT)
        assert (done.returncode, done.stderr) == (0, "")
        host.close_programs()
        host.director = BpfDirector(State.open())
        host.director.migrate()
        with wire() as link:
            for frame in frames[1:]:
                last = host.run(frame, "tc").data
            assert len(sent_to_server(link, last)) == len(frames)


def test_a_field_in_use_that_is_unknown_is_named(host: Host, other_layout: Path) -> None:
    assert as_build(other_layout, ADDED + EDIT).returncode == 0
    state = State.open()
    there = former.Former(state).records("destinations")
    there.set(0, "test_added", 1)
    before = [names for _, *names in os.walk(state.path)], state.notes()
    with pytest.raises(Unsupported, match=r"the map destinations: test_added is in use"):
        BpfDirector(state).migrate()
    assert ([names for _, *names in os.walk(state.path)], state.notes()) == before
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
