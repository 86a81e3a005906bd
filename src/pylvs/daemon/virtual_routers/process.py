"""pylvs-vrrp, the process of the virtual routers.

`python -m pylvs.daemon.virtual_routers.process STATE_DIR LOG [INSTANCE]` starts it again, and `first` at the start of
the daemon.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError, os_text
from pylvs.system import syscalls
from pylvs.system.logs import one_line
from pylvs.system.syslog import is_destination
from pylvs.vrrp import router_service
from pylvs.vrrp.firewall import Firewall

if TYPE_CHECKING:
    from pylvs.dataplane.vip_roles import Standby
    from pylvs.model.wanted import Configuration

EXIT_FAILED, EXIT_USAGE = 1, 2


def _standby() -> type[Standby]:
    from pylvs.dataplane.vip_roles import Standby  # late: sockets listen before

    return Standby


class LazyStandby:
    """`pylvs.model.vrrp.Roles` of the packet path. It is opened late: virtual routers also run without BPF."""

    def __init__(self, instance: str = "") -> None:
        self._instance = instance
        self._standby: Standby | None = None

    def prepare(self) -> None:
        """Let the tables be found later, when this process has dropped capabilities."""
        with contextlib.suppress(OSError):
            _standby().prepare()

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """See `Roles`."""
        try:
            if self._standby is None:
                self._standby = _standby()(self._instance)
            self._standby.set_standby(addresses, held)
        except OSError as error:
            raise PylvsError(str(error)) from None

    def close(self) -> None:
        """Remove all roles at an orderly stop."""
        if self._standby is not None:
            with contextlib.suppress(PylvsError, OSError):
                self._standby.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run virtual routers until the daemon requests `stop`; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) not in (2, 3) or not is_destination(given[1]) or not Path(given[0]).is_dir():
        print("pylvs: virtual routers are run by pylvs run: STATE_DIR LOG [INSTANCE]", file=sys.stderr)
        return EXIT_USAGE
    return run(Path(given[0]), given[1], given[2] if len(given) == 3 else "")


def run(
    state: Path, log_format: str, instance: str = "", first: Configuration | None = None, table_wait_s: float = 0.0
) -> int:
    """Run virtual routers, those of `first` at once, until the daemon requests `stop`; return the exit status.

    These are not master before the first table, for `table_wait_s` at most.
    """
    syscalls.prctl(syscalls.PR_SET_NAME, router_service.PROCESS_NAME.encode())
    if instance:
        Firewall.name = f"{Firewall.name}-{instance}"
    roles = LazyStandby(instance)
    try:
        router_service.run(state, log_format, roles, first, roles.prepare, table_wait_s)
        roles.close()
    except KeyboardInterrupt:
        return 0
    except PylvsError as error:
        return _failed(error, str(error))
    except OSError as error:
        return _failed(error, os_text(error))
    except Exception as error:
        return _failed(error, f"{type(error).__name__}: {error}: this is a bug; run with PYLVS_DEBUG=1 for the trace")
    return 0


def _failed(error: Exception, text: str) -> int:
    print(f"pylvs: virtual routers: {one_line(text)}", file=sys.stderr)
    if os.environ.get("PYLVS_DEBUG"):
        import traceback  # late: only a bug has one

        traceback.print_exception(error)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
