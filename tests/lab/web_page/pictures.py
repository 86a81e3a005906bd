"""`./dev web --pictures`: pictures of each part of the page, by Chromium, with made-up data.

All of them are in dist/web, for light and dark, a desktop and a phone. Those that the documents show replace the ones
in docs/pictures.
"""

from __future__ import annotations

import base64
import json
import math
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pylvs import __version__
from pylvs.system import syscalls
from pylvs.system.http.lines import json_line
from pylvs.system.namespaces import Kind
from pylvs.web.asked import Answer, Ask
from tests.lab.web_page.browser import CHROMIUM, DESKTOP, DRIVER, PHONE, Browser, chromium
from tests.lab.web_page.canned import CannedJobs, served
from tests.web_server import CannedDaemon, client_rules, drops, peer, server, traced
from tools import web

ROOT = Path(__file__).parents[3]
MADE, SHOWN = ROOT / "dist/web", ROOT / "docs/pictures"
IN_DOCUMENTS = (
    *("overview-light-desktop", "overview-dark-desktop", "overview-light-phone", "servers-dark-phone"),
    *("service-light-desktop", "topology-light-desktop", "vrrp-light-desktop", "doctor-light-desktop"),
    *("drain-light-desktop", "events-dark-desktop", "services-light-phone", "server-light-phone", "peer-light-desktop"),
    *("problems-dark-phone", "drops-light-desktop", "trace-light-desktop", "configuration-dark-desktop"),
)
DIGEST = SHOWN / "sources.txt"  # of the page's sources when its pictures were made
QUALITY = 80  # of WebP
SAMPLES = 25  # that the small lines of the overview have
WEB, API, DNS = "192.0.2.100:443 tcp", "192.0.2.101:8443 tcp", "192.0.2.102:53 udp"
# Service, scheduler, method, requests a second, and the last numbers of its servers.
SERVICES = (
    (WEB, "wlc", "ROUTE", 420.0, (11, 12, 13, 14)),
    (API, "mh", "TUNNEL", 95.0, (21, 22, 23)),
    (DNS, "rr", "MASQ", 230.0, (31, 32)),
)
DOWN, DRAINED = "10.0.1.23:8443", "10.0.1.13:443"
REFUSED = "connection refused"
MACS = "02:00:00:00:0c:00", "02:00:00:01:03:00"
COPIED: dict[str, Any] = {"records": 48210, "live": 48210, "held": 48210, "newer": 12, "age_s": 0.2}
COPIED |= {"other": {"sending": 0, "live": 746, "records": 746, "held": 746}}
REASONS = (
    ("forwarded", "forwarded", 8_214_220, "to a real server or a client"),
    ("no service", "passed", 90412, "of no service"),
    ("client denied", "dropped", 1204, "a client rule of its service denies its client"),
    ("no destination", "dropped", 12, "its service has no usable destination"),
    ("bad checksum", "dropped", 3, "an ICMP error with a wrong checksum about a connection"),
)
CHOSEN = "scheduler wlc: the least load, of 3 usable servers"
PACKET = {
    "hook": "xdp",
    "device": "eth0",
    "source": "192.0.2.77:51034",
    "destination": "192.0.2.100:443",
    "service": "TCP 192.0.2.100:443",
    "server": "10.0.1.12:443",
    "method": "direct",
    "output": "eth1",
    "changes": [
        {"layer": "Ethernet", "field": "destination MAC", "kind": "changed", "came": MACS[0], "left": MACS[1]},
        {"layer": "IPv4", "field": "TTL", "kind": "changed", "came": "64", "left": "63"},
    ],
}


class Director(CannedDaemon):
    """A director in use: a server is down, another one is drained."""

    def __init__(self) -> None:
        super().__init__(0, "")
        now = time.time()
        self._random = random.Random(1)
        status = self.replies["/v1/status"]
        router = {
            "name": "VI_1",
            "state": "MASTER",
            "since": now - 86400 * 12,
            "priority": 150,
            "why": "priority 150 is higher than 100 of 192.0.2.3",
        }
        bfd = {"name": "to_router", "neighbor": "192.0.2.1", "state": "Up", "up": True}
        routers = {"problem": "", "data_plane": None, "instances": [router], "sessions": [bfd]}
        services = [self._service(number, now) for number in range(len(SERVICES))]
        silent = {"kind": "server", "severity": "warning", "object": DOWN, "text": f"down for 4 min: {REFUSED}"}
        status |= {
            "files": ["/etc/keepalived/keepalived.conf"],
            "errors": [],
            "problems": [silent],
            "unknown": [],
            "differs": [],
            "services": services,
            "virtual_routers": routers,
            "started_at": now - 86400 * 12,
            "loaded_at": now - 7200,
            "peer": peer("") | {"address": "192.0.2.3", "name": "lvs2", "version": __version__, **COPIED},
        }
        full = {"interface": "eth0", "addresses": ["192.0.2.100", "192.0.2.101", "192.0.2.102"], "master": "lvs1"}
        drain = {
            "number": 1,
            "servers": [{"service": WEB, "server": DRAINED}],
            "began_at": now - 180,
            "deadline_at": now + 420,
            "stage": "draining",
            "active": 37,
            "inactive": 4,
        }
        self.replies |= {
            "/v1/drains": {"drains": [drain]},
            "/v1/vrrp": {"problem": "", "instances": [{**router, **full}], "groups": [], "sessions": [bfd]},
            "/v1/drops": drops(REASONS, "eth0"),
            "/v1/show": {"devices": [{"device": "eth0", "mode": "xdp"}, {"device": "eth1", "mode": "tc"}]},
            "/v1/differences": {"findings": [], "differences": [f"{API}: scheduler mh, was sh"]},
            "/v1/history": {"events": self._events(now)[-3:]},
            "/v1/client-rules/page": client_rules(WEB, "203.0.113.0/24", "198.51.100.7/32"),
        }
        self.first_events = self._events(now)

    def _service(self, number: int, now: float) -> dict[str, Any]:
        name, _, _, _, last = SERVICES[number]
        port = name.split()[0].rpartition(":")[2]
        servers = []
        for host in last:
            made = server(0, "")
            address = f"10.0.1.{host}:{port}"
            check = {**made["checks"][0], "took_s": 0.0006 + host * 1e-4, "probes": 8640, "check": "HTTP_GET"}
            made |= {"server": address, "up": True, "since": now - 86400 * 3, "checks": [check], "checks_left_out": []}
            made |= {"handshakes": None, "active": 40 + host * 3, "inactive": host * 9, "reason": ""}
            if address == DOWN:
                check |= {"good": False, "reason": REFUSED, "failed_probes": 48}
                made |= {"up": False, "since": now - 250, "reason": f"HTTP_GET: {REFUSED}", "weight": 0, "active": 0}
            if address == DRAINED:
                made |= {"standing": "drained", "weight": 0, "active": 37}
            servers.append(made)
        up = sum(each["up"] for each in servers)
        quorum = {"up": True, "since": now - 86400 * 3, "weight": 1, "hysteresis": 0, "weight_up": up}
        address = name.split()[0]
        return {
            "name": name,
            "keys": [f"{name.split()[1].upper()} {address}"],
            "quorum": quorum,
            "servers": servers,
            "sorry_server": None,
            "suspended": False,
            "handshakes_low": "",
        }

    @staticmethod
    def _events(now: float) -> list[dict[str, Any]]:
        return [
            {"at": now - 7200, "event": "reloaded", "edits": 2, "file": "/etc/keepalived/keepalived.conf"},
            {"at": now - 3100, "event": "weight_changed", "service": API, "server": "10.0.1.22:8443", "weight": 1},
            {"at": now - 252, "event": "check_failed", "service": API, "server": DOWN, "reason": REFUSED},
            {"at": now - 250, "event": "server_down", "service": API, "server": DOWN, "reason": REFUSED},
            {"at": now - 180, "event": "operated", "who": "alice", "client": "192.0.2.77", "operation": "drain"},
            {"at": now - 180, "event": "overridden", "service": WEB, "server": DRAINED, "reason": "drained"},
        ]

    async def send(self, ask: Ask) -> Answer:
        if ask.path == "/v1/counters":
            return 200, json_line({"services": [self._counted(number) for number in range(len(SERVICES))]})
        return await super().send(ask)

    def _counted(self, number: int) -> dict[str, Any]:
        name, scheduler, method, rate, _ = SERVICES[number]
        servers, total = [], dict.fromkeys(("connections", "in_packets", "out_packets", "in_bytes", "out_bytes"), 0.0)
        for listed in self.replies["/v1/status"]["services"][number]["servers"]:
            part = rate * (1 + 0.2 * math.sin(time.time() / 9) + self._random.random() / 9) if listed["weight"] else 0.0
            back = 0.0 if method == "ROUTE" else part
            rates = dict(zip(total, (part, part * 11, back * 9, part * 2100, back * 38000), strict=True))
            total = {key: value + rates[key] for key, value in total.items()}
            servers.append({"server": listed["server"], "method": method, "counters": rates, "rates": rates})
        return {"name": name, "scheduler": scheduler, "counters": total, "rates": total, "servers": servers}


class Reports(CannedJobs):
    """What commands report of it."""

    async def run(self, kind: str, given: Mapping[str, Any], line: Callable[[str], None]) -> bytes:
        if kind == "trace":
            line(json.dumps(traced(1, "", **PACKET, kind="TCP SYN", created=True, choice="scheduler", why=CHOSEN)))
            more = {"why": "an existing connection", "state": "ESTABLISHED"}
            line(
                json.dumps(traced(2, "", **PACKET, kind="TCP ACK", created=False, choice="existing_connection", **more))
            )
            return b"{}"
        if kind == "doctor":
            finding = {
                "id": "server_refuses",
                "severity": "error",
                "title": f"{DOWN} refuses connections",
                "evidence": f"a SYN to {DOWN} was answered by RST",
                "fix_host": "10.0.1.23",
                "why": f"pylvs sends no client of {API} there. Two other servers have its share.",
                "fix": "Start the program that listens there:",
                "fix_command": "systemctl start api",
            }
            return json.dumps({"findings": [finding]}).encode()
        values = [("delay_loop", 2), ("lb_algo", "wlc"), ("lb_kind", "DR"), ("quorum", 1)]
        listed = [
            {"name": name, "value": value, "how": "written" if value != 1 else "default"} for name, value in values
        ]
        blocks = [{"block": "virtual_server", "head": name, "values": listed} for name, *_ in SERVICES]
        return json.dumps(
            {"file": "", "findings": [], "effective": {"block": "configuration", "blocks": blocks}}
        ).encode()


# The page's history of hours and minutes, instead of what some seconds would show.
_HISTORY = """
const real = window.fetch;
window.fetch = async (target, more) => {
  const [path, query] = String(target).split("?");
  if (!path.endsWith("api/v1/history")) return real(target, more);
  const given = new URLSearchParams(query), step = given.get("resolution") === "fine" ? 4 : 120, count = 160;
  const share = given.get("server") ? 0.25 : 1, now = Date.now() / 1000, t = [], series = {};
  for (let at = 0; at < count; at++) t.push(now - (count - at) * step);
  const wave = (level, depth, seed) => t.map((_, at) =>
    level * (1 + depth * (Math.sin((at + seed) / 31) + Math.sin((at + seed) / 6) / 4 + Math.sin(at * seed) / 9)));
  const rate = 2300 * share;
  Object.assign(series, {connections: wave(rate, 0.25, 3), in_bits: wave(rate * 17000, 0.22, 9),
    out_bits: wave(rate * 150000, 0.2, 11), active: wave(rate * 0.4, 0.15, 5), inactive: wave(rate * 0.9, 0.1, 2),
    servers_up: t.map((_, at) => at > 118 ? 8 : 9), weight_up: t.map((_, at) => at > 118 ? 8 : 9),
    weight: t.map(() => 1), latency_ms: wave(1.7, 0.2, 8)});
  return new Response(JSON.stringify({step_s: step, t, series, kept: ""}));
};
"""


def main() -> int:
    """Make all pictures, and print their number and size."""
    if os.geteuid() != 0:
        print(
            "web: pictures need root: Chromium and the director's name have a namespace of their own", file=sys.stderr
        )
        return 1
    if missing := [path for path in (CHROMIUM, DRIVER) if not os.path.exists(path)]:
        print(f"web: {missing[0]} is not installed: apt install chromium chromium-driver", file=sys.stderr)
        return 1
    shown_of = web.digest()
    if web.DIGEST.read_text().strip() != shown_of:
        print("web: the built files are older than web/: ./dev web builds them", file=sys.stderr)
        return 1
    syscalls.unshare(Kind.NAME)
    socket.sethostname("lvs1")
    shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir(parents=True)
    SHOWN.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), Director, Reports) as site,
        chromium() as browser,
    ):
        browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _HISTORY})
        browser.open(site.url, site.operator)
        count = "return document.querySelector('.spark polyline')?.points.length ?? 0"
        browser.until(lambda: browser.run(count) >= SAMPLES, "samples")
        for name, target in TARGETS.items():
            show(browser, name, target)
    for name in IN_DOCUMENTS:
        shutil.copyfile(MADE / f"{name}.webp", SHOWN / f"{name}.webp")
    DIGEST.write_text(shown_of + "\n")
    for folder, pictures in (("dist/web", MADE), ("docs/pictures", SHOWN)):
        sizes = [path.stat().st_size for path in pictures.glob("*.webp")]
        print(f"web: {len(sizes)} pictures in {folder}, {sum(sizes) // 1000} kB")
    return 0


TARGETS = {
    "overview": "#/",
    "services": "#/services",
    "servers": "#/servers?sort=down",
    "service": f"#/service?{urlencode({'name': WEB})}",
    "server": f"#/server?{urlencode({'service': WEB, 'server': '10.0.1.12:443'})}",
    "drain": "#/servers",
    **{name: f"#/{name}" for name in ("topology", "vrrp", "peer", "events", "problems", "drops", "doctor", "trace")},
    "configuration": "#/configuration",
}


def show(browser: Browser, name: str, target: str) -> None:
    """Make the pictures of a part."""
    browser.go(target)
    browser.until(lambda: browser.text("main").strip() and "Loading" not in browser.text("main"), name)
    if name == "doctor":
        browser.click("Examine now")
        browser.confirm("Examine")
        browser.wait_text(DOWN, ".findings")
    elif name == "trace":
        browser.fill("input[required]", "192.0.2.77")
        browser.click("Trace", "main")
        browser.wait_text("10.0.1.12:443", ".records")
    elif name == "drain":
        browser.click("Drain", "main")
        browser.find("dialog[open]")
    browser.until(lambda: not browser.text(".toast"), "no message at the edge")
    for theme in "light", "dark":
        for screen, size in (("desktop", DESKTOP), ("phone", PHONE)):
            browser.theme(theme)
            browser.size(*size)
            browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            given = {"format": "webp", "quality": QUALITY}
            found = browser.driver.execute_cdp_cmd("Page.captureScreenshot", given)
            (MADE / f"{name}-{theme}-{screen}.webp").write_bytes(base64.b64decode(found["data"]))
    browser.size(*DESKTOP)
    if name == "drain":
        browser.click("Cancel", "dialog footer")


if __name__ == "__main__":
    sys.exit(main())
