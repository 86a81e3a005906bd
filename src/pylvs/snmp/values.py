"""Values of MIB objects, rows of tables, and traps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.checks import Script
from pylvs.snmp.agentx import Kind, Oid, Value, VarBind

Row = Mapping[int, Value | None]  # values by column; None is no value
Rows = Iterable[tuple[Oid, Row]]  # with their indices
TRAP_NAME: Oid = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)  # snmpTrapOID.0
MICROSECONDS = 1_000_000


def integer(value: int) -> Value:
    return Value(Kind.INTEGER, value)


def unsigned(value: float) -> Value:
    return Value(Kind.GAUGE32, int(value))


def text(value: str) -> Value:
    return Value(Kind.OCTETS, value.encode(errors="surrogateescape"))


def truth(value: object) -> Value:
    """Return a TruthValue: 1 is true, 2 is false."""
    return integer(1 if value else 2)


def octets(address: Address) -> Value:
    return Value(Kind.OCTETS, address.packed)


def family(address: Address) -> Value:
    """Return an InetAddressType."""
    return integer(1 if address.version == 4 else 2)


def command(script: Script | None) -> Value | None:
    """Return a program and its arguments in quotes, as keepalived prints them."""
    return None if script is None else text(" ".join(f"'{each}'" for each in script.arguments))


def table(prefix: Oid, rows: Rows) -> dict[Oid, Value]:
    """Return the objects of a table: its prefix, the entry's 1, a column, and the index of a row."""
    return {
        (*prefix, 1, column, *index): value for index, row in rows for column, value in row.items() if value is not None
    }


def numbered(several: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate(several, 1)


def counter32(value: int) -> Value:
    return Value(Kind.COUNTER32, value)


def counter64(value: int) -> Value:
    return Value(Kind.COUNTER64, value)


def ticks(seconds: float) -> Value:
    """Return TimeTicks, hundredths of a second."""
    return Value(Kind.TIME_TICKS, int(seconds * 100))


def trap_named(name: Oid, *binds: tuple[Oid, Value | None]) -> list[VarBind]:
    """Return the variables of a trap: its name, and those that have a value."""
    named = VarBind(TRAP_NAME, Value(Kind.OID, name))
    return [named, *(VarBind(each, value) for each, value in binds if value is not None)]
