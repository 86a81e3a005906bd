"""A health checker of one's own: take a server out of service while it does not answer, and put it back.

    python examples/health_checker.py "TCP 192.0.2.1:80" --path /healthy --rise 2 --fall 3

After `fall` failures in a row a server's weight becomes 0: it gets no new clients. After `rise` successes it has its
former weight again. A server that has weight 0 at the start, as after a restart, gets that of `--weight`.
"""

from __future__ import annotations

import argparse
import asyncio
import urllib.request

import pylvs


def healthy(server: pylvs.ServerKey, how: argparse.Namespace) -> bool:
    """Return whether a server sends the page with a good status."""
    try:
        with urllib.request.urlopen(f"http://{server}{how.path}", timeout=how.timeout):
            return True
    except Exception:  # of http.client too: the reply may be no HTTP
        return False


async def check(director: pylvs.AsyncDirector, server: pylvs.Server, how: argparse.Namespace) -> None:
    """Check one server until cancelled."""
    up, streak, weight = server.weight > 0, 0, server.weight or how.weight
    if not weight:
        raise pylvs.InvalidValue("weight", weight, f"{server.key} would come back with it; give another by --weight")
    while True:
        answers = await asyncio.to_thread(healthy, server.key, how)
        streak = 0 if answers == up else streak + 1
        if streak >= (how.rise if answers else how.fall):
            up, streak = answers, 0
            await director.edit_server(how.service, server, weight=weight if up else 0)
            print(f"{server.key} is {'up' if up else 'down'}", flush=True)
        await asyncio.sleep(how.interval)


async def main() -> None:
    """Check all servers that the service has at the start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service")
    for option, default in {"path": "/", "interval": 2.0, "timeout": 5.0, "rise": 1, "fall": 3, "weight": 0}.items():
        parser.add_argument(f"--{option}", type=type(default), default=default)
    how = parser.parse_args()
    how.service = pylvs.ServiceKey.parse(how.service)
    async with pylvs.AsyncDirector() as director, asyncio.TaskGroup() as checks:
        for server in (await director.service(how.service)).servers:
            checks.create_task(check(director, server, how))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (pylvs.Error, ExceptionGroup) as error:
        raise SystemExit(f"health_checker: {getattr(error, 'exceptions', [error])[0]}") from None
