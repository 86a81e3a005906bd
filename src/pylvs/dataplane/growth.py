"""Grow the connection table by itself: when it is nearly full, its capacity doubles if memory allows.

The packet path cannot allocate memory, so a process must do it: `pylvs run` starts `python -m pylvs.dataplane.growth`.
"""

from __future__ import annotations

import sys

from pylvs.dataplane.director import open_director
from pylvs.model.errors import PylvsError
from pylvs.system import namespaces
from pylvs.system.logs import one_line


def main() -> int:
    """Grow the table of this network namespace, or of the one whose file is given, if it is nearly full.

    Return the exit status.
    """
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
