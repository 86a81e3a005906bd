"""One sample of the daemon, and the views of it that pages show: pages of lists, totals, the topology."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pylvs.web.rings import Key, Values

Given = Mapping[str, str]  # the query of a request
Row = dict[str, Any]
MOST_ROWS, ROWS = 500, 100
MOST_PROBLEMS = 50
MOST_DRAWN_SERVICES, MOST_DRAWN_SERVERS = 100, 500
_RATES = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")
_METHODS = {"MASQ": "NAT", "ROUTE": "DR", "TUNNEL": "TUN", "LOCAL": "LOCAL"}


class NotThere(Exception):
    """The view has no such object."""


def rates_of(counted: Mapping[str, Any]) -> dict[str, float]:
    """Return rates a second, with bits in place of bytes."""
    found = counted.get("rates", {})
    values = [found.get(name, 0) for name in _RATES]
    connections, in_packets, out_packets, in_bytes, out_bytes = values
    return {
        "connections": connections,
        "in_packets": in_packets,
        "out_packets": out_packets,
        "in_bits": 8 * in_bytes,
        "out_bits": 8 * out_bytes,
    }


def number(given: Given, name: str, default: int, most: int) -> int:
    """Return a number of the query, or the default for anything else."""
    text = given.get(name, "")
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 10 else default


def latency_of(server: Mapping[str, Any]) -> float | None:
    """Return how long the slowest check of a server took, in ms."""
    took = [each["took_s"] for each in server["checks"] if each["took_s"] is not None]
    return round(max(took) * 1000, 2) if took else None


class Snapshot:
    """One sample: the replies to /v1/status, /v1/counters and /v1/drains."""

    def __init__(
        self, at: float, period_s: float, status: Row, counters: Row | None = None, drains: Row | None = None
    ) -> None:
        self.at, self.period_s, self.status = at, period_s, status
        self.services: list[Row] = status["services"]
        self._counted = {each["name"]: each for each in (counters or {}).get("services", ())}
        self._counted_servers: dict[str, dict[str, Row]] = {}
        self.drains: list[Row] = (drains or {}).get("drains", [])
        self._draining = {
            (each["service"], each["server"]): drain
            for drain in self.drains
            if drain["stage"] == "waiting"
            for each in drain["servers"]
        }

    @cached_property
    def overview(self) -> Row:
        status, servers = self.status, [each for service in self.services for each in service["servers"]]
        rows = [self.service_row(each) for each in self.services]
        routers = status["virtual_routers"]
        return {
            "at": self.at,
            "period_s": self.period_s,
            "ready": status["ready"],
            "name": socket.gethostname(),
            "services": {"total": len(rows), "down": sum(not each["up"] for each in rows)},
            "servers": {
                "total": len(servers),
                "up": sum(each["up"] for each in servers),
                "drained": sum(each["standing"] == "drained" for each in servers),
                "disabled": sum(each["standing"] == "disabled" for each in servers),
            },
            "rates": _total(each["rates"] for each in rows),
            "active": sum(each["active"] for each in rows),
            "inactive": sum(each["inactive"] for each in rows),
            "problems": status["problems"][:MOST_PROBLEMS],
            "problems_total": len(status["problems"]),
            "routers": routers["instances"],
            "sessions": routers["sessions"],
            "drains": sum(each["stage"] == "waiting" for each in self.drains),
            "differs": status["differs"][:MOST_PROBLEMS],
            "unknown": status["unknown"],
        }

    def service_row(self, service: Row) -> Row:
        """Return what lists show of a service."""
        counted, sorry, servers = self._counted.get(service["name"], {}), service["sorry_server"], service["servers"]
        return {
            "name": service["name"],
            "keys": service["keys"],
            "up": service["quorum"]["up"],
            "since": service["quorum"]["since"],
            "quorum": service["quorum"]["weight"],
            "weight_up": service["quorum"]["weight_up"],
            "servers_total": len(servers),
            "servers_up": sum(each["up"] for each in servers),
            "sorry": sorry["server"] if sorry else None,
            "sorry_in": bool(sorry and sorry["in"]),
            "suspended": service["suspended"],
            "handshakes_low": service.get("handshakes_low", ""),
            "rates": rates_of(counted),
            "active": sum(each["active"] for each in servers),
            "inactive": sum(each["inactive"] for each in servers),
            "scheduler": counted.get("scheduler", ""),
        }

    def server_row(self, service: Row, server: Row) -> Row:
        """Return what lists show of a server."""
        counted = self._counts_of(service["name"]).get(server["server"], {})
        return {
            **server,
            "service": service["name"],
            "rates": rates_of(counted),
            "latency_ms": latency_of(server),
            "method": _METHODS.get(counted.get("method", ""), ""),
            "drain": self._draining.get((service["name"], server["server"])),
        }

    def _counts_of(self, name: str) -> dict[str, Row]:
        if name not in self._counted_servers:
            servers = self._counted.get(name, {}).get("servers", ())
            self._counted_servers[name] = {each["server"]: each for each in servers}
        return self._counted_servers[name]

    def history_rows(self) -> dict[Key, Values]:
        """Return the numbers that rings keep, those of the director and of services first."""
        overview = self.overview
        rates = tuple(overview["rates"].values())
        weight = sum(each["quorum"]["weight_up"] for each in self.services)
        rows: dict[Key, Values] = {
            ("", ""): (*rates, overview["active"], overview["inactive"], overview["servers"]["up"], weight)
        }
        for service in self.services:
            row = self.service_row(service)
            last = row["active"], row["inactive"], row["servers_up"], row["weight_up"]
            rows[row["name"], ""] = (*row["rates"].values(), *last)
        for service in self.services:
            counts = self._counts_of(service["name"])
            for server in service["servers"]:
                rates = tuple(rates_of(counts.get(server["server"], {})).values())
                at_last = server["active"], server["inactive"], server["weight"], latency_of(server), server["up"]
                rows[service["name"], server["server"]] = (*rates, *at_last)
        return rows

    # --- views ---

    def view_services(self, given: Given) -> Row:
        found = _filtered(self.services, given, lambda each: (each["name"], *each["keys"]))
        rows = [self.service_row(each) for each in found]
        _sort(rows, given, down=lambda each: (each["up"], each["servers_up"] >= each["servers_total"]))
        return {"total": len(self.services), **_page("services", rows, given)}

    def view_service(self, given: Given) -> Row:
        """Return one service with a page of its servers. Raises NotThere."""
        name = given.get("name", "")
        service = next((each for each in self.services if each["name"] == name), None)
        if service is None:
            raise NotThere(f"there is no virtual server {name[:200]}")
        found = _filtered(service["servers"], given, lambda each: (each["server"],))
        page = _page("servers", found, given)
        servers = [self.server_row(service, each) for each in page["servers"]]
        row = self.service_row(service)
        return {**row, "servers_matched": page["matched"], "at": page["at"], "servers": servers}

    def view_servers(self, given: Given) -> Row:
        pairs = [(service, each) for service in self.services for each in service["servers"]]
        found = _filtered(pairs, given, lambda pair: (pair[1]["server"], pair[0]["name"]))
        if given.get("sort", "") in _SORTS:
            rows = [self.server_row(*each) for each in found]
            _sort(rows, given, down=lambda each: (each["up"], each["standing"] == "enabled"))
            page = _page("servers", rows, given)
        else:
            page = _page("servers", found, given)
            page["servers"] = [self.server_row(*each) for each in page["servers"]]
        return {"total": len(pairs), **page}

    def topology(self, devices: Sequence[Row], routers: Sequence[Row]) -> Row:
        """Return what is drawn: devices, virtual routers, services and the servers that they share."""
        servers: dict[str, int] = {}
        drawn, services, left_off = list[Row](), list[Row](), 0
        for service in self.services[:MOST_DRAWN_SERVICES]:
            indexes, method = [], ""
            for server in service["servers"]:
                name = server["server"]
                if name not in servers:
                    if len(drawn) >= MOST_DRAWN_SERVERS:
                        left_off += 1
                        continue
                    servers[name] = len(drawn)
                    drawn.append({"server": name, "up": True, "weight": server["weight"]})
                drawn[servers[name]]["up"] &= server["up"]  # of several services, one may find it down
                indexes.append(servers[name])
                method = method or _METHODS.get(self._counts_of(service["name"]).get(name, {}).get("method", ""), "")
            up, keys = service["quorum"]["up"], service["keys"][:MOST_DRAWN_SERVICES]
            services.append({"name": service["name"], "keys": keys, "up": up, "servers": indexes, "method": method})
        left_off += max(0, len(self.services) - MOST_DRAWN_SERVICES)
        return {
            "director": {"name": socket.gethostname(), "devices": list(devices)},
            "routers": list(routers),
            "services": services,
            "servers": drawn,
            "left_off": left_off,
        }


def _total(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found = rates_of({})
    for rates in several:
        for name, value in rates.items():
            found[name] += value
    return found


def _filtered(rows: Sequence[Any], given: Given, texts: Callable[[Any], Iterable[str]]) -> list[Any]:
    word = given.get("filter", "")[:200].lower()
    return [each for each in rows if any(word in text.lower() for text in texts(each))] if word else list(rows)


_SORTS: Mapping[str, Callable[[Row], Any]] = {
    "name": lambda each: each.get("server") or each["name"],
    "traffic": lambda each: -(each["rates"]["in_bits"] + each["rates"]["out_bits"]),
    "latency": lambda each: -(each["latency_ms"] or 0.0),
    "down": lambda each: each,  # replaced by each list
}


def _sort(rows: list[Row], given: Given, down: Callable[[Row], Any]) -> None:
    sort = given.get("sort", "")
    if sort == "down":
        rows.sort(key=down)
    elif sort in _SORTS and not (sort == "latency" and rows and "latency_ms" not in rows[0]):
        rows.sort(key=_SORTS[sort])


def _page(name: str, rows: list[Any], given: Given) -> Row:
    at, limit = number(given, "at", 0, 10_000_000), number(given, "limit", ROWS, MOST_ROWS)
    return {"matched": len(rows), "at": at, name: rows[at : at + limit]}
