"""What pages read, by name: views of the last sample, and what the daemon is asked for when a page shows it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from pylvs.system.http.server import Refusal
from pylvs.web.daemon import Daemon, decoded
from pylvs.web.snapshot import Given, NotThere, Row, Snapshot, number

DROPS_S, VRRP_S, DEVICES_S, PREVIEW_S = 5.0, 1.0, 30.0, 2.0  # for which a reply is used again
RULES = "/v1/client-rules/page"
_MOST_EVENTS = 2000
Make = Callable[["Views", Given], Awaitable[Any]]


class Views:
    """Makes views. Those of one sample are made and encoded once for all pages."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.doctor: Row = {"running": False, "at": None, "by": "", "report": None, "error": ""}
        self._encoded: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._of: Snapshot | None = None

    async def encoded(self, name: str, given: Given) -> bytes:
        """Return a view as JSON. Raises Refusal."""
        if name not in VIEWS:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no view {name[:100]}")
        if self._of is not self.daemon.snapshot or len(self._encoded) > 1000:
            self._of, self._encoded = self.daemon.snapshot, {}
        make, is_kept = VIEWS[name]
        if not is_kept:
            return encoded(await make(self, given))
        key = name, tuple(sorted(given.items()))
        if key not in self._encoded:
            made = encoded(await make(self, given))
            if self._of is not self.daemon.snapshot:
                return made
            self._encoded[key] = made
        return self._encoded[key]

    @property
    def snapshot(self) -> Snapshot:
        """Return the last sample. Raises Refusal without one."""
        if self.daemon.snapshot is None:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, self.daemon.state.problem)
        return self.daemon.snapshot

    async def overview(self, _: Given) -> Row:
        return self.snapshot.overview

    async def services(self, given: Given) -> Row:
        return self.snapshot.view_services(given)

    async def service(self, given: Given) -> Row:
        try:
            return self.snapshot.view_service(given)
        except NotThere as absent:
            raise Refusal(HTTPStatus.NOT_FOUND, str(absent)) from None

    async def servers(self, given: Given) -> Row:
        return self.snapshot.view_servers(given)

    async def drains(self, _: Given) -> Row:
        return {"drains": self.snapshot.drains}

    async def problems(self, _: Given) -> Row:
        return {"problems": self.snapshot.status["problems"]}

    async def peer(self, _: Given) -> Row:
        return {"peer": self.snapshot.status.get("peer")}

    async def vrrp(self, _: Given) -> Any:
        found = await self.daemon.read("/v1/vrrp", age_s=VRRP_S)
        holders = [
            {
                "address": address,
                "router": router["name"],
                "here": router["state"] == "MASTER",
                "master": socket.gethostname() if router["state"] == "MASTER" else router["master"],
            }
            for router in found["instances"]
            for address in router["addresses"]
        ]
        return {**found, "holders": holders}

    async def vrrp_why(self, given: Given) -> Any:
        return await self.daemon.read("/v1/vrrp/why", _some(given, "name"), VRRP_S)

    async def drops(self, _: Given) -> Any:
        return await self.daemon.read("/v1/drops", age_s=DROPS_S)

    async def topology(self, _: Given) -> Row:
        snapshot, devices, routers = self.snapshot, list[Row](), list[Row]()
        try:
            found = await self.daemon.read("/v1/show", age_s=DEVICES_S)
            devices = [{"name": each["device"], "mode": each["mode"]} for each in found["devices"]]
            vrrp = await self.daemon.read("/v1/vrrp", age_s=VRRP_S)
            names = "name", "state", "addresses", "interface"
            routers = [{name: each[name] for name in names} for each in vrrp["instances"]]
        except (Refusal, KeyError):  # an older daemon: what there is is drawn
            pass
        return snapshot.topology(devices, routers)

    async def server_history(self, given: Given) -> Any:
        return await self.daemon.read("/v1/history", _some(given, "server", "service"), VRRP_S)

    async def reload_preview(self, _: Given) -> Any:
        return await self.daemon.read("/v1/differences", age_s=PREVIEW_S)

    async def client_rules(self, given: Given) -> Any:
        """Return a page of client rules. It is not kept: there may be many, of services that clients choose."""
        return decoded(*await self.daemon.ask("GET", RULES, _some(given, "service", "start"), sample=True))

    async def events(self, given: Given) -> Any:
        lines = list(self.daemon.events)[-number(given, "limit", 500, _MOST_EVENTS) :]
        return {"events": list(map(json.loads, lines))}

    async def history(self, given: Given) -> Row:
        key = given.get("service", ""), given.get("server", "")
        since = float(number(given, "since", 0, 1 << 33)) or time.time() - 7 * 3600
        fine = given.get("resolution") == "fine"
        return self.daemon.history.reply(key, fine, since, self.daemon.period_s)

    async def last_examination(self, _: Given) -> Row:
        return self.doctor


def encoded(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def _some(given: Given, *names: str) -> Mapping[str, str]:
    return {name: given[name] for name in names if name in given}


# Each with whether it is made once for all pages of a sample.
VIEWS: Mapping[str, tuple[Make, bool]] = {
    "overview": (Views.overview, True),
    "services": (Views.services, True),
    "service": (Views.service, True),
    "servers": (Views.servers, True),
    "drains": (Views.drains, True),
    "problems": (Views.problems, True),
    "peer": (Views.peer, True),
    "vrrp": (Views.vrrp, True),
    "drops": (Views.drops, True),
    "topology": (Views.topology, True),
    "doctor": (Views.last_examination, False),
    "vrrp-why": (Views.vrrp_why, False),
    "server-history": (Views.server_history, False),
    "reload-preview": (Views.reload_preview, False),
    "client-rules": (Views.client_rules, False),
    "events": (Views.events, False),
    "history": (Views.history, False),
}
LIVE = ("doctor", *(name for name, (_, is_kept) in VIEWS.items() if is_kept))
