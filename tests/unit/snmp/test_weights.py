"""Sets of weights: test, commit, undo."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from pylvs.model.errors import PylvsError
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.snmp import agentx
from pylvs.snmp.agentx import Kind, Message, Oid, Pdu, Value, VarBind
from pylvs.snmp.checker_mib import SERVERS, WEIGHT, Report
from pylvs.snmp.weights import WeightSets

NAME = "192.0.2.1:80 tcp"
SORRY, FIRST, SECOND = (1, 1), (1, 2), (1, 3)  # the rows of the service


def destination(number: int) -> Destination:
    return Destination(DestinationKey(ip_address(f"10.0.0.{number}"), 80))


CONFIGURATION = Configuration(
    (
        WantedService(
            NAME,
            (ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80),),
            servers=(WantedServer(destination(1)), WantedServer(destination(2))),
            sorry_server=destination(9),
        ),
    )
)


class Servers:
    """A client of a daemon that refuses the weight 13."""

    def __init__(self) -> None:
        self.weights: dict[str, int | None] = {"10.0.0.1:80": 7, "10.0.0.2:80": None}
        self.silent = False
        self.deadlines: list[float] = []

    def services(self, deadline: float) -> Mapping[str, Report]:
        self.deadlines.append(deadline)
        if self.silent:
            raise PylvsError("no answer")
        return {NAME: {"servers": [{"server": each, "operator_weight": old} for each, old in self.weights.items()]}}

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        self.deadlines.append(deadline)
        assert service == NAME
        if weight == 13:
            raise PylvsError("refused")
        self.weights[server] = weight


def integer(row: Oid, value: int) -> VarBind:
    return VarBind((*WEIGHT, *row), Value(Kind.INTEGER, value))


def result(answer: bytes | None) -> tuple[int, int]:
    """Return error and index of a response."""
    assert answer is not None
    error, index = struct.unpack_from("!HH", answer, 24)
    return error, index


def message(pdu: Pdu, *binds: VarBind, transaction: int = 1) -> Message:
    return Message(pdu, 1, transaction, 1, binds=binds)


def test_a_committed_weight_is_set_and_undone() -> None:
    servers = Servers()
    sets = WeightSets(CONFIGURATION, servers)
    assert result(sets.answer(message(Pdu.TEST_SET, integer(FIRST, 3), integer(SECOND, 0)))) == (0, 0)
    assert servers.weights == {"10.0.0.1:80": 7, "10.0.0.2:80": None}
    assert result(sets.answer(message(Pdu.COMMIT_SET))) == (0, 0)
    assert servers.weights == {"10.0.0.1:80": 3, "10.0.0.2:80": 0}
    assert result(sets.answer(message(Pdu.UNDO_SET))) == (0, 0)
    assert servers.weights == {"10.0.0.1:80": 7, "10.0.0.2:80": None}
    assert sets.answer(message(Pdu.CLEANUP_SET)) is None
    assert result(sets.answer(message(Pdu.COMMIT_SET))) == (0, 0)  # nothing is left of that transaction
    assert servers.weights == {"10.0.0.1:80": 7, "10.0.0.2:80": None}


def test_a_commit_that_fails_leaves_all_weights_as_they_were() -> None:
    servers = Servers()
    sets = WeightSets(CONFIGURATION, servers)
    assert result(sets.answer(message(Pdu.TEST_SET, integer(SECOND, 4), integer(FIRST, 13)))) == (0, 0)
    assert result(sets.answer(message(Pdu.COMMIT_SET))) == (agentx.COMMIT_FAILED, 2)
    assert servers.weights == {"10.0.0.1:80": 7, "10.0.0.2:80": None}


def test_without_the_present_weights_a_commit_fails_and_its_undo_keeps_them() -> None:
    servers = Servers()
    sets = WeightSets(CONFIGURATION, servers)
    assert result(sets.answer(message(Pdu.TEST_SET, integer(FIRST, 3)))) == (0, 0)
    servers.silent = True
    assert result(sets.answer(message(Pdu.COMMIT_SET))) == (agentx.COMMIT_FAILED, 1)
    assert servers.weights["10.0.0.1:80"] == 7
    assert result(sets.answer(message(Pdu.UNDO_SET))) == (0, 0)
    assert servers.weights["10.0.0.1:80"] == 7


def test_a_commit_has_one_deadline() -> None:
    servers = Servers()
    sets = WeightSets(CONFIGURATION, servers)
    sets.answer(message(Pdu.TEST_SET, integer(FIRST, 3), integer(SECOND, 4)))
    sets.answer(message(Pdu.COMMIT_SET))
    assert len(servers.deadlines) == 3
    assert len(set(servers.deadlines)) == 1


@pytest.mark.parametrize(
    ("bind", "error"),
    [
        (VarBind((*SERVERS, 10, *FIRST), Value(Kind.INTEGER, 1)), agentx.NOT_WRITABLE),
        (VarBind((*WEIGHT, *FIRST), Value(Kind.OCTETS, b"5")), agentx.WRONG_TYPE),
        (VarBind((*WEIGHT, *FIRST), Value(Kind.GAUGE32, 5)), agentx.WRONG_TYPE),
        (integer(FIRST, -1), agentx.WRONG_VALUE),
        (integer(SORRY, 1), agentx.NO_CREATION),
        (integer((1, 4), 1), agentx.NO_CREATION),
        (integer((2, 1), 1), agentx.NO_CREATION),
        (integer((0, 2), 1), agentx.NO_CREATION),
        (integer((1,), 1), agentx.NO_CREATION),
        (integer((1, 2, 3), 1), agentx.NO_CREATION),
    ],
)
def test_what_a_test_refuses(bind: VarBind, error: int) -> None:
    servers = Servers()
    sets = WeightSets(CONFIGURATION, servers)
    assert result(sets.answer(message(Pdu.TEST_SET, integer(FIRST, 3), bind))) == (error, 2)
    assert result(sets.answer(message(Pdu.COMMIT_SET))) == (0, 0)
    assert servers.weights == {"10.0.0.1:80": 7, "10.0.0.2:80": None}
