"""The page for a browser without JavaScript: tables, made here. Each text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import quote

from pylvs.web.snapshot import Row

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="referrer" content="same-origin">{refresh}<title>{title}</title></head><body>
"""
_REFRESH = '<meta http-equiv="refresh" content="10">'
_MOST_TEXT = 500  # characters of a cell


class Html(str):
    """Text that is escaped."""


def cell(value: object) -> str:
    """Return a value as HTML."""
    if isinstance(value, Html):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return escape(f"{value:,.1f}".removesuffix(".0"))
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return escape(text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…")


def link(target: str, text: object) -> Html:
    return Html(f'<a href="{escape(target)}">{cell(text)}</a>')


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table, or a word for one without rows."""
    lines = ["<tr>" + "".join(f"<td>{cell(each)}</td>" for each in row) + "</tr>\n" for row in rows]
    if not lines:
        return "<p>none</p>\n"
    head = "".join(f"<th>{cell(each)}</th>" for each in heads)
    return f'<table border="1"><tr>{head}</tr>\n{"".join(lines)}</table>\n'


def at(moment: float | None) -> str:
    """Return a time in UTC."""
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def bits(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}bit/s"
        number /= 1000
    return f"{number:.3g} Tbit/s"


def page(title: str, parts: Iterable[str], refresh: bool = True) -> bytes:
    head = _HEAD.format(refresh=_REFRESH if refresh else "", title=cell(title))
    return (head + "".join(parts) + "</body></html>\n").encode(errors="replace")


def sign_in(problem: str, action: str) -> bytes:
    """Return the form for a token."""
    form = (
        f'<h1>pylvs</h1><p>{cell(problem)}</p><form method="post" action="{escape(action)}">'
        '<label>Token <input name="token" type="password" autocomplete="off" required></label>'
        '<input type="hidden" name="plain" value="1"><button>Sign in</button></form>\n'
    )
    return page("pylvs: sign in", [form], refresh=False)


def problem(text: str) -> bytes:
    """Return a page that has only an error."""
    return page("pylvs", [f"<h1>pylvs</h1><p>{cell(text)}</p>\n"])


def _rates(rates: Mapping[str, float]) -> tuple[object, ...]:
    packets = rates["in_packets"] + rates["out_packets"]
    return rates["connections"], packets, bits(rates["in_bits"]), bits(rates["out_bits"])


_TRAFFIC = ("conn/s", "packets/s", "in", "out", "ActiveConn", "InActConn")


def overview(state: Row, view: Row, services: Row, drains: Sequence[Row], events: Sequence[Row]) -> bytes:
    """Return the first page."""
    servers = view["servers"]
    sums = f"{servers['up']} of {servers['total']} real servers are up, {servers['drained']} drained"
    shown = [
        (
            link(f"plain?service={quote(each['name'], safe='')}", each["name"]),
            "up" if each["up"] else "down",
            f"{each['servers_up']}/{each['servers_total']}",
            f"{each['weight_up']}/{each['quorum']}",
            *_rates(each["rates"]),
            each["active"],
            each["inactive"],
        )
        for each in services["services"]
    ]
    parts = [
        f"<h1>pylvs on {cell(view['name'])}</h1>\n",
        f"<p>{cell(at(view['at']))}; {cell(sums)}. {cell(state['problem'] or state['older'])}</p>\n",
        "<h2>Problems</h2>\n",
        table(
            ("", "object", "problem"), ((each["severity"], each["object"], each["text"]) for each in view["problems"])
        ),
        "<h2>Services</h2>\n",
        table(("service", "quorum", "servers", "weight", *_TRAFFIC), shown),
        _pages("plain?", services, len(shown)),
        "<h2>Virtual routers</h2>\n",
        table(
            ("name", "state", "since", "priority", "why"),
            (
                (each["name"], each["state"], at(each["since"]), each["priority"], each["why"])
                for each in view["routers"]
            ),
        ),
        "<h2>Drains</h2>\n",
        table(
            ("servers", "stage", "deadline", "ActiveConn", "InActConn"),
            (
                (
                    ", ".join(f"{server['server']} of {server['service']}" for server in each["servers"][:10]),
                    each["stage"],
                    at(each["deadline_at"]),
                    each["active"],
                    each["inactive"],
                )
                for each in drains
            ),
        ),
        "<h2>Last events</h2>\n",
        table(("time", "event", "object", "reason"), map(_event, reversed(events))),
        "<p>This page works without JavaScript, and shows only. pylvs drain, enable, weight and reload operate.</p>\n",
    ]
    return page(f"pylvs on {view['name']}", parts)


def service(state: Row, sampled_at: float, view: Row) -> bytes:
    """Return the page of a service as it was in a sample."""
    rows = [
        (
            each["server"],
            "up" if each["up"] else "down",
            each["standing"],
            each["weight"],
            *_rates(each["rates"]),
            each["active"],
            each["inactive"],
            f"{each['latency_ms']:g} ms" if each["latency_ms"] is not None else "",
            each["reason"],
        )
        for each in view["servers"]
    ]
    heads = ("server", "state", "standing", "weight", *_TRAFFIC, "check", "reason")
    target = f"plain?service={quote(view['name'], safe='')}&"
    parts = [
        f"<p>{link('plain', 'all services')}</p><h1>{cell(view['name'])}</h1>\n",
        f"<p>{cell(at(sampled_at))}. {cell(state['problem'] or state['older'])}</p>\n",
        f"<p>quorum {'up' if view['up'] else 'down'} since {cell(at(view['since']))}</p>\n",
        table(heads, rows),
        _pages(target, {"at": view["at"], "matched": view["servers_matched"]}, len(rows)),
    ]
    return page(f"pylvs: {view['name']}", parts)


def _pages(target: str, view: Mapping[str, Any], shown: int) -> str:
    """Return links to the parts of a list before and behind this one."""
    begin, end = view["at"], view["at"] + shown
    parts = [f"{begin + 1} to {end} of {view['matched']}"] if shown < view["matched"] else []
    if begin:
        parts.append(link(f"{target}at={max(0, begin - 100)}", "before"))
    if end < view["matched"]:
        parts.append(link(f"{target}at={end}", "next"))
    return f"<p>{' '.join(map(cell, parts))}</p>\n" if parts else ""


def _event(event: Row) -> Sequence[object]:
    named = (event.get(name) for name in ("service", "server", "instance", "object", "session", "who"))
    return at(event["at"]), event["event"], " ".join(str(each) for each in named if each), event.get("reason", "")
