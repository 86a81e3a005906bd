"""bench-guard names what became dearer than the baseline allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import guard


def test_what_costs_over_15_percent_more_is_named() -> None:
    baseline = {"one_dr": 2.0, "one_tun": 3.0, "gone": 1.0}
    assert guard.dearer(baseline, {"one_tun": 3.46, "one_dr": 2.29, "fresh": 99.0}) == ["one_tun"]
    assert guard.dearer(baseline, {"one_tun": 1.0, "one_dr": 1.0}) == []


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "baseline.json"
    where = {"kernel": "6.1", "processor": "A", "processors": 2, "load_average": 1.0}
    guard.write(path, {"one_dr": 2.345, "one_tun": 3.0}, where)
    assert guard.read(path) == (
        {"one_dr": 2.35, "one_tun": 3.0},
        {"kernel": "6.1", "processor": "A", "processors": 2},
    )


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"ratios": {"one_dr": "much"}, "machine": {}}'])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "baseline.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(guard.NoBaseline, match="--write"):
        guard.read(path)
