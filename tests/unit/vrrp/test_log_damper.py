"""An object that changes all the time does not fill the log, and its last state is in it."""

from __future__ import annotations

from typing import Any

from pylvs.vrrp.log_damper import MOST, PERIOD_S, LogDamper
from tests.unit.vrrp.fake_loop import FakeTimeLoop


class Log:
    def __init__(self) -> None:
        self.loop = FakeTimeLoop()
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.damper = LogDamper(self.loop, lambda level, text, **fields: self.lines.append((level, text, fields)))

    def flap(self, count: int, about: str = "b") -> None:
        for number in range(count):
            self.damper.log(about, ("info", f"{about} {number}", {"number": number}))
            self.loop.pass_(0.05)


def test_the_first_changes_are_logged_and_the_last_one_with_a_count() -> None:
    log = Log()
    log.flap(200)
    assert [fields["number"] for _, _, fields in log.lines] == list(range(MOST))
    log.loop.pass_(PERIOD_S)
    assert log.lines[MOST:] == [("info", f"b 199; not logged before it: {200 - MOST - 1} changes", {"number": 199})]
    log.loop.pass_(2 * PERIOD_S)
    log.flap(1)
    assert log.lines[-1] == ("info", "b 0", {"number": 0}), "after a quiet period each change is logged again"


def test_an_object_that_changes_all_the_time_has_one_line_in_each_period() -> None:
    log = Log()
    log.flap(round(5 * PERIOD_S / 0.05))
    log.damper.flush()
    assert len(log.lines) in (MOST + 5, MOST + 6)
    counted = [int(text.split(": ")[1].split()[0]) + 1 for _, text, _ in log.lines[MOST:] if "; " in text]
    assert MOST + sum(counted) + (len(log.lines) - MOST - len(counted)) == round(5 * PERIOD_S / 0.05)


def test_objects_are_damped_apart_and_nothing_is_lost_at_the_end() -> None:
    log = Log()
    log.flap(MOST + 1)
    log.flap(2, "c")
    assert [text for _, text, _ in log.lines[-2:]] == ["c 0", "c 1"]
    log.damper.flush()
    log.damper.flush()
    assert [text for _, text, _ in log.lines[-2:]] == ["c 1", f"b {MOST}"]
