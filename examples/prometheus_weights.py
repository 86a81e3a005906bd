"""Weights from a Prometheus query, for all servers of a service in one edit.

    python examples/prometheus_weights.py "TCP 192.0.2.1:80" http://prometheus:9090 \
        '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[1m])))'

The query's result is the weight of the server whose address is the host of the label `instance`. A server without a
result keeps its weight, and so does a drained one, with weight 0. Run it periodically, as from a timer of systemd.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
import urllib.request
from dataclasses import replace

import pylvs


def query(prometheus: str, text: str) -> dict[str, float]:
    """Return the values of an instant query by the host of `instance`."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        results = json.load(reply)["data"]["result"]
    return {each["metric"]["instance"].rpartition(":")[0].strip("[]"): float(each["value"][1]) for each in results}


def weighted(server: pylvs.Server, values: dict[str, float]) -> pylvs.Server:
    """Return the server with its new weight: at least 1, because 0 would mean no new clients."""
    value = values.get(str(server.address), float("nan"))
    usable = server.weight and 0 <= value < float("inf")
    return replace(server, weight=min(max(round(value), 1), 65535)) if usable else server


def main() -> int:
    """Print what changed; return 1 if the weights stay because something failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("service")
    parser.add_argument("prometheus")
    parser.add_argument("query")
    given = parser.parse_args()
    try:
        key = pylvs.ServiceKey.parse(given.service)
        values = query(given.prometheus, given.query)
        with pylvs.Director() as director, director.locked():
            service = director.service(key)
            servers = tuple(weighted(each, values) for each in service.servers)
            print(director.apply([replace(service, servers=servers)], prune=False))
    except (pylvs.Error, OSError, LookupError, ValueError) as error:
        print(f"prometheus_weights: {error}; the weights stay", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
