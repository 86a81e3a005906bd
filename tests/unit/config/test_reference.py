"""The page of every keyword is what the schema says now."""

from __future__ import annotations

from pathlib import Path

from pylvs.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


def test_the_page_is_what_the_schema_says() -> None:
    text = reference()
    assert PAGE.read_text() == text, "run: python -m pylvs.config.reference > docs/reference/configuration.md"
