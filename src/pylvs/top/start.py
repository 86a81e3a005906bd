"""Open the console: read once, so that each reason against it is one line; then need a terminal and Textual."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pylvs.model.errors import PylvsError
from pylvs.top.feed import Feed, Snapshot

# late: Textual is optional, and only this command needs it

LEAST = (2, 1)  # version of Textual
INSTALL = "pip install 'pylvs[top]'; Debian 13 has python3-textual"
_OTHERWISE = "pylvs status and ipvsadm -Ln print the same once"


def start(state_dir: Path | None) -> None:
    """Run the console until its end. Raises PylvsError."""
    feed = Feed(state_dir)
    open_console(feed, feed.first())


def open_console(feed: Feed, first: Snapshot) -> None:
    """Show the snapshot, and those that follow. Raises PylvsError without a terminal or Textual."""
    check_terminal()
    check_library()
    from pylvs.top.app import Top

    Top(feed, first).run_to_the_end()


def check_terminal() -> None:
    """Raise PylvsError unless input and output are a terminal that can be drawn on. Textual draws by stderr."""
    for name, stream in (("input", sys.stdin), ("output", sys.stdout), ("error output", sys.stderr)):
        if not stream.isatty():
            raise PylvsError(f"pylvs top needs a terminal, and its {name} is none; {_OTHERWISE}")
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise PylvsError(f"pylvs top cannot draw on a terminal without TERM, or with TERM=dumb; {_OTHERWISE}")


def check_library() -> None:
    """Raise PylvsError without Textual, or with one that is too old."""
    try:
        from importlib.metadata import version

        import textual  # noqa: F401
    except ModuleNotFoundError:
        raise PylvsError(f"pylvs top needs the Python package textual: {INSTALL}") from None
    found = version("textual")
    if tuple(int(each) for each in found.split(".")[:2] if each.isdigit()) < LEAST:
        least = ".".join(map(str, LEAST))
        raise PylvsError(f"pylvs top needs textual {least} or newer, and {found} is installed: {INSTALL}")
