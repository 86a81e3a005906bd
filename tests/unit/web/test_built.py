"""The built files of the web page are those of its sources, and fit the page's policy."""

from __future__ import annotations

import re

from tools import web


def test_the_built_files_are_those_of_the_sources() -> None:
    assert web.DIGEST.read_text().strip() == web.digest(), "./dev web builds them"


def test_the_pictures_in_the_documents_are_those_of_the_sources() -> None:
    note = web.ROOT / "docs/pictures/sources.txt"
    assert note.read_text().strip() == web.digest(), "./dev web --pictures makes them"


def test_the_page_has_no_inline_script_and_no_address_of_another_host() -> None:
    page = (web.BUILT / "index.html").read_text()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert scripts
    for attributes, content in scripts:
        assert 'src="./assets/' in attributes
        assert not content.strip()
    assert " style=" not in page
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_the_page_has_a_way_without_scripts() -> None:
    page = (web.BUILT / "index.html").read_text()
    assert re.search(r'<noscript><meta http-equiv="refresh" content="0; url=plain"', page)
