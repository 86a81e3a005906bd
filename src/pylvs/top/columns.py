"""The columns of the list: what fits a width, and the cells of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pylvs.model.dataclass import dataclass
from pylvs.top.rates import History
from pylvs.top.rows import GOOD, Row
from pylvs.top.text import BOLD, BY_SEVERITY, HEAD, PLAIN, SELECTED, Line, bits, fit, number, safe, sparkline

LEAST_NAME, MOST_NAME = 24, 44
LEAST_REASON = 16
MARKS = (" ", "!", "!!")  # of severities, beside their colour


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers or words; those with the least rank stay on narrow terminals."""

    name: str  # of order.SORTS, if it sorts
    title: str
    width: int
    rank: int
    cell: Callable[[Row, History], str]
    right: bool = True


def _handshakes(row: Row) -> str:
    return "-" if row.begun is None else f"{number(row.completed or 0)}/{number(row.begun)}"


COLUMNS = (
    Column("state", "STATE", 8, 0, lambda row, _: row.state, right=False),
    Column("weight", "WGT", 4, 1, lambda row, _: number(row.weight)),
    Column("conn", "CONN/s", 6, 2, lambda row, _: number(row.rates.connections)),
    Column("active", "ACTIVE", 6, 3, lambda row, _: number(row.active)),
    Column("inactive", "INACT", 5, 4, lambda row, _: number(row.inactive)),
    Column("in bits", "b/s IN", 6, 5, lambda row, _: bits(row.rates.in_bytes)),
    Column("out bits", "b/s OUT", 7, 6, lambda row, _: bits(row.rates.out_bytes)),
    Column("in packets", "p/s IN", 6, 8, lambda row, _: number(row.rates.in_packets)),
    Column("out packets", "p/s OUT", 7, 9, lambda row, _: number(row.rates.out_packets)),
    Column("handshakes", "HANDSHAKE", 9, 7, lambda row, _: _handshakes(row)),
    Column("how", "METHOD", 6, 10, lambda row, _: row.how, right=False),
    Column("", "LAST CONN/s", 20, 11, lambda row, history: sparkline(history.of(row.ident), 20)),
)


def chosen(width: int, sort: str) -> tuple[int, tuple[Column, ...], int]:
    """Return the widths of name and reason, and the columns between them.

    The column that sorts is always there, in place of others.
    """
    by_rank = sorted(COLUMNS, key=lambda each: -1 if each.name == sort else each.rank)
    left = width - LEAST_NAME
    taken = set()
    for column in by_rank:
        if column.width + 1 > left:
            break
        left -= column.width + 1
        taken.add(column.title)
    shown = tuple(each for each in COLUMNS if each.title in taken)
    name = LEAST_NAME + min(left, MOST_NAME - LEAST_NAME)
    reason = width - name - sum(each.width + 1 for each in shown) - 1
    return name, shown, (reason if reason >= LEAST_REASON else 0)


def heading(width: int, sort: str, inverted: bool) -> Line:
    """Return the titles; an arrow marks the column that sorts."""
    name, shown, reason = chosen(width, sort)
    arrow = "▲" if inverted else "▼"
    titled = [fit("   SERVICE / server" + (f" {arrow}" if sort == "name" else ""), name)]
    for column in shown:
        title = column.title
        if column.name == sort:
            title = (title if len(title) < column.width else title[: column.width - 1]) + arrow
        titled.append(fit(title, column.width, column.right))
    text = " ".join(titled) + (f" {fit('REASON', reason)}" if reason else "")
    return [(fit(text, width), HEAD)]


def line(row: Row, history: History, width: int, sort: str, selected: bool, is_open: bool) -> Line:
    """Return one row as a line. The mark before the name and the word of the state carry what the colour does."""
    name, shown, reason = chosen(width, sort)
    lead = "    " if row.server else ("v " if is_open else "> ") if row.servers else "  "
    head = fit(f"{MARKS[row.severity]:<3}{lead}{row.name}", name)
    style = BY_SEVERITY[row.severity]
    parts: list[tuple[str, str]] = [(head, BOLD if not row.server and row.severity == GOOD else style)]
    for column in shown:
        cell = fit(safe(column.cell(row, history)), column.width, column.right)
        parts.append((f" {cell}", style if column.name == "state" else PLAIN))
    if reason:
        parts.append((" " + fit(safe(row.reason), reason), PLAIN))
    used = name + sum(each.width + 1 for each in shown) + (reason + 1 if reason else 0)
    parts.append((" " * (width - used), PLAIN))
    return [(text, SELECTED) for text, _ in parts] if selected else parts


def next_sort(sort: str, step: int, sorts: Sequence[str]) -> str:
    """Return the next column to sort by, from the first to the last and round."""
    return sorts[(sorts.index(sort) + step) % len(sorts)]
