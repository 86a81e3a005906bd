"""What the site of the documentation needs beside docs/: a hook of MkDocs (mkdocs.yml).

README, CONTRIBUTING and CHANGELOG become pages, and files of the repository that pages link to are copied as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # MkDocs is there only where the site is built
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
COPIES = "source"  # the folder of copied files in the site
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_DROPPED = re.compile(r"[^\w\- ]")


def slug(title: str, separator: str) -> str:
    """Return the anchor of a heading as forges make it, so that links hold in both places."""
    return _DROPPED.sub("", title.strip().lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, and the files that pages link to."""
    from mkdocs.structure.files import File  # late: only where the site is built

    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    texts = [(_origin(file.src_uri), file.content_string) for file in files.documentation_pages()]
    linked = {
        target for origin, text in texts for _, link, _ in _LINK.findall(text) if (target := _copied(origin, link))
    }
    for target in sorted(linked):
        content = (ROOT / target).read_text()
        files.append(File.generated(config, f"{COPIES}/{target}.txt", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links of a page lead to the site."""
    origin = _origin(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def lead(found: re.Match[str]) -> str:
        target = _in_site(origin, found[2])
        return found[0] if target is None else f"{found[1]}{posixpath.relpath(target, folder or '.')}{found[3]}"

    return _LINK.sub(lead, markdown)


def _origin(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    return next((name for name, own in PAGES.items() if own == page), f"docs/{page}")


def _target(origin: str, link: str) -> tuple[str, str]:
    """Return the file that a link names, in the repository, and its anchor; no file for other links."""
    path, _, anchor = link.partition("#")
    if not path or ":" in path:
        return "", anchor
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)), anchor


def _copied(origin: str, link: str) -> str:
    """Return the file to be copied for a link."""
    target, _ = _target(origin, link)
    is_page = target in PAGES or (target.startswith("docs/") and not target.startswith("docs/templates/"))
    return target if target and not is_page and (ROOT / target).is_file() else ""


def _in_site(origin: str, link: str) -> str | None:
    """Return where a link leads in the site, or None to leave it."""
    target, anchor = _target(origin, link)
    if copied := _copied(origin, link):
        return f"{COPIES}/{copied}.txt"
    if not target or not (target in PAGES or target.startswith("docs/")):
        return None
    found = PAGES.get(target, target.removeprefix("docs/"))
    return f"{found}#{anchor}" if anchor else found
