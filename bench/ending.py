"""Exit statuses of a measurement: 0, 1 with one line on stderr, or 130 after ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pylvs.model.errors import PylvsError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def status_of(name: str, run: Callable[[], int], subject: object = "system") -> int:
    """Return the exit status of `run`; `subject` is printed for an OSError without a file name."""
    try:
        return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PylvsError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{name}: {error.filename or subject}: {error.strerror or error}", file=sys.stderr)
    return EXIT_FAILED
