"""Grow the connection table by itself: when it is nearly full, its capacity doubles if memory allows.

The packet path cannot allocate memory, so a process must do it: `pylvs run` starts `python -m pylvs.dataplane.growth`.
"""

from __future__ import annotations

import sys

from pylvs.bpf import kernel
from pylvs.dataplane import load
from pylvs.dataplane.reader import table_use
from pylvs.dataplane.tables import Tables
from pylvs.model.errors import NoSpace, PylvsError
from pylvs.model.settings import SETTINGS

SHARE = 8  # a table that grew by itself takes one eighth of memory at most
_FIXED = "conn-max-fixed"  # a note: an operator set the capacity
_NEARLY_FULL = 0.8
_MB = 1 << 20


def fix(tables: Tables, fixed: bool) -> None:
    """Note whether an operator set the capacity, so that it does not change by itself."""
    tables.state.set_note(_FIXED, "yes" if fixed else None)


def larger_capacity(tables: Tables) -> int:
    """Return the capacity that the table should have; 0 if the present one is enough, or if an operator set it.

    Raises NoSpace if memory does not allow it.
    """
    use = table_use(tables)
    if use.fill < _NEARLY_FULL or tables.state.note(_FIXED):
        return 0
    capacity = min(2 * use.capacity, SETTINGS["conn_max"].highest)
    needed, limit, available = load.table_bytes(capacity), kernel.memory_limit() // SHARE, kernel.memory_available()
    described = f"a capacity of {capacity} needs {needed // _MB} MB"
    if capacity == use.capacity:
        raise NoSpace(f"a capacity of {capacity} is the largest possible")
    if needed > limit:
        raise NoSpace(f"{described}; an eighth of memory is {limit // _MB} MB; net.ipv4.vs.conn_max may exceed that")
    if 2 * needed > available:  # while it is copied, both tables exist; and others need memory, too
        raise NoSpace(f"{described}; of the {available // _MB} MB that are available, half may be used")
    return capacity


def main() -> int:
    """Grow the table of this network namespace, or of the one whose file is given, if it is nearly full.

    Return the exit status.
    """
    from pylvs.dataplane.director import open_director
    from pylvs.system import namespaces
    from pylvs.system.logs import one_line

    try:
        for path in sys.argv[1:]:
            namespaces.join(path, namespaces.Kind.NETWORK)
        open_director().grow()
    except (PylvsError, OSError) as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
