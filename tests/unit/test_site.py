"""The documentation builds as a site without a warning: each page is in its menu, and each link leads somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import site

ROOT = Path(__file__).parents[2]
# What a page loads by itself; links to other hosts are the reader's choice.
_LOADED = re.compile(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=.?(https?://[^\s>]+)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site."""
    made = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "-d", str(made)]  # mkdocs.yml: a warning is an error
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_each_document_is_a_page(built: Path) -> None:
    documents = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    wanted = {str(path.with_suffix(".html")) for path in documents if path.parts[0] != "templates"}
    wanted |= {"index.html", "contributing.html", "changes.html"}
    assert wanted <= {str(path.relative_to(built)) for path in built.rglob("*.html")}


def test_the_search_finds_options_and_settings(built: Path) -> None:
    texts = " ".join(each["text"] for each in json.loads((built / "search/search_index.json").read_text())["docs"])
    assert "sync_threshold" in texts
    assert "lvs_sync_daemon" in texts


def test_files_that_pages_link_to_are_there(built: Path) -> None:
    assert (built / "source/packaging/pylvs.service.txt").read_text() == (ROOT / "packaging/pylvs.service").read_text()
    assert "source/bpf/ctx/ended.h.txt" in (built / "architecture.html").read_text()


def test_no_page_loads_anything_from_another_host(built: Path) -> None:
    for path in built.rglob("*.html"):
        assert _LOADED.findall(path.read_text()) == [], path


@pytest.mark.parametrize(
    ("title", "anchor"),
    [("2. What the director changes", "2-what-the-director-changes"), ("`ipvsadm -C`: all", "ipvsadm--c-all")],
)
def test_anchors_are_those_of_a_forge(title: str, anchor: str) -> None:
    assert site.slug(title, "-") == anchor
