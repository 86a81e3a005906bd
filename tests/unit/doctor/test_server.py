"""Why a real server does not answer: what the doctor concludes from the answers to its probes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import cast

import pytest

from pylvs.doctor.probes import server
from pylvs.doctor.servers import Endpoint, Way
from pylvs.doctor.survey import Seen, Sender, card
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import Exchange, Payload
from pylvs.doctor.wire.packets import Kind, Reply
from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey
from pylvs.netlink.links import Device
from pylvs.netlink.socket_diag import Listener

HERE, RIP, VIP = ip_address("10.0.0.10"), ip_address("10.0.0.21"), ip_address("10.0.0.100")
MAC = b"\x02\x00\x00\x01\x01\x00"
DEVICE = Device(2, "eth0", MAC, "veth", True, False, 1500, 0, 0, (HERE,))
ARP = Reply(Kind.MAC, -1, RIP, RIP, MAC, 2)
REJECTED = (3, 13)


Answers = dict[str, Kind | None]


def seen(answers: Answers, method: Method = Method.ROUTE, protocol: Protocol = Protocol.TCP) -> Seen:
    """Return what came back; each probe has one reply, or none."""
    key = ServiceKey(protocol, VIP, 80)
    endpoint = Endpoint(key, Destination(DestinationKey(RIP, 80), method), key)
    way = Way(RIP, DEVICE, RIP, source=HERE, mtu=1500)
    replies: dict[str, Sequence[Reply]] = {
        probe: []
        if kind is None
        else [Reply(kind, 1, VIP if (probe, kind) == ("vip", Kind.OPEN) else RIP, mac=MAC, ifindex=2, code=REJECTED)]
        for probe, kind in answers.items()
    }
    return Seen(endpoint, way, [ARP], replies, near_vip=True)


def behind(asked: Seen, sender: Address) -> Seen:
    """Return it behind a gateway, with an ICMP error of one host."""
    asked.way = replace(asked.way, hop=ip_address("10.0.0.1"))
    asked.replies["in gre"] = [Reply(Kind.REFUSED, 1, sender, mac=MAC, ifindex=2, code=(3, 2))]
    return asked


HEALTHY: Answers = {"rip": Kind.OPEN, "rip_echo": Kind.ECHO, "vip": Kind.OPEN, "vip_echo": Kind.ECHO}
SILENT: Answers = {"rip": Kind.OPEN, "rip_echo": Kind.ECHO, "vip": None, "vip_echo": None, "from_vip": None}
UDP: Answers = {"rip": None, "rip_echo": Kind.ECHO, "vip": None, "vip_echo": Kind.ECHO}


OTHER_MAC = b"\x02\x00\x00\x01\x02\x00"


def test_a_reply_has_the_address_that_was_asked() -> None:
    """Clients drop others."""
    asked = seen(HEALTHY)
    asked.replies["vip"] = [replace(each, sender=RIP) for each in asked.replies["vip"]]
    found = server.judged(asked)
    assert found is not None
    assert found.id == "reply_source_differs"


@pytest.mark.parametrize(
    ("replies", "causes"),
    [
        ((MAC, MAC), []),  # one host replies by one card
        ((MAC, OTHER_MAC), ["server_twice"]),
        ((MAC, None), ["server_twice"]),  # it ignores echo requests, or has another address
    ],
)
def test_cards_of_one_host_are_not_two_hosts(replies: Sequence[bytes | None], causes: list[str]) -> None:
    """Each link address that answers ARP gets an echo request of its own."""
    asked = seen(HEALTHY)
    asked.macs = [ARP, replace(ARP, mac=OTHER_MAC)]
    for at, by in zip((MAC, OTHER_MAC), replies, strict=True):
        asked.replies[card(at)] = [] if by is None else [Reply(Kind.ECHO, 1, RIP, mac=by)]
    assert [each.id for each in server.of_server(RIP, [asked])] == causes


def test_a_router_does_not_forward_the_question_whose_card_it_is() -> None:
    """With proxy ARP it answers for the server, and its echo would come from there."""

    class Questions:
        def number(self) -> int:
            return 1

        def echo(self, number: int) -> Payload:
            return packets.echo(number, 7)

    frame = Sender(cast(Exchange, Questions()), seen(HEALTHY)).to_card("card", OTHER_MAC, HERE).frame
    hop_limit = frame[14 + 8]
    assert (frame[:6], hop_limit) == (OTHER_MAC, 1)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (seen(HEALTHY), None),
        (seen(HEALTHY | {"rip_echo": None, "vip_echo": None}), None),  # it ignores echo requests
        (seen(HEALTHY | {"rip": None, "rip_echo": None}), None),  # it answers at the virtual address alone
        (seen(UDP, protocol=Protocol.UDP), None),
        (seen(UDP | {"vip_echo": None, "from_vip": Kind.ECHO}, protocol=Protocol.UDP), "server_lacks_vip"),
        (seen(UDP | {"rip_echo": None, "vip_echo": None, "from_vip": None}, protocol=Protocol.UDP), None),
        (seen(HEALTHY | {"vip": Kind.CLOSED}), "not_listening_on_vip"),
        (seen(HEALTHY | {"rip": Kind.CLOSED, "vip": Kind.CLOSED}), "not_listening"),
        (seen(HEALTHY | {"vip": Kind.REFUSED}), "server_firewall"),
        (seen(HEALTHY | {"vip": None}), "server_firewall"),
        (seen(SILENT | {"from_vip": Kind.ECHO}), "server_lacks_vip"),
        (seen(SILENT | {"vip_echo": Kind.RETURNED}), "server_lacks_vip"),
        (seen(SILENT | {"unknown_source": Kind.ASKED}), "reply_lost"),
        (seen(SILENT), "vip_packets_lost"),
        (seen({"rip_echo": Kind.ECHO, "vip_echo": Kind.ECHO}), None),  # a service of all ports
        (seen(SILENT | {"rip": None, "rip_echo": None}), "server_silent"),
        (seen(SILENT, Method.TUNNEL), "tunnel_rp_filter"),
        (behind(seen(SILENT | {"rip": None, "rip_echo": None}), RIP), "server_silent"),  # as of another kind of tunnel
        (behind(seen(SILENT | {"rip": None, "rip_echo": None}), HERE), "server_unreachable"),
        (seen(SILENT | {"inner_rip": Kind.ECHO}, Method.TUNNEL), "server_lacks_vip"),
        (seen(SILENT | {"inner_rip": Kind.REFUSED}, Method.TUNNEL), "server_tunnel_source"),
        (seen({"rip": Kind.OPEN, "rip_echo": Kind.ECHO, "back": Kind.OPEN}, Method.MASQ), None),
        (seen({"rip": Kind.OPEN, "rip_echo": Kind.ECHO, "back": None}, Method.MASQ), "nat_reply_path"),
        (seen({"rip": Kind.OPEN, "back": None, "back_malformed": Kind.REFUSED}, Method.MASQ), "server_firewall"),
        (seen({"rip": Kind.OPEN, "back": None, "back_malformed": None}, Method.MASQ), "nat_reply_path"),
        (seen({"rip": Kind.CLOSED, "rip_echo": Kind.ECHO, "back": None}, Method.MASQ), "not_listening"),
        (seen({"rip": None, "rip_echo": Kind.ECHO, "back": None}, Method.MASQ), "server_firewall"),
    ],
)
def test_the_answers_of_a_server_name_one_cause(found: Seen, cause: str | None) -> None:
    """One that answers clients is healthy, even if it is silent at its own address."""
    judged = server.judged(found)
    assert (judged and judged.id) == cause


def test_a_virtual_address_elsewhere_is_not_inferred_from_silence() -> None:
    """A server that replies to an address of another network sends that by its gateway, so this host sees nothing."""
    found = seen(SILENT)
    found.near_vip = False
    judged = server.judged(found)
    assert judged is not None
    assert judged.id == "server_lacks_vip"


def test_a_router_that_answers_for_a_server_is_named_instead_of_the_server() -> None:
    """Proxy ARP: two addresses have one link address. A host with two addresses answers at the virtual one."""
    found = seen(SILENT | {"from_vip": Kind.ECHO})
    found.shares_mac_with = ip_address("10.0.0.1")
    judged = server.judged(found)
    assert judged is not None
    assert judged.id == "server_behind_proxy"
    found = seen(HEALTHY)
    found.shares_mac_with = ip_address("10.0.0.22")
    assert server.judged(found) is None


def test_replies_of_nat_do_not_come_to_a_director_in_standby() -> None:
    """The servers' gateway is an address of the master."""
    found = seen({"rip": Kind.OPEN, "rip_echo": Kind.ECHO, "back": None}, Method.MASQ)
    found.is_standby = True
    assert server.judged(found) is None


def test_a_director_that_is_its_own_real_server_needs_the_application() -> None:
    """An address that is mistyped may be that of the director."""
    key = ServiceKey(Protocol.TCP, VIP, 80)
    (found, by_nat) = (
        Endpoint(key, Destination(DestinationKey(HERE, 80), method), key) for method in (Method.ROUTE, Method.MASQ)
    )
    own, other = (Listener(6, ip_address("0.0.0.0"), port, False, 0, 128) for port in (80, 8080))
    assert [each.id for each in server.of_this_host([found, by_nat], [other])] == ["not_listening"]
    assert list(server.of_this_host([found], [own])) == list(server.of_this_host([found], None)) == []
