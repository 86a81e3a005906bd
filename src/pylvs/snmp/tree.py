"""The objects of a MIB at one moment, in the order of their identifiers. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from pylvs.snmp.agentx import Kind, Message, Oid, Pdu, SearchRange, Value, VarBind

MAX_BINDS = 1000  # of one answer to GetBulk


class Tree:
    """All objects with their values."""

    def __init__(self, values: Mapping[Oid, Value]) -> None:
        self._values = values
        self._order: Sequence[Oid] = sorted(values)

    def answer(self, request: Message) -> list[VarBind]:
        """Return the answer to Get, GetNext or GetBulk."""
        if request.pdu == Pdu.GET:
            return [self.get(each.start) for each in request.ranges]
        if request.pdu == Pdu.GET_NEXT:
            return [self.next(each) for each in request.ranges]
        alone, repeated = request.ranges[: request.non_repeaters], request.ranges[request.non_repeaters :]
        found = [self.next(each) for each in alone]
        for _ in range(request.repetitions if repeated else 0):
            if len(found) >= MAX_BINDS:
                break
            row = [self.next(each) for each in repeated]
            found += row
            if all(each.value.kind is Kind.END_OF_MIB_VIEW for each in row):
                break
            repeated = tuple(SearchRange(bind.name, each.end) for bind, each in zip(row, repeated, strict=True))
        return found

    def get(self, name: Oid) -> VarBind:
        """Return one object."""
        if name in self._values:
            return VarBind(name, self._values[name])
        at = bisect_left(self._order, name[:-1])
        column = at < len(self._order) and self._order[at][: len(name) - 1] == name[:-1]
        return VarBind(name, Value(Kind.NO_SUCH_INSTANCE if column else Kind.NO_SUCH_OBJECT))

    def next(self, wanted: SearchRange) -> VarBind:
        """Return the first object of a range."""
        find = bisect_left if wanted.include else bisect_right
        at = find(self._order, wanted.start)
        if at == len(self._order) or (wanted.end and self._order[at] >= wanted.end):
            return VarBind(wanted.start, Value(Kind.END_OF_MIB_VIEW))
        return VarBind(self._order[at], self._values[self._order[at]])
