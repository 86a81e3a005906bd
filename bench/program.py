"""What the programs of the bench share: progress, the need for root, signals, and the exit status."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from bench.site import interruptible
from pylvs.model.errors import NotPermitted, PylvsError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
_PATIENCE_S, _POLL_S = 120.0, 0.1

Progress = Callable[[str], None]


def progress(text: str, name: str = "bench") -> None:
    """Print the current step if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"{name}: {text}", file=sys.stderr)


def need_root(advice: str) -> None:
    """Raise NotPermitted if this process is not root's."""
    if os.geteuid():
        raise NotPermitted(f"Operation not permitted; {advice}")


def expect(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds. Raises PylvsError if it does not in time."""
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise PylvsError(f"not within {_PATIENCE_S:g} s: {what}")
        time.sleep(_POLL_S)


def status_of(name: str, run: Callable[[], int], subject: object = "system") -> int:
    """Return the exit status of `run`: its own, 1 after one line on stderr, or 130 after ctrl-C.

    `subject` is printed for an OSError without a file name. Signals that end the process count as ctrl-C.
    """
    try:
        with interruptible():
            return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PylvsError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{name}: {error.filename or subject}: {error.strerror or error}", file=sys.stderr)
    return EXIT_FAILED
