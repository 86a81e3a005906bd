"""The reference page is up to date with the schema."""

from __future__ import annotations

from pathlib import Path

from pylvs.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


def test_the_page_is_generated_from_the_schema() -> None:
    text = reference()
    assert PAGE.read_text() == text, "run: python -m pylvs.config.reference > docs/reference/configuration.md"
