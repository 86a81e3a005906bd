"""Drain a server, run a command (the deployment), and put the server back.

    python examples/drain.py "TCP 192.0.2.1:80" 10.0.0.1:80 --deadline 600 -- ssh 10.0.0.1 deploy

With weight 0 the server gets no new clients. The command runs when its last active connection has ended, or at the
deadline. If it fails, the server stays out of service, and the next run needs `--weight`: the table has only the 0.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import replace

import pylvs


def main() -> int:
    """Return the command's exit status, or 2 if the table refuses or the command cannot run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service")
    parser.add_argument("server")
    parser.add_argument("--weight", type=int, help="after the command; the default is the present one")
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    if shutil.which(given.command[0]) is None:
        parser.error(f"{given.command[0]}: no such command")
    try:
        service, key = pylvs.ServiceKey.parse(given.service), pylvs.ServerKey.parse(given.server)
        with pylvs.Director() as director:
            server = director.service(service).server(key)
            if server is None:
                raise pylvs.NotFound(service, key)
            after = server if given.weight is None else replace(server, weight=given.weight)
            if not after.weight:
                parser.error(f"{key} would go back with weight 0: name its weight with --weight")
            print(f"{key}: weight 0; if this run fails, the next one needs --weight {after.weight}", flush=True)
            director.drain(service, key, timeout_s=given.deadline, active_only=True, interval_s=given.interval)
            left = director.connections_left(service, key, active_only=True)
            print(f"{key}: drained, active connections: {left}; running the command", flush=True)
            status = subprocess.run(given.command, check=False).returncode
            if status == 0:
                director.edit_server(service, key, weight=after.weight)
                print(f"{key}: back with weight {after.weight}")
            return status
    except (pylvs.Error, OSError) as error:
        print("drain:", error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
