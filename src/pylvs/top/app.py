"""The terminal of the console, by Textual: keys, drawing, and the threads that read.

One widget draws all lines of `console`, in the colours of the terminal. So only lines that changed are sent, and a
table of any size costs what is on the screen.
"""

from __future__ import annotations

import threading

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from pylvs.model.errors import PylvsError
from pylvs.top.actions import Action
from pylvs.top.console import QUIT, REFRESH, Console
from pylvs.top.feed import Feed, Snapshot
from pylvs.top.text import BAD, BOLD, HEAD, PLAIN, SELECTED, WARN

# Red and magenta of the terminal's own palette are readable on black and on white. Green, yellow, cyan and blue are not
# on one of them.
STYLES = {
    PLAIN: Style(),
    BOLD: Style(bold=True),
    BAD: Style(color="red", bold=True),
    WARN: Style(color="magenta"),
    HEAD: Style(reverse=True),
    SELECTED: Style(reverse=True, bold=True),
}
CLOCK_S = 1.0


class Canvas(Widget, can_focus=True):
    """Draws the lines of the console."""

    DEFAULT_CSS = "Canvas { width: 100%; height: 100%; background: ansi_default; color: ansi_default; }"

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._of = console
        self._lines: list[Strip] = []

    def draw(self) -> None:
        """Compute all lines, and send those that changed."""
        width, height = self.size
        before = self._lines
        self._lines = [
            Strip([Segment(text, STYLES[style]) for text, style in line if text]).adjust_cell_length(width, Style())
            for line in self._of.lines(width, height)
        ]
        if len(before) != height or len(self._lines) != height:
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._lines, strict=True)):
            if old != new:
                self.refresh_lines(y)

    def refresh_lines(self, y: int) -> None:
        """Send one line."""
        self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """Return a line of the screen."""
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width)

    def on_resize(self, _: events.Resize) -> None:
        self.draw()


class Top(App[None]):
    """The console of a feed."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { background: ansi_default; color: ansi_default; }"

    class Read(Message):
        """A thread has read a snapshot."""

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

    class Done(Message):
        """A thread has made a request of the operator, or failed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Failed(Message):
        """The thread that reads has a bug."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(self, feed: Feed, first: Snapshot) -> None:
        super().__init__(ansi_color=True)
        self.console_state = Console(first, feed.history)
        self._feed = feed
        self._canvas = Canvas(self.console_state)
        self._error: Exception | None = None

    def run_to_the_end(self) -> None:
        """Run until the operator quits. Raises what a thread raised."""
        self.run()
        if self._error is not None:
            raise self._error

    def compose(self) -> ComposeResult:
        yield self._canvas

    def on_mount(self) -> None:
        self._canvas.focus()
        self.set_interval(CLOCK_S, self._canvas.draw)  # the clock, and the age of what is shown
        for work in (self._read, self._feed.follow):
            threading.Thread(target=work, daemon=True).start()

    def on_unmount(self) -> None:
        self._feed.stop()

    def _read(self) -> None:
        try:
            self._feed.run(lambda snapshot: self.post_message(self.Read(snapshot)))
        except Exception as error:
            self.post_message(self.Failed(error))

    def on_top_read(self, message: Read) -> None:
        self.console_state.show(message.snapshot)
        self._canvas.draw()

    def on_top_done(self, message: Done) -> None:
        self.console_state.message = message.text
        self._canvas.draw()

    def on_top_failed(self, message: Failed) -> None:
        self._error = message.error
        self.exit()

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        wanted = self.console_state.key(event.key, event.character)
        if wanted == QUIT:
            self.exit()
            return
        if wanted == REFRESH:
            self._feed.hasten()
        elif isinstance(wanted, Action):
            threading.Thread(target=self._act, args=(wanted,), daemon=True).start()
        self._canvas.draw()

    def _act(self, action: Action) -> None:
        try:
            text = self._feed.act(action)
        except PylvsError as error:
            text = f"not done: {error}"
        self.post_message(self.Done(text))

    def on_paste(self, event: events.Paste) -> None:
        self.console_state.paste(event.text)
        self._canvas.draw()

    def on_click(self, event: events.Click) -> None:
        self.console_state.click(event.y)
        self._canvas.draw()

    def on_mouse_scroll_down(self, _: events.MouseScrollDown) -> None:
        self._scroll("down")

    def on_mouse_scroll_up(self, _: events.MouseScrollUp) -> None:
        self._scroll("up")

    def _scroll(self, key: str) -> None:
        if self.console_state.prompt is None and self.console_state.question is None:
            for _ in range(3):
                self.console_state.key(key, None)
            self._canvas.draw()
