"""The process of the virtual routers: how `pylvs run` starts it, and its main."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pylvs
from pylvs.host.logs import Format
from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError

NAME = b"pylvs-vrrp"  # as ps and top have it
EXIT_FAILED, EXIT_USAGE = 1, 2
_PR_SET_NAME = 15  # prctl(2)


def start_routers(state: Path, log_format: str) -> subprocess.Popen[bytes]:
    """One that outlives whoever starts it, and logs where he logs. Raises OSError."""
    folder = str(Path(pylvs.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {folder!r}); from pylvs.daemon.router_process import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(state), log_format],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what is typed at the terminal is for the daemon
    )


class PacketPath:
    """The word that it obeys (`pylvs.model.roles.Roles`). Virtual routers run where there is none, too."""

    def __init__(self) -> None:
        self._standby: Any = None

    def stand_by(self, addresses: frozenset[Address]) -> None:
        """See the protocol."""
        try:
            if self._standby is None:
                self._standby = importlib.import_module("pylvs.dataplane.standby").Standby()
            self._standby.stand_by(addresses)
        except (OSError, ImportError) as error:
            raise PylvsError(str(error)) from None

    def close(self) -> None:
        """At the end in good order nothing is left of it."""
        if self._standby is not None:
            with contextlib.suppress(PylvsError, OSError):
                self._standby.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run virtual routers until told to stop; the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 2 or given[1] not in get_args(Format) or not Path(given[0]).is_dir():
        print("pylvs: virtual routers are run by pylvs run: STATE_DIR text|json", file=sys.stderr)
        return EXIT_USAGE
    ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME, 0, 0, 0)
    from pylvs.vrrp import core

    path = PacketPath()
    try:
        core.run(Path(given[0]), given[1], path)
    except KeyboardInterrupt:
        return 0
    except PylvsError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}: this is a bug")
    finally:
        path.close()
    return 0


def _failed(text: str) -> int:
    print(f"pylvs: virtual routers: {' '.join(text.split())}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
