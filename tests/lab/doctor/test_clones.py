"""`pylvs doctor` where hosts have one link address: clones of a virtual machine, or one host with two addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from pylvs.lab.network import SERVER
from tests.lab.doctor.exam import DIRECTOR, END_REQUESTS, ENDLESS_REQUESTS, built, diagnosed, healthy
from tests.waiting import until

MAC, OWN = "02:00:00:01:01:00", "02:00:00:01:02:00"
RENAME = "ip link set eth0 down; ip link set eth0 address %s; ip link set eth0 up; ip address replace %s dev eth0 nodad"


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return a healthy lab for each version of IP."""
    with built("dr", request.param) as made:
        yield made


def addresses(lab: Lab) -> list[str]:
    """Return the real servers' addresses, with their prefix lengths."""
    return [host.interfaces[0].addresses[0] for host in lab.network.role(SERVER)]


@pytest.mark.parametrize("steady", [False, True], ids=["idle", "clients ask"])
def test_clones_are_named_with_their_link_address(lab: Lab, steady: bool) -> None:
    """The switch sends the frames for both to one of them; replies to clients move the link address."""
    first, second = (each.partition("/")[0] for each in addresses(lab))
    lab.sh("rs2", RENAME % (MAC, addresses(lab)[1]))
    lab.sh("client", ENDLESS_REQUESTS if steady else ":")
    found = diagnosed(lab)
    lab.sh("client", END_REQUESTS if steady else ":")
    lab.sh("rs2", RENAME % (OWN, addresses(lab)[1]))
    assert [each["id"] for each in found] == ["link_address_twice"], found
    assert found[0]["title"] == f"{first} and {second} are different hosts with one link address, {MAC}"
    until(lambda: diagnosed(lab) == [])  # handshakes that failed count for a while
    healthy(lab, DIRECTOR)


def test_a_clone_that_asks_is_named_by_the_host_whose_link_address_it_has(lab: Lab) -> None:
    """It asks for addresses that no host has, so all hosts receive the requests."""
    beside = [addresses(lab)[0].replace("21/", f"{end}/").partition("/")[0] for end in (95, 96, 97, 98, 99)]
    lab.sh("rs2", RENAME % (MAC, addresses(lab)[1]))
    ask = f"for each in {' '.join(beside)}; do ping -i 0.3 $each & sleep 0.2; done; wait"
    process = lab.sh("rs2", f"setsid sh -c '{ask}' >/dev/null 2>&1 & echo $!").strip()
    found = diagnosed(lab, "rs1")
    lab.sh("rs2", f"kill -- -{process}; {RENAME % (OWN, addresses(lab)[1])}")
    assert [each["id"] for each in found] == ["link_address_twice"], found
    assert all(word in found[0]["title"] for word in (addresses(lab)[1].partition("/")[0], "eth0", MAC))


def test_one_host_with_the_addresses_of_two_servers_is_healthy(lab: Lab) -> None:
    """It answers at each of them, behind one link address."""
    lab.sh("rs2", "ip link set eth0 down")
    lab.sh("rs1", f"ip address add {addresses(lab)[1]} dev eth0 nodad")
    assert diagnosed(lab) == []
    lab.sh("rs1", f"ip address del {addresses(lab)[1]} dev eth0")
    lab.sh("rs2", f"ip link set eth0 up; ip address replace {addresses(lab)[1]} dev eth0 nodad")
    assert diagnosed(lab) == []
