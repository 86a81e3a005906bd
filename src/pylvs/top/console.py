"""The console without a terminal: keys change its state, and it draws itself as lines of text."""

from __future__ import annotations

import time
from collections.abc import Callable

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation
from pylvs.top import actions, columns, pages
from pylvs.top.actions import Action
from pylvs.top.feed import Snapshot
from pylvs.top.order import SORTS, Folds, listed
from pylvs.top.rates import History
from pylvs.top.rows import Ident, Row
from pylvs.top.text import BAD, BOLD, HEAD, PLAIN, SELECTED, WARN, Line, event_line, fit, safe, wrapped

VIEWS = ("services", "drops", "routers", "events", "problems")
SERVICES, DETAIL, HELP = "services", "detail", "help"
QUIT, REFRESH = "quit", "refresh"  # what `key` returns, beside an Action
LEAST_HEIGHT_OF_EVENTS, SHOWN_EVENTS = 20, 3
LONGEST_INPUT = 200
_FOOTER = "?:help /:filter <>:sort Enter:more d:drain e:enable w:weight 1-5:views q"
_SHORTCUTS = {"S": "state", "N": "name", "C": "conn", "A": "active", "B": "in bits"}
_SAME = {"j": "down", "k": "up", "g": "home", "G": "end", "h": "f1", "?": "f1", "q": "f10", "/": "f4", "\\": "f4"}


@dataclass(slots=True)
class Prompt:
    """A line of input at the foot of the screen: a filter, or a weight for a row."""

    title: str
    text: str = ""
    row: Row | None = None  # None: the filter


class Console:
    """The state of the console. `key` changes it, `lines` draws it."""

    def __init__(self, snapshot: Snapshot, history: History, wall: Callable[[], float] = time.time) -> None:
        self.snapshot, self.history = snapshot, history
        self.view = SERVICES
        self.sort, self.inverted, self.filter = "state", False, ""
        self.paused = False
        self.message = ""
        self.prompt: Prompt | None = None
        self.question: Action | None = None
        self._wall = wall
        self._folds = Folds()
        self._selected: Ident | None = None  # None: the first line
        self._top = self._page_top = 0
        self._page = 1  # lines that the list shows
        self._detail: Ident | None = None
        self._back = SERVICES  # the view behind details and help
        self._listed: list[Row] | None = None

    def show(self, snapshot: Snapshot) -> None:
        """Show what was read since, unless the operator has paused the display."""
        if not self.paused:
            self.snapshot = snapshot
            self._listed = None

    # --- keys ---

    def key(self, name: str, character: str | None) -> str | Action | None:
        """Process a key; return QUIT, REFRESH or a confirmed action for the caller, else None."""
        if self.question is not None:
            return self._answer(character)
        if self.prompt is not None:
            self._type(name, character)
            return None
        self.message = ""
        name = _SAME.get(character or "", name)
        if name in ("f10", "ctrl+c"):
            return QUIT
        if name in ("f5", "ctrl+l"):
            return REFRESH
        handled = self._view_key(name, character or "")
        if not handled and self.view == SERVICES:
            self._list_key(name, character or "")
        elif not handled:
            self._page_key(name)
        if character in ("d", "e", "w"):
            if self.view in (SERVICES, DETAIL):
                self._begin(character)
            else:
                self.message = f"{character} acts on a server: 1 leads to them"
        return None

    def paste(self, text: str) -> None:
        """Add pasted text to the input."""
        if self.prompt is not None:
            self._type("", safe(text))

    def _view_key(self, name: str, character: str) -> bool:
        if name == "f1" and self.view != HELP:
            self._back, self.view, self._page_top = self.view, HELP, 0
        elif character and character in "12345":
            self.view, self._page_top = VIEWS[int(character) - 1], 0
        elif name in ("tab", "shift+tab"):
            at = VIEWS.index(self.view) if self.view in VIEWS else 0
            self.view, self._page_top = VIEWS[(at + (1 if name == "tab" else -1)) % len(VIEWS)], 0
        elif character in ("z", "Z"):
            self.paused = not self.paused
        elif name in ("escape", "backspace", "f1") and self.view != SERVICES:
            self.view = self._back if self.view == HELP else SERVICES
            self._back, self._page_top = SERVICES, 0
        else:
            return False
        return True

    def _list_key(self, name: str, character: str) -> None:
        rows = self._rows()
        at = self._at()
        steps = {"up": -1, "down": 1, "pageup": -self._page, "pagedown": self._page}
        if name in steps:
            self._select(at + steps[name])
        elif name in ("home", "end"):
            self._select(0 if name == "home" else len(rows) - 1)
        elif name == "enter" and rows:
            self._detail, self.view, self._page_top = rows[at].ident, DETAIL, 0
        elif name in ("escape", "backspace"):
            self._set_filter("")
        elif name in ("f3", "f4"):
            self.prompt = Prompt("filter: ", self.filter)
        elif name == "f6" or character in (">", "<"):
            self._sort_by(columns.next_sort(self.sort, -1 if character == "<" else 1, SORTS))
        elif character in _SHORTCUTS:
            self._sort_by(_SHORTCUTS[character])
        elif character == "I":
            self.inverted = not self.inverted
            self._listed = None
        else:
            self._fold(name, character)

    def _fold(self, name: str, character: str) -> None:
        row = self.selected_row()
        if row is None:
            return
        is_open = self._is_open(row.service)
        if character == "*":
            self._folds.choose_all(not is_open)
        elif name == "right" or character == "+":
            self._folds.choose(row.service, True)
        elif name == "left" or character == "-" or (character == " " and is_open):
            self._folds.choose(row.service, False)
        elif character == " ":
            self._folds.choose(row.service, True)
        else:
            return
        if row.server and not self._is_open_now(row.service):
            self._selected = (row.service, "")
        self._listed = None

    def _page_key(self, name: str) -> None:
        steps = {"up": -1, "down": 1, "pageup": -self._page, "pagedown": self._page, "home": -(1 << 30), "end": 1 << 30}
        self._page_top = max(0, self._page_top + steps.get(name, 0))

    def _type(self, name: str, character: str | None) -> None:
        prompt = self.prompt
        assert prompt is not None
        if name in ("enter", "escape"):
            self.prompt = None
            if name == "enter" and prompt.row is not None:
                self._weigh(prompt.row, prompt.text)
            elif name == "escape" and prompt.row is None:
                self._set_filter("")
            return
        if name == "backspace":
            prompt.text = prompt.text[:-1]
        elif name == "ctrl+u":
            prompt.text = ""
        elif character and character.isprintable():
            prompt.text = (prompt.text + character)[:LONGEST_INPUT]
        if prompt.row is None:
            self._set_filter(prompt.text)

    # --- actions ---

    def _begin(self, character: str) -> None:
        row = self._acted_on()
        self.message = actions.refusal(row, self.snapshot.status is not None)
        if self.message or row is None:
            return
        if character == "w":
            self.prompt = Prompt(f"weight of {row.name}, a number or auto: ", row=row)
        else:
            self.question = actions.drain(row, self._service_of(row)) if character == "d" else actions.enable(row)

    def _weigh(self, row: Row, text: str) -> None:
        try:
            self.question = actions.weight(row, self._service_of(row), text)
        except InvalidOperation as error:
            self.message = str(error)

    def _answer(self, character: str | None) -> Action | None:
        action, self.question = self.question, None
        if character in ("y", "Y"):
            self.message = f"{action.title} ..." if action else ""
            return action
        self.message = "nothing is changed"
        return None

    def _acted_on(self) -> Row | None:
        return self._find(self._detail) if self.view == DETAIL else self.selected_row()

    def _service_of(self, row: Row) -> Row:
        return self._find((row.service, "")) or row

    # --- the list ---

    def selected_row(self) -> Row | None:
        """Return the row under the cursor."""
        rows = self._rows()
        return rows[self._at()] if rows else None

    def _rows(self) -> list[Row]:
        if self._listed is None:
            self._listed = listed(self.snapshot.rows, self.sort, self.inverted, self.filter, self._folds)
        return self._listed

    def _at(self) -> int:
        """Return the line of the cursor. It stays on its row while rows move."""
        if self._selected is None:
            return 0
        rows = self._rows()
        for wanted in (self._selected, (self._selected[0], "")):
            for at, row in enumerate(rows):
                if row.ident == wanted:
                    return at
        return max(0, min(self._top, len(rows) - 1))

    def _select(self, at: int) -> None:
        rows = self._rows()
        at = max(0, min(at, len(rows) - 1))
        self._selected = rows[at].ident if rows and at else None

    def click(self, line: int) -> None:
        """Select the row at a line of the screen."""
        if self.view == SERVICES and self.prompt is None and self.question is None and line >= self._first_line:
            self._select(self._top + line - self._first_line)

    _first_line = 0

    def _sort_by(self, name: str) -> None:
        self.sort, self._listed = name, None

    def _set_filter(self, text: str) -> None:
        if text != self.filter:
            self.filter, self._listed, self._selected = text, None, None

    def _find(self, ident: Ident | None) -> Row | None:
        if ident is None:
            return None
        for row in self.snapshot.rows:
            if row.service == ident[0]:
                return next((each for each in (row, *row.servers) if each.ident == ident), None)
        return None

    def _is_open(self, service: str) -> bool:
        rows = self._rows()
        return any(each.server and each.service == service for each in rows)

    def _is_open_now(self, service: str) -> bool:
        self._listed = None
        return self._is_open(service)

    # --- drawing ---

    def lines(self, width: int, height: int) -> list[Line]:
        """Return exactly `height` lines."""
        if width < 20 or height < 5:
            return [[(fit("pylvs top: enlarge", width), PLAIN)]] + [[("", PLAIN)]] * (height - 1)
        foot = self._foot(width)
        space = height - len(foot)
        body = self._list(width, space) if self.view == SERVICES else self._page_lines(width, space)
        body = body[:space] + [[("", PLAIN)]] * (space - len(body))
        return body + foot

    def _list(self, width: int, space: int) -> list[Line]:
        lines = pages.header(self.snapshot, self.history, width, self._wall(), self.paused)
        while len(lines) > max(2, space // 2):
            lines.pop()  # the list has at least half of the screen
        rows = self._rows()
        at = self._at()
        lines.append(columns.heading(width, self.sort, self.inverted))
        events = self._last_events(width) if space >= LEAST_HEIGHT_OF_EVENTS - 1 else []
        self._first_line = len(lines)
        self._page = max(1, space - len(lines) - len(events))
        self._top = max(0, min(self._top, at, len(rows) - self._page))
        self._top = max(self._top, at - self._page + 1)
        shown = rows[self._top : self._top + self._page]
        for number, row in enumerate(shown, self._top):
            is_open = not row.server and number + 1 < len(rows) and bool(rows[number + 1].server)
            lines.append(columns.line(row, self.history, width, self.sort, number == at, is_open))
        if not rows:
            empty = f"no service matches {self.filter!r}: Esc clears the filter" if self.filter else _EMPTY
            lines.append([(fit(empty, width), PLAIN)])
        lines += [[("", PLAIN)]] * (space - len(events) - len(lines))
        return lines + events

    def _last_events(self, width: int) -> list[Line]:
        found = self.snapshot.events[-SHOWN_EVENTS:]
        return [pages.cut(event_line(each), width) for each in reversed(found)]

    def _page_lines(self, width: int, space: int) -> list[Line]:
        if self.view == DETAIL:
            row = self._find(self._detail)
            found = pages.detail_page(row, self.snapshot, self.history, width) if row else _GONE
        else:
            found = pages.page_of(self.view, self.snapshot, width)
        head, rest = pages.head_of_page(found[0], self.snapshot, width, self._wall(), self.paused), found[1:]
        self._page = max(1, space - len(head))
        self._page_top = max(0, min(self._page_top, len(rest) - self._page))
        shown = rest[self._page_top : self._page_top + self._page]
        if len(rest) > self._page_top + self._page:
            shown[-1:] = [[(fit("... more below: PgDn", width), BOLD)]]
        return head + shown

    def _foot(self, width: int) -> list[Line]:
        """Return the last lines: a question, an input, a message, or the keys."""
        if self.question is not None:
            lines: list[Line] = [[(fit(f" {self.question.title}?", width), HEAD)]]
            for sentence in self.question.effects:
                style = BAD if sentence.startswith("WARNING") else PLAIN
                lines += [[(fit("  " + each, width), style)] for each in wrapped(sentence, width - 4)]
            return [*lines, [(fit(" y: do it     any other key: leave it as it is", width), SELECTED)]]
        if self.prompt is not None:
            hint = "  (Enter: keep, Esc: clear)" if self.prompt.row is None else "  (Enter, Esc)"
            return [[(fit(f"{self.prompt.title}{safe_input(self.prompt.text)}_{hint}", width), SELECTED)]]
        if self.message:
            return [[(fit(safe(self.message), width), WARN)]]
        count = len(self._rows())
        where = f" {min(self._at() + 1, count)}/{count}"
        note = f" filter: {safe(self.filter)}  " if self.filter else " "
        return [[(fit(note + _FOOTER, width - len(where)) + where, HEAD)]]


_EMPTY = "no services: ipvsadm -A adds one, or pylvs run -f FILE"
_GONE: list[Line] = [[("", HEAD)], [("it is gone; Esc: back", WARN)]]


def safe_input(text: str) -> str:
    """Return typed text as it is, but for what a terminal would obey."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
