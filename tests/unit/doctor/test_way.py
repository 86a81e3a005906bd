"""Which finding names devices that are down, next hops that do not answer, and what several servers have in common."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.probes import way
from pylvs.doctor.probes.devices import link_down, lowest_down
from pylvs.doctor.probes.server import of_all
from pylvs.doctor.servers import Endpoint, Way
from pylvs.doctor.survey import Seen, subjects
from pylvs.doctor.wire.exchange import Answers
from pylvs.doctor.wire.packets import Kind, Reply
from pylvs.model.dataclass import replace
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey
from pylvs.netlink.links import ETH_P_8021Q, Device

MAC = bytes.fromhex("020000000d00")
CARD = Device(2, "eth0", MAC, "", True, False, 1500, 0, 0, ())
VLAN = Device(3, "eth0.10", MAC, "vlan", True, False, 1500, 0, 2, (), vlan_protocol=ETH_P_8021Q, vid=10)
OTHER = Device(4, "eth0.11", MAC, "vlan", True, False, 1500, 0, 2, (), vlan_protocol=ETH_P_8021Q, vid=11)
DEVICES = [CARD, VLAN, OTHER]
SERVICE = ServiceKey(Protocol.TCP, ip_address("10.0.0.100"), 80)
FIRST, SECOND = ip_address("10.0.0.21"), ip_address("10.0.0.22")
PATHS = [Way(each, VLAN, each) for each in (FIRST, SECOND)]


def silent(path: Way, by: Device | None = None) -> list[Seen]:
    """Return a server that does not answer; `by`: the other device on which it does."""
    destination = Destination(DestinationKey(path.server, 80))
    reply = Reply(Kind.MAC, -1, path.server, path.server, bytes(6), by.index) if by else None
    return [Seen(Endpoint(SERVICE, destination, SERVICE), path, elsewhere=[reply] if reply else [])]


def titles(found: dict[Way, list[Seen]], answers: Answers | None = None) -> list[str]:
    return [each.title for each in way.of_neighbours(found, PATHS, DEVICES, answers or Answers())]


def test_the_device_below_is_named_if_it_is_down() -> None:
    """A VLAN device on it is down, too, and comes up with it."""
    down = replace(CARD, up=False)
    without_carrier = replace(CARD, carrier=False)
    vlan = replace(VLAN, up=False, carrier=False)
    assert lowest_down(vlan, [down, vlan]) is down
    assert lowest_down(vlan, [without_carrier, vlan]) is without_carrier
    assert lowest_down(vlan, [CARD, vlan]) is vlan
    assert lowest_down(vlan, [vlan]) is vlan
    veth = replace(CARD, kind="veth", lower=9, up=False)
    assert lowest_down(veth, [veth, replace(down, index=9)]) is veth  # its peer is no device below


def test_a_bridge_or_bond_has_the_link_of_its_ports() -> None:
    """Without one it has none, also if its own state is up; several ports are named if all are down."""
    why = "Packets come in by it."
    for kind, carrier in ("bridge", True), ("bond", False):  # a bridge that never had a port has a carrier
        above = replace(CARD, index=5, name="up0", kind=kind, carrier=carrier)
        port, other = (replace(CARD, index=at, name=f"eth{at}", master=5, up=False) for at in (6, 7))
        assert lowest_down(above, [above]) is above
        found = link_down(above, above, [above, CARD], Layer.LINK, why, ())
        assert found.title == f"up0, a {kind}, has no port"
        assert found.fix_command == ("ip link set eth0 master up0" if kind == "bridge" else None)
        down = replace(above, carrier=False)
        assert lowest_down(down, [down, port]) is port
        assert lowest_down(down, [down, port, other]) is down
        found = link_down(down, down, [down, port, other], Layer.LINK, why, ())
        assert found.title == "all ports of up0 are down: eth6 and eth7"
        assert found.fix_command == "ip link set eth6 up; ip link set eth7 up"
        assert lowest_down(replace(down, carrier=True), [down, replace(port, up=True), other]) is None


def test_one_silent_server_of_two_is_named() -> None:
    """The other one answers, so the link works."""
    assert titles({PATHS[0]: silent(PATHS[0])}) == ["10.0.0.21 does not answer on eth0.10"]


def test_silent_servers_alone_on_a_link_are_not_blamed() -> None:
    """One wrong link is likelier than two dead servers, unless another host answers there."""
    both = {path: silent(path) for path in PATHS}
    assert titles(both) == ["no host answers on eth0.10"]
    gateway = Answers([Reply(Kind.MAC, -1, ip_address("10.0.0.1"), ip_address("10.0.0.1"), MAC, VLAN.index)])
    assert titles(both, gateway) == ["10.0.0.21 does not answer on eth0.10", "10.0.0.22 does not answer on eth0.10"]


def test_a_server_that_answers_in_another_vlan_is_named_with_both() -> None:
    """Only that one, if the others answer where they should."""
    (found,) = way.of_neighbours({PATHS[0]: silent(PATHS[0], OTHER)}, PATHS, DEVICES, Answers())
    assert found.title == "10.0.0.21 answers on eth0.11, and the route to it leads to eth0.10"
    assert "eth0.11 (VLAN 11)" in found.evidence


def test_the_routes_are_named_if_all_servers_answer_elsewhere() -> None:
    """The addresses of this host are on the wrong device."""
    found = titles({path: silent(path, OTHER) for path in PATHS})
    assert found == ["the real servers answer on eth0.11, and the routes to them lead to eth0.10"]


def test_a_port_that_all_servers_refuse_is_that_of_the_service() -> None:
    """One of several is that server's own fault."""
    seen = [each for path in PATHS for each in silent(path)]
    assert [each.title for each in of_all(wrong("not_listening", seen), seen, [])] == [
        "all real servers of TCP 10.0.0.100:80 refuse its connections"
    ]
    assert list(of_all(wrong("not_listening", seen[:1]), seen, [])) == []
    assert list(of_all(wrong("not_listening", seen[:1]), seen[:1], [])) == []


def test_an_address_that_no_host_has_is_that_of_the_service() -> None:
    """It explains nothing if this host has the address: then each server lacks it."""
    seen = [each for path in PATHS for each in silent(path)]
    (found,) = of_all(wrong("server_lacks_vip", seen), seen, [])
    assert (found.symptom, str(SERVICE.address) in found.about) == (True, True)
    assert list(of_all(wrong("server_lacks_vip", seen), seen, [SERVICE.address])) == []


def wrong(kind: str, seen: list[Seen]) -> list[Finding]:
    """Return a finding of a kind about each of these servers."""
    return [Finding(kind, Severity.ERROR, Layer.SERVER, "", "", "", "", about=subjects([each])) for each in seen]
