"""The parts of the screen as lines: header, list, other views, details, help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from pylvs.model.errors import counted
from pylvs.top.feed import Snapshot
from pylvs.top.rates import TOTAL, End, History, dropped, dropped_of
from pylvs.top.rows import Row
from pylvs.top.text import (
    BAD,
    BOLD,
    BY_SEVERITY,
    HEAD,
    PLAIN,
    WARN,
    Line,
    bits,
    clock,
    duration,
    event_line,
    fit,
    number,
    safe,
    sparkline,
    wrapped,
)

MOST_PROBLEMS, MOST_REASONS = 3, 3  # in the header
_STATES = {"MASTER": BOLD, "FAULT": BAD, "Down": BAD, "AdminDown": WARN}
_SERIES = (
    ("conn/s", "connections", 1),
    ("p/s in", "in_packets", 1),
    ("p/s out", "out_packets", 1),
    ("bit/s in", "in_bytes", 8),
    ("bit/s out", "out_bytes", 8),
    ("active", "active", 1),
)
KEYS = (
    ("arrows, PgUp, PgDn, Home, End", "move; also j k g G"),
    ("Enter / Esc", "details of the service or server / back, and clear the filter"),
    ("Space, + -, left right, *", "show or hide the servers of a service; of all"),
    ("/ F4", "filter by name, state, reason: all words must match, !word must not"),
    ("< > F6, I", "sort by another column (it is shown then); invert"),
    ("S N C A B", "sort by state, name, connections a second, active, bits in"),
    ("1 2 3 4 5, Tab", "services, drops, routers, events, problems"),
    ("d / e / w", "drain / enable / weight of the server; asks before"),
    ("z, F5", "pause the display; read now"),
    ("? F1 h, q F10", "this help; quit"),
)
_HELP = (
    "The first mark of a line: !! is critical, ! a warning. Services with something wrong are first.",
    "Rates are a second, as ipvsadm --rate has them. HANDSHAKE: completed of begun, in the last minute.",
    "STATE up?: not checked yet. no check: nothing checks it. in table: it is not in the file of pylvs run.",
    "LOST: no quorum. EMPTY: no server with a weight. weight 0: no new connections.",
)


# --- the header ---


def header(snapshot: Snapshot, history: History, width: int, now: float, paused: bool) -> list[Line]:
    """Return the lines above the list: the daemon, totals, drops and routers, and what is wrong."""
    lines = [_title(snapshot, width, now, paused), *_fault(snapshot, width)]
    lines += _totals(snapshot, history, width)
    lines.append(_drops_and_routers(snapshot, width))
    return lines + _problems(snapshot, width)


def _title(snapshot: Snapshot, width: int, now: float, paused: bool) -> Line:
    status = snapshot.status
    if status is None:
        daemon = "no pylvs run: the table alone"
    elif not status["ready"]:
        daemon = f"pylvs run, process {status['pid']}, starts"
    else:
        daemon = f"pylvs run {status['version']}, process {status['pid']}, up "
        daemon += duration(status["now"] - (status["started_at"] or status["now"]))
    return _with_age(f" pylvs top  {safe(snapshot.host)}  {daemon}", snapshot, width, now, paused)


def head_of_page(title: Line, snapshot: Snapshot, width: int, now: float, paused: bool) -> list[Line]:
    """Return the first lines of another view: its title, the age of what it shows, and why it is not read."""
    text = "".join(part for part, _ in title)
    return [_with_age(text.rstrip(), snapshot, width, now, paused), *_fault(snapshot, width)]


def _with_age(left: str, snapshot: Snapshot, width: int, now: float, paused: bool) -> Line:
    age = max(0.0, now - snapshot.read_at)
    right = f"{'PAUSED  ' if paused else ''}{clock(now)}  {number(age)} s old "
    return [(fit(fit(left, width - len(right)) + right, width), HEAD)]


def _fault(snapshot: Snapshot, width: int) -> list[Line]:
    if not snapshot.fault:
        return []
    since = f"since {clock(snapshot.fault_since)}: " if snapshot.fault_since else ""
    return [[(fit(f"!! {since}{safe(snapshot.fault)}", width), BAD)]]


def _totals(snapshot: Snapshot, history: History, width: int) -> list[Line]:
    sums = snapshot.totals
    first: Line = [(f"Services {sums.services}", PLAIN)]
    if sums.bad_services:
        first.append((f" !! {sums.bad_services} LOST", BAD))
    first.append((f"  Servers {sums.servers}", PLAIN))
    if sums.bad_servers:
        first.append((f" !! {sums.bad_servers} down", BAD))
    first.append((f"  Active {number(sums.active)}  Inactive {number(sums.inactive)}", PLAIN))
    rates = sums.rates
    second = f"Conn/s {number(rates.connections)}"
    second += f"   In {number(rates.in_packets)} p/s {bits(rates.in_bytes)}bit/s"
    second += f"   Out {number(rates.out_packets)} p/s {bits(rates.out_bytes)}bit/s"
    bars = min(60, width - len(second) - 12)
    if bars >= 8 and history.of(TOTAL):
        second += f"   conn/s {sparkline(history.of(TOTAL), bars)}"
    return [cut(first, width), cut([(second, PLAIN)], width)]


def _drops_and_routers(snapshot: Snapshot, width: int) -> Line:
    drops = dropped(snapshot.ends)
    rate = sum(each.rate for each in drops)
    text = f"Drops/s {number(rate)}"
    busy = [each for each in drops if each.rate >= 0.5][:MOST_REASONS]
    text += f" ({', '.join(f'{each.reason} {number(each.rate)}' for each in busy)})" if busy else ""
    line: Line = [(("! " if busy else "") + text, WARN if busy else PLAIN)]
    for name, state in _router_states(snapshot.status):
        mark = "!! " if _STATES.get(state) == BAD else ""
        line += [("   ", PLAIN), (f"{mark}{safe(name)} {state}", _STATES.get(state, PLAIN))]
    return cut(line, width)


def _router_states(status: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if status is None:
        return
    for kind in ("instances", "sessions"):
        for named in status["virtual_routers"][kind]:
            yield named["name"], named["state"]


def problem_texts(snapshot: Snapshot) -> list[tuple[int, str]]:
    """Return what is wrong: severity and text, critical ones first."""
    status = snapshot.status
    if status is None:
        return []
    found = [
        (2 if each["severity"] == "critical" else 1, ": ".join(filter(None, (each["object"], each["text"]))))
        for each in status["problems"]
    ]
    for title, texts in (("unknown", status["unknown"]), ("left out of the file", status["errors"])):
        found += [(1, f"{title}: {text}") for text in texts]
    return sorted(((severity, safe(text)) for severity, text in found), key=lambda each: -each[0])


def _problems(snapshot: Snapshot, width: int) -> list[Line]:
    found = problem_texts(snapshot)
    lines: list[Line] = [
        [(fit(f"{'!!' if severity > 1 else '! '} {text}", width), BY_SEVERITY[severity])]
        for severity, text in found[:MOST_PROBLEMS]
    ]
    if len(found) > MOST_PROBLEMS:
        lines[-1] = [(fit(f"!  {len(found) - MOST_PROBLEMS + 1} more problems: press 5", width), WARN)]
    return lines


# --- views that are a page of text ---


def drops_page(snapshot: Snapshot, width: int) -> list[Line]:
    """Return how packets ended, by verdict and reason, with rates and the services."""
    lines = [_heading("WHAT BECAME OF PACKETS (pylvs drops)", width)]
    for verdict in ("dropped", "held", "passed", "forwarded", "note"):
        found = [each for each in snapshot.ends if each.verdict == verdict]
        if not found:
            continue
        lines.append([(verdict, BOLD)])
        for end in found:
            style = WARN if verdict == "dropped" and end.rate >= 0.5 else PLAIN
            lines.append([(fit(_end_text(end), width), style)])
            worst = sorted(end.services.items(), key=lambda each: -each[1])[:MOST_REASONS]
            lines += [[(fit(f"{'':24}{safe(key)}: {count}", width), PLAIN)] for key, count in worst]
    return lines if len(lines) > 1 else [*lines, [("no packet was counted yet", PLAIN)]]


def _end_text(end: End) -> str:
    return f"{number(end.count):>8} {number(end.rate):>7}/s  {end.reason}: {end.sentence}"


def routers_page(snapshot: Snapshot, width: int) -> list[Line]:
    """Return virtual routers, BFD sessions, announced addresses and the other director."""
    lines = [_heading("VIRTUAL ROUTERS, BFD, ANNOUNCEMENTS (pylvs vrrp status)", width)]
    status = snapshot.status
    if status is None:
        return [*lines, [("not known without pylvs run", PLAIN)]]
    routers, now = status["virtual_routers"], status["now"]
    if routers["problem"]:
        lines += _text(f"!! {routers['problem']}", width, BAD)
    for router in routers["instances"]:
        since = f" since {duration(now - router['since'])}" if router["since"] else ""
        text = f"VRRP {router['name']}  {router['state']}{since}  priority {router['priority']}: {router['why']}"
        lines += _text(text, width, _STATES.get(router["state"], PLAIN))
    for session in routers["sessions"]:
        text = (
            f"BFD {session['name']}  {session['neighbor']}  {session['state']}: {session['error'] or session['reason']}"
        )
        lines += _text(text, width, _STATES.get(session["state"], PLAIN))
    for announced in status["announcements"]:
        lines += _text(f"address {announced['address']}  {announced['state']} {announced['reason']}", width, PLAIN)
    if peer := status["peer"]:
        state = "connections are copied" if peer["connected"] else f"! not connected: {peer['problem']}"
        lines += _text(f"other director {peer['address']} {peer['name']}: {state}", width, PLAIN)
    return lines if len(lines) > 1 else [*lines, [("none in the configuration", PLAIN)]]


def events_page(snapshot: Snapshot, width: int) -> list[Line]:
    """Return the last events, the latest first."""
    lines = [_heading("EVENTS, the latest first (pylvs events)", width)]
    found = [event_line(each) for each in reversed(snapshot.events)]
    return [*lines, *(found or [[("no event is known", PLAIN)]])]


def problems_page(snapshot: Snapshot, width: int) -> list[Line]:
    """Return all problems, whole."""
    lines = [_heading("PROBLEMS (pylvs status)", width)]
    for severity, text in problem_texts(snapshot):
        lines += _text(f"{'!!' if severity > 1 else '!'} {text}", width, BY_SEVERITY[severity])
    for text in snapshot.status["differs"] if snapshot.status else ():
        lines += _text(f"differs from the file: {text}", width, PLAIN)
    return lines if len(lines) > 1 else [*lines, [("nothing is known to be wrong", PLAIN)]]


def help_page(width: int) -> list[Line]:
    """Return the keys and what words mean."""
    lines = [_heading("KEYS of pylvs top (Esc: back)", width)]
    for keys, meaning in KEYS:
        first, *others = wrapped(meaning, width - 32) or [""]
        lines.append([(fit(keys, 31), BOLD), (first, PLAIN)])
        lines += [[(" " * 31 + each, PLAIN)] for each in others]
    lines.append([("", PLAIN)])
    for sentence in _HELP:
        lines += _text(sentence, width, PLAIN)
    return lines


def detail_page(row: Row, snapshot: Snapshot, history: History, width: int) -> list[Line]:
    """Return all that is known of a service or a server."""
    title = f"{row.name} of {safe(row.service)}" if row.server else row.name
    lines = [_heading(title, width), *_text(f"{row.state}: {row.reason}", width, BY_SEVERITY[row.severity])]
    lines.append([(_connections(row), PLAIN)])
    counters = row.counters
    text = f"since reset: connections {counters.connections}; packets in {counters.in_packets}"
    lines += _text(
        f"{text}, out {counters.out_packets}; bytes in {counters.in_bytes}, out {counters.out_bytes}", width, PLAIN
    )
    lines += _histories(row, history, width)
    lines += _server_lines(row, width) if row.server else _service_lines(row, snapshot, width)
    about = [each for each in snapshot.events if _is_about(each, row)]
    if about:
        lines.append([("events", BOLD)])
        lines += [event_line(each) for each in reversed(about)]
    return _narrowed(lines, width)


def _connections(row: Row) -> str:
    text = f"{row.how or '-'}, weight {row.weight}; active {row.active}, inactive {row.inactive}"
    return text + (f", persistent {row.persistent}" if row.persistent else "")


def _histories(row: Row, history: History, width: int) -> Iterator[Line]:
    bars = min(60, width - 36)
    for title, series, factor in _SERIES:
        values = [factor * each for each in history.of(row.ident, series)]
        now, most = (values[-1], max(values)) if values else (0, 0)
        yield [(f"{title:>9} {number(now):>5}  {sparkline(values, bars)}  at most {number(most)}", PLAIN)]


def _server_lines(row: Row, width: int) -> list[Line]:
    known = row.known
    if known is None:
        return []
    lines = _text(
        f"configured weight {known['configured_weight']}"
        + (f", by the operator {known['operator_weight']}" if known["operator_weight"] is not None else "")
        + f"; {known['standing']}; {'in the table' if known['in_table'] else 'not in the table'}",
        width,
        PLAIN,
    )
    if row.begun is not None:
        lines.append([(f"handshakes in the last minute: {row.completed} of {row.begun} completed", PLAIN)])
    lines.append([("checks", BOLD)])
    for check in known["checks"]:
        good = check["good"]
        state, style = ("good", PLAIN) if good else ("not known", WARN) if good is None else ("FAILED", BAD)
        took = f", {1000 * check['took_s']:.1f} ms" if check["took_s"] is not None else ""
        failed = f", {counted(check['failures'], 'failure')} in a row" if check["failures"] else ""
        unknown = "unknown: " if check["inconclusive"] else ""
        lines += _text(f"{check['check']} {state}{took}{failed}: {unknown}{check['reason']}", width, style)
    for text in known["checks_left_out"]:
        lines += _text(f"! left out: {text}", width, WARN)
    return lines if known["checks"] or known["checks_left_out"] else [*lines, [("none", PLAIN)]]


def _service_lines(row: Row, snapshot: Snapshot, width: int) -> list[Line]:
    lines = _text("in the table: " + (", ".join(row.keys) or "nothing"), width, PLAIN)
    known = row.known
    if known:
        quorum = known["quorum"]
        text = f"quorum {'up' if quorum['up'] else 'LOST'}: weight {quorum['weight_up']} of {quorum['weight']}"
        lines += _text(text, width, PLAIN if quorum["up"] else BAD)
        if sorry := known["sorry_server"]:
            lines += _text(f"sorry server {sorry['server']}{' serves' if sorry['in'] else ''}", width, PLAIN)
    lines.append([(f"dropped packets so far: {dropped_of(snapshot.ends, row.keys)}", PLAIN)])
    for end in dropped(snapshot.ends):
        count = dropped_of([end], row.keys)
        if count:
            lines += _text(f"  {count} {end.reason}: {end.sentence}", width, PLAIN)
    lines.append([("servers", BOLD)])
    for server in row.servers:
        text = f"{server.name}  {server.state}  weight {server.weight}  active {server.active}: {server.reason}"
        lines += _text(text, width, BY_SEVERITY[server.severity])
    return lines


def _is_about(event: Mapping[str, Any], row: Row) -> bool:
    if event.get("service") == row.service:
        return not row.server or event.get("server") == row.server
    named = event.get("servers")
    return isinstance(named, list) and any(
        each.get("service") == row.service and (not row.server or each.get("server") == row.server) for each in named
    )


# --- helpers ---


def _heading(text: str, width: int) -> Line:
    return [(fit(f" {text}", width), HEAD)]


def _text(text: str, width: int, style: str) -> list[Line]:
    first, *others = wrapped(safe(text), width - 2) or [""]
    return [[(first, style)], *([("  " + each, style)] for each in others)]


def _narrowed(lines: Iterable[Line], width: int) -> list[Line]:
    return [cut(each, width) for each in lines]


def cut(line: Sequence[tuple[str, str]], width: int) -> Line:
    """Return a line without what does not fit."""
    left, found = width, []
    for text, style in line:
        part = text if cell_len(text) <= left else fit(text, left)
        found.append((part, style))
        left -= cell_len(part)
        if left <= 0:
            break
    return found


def page_of(view: str, snapshot: Snapshot, width: int) -> list[Line]:
    """Return the lines of a view that is a page of text."""
    pages = {"drops": drops_page, "routers": routers_page, "events": events_page, "problems": problems_page}
    return _narrowed(help_page(width) if view == "help" else pages[view](snapshot, width), width)
