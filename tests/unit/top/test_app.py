"""The console in Textual: drawing, keys, colours, and the picture of the documents."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from textual.pilot import Pilot

from pylvs.model.errors import PylvsError
from pylvs.top.actions import Action
from pylvs.top.app import STYLES, Top
from pylvs.top.feed import Feed
from tests.unit.top.examples import snapshot, status
from tests.unit.top.picture import StillFeed

ROOT = Path(__file__).parents[3]
# The usual palette of xterm; others have less contrast on one of black and white.
PALETTE = {"red": (205, 0, 0), "magenta": (205, 0, 205)}


def played(play: Callable[[Top, Pilot[None]], Awaitable[None]], of: StillFeed | None = None) -> None:
    """Play a test with the console at 80x24."""

    async def run() -> None:
        app = Top(cast(Feed, of or StillFeed()), snapshot())
        async with app.run_test(size=(80, 24)) as pilot:
            await play(app, pilot)

    asyncio.run(run())


def screen(app: Top) -> list[str]:
    """Return the lines that were drawn."""
    return [app._canvas.render_line(y).text.rstrip() for y in range(app.size.height)]


def test_keys_and_snapshots_change_the_screen() -> None:
    async def play(app: Top, pilot: Pilot[None]) -> None:
        assert screen(app)[0].startswith(" pylvs top  director")
        assert any("10.0.0.23:80" in line and "DOWN" in line for line in screen(app))
        await pilot.press("slash", *"443", "enter")
        assert screen(app)[-1].startswith(" filter: 443")
        await pilot.press("escape", "question_mark")
        assert "KEYS of pylvs top" in screen(app)[0]
        await pilot.press("escape")
        await pilot.resize_terminal(120, 30)
        await pilot.pause()
        assert "HANDSHAKE" in "".join(screen(app))
        app.post_message(Top.Read(snapshot(status(), ())))
        await pilot.pause()
        assert any("no services" in line for line in screen(app))
        await pilot.click(offset=(3, 6))
        await pilot.press("q")

    played(play)


def test_an_action_is_made_and_its_answer_shown() -> None:
    class Acting(StillFeed):
        def __init__(self) -> None:
            super().__init__()
            self.made: list[Action] = []

        def act(self, action: Action) -> str:
            self.made.append(action)
            if len(self.made) > 1:
                raise PylvsError("root alone may ask this daemon")
            return action.done

    of = Acting()

    async def answered(app: Top, pilot: Pilot[None], text: str) -> None:
        while not app.console_state.message.startswith(text):
            await pilot.pause(0.01)

    async def play(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("N", "down", "d", "n")
        assert of.made == []
        await pilot.press("d", "y")
        await answered(app, pilot, "done: drain 10.0.0.21:80")
        await pilot.press("d", "y")
        await answered(app, pilot, "not done: root alone")
        assert screen(app)[-1].startswith("not done: root alone")

    played(play, of)
    assert [each.path for each in of.made] == ["/v1/drain", "/v1/drain"]


def test_a_bug_of_the_reading_thread_ends_the_console() -> None:
    class Broken(StillFeed):
        def run(self, publish: object) -> None:
            raise ZeroDivisionError("a bug")

    async def play(app: Top, pilot: Pilot[None]) -> None:
        while app._error is None:
            await pilot.pause(0.01)
        assert str(app._error) == "a bug"

    played(play, Broken())


def test_colours_are_readable_on_black_and_on_white() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        parts = [each / 255 for each in colour]
        red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    used = {style.color.name for style in STYLES.values() if style.color}
    assert used == set(PALETTE)
    assert all(style.bgcolor is None for style in STYLES.values()), "the background is the terminal's own"
    for name in used:
        own = luminance(PALETTE[name])
        assert (own + 0.05) / 0.05 >= 3, "on black"
        assert 1.05 / (own + 0.05) >= 3, "on white"


def test_the_picture_of_the_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.unit.top.picture"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs" / "top.svg").read_text(), "python -m tests.unit.top.picture > docs/top.svg"
