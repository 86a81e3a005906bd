"""keepalived's own samples: the same exit status as `keepalived -t`, and the page that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop import keepalived, samples

MEASURED = "2.2.7"  # whose samples the page is about
REASON = keepalived.why_not() or ("" if samples.FOLDER.is_dir() else f"{samples.FOLDER} is not there")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def judged() -> list[samples.Judged]:
    """Every sample with both exit statuses."""
    return samples.judged()


def test_each_sample_ends_as_in_keepalived_or_for_a_reason(judged: list[samples.Judged]) -> None:
    assert len(judged) >= 25
    assert [(each.name, each.theirs, each.ours) for each in judged if not each.agreed] == []


@pytest.mark.skipif(keepalived.version() != MEASURED, reason=f"the page is about keepalived {MEASURED}")
def test_the_page_is_what_they_say_now(judged: list[samples.Judged], repository: Path) -> None:
    page = repository / "docs" / "reference" / "keepalived-samples.md"
    assert page.read_text() == samples.page(judged), f"run: python -m tests.interop.samples > {page}"
