"""Drain a server, run a command (the deployment), and put the server back.

    python examples/drain.py "TCP 192.0.2.1:80" 10.0.0.1:80 --deadline 600 -- ssh 10.0.0.1 deploy

With weight 0 the server gets no new clients. The command runs when its last active connection has ended, or at the
deadline. If the command fails, the server stays out of service, and the exit status is that of the command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import pylvs


def main() -> int:
    """Return the command's exit status, or 2 if the table refuses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service", type=pylvs.ServiceKey.parse)
    parser.add_argument("server", type=pylvs.ServerKey.parse)
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    try:
        with pylvs.Director() as director:
            server = director.service(given.service).server(given.server)
            if server is None:
                raise pylvs.NotFound(given.service, given.server)
            director.edit_server(given.service, server, weight=0)
            end = time.monotonic() + given.deadline
            while active := director.statistics().services[given.service].servers[given.server].active:
                if time.monotonic() >= end:
                    print(f"{given.server}: active connections at the deadline: {active}")
                    break
                time.sleep(given.interval)
            print(f"{given.server}: drained, running the command", flush=True)
            status = subprocess.run(given.command, check=False).returncode
            if status == 0:
                director.edit_server(given.service, server, weight=server.weight)
                print(f"{given.server}: back with weight {server.weight}")
            return status
    except pylvs.Error as error:
        print(f"drain: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
