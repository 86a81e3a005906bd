"""A process without privileges: `python -m pylvs.edge FD ROLE ...`. `pylvs.system.processes.child` starts it.

| role | it |
|---|---|
| `probes LIBRARIES [TLS]` | makes the checks of real servers; it has no file system |
| `web` | serves the web page |
| `services [TASK...]` | serves metrics, sends mail, and runs the named tasks |
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from pylvs.system.processes import import_asyncio


def main(end: socket.socket, role: str, *arguments: str) -> None:
    """Serve the process at the other end of this socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # for the parent; this process ends with it
    import_asyncio()
    if role == "probes":
        from pylvs.health.prober import process  # late: each role has other modules

        process.main(end, *arguments)
    elif role == "web":
        from pylvs.web import process as web  # late: each role has other modules

        web.main(end)
    else:
        from pylvs.edge import services  # late: each role has other modules

        services.main(end, *arguments)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:])
    os._exit(0)  # a thread may still search an expression, or resolve a name
