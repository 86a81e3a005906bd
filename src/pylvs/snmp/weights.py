"""SetRequests: a client of snmpd with write access sets the weights of real servers, as `pylvs weight` does.

RFC 2741, section 7.2.4: a set is tested, then committed, and undone if the commit of another sub-agent fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.service import MAX_WEIGHT
from pylvs.model.wanted import Configuration
from pylvs.snmp import agentx, timeouts
from pylvs.snmp.agentx import Kind, Message, Pdu, VarBind
from pylvs.snmp.checker_mib import WEIGHT, Report, server_at
from pylvs.system.logs import get_logger

REVERT_S = 0.1  # to send the former weights, even if the answer is overdue
MOST_TESTED = 64  # sets that snmpd has neither committed nor cleaned up


class Servers(Protocol):
    """What this needs of the client of `pylvs run`."""

    def services(self, deadline: float) -> Mapping[str, Report]: ...

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight for one real server; None is that of checks and configuration."""

    service: str
    server: str
    weight: int | None


class WeightSets:
    """Answers to the four messages of a set. Nothing else than weights is writable."""

    def __init__(self, configuration: Configuration, servers: Servers) -> None:
        self._configuration = configuration
        self._servers = servers
        self._tested: dict[tuple[int, int], list[Weight]] = {}  # by session and transaction
        self._former: dict[tuple[int, int], list[Weight]] = {}

    def answer(self, message: Message) -> bytes | None:
        """Return the response; None for CleanupSet, which has none."""
        transaction = message.session, message.transaction
        if message.pdu == Pdu.TEST_SET:
            return self._test(message, transaction)
        if message.pdu == Pdu.CLEANUP_SET:
            self._tested.pop(transaction, None)
            self._former.pop(transaction, None)
            return None
        deadline = timeouts.deadline()
        if message.pdu == Pdu.COMMIT_SET:
            failed = self._commit(transaction, deadline)
            return agentx.response(message, error=agentx.COMMIT_FAILED if failed else agentx.NO_ERROR, index=failed)
        failed = self._set(self._former.pop(transaction, []), deadline)
        return agentx.response(message, error=agentx.UNDO_FAILED if failed else agentx.NO_ERROR, index=failed)

    def _commit(self, transaction: tuple[int, int], deadline: float) -> int:
        """Set the tested weights, all or none; return the number of the first that failed, from 1, or 0."""
        weights = self._tested.pop(transaction, [])
        try:
            former = self._present(weights, deadline) if weights else []
        except PylvsError as error:
            get_logger().warning(f"SNMP: no weight is set, because the present ones are not known: {error}")
            return 1
        failed = self._set(weights, deadline)
        if failed:
            self._set(former, max(deadline, time.monotonic() + REVERT_S))
        else:
            self._former[transaction] = former
        return failed

    def _test(self, message: Message, transaction: tuple[int, int]) -> bytes:
        weights = []
        for index, bind in enumerate(message.binds, 1):
            found = self._tested_one(bind)
            if isinstance(found, int):
                return agentx.response(message, error=found, index=index)
            weights.append(found)
        while len(self._tested) >= MOST_TESTED:
            del self._tested[next(iter(self._tested))]
        self._tested[transaction] = weights
        return agentx.response(message)

    def _tested_one(self, bind: VarBind) -> Weight | int:
        """Return the weight that a variable sets, or the error."""
        if bind.name[: len(WEIGHT)] != WEIGHT:
            return agentx.NOT_WRITABLE
        if bind.value.kind is not Kind.INTEGER:
            return agentx.WRONG_TYPE
        found, weight = server_at(bind.name, self._configuration), bind.value.content
        if found is None:
            return agentx.NO_CREATION
        if not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT:
            return agentx.WRONG_VALUE
        service, server = found
        return Weight(service.name, str(server.destination.key), weight)

    def _present(self, weights: list[Weight], deadline: float) -> list[Weight]:
        """Return the operator's weights of these real servers. Raises PylvsError."""
        services = self._servers.services(deadline)
        present = {
            (name, each["server"]): each["operator_weight"]
            for name, service in services.items()
            for each in service["servers"]
        }
        return [Weight(each.service, each.server, present.get((each.service, each.server))) for each in weights]

    def _set(self, weights: list[Weight], deadline: float) -> int:
        """Set weights; return the number of the first that failed, from 1, or 0."""
        for number, change in enumerate(weights, 1):
            try:
                self._servers.set_weight(change.service, change.server, change.weight, deadline)
            except PylvsError as error:
                get_logger().warning(f"SNMP: {change.service}: {change.server}: weight {change.weight}: {error}")
                return number
        return 0
