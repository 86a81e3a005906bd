"""keepalived's own samples have the exit status of `keepalived -t`, and the page of the reference is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop import keepalived, samples

MEASURED = "2.2.7"  # the version of the samples on the page
REASON = keepalived.why_not() or ("" if samples.FOLDER.is_dir() else f"{samples.FOLDER} is not there")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def judged() -> list[samples.Judged]:
    """Return every sample with both exit statuses."""
    return samples.judged()


def test_each_sample_has_the_status_of_keepalived_or_a_reason(judged: list[samples.Judged]) -> None:
    assert len(judged) >= 25
    assert [(each.name, each.theirs, each.ours) for each in judged if not each.agreed] == []


@pytest.mark.skipif(keepalived.version() != MEASURED, reason=f"the page is about keepalived {MEASURED}")
def test_the_page_is_current(judged: list[samples.Judged], repository: Path) -> None:
    page = repository / "docs" / "reference" / "keepalived-samples.md"
    assert page.read_text() == samples.page(judged), f"run: python -m tests.interop.samples > {page}"
