"""The web page over a canned daemon: the real process, TLS and tokens, and replies with hostile strings in every field.

`python -m tests.web_server [--servers N] [--tls]` serves it until its stdin ends. The first line that it prints has the
URL, a token that may read, and one that may operate.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pylvs.model.wanted import WebSettings
from pylvs.system.http.lines import json_line
from pylvs.web import tokens
from pylvs.web.asked import Answer, Ask
from pylvs.web.jobs import Jobs
from pylvs.web.parent import WebParent

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
LOCAL = ip_address("127.0.0.1")
_RATES = {"connections": 3, "in_packets": 20, "out_packets": 10, "in_bytes": 1000, "out_bytes": 5000}


def server(number: int, text: str) -> dict[str, Any]:
    check = {
        "check": "TCP_CHECK",
        "good": True,
        "failures": 0,
        "weight": None,
        "reason": text,
        "inconclusive": False,
        "checked_at": time.time(),
        "took_s": 0.0012,
        "next_in_s": 1.0,
        "running": False,
        "shared_by": 1,
        "probes": 5,
        "failed_probes": 0,
        "inconclusive_probes": 0,
    }
    return {
        "server": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:80",
        "up": number % 3 != 2,
        "checked": True,
        "since": 1.0e9,
        "reason": text,
        "weight": 1,
        "configured_weight": 1,
        "standing": "enabled",
        "operator_weight": None,
        "in_table": True,
        "active": 2,
        "inactive": 5,
        "persistent": 0,
        "checks": [check],
        "checks_left_out": [text],
        "handshakes": {"begun": 1, "completed": 1, "low": text, "out": False},
    }


def peer(text: str) -> dict[str, Any]:
    """Return the status of another director that copies connections."""
    counts = dict.fromkeys(("copied", "live", "records", "held", "newer", "refused_full", "refused_unknown"), 7)
    return {
        "address": "192.0.2.9",
        "name": text,
        "version": text,
        "connected": True,
        "problem": text,
        "complete": True,
        **counts,
        "refused": {text: 1} if text else {},
        "unknown": [{"server": text, "connections": 1}] if text else [],
        "seconds": 0.2,
        "age_s": 0.4,
        "other": {"sending": 0, "live": 7, "records": 7, "held": 7},
        "differences": [{"object": text, "text": text}] if text else [],
        "compared": True,
    }


def drops(reasons: Iterable[tuple[str, str, int, str]], device: str) -> dict[str, Any]:
    """Return a reply to /v1/drops: of each reason the name, the verdict, the count and the sentence."""
    ends = {"forwarded": 10, "passed": 4, "dropped": 3, "held": 0}
    return {
        "tables": True,
        "devices": [{"device": device, "received": sum(ends.values()), **ends, "difference": 0}],
        "reasons": [
            {"reason": name, "verdict": verdict, "count": count, "sentence": sentence}
            for name, verdict, count, sentence in reasons
        ],
    }


def client_rules(service: str, *prefixes: str) -> dict[str, Any]:
    """Return the reply about rules that deny these; an operator set all but the first."""
    rules = [
        {"service": service, "rule": f"deny {each}", "prefix": each, "action": "drop", "origin": "operator"}
        for each in prefixes
    ]
    if len(rules) > 1:
        rules[0]["origin"] = "file"
    return {"total": len(rules), "start": 0, "rules": rules}


def traced(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """Return a record of `pylvs trace --json`."""
    words = dict.fromkeys(("hook", "device", "kind", "service", "server", "method", "choice", "why", "output"), text)
    more = dict.fromkeys(("scheduler", "state", "reason", "source", "destination", "sent_source"), text)
    change = {"layer": text, "field": text, "kind": "changed", "came": text, "left": text}
    return {
        "number": number,
        "time": time.time(),
        "cpu": 0,
        "length": 74,
        **words,
        **more,
        "load": None,
        "candidates": None,
        "created": True,
        "verdict": "forwarded",
        "sent_destination": text,
        "changes": [change],
        "before": "00",
        "after": "00",
        **fields,
    }


class CannedDaemon:
    """A daemon that replies at once. `asked` are its requests; `down` is its error instead of a reply."""

    def __init__(self, servers: int = 3, text: str = HOSTILE) -> None:
        self.asked: list[Ask] = []
        self.down = ""
        self.refused = ""  # why each edit is refused
        self.hangs = False
        self.absent: set[str] = set()  # paths that an older daemon lacks
        self.version: str | None = None
        self.events_now: asyncio.Queue[bytes] = asyncio.Queue()
        self.first_events = [{"event": "server_down", "at": 1.0e9, "service": HOSTILE, "reason": HOSTILE}]
        self.replies = self._replies(servers, text)

    @staticmethod
    def _replies(servers: int, text: str) -> dict[str, Any]:
        listed_servers = [server(each, text) for each in range(servers)]
        quorum = {"up": True, "since": 1.0e9, "weight": 1, "hysteresis": 0, "weight_up": 2}
        service = {
            "name": f"192.0.2.1:80 tcp {text}",
            "keys": ["TCP 192.0.2.1:80"],
            "quorum": quorum,
            "sorry_server": {"server": text, "in": False},
            "suspended": False,
            "handshakes_low": text,
            "servers": listed_servers,
        }
        router = {"name": text, "state": "MASTER", "since": 1.0e9, "priority": 100, "why": text}
        status = {
            "schema": "1.1",
            "pid": 4711,
            "now": time.time(),
            "ready": True,
            "started_at": 1.0e9,
            "loaded_at": 1.0e9,
            "files": [text],
            "errors": [text],
            "problems": [{"kind": "vip", "severity": "warning", "object": text, "text": text}],
            "unknown": [text],
            "differs": [text],
            "virtual_routers": {"problem": "", "data_plane": None, "instances": [router], "sessions": []},
            "peer": None,
            "services": [service],
        }
        listed = [
            {"server": each["server"], "method": "ROUTE", "counters": _RATES, "rates": _RATES}
            for each in listed_servers
        ]
        counted = {"name": service["name"], "scheduler": "rr", "counters": _RATES, "rates": _RATES, "servers": listed}
        drain = {
            "number": 1,
            "servers": [{"service": text, "server": text}],
            "began_at": 1.0e9,
            "deadline_at": None,
            "stage": text,
            "active": 1,
            "inactive": 0,
        }
        session = {"name": text, "neighbor": text, "state": "UP", "up": True}
        full = {"interface": text, "addresses": ["192.0.2.1"], "master": text}
        return {
            "/v1/status": status,
            "/v1/counters": {"services": [counted]},
            "/v1/drains": {"drains": [drain]},
            "/v1/vrrp": {"problem": text, "instances": [{**router, **full}], "groups": [], "sessions": [session]},
            "/v1/vrrp/why": {},
            "/v1/drops": drops(((text, "dropped", 3, text),), text),
            "/v1/show": {"devices": [{"device": text, "mode": "tc"}]},
            "/v1/history": {"events": [{"event": "server_down", "at": 1.0e9, "reason": text}]},
            "/v1/differences": {"findings": [], "differences": [text]},
            "/v1/client-rules/page": client_rules(text, text),
        }

    async def send(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            return 503, json_line({"error": self.down})
        if self.refused and ask.method == "POST":
            return 409, json_line({"error": self.refused})
        if ask.path in self.absent:
            return 404, json_line({"error": f"{ask.method} {ask.path}: Not Found"})
        reply = self.replies.get(ask.path, {"done": True})
        if ask.path == "/v1/status":
            from pylvs import __version__  # late: a test may stand for another version

            reply = {**reply, "version": self.version or __version__}
        return 200, json_line(reply)

    async def events(self) -> AsyncIterator[bytes]:
        for event in self.first_events:
            yield json_line(event)
        while True:
            yield await self.events_now.get()

    def edits(self) -> list[Ask]:
        return [each for each in self.asked if each.method == "POST"]


def token_file(path: Path, last: str = "") -> tuple[str, str]:
    """Write a file of tokens; return one that may read, and one that may operate."""
    made = [tokens.new("reader", tokens.READ), tokens.new("alice", tokens.OPERATE)]
    path.write_text("".join(f"{line} {last}\n" for _, line in made))
    path.chmod(0o600)
    return made[0][0], made[1][0]


def certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1 with its key in one file."""
    path = folder / "pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pylvs"
    command = [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def _serve(servers: int, tls: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        daemon = CannedDaemon(servers)
        read, operate = token_file(Path(folder, "tokens"))
        pem = str(certificate(Path(folder))) if tls else ""
        parent = WebParent(daemon.send, daemon.events, Jobs((), lambda: ()))
        await parent.follow(WebSettings((LOCAL, 0), pem, "", str(Path(folder, "tokens"))))
        print(f"http{'s' if tls else ''}://127.0.0.1:{parent.port}/", read, operate, flush=True)
        try:
            await asyncio.to_thread(sys.stdin.read)
        finally:
            await parent.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    given = parser.parse_args()
    asyncio.run(_serve(given.servers, given.tls))
