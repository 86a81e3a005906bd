"""How a measurement ends: with 0, with one line and 1, or by ctrl-C with 130."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pylvs.model.errors import PylvsError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def status_of(name: str, run: Callable[[], int], place: object = "system") -> int:
    """The status of `run`, or of how it failed; `place` is named where the system names none."""
    try:
        return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PylvsError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{name}: {error.filename or place}: {error.strerror or error}", file=sys.stderr)
    return EXIT_FAILED
