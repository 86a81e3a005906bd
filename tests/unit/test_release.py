"""`./dev release`: each wrong thing has one line, and a release has its files, its section and its tag."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import deb, release, sbom, source, wheel

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changes\n\n<!-- towncrier release notes start -->\n\n## 0.1.0 - 2026-01-02\n\nThe first one.\n"
Run = Callable[..., str]
Prepare = Callable[[], None]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=source.ROOT, check=True, capture_output=True, text=True).stdout


def write(name: str, text: str) -> None:
    path = source.ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "a step")


def set_version(version: str) -> None:
    write("src/pylvs/__init__.py", f'__version__ = "{version}"\n')
    write("debian/changelog", f"pylvs ({version}) unstable; urgency=low\n")
    commit()


def _build(name: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_text(name)
        return folder / name

    return build


def _sbom(path: Path) -> Path:
    target = path.with_name(f"{path.name}.cdx.json")
    target.write_text('{"components": [1, 2]}')
    return target


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that releases a small clone and returns what is printed; the builders are fakes."""
    for key in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{key}_NAME", "a")
        monkeypatch.setenv(f"{key}_EMAIL", "a@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")  # 2027-01-15
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.setattr(source, "DIST", tmp_path / "dist")
    monkeypatch.setattr(wheel, "build", _build("pylvs.whl"))
    monkeypatch.setattr(wheel, "build_sdist", _build("pylvs.tar.gz"))
    monkeypatch.setattr(deb, "build", lambda folder, _: _build("pylvs.deb")(folder))
    monkeypatch.setattr(deb, "lint", lambda _: "")
    monkeypatch.setattr(sbom, "write", _sbom)
    git("init", "--quiet")
    for name in ("pyproject.toml", "changes/README.md"):
        write(name, (ROOT / name).read_text())
    write("dev", "#!/bin/sh\ntest ! -e lint-fails\n")
    (tmp_path / "dev").chmod(0o755)
    write(".gitignore", "dist/\n")
    write("CHANGELOG.md", CHANGELOG)
    set_version("0.1.0")

    def run(*words: str, status: int = 0) -> str:
        assert release.main(words) == status
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def test_the_first_release_has_its_files_and_its_tag(run: Run) -> None:
    printed = run()
    folder = source.DIST / "0.1.0"
    packages = {"pylvs.tar.gz", "pylvs.whl", "pylvs.deb", "pylvs.whl.cdx.json", "pylvs.deb.cdx.json"}
    assert {path.name for path in folder.iterdir()} == packages | {"RELEASE-NOTES.md", "SHA256SUMS"}
    assert (folder / "RELEASE-NOTES.md").read_text() == "The first one.\n"
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert checked.returncode == 0
    assert len(checked.stdout.splitlines()) == len(packages) + 1
    assert git("cat-file", "-t", "v0.1.0") == "tag\n"
    assert git("rev-parse", "v0.1.0^{commit}") == git("rev-parse", "HEAD")
    assert printed.endswith("the files are in dist/0.1.0/\n")


def test_changes_become_a_section_that_is_committed(run: Run) -> None:
    set_version("0.2.0")
    write("changes/drain.added.md", "`pylvs drain` waits\nfor a mark.\n")
    write("changes/weights.fixed.md", "A weight of 0 counts.\n")
    commit()
    run()
    notes = "### Added\n\n- `pylvs drain` waits\n  for a mark.\n\n### Fixed\n\n- A weight of 0 counts.\n"
    assert (source.DIST / "0.2.0/RELEASE-NOTES.md").read_text() == notes
    text = (source.ROOT / "CHANGELOG.md").read_text()
    assert f"## 0.2.0 - 2027-01-15\n\n{notes}" in text
    assert text.index("0.2.0") < text.index("0.1.0")
    assert [path.name for path in (source.ROOT / "changes").iterdir()] == ["README.md"]
    assert git("status", "--porcelain") == ""
    assert git("rev-parse", "v0.2.0^{commit}") == git("rev-parse", "HEAD")


def test_a_dry_run_makes_the_files_and_changes_nothing(run: Run) -> None:
    set_version("0.2.0")
    write("changes/drain.added.md", "New.\n")
    commit()
    before = git("rev-parse", "HEAD")
    printed = run("--dry-run")
    assert "to do   CHANGELOG.md\nto do   tag\n" in printed
    assert (source.DIST / "0.2.0/RELEASE-NOTES.md").read_text() == "### Added\n\n- New.\n"
    assert (git("rev-parse", "HEAD"), git("tag"), git("status", "--porcelain")) == (before, "", "")


def _dirty() -> None:
    write("new", "")


def _older_debian() -> None:
    write("debian/changelog", "pylvs (0.0.9)\n")
    commit()


def _tagged() -> None:
    git("tag", "v0.1.0")


def _both() -> None:
    write("changes/a.added.md", "A.\n")
    commit()


def _neither() -> None:
    set_version("0.2.0")


def _misnamed() -> None:
    set_version("0.2.0")
    write("changes/a.new.md", "A.\n")
    commit()


def _unformatted() -> None:
    write("dev", "#!/bin/sh\necho '  |'; echo 'dev: failed: ruff check' >&2; exit 1\n")
    commit()


def _silent() -> None:
    write("dev", "#!/bin/sh\nexit 3\n")
    commit()


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (_dirty, "clean tree: not committed: new"),
        (
            _older_debian,
            "versions: debian/changelog begins with 'pylvs (0.0.9)'; src/pylvs/__init__.py has 0.1.0",
        ),
        (_tagged, "tag: v0.1.0 exists, at COMMIT: raise the version"),
        (_both, "changes: CHANGELOG.md has 0.1.0 already, but changes/ has a.added.md: add them to it"),
        (_neither, "changes: changes/ is empty, and CHANGELOG.md has no section `## 0.2.0 - YYYY-MM-DD`"),
        (_misnamed, "changes: changes/: Invalid news fragment name: a.new.md"),
        (_unformatted, "lint: ./dev lint: failed: ruff check"),
        (_silent, "lint: ./dev lint: exit status 3"),
    ],
)
@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_each_wrong_thing_has_one_line(
    prepare: Callable[[], None], line: str, words: tuple[str, ...], run: Run
) -> None:
    prepare()
    before = git("rev-parse", "HEAD"), git("tag"), git("status", "--porcelain")
    failed = [each for each in run(*words, status=1).splitlines() if not each.startswith("ok ")]
    line = line.replace("COMMIT", git("rev-parse", "--short=12", "HEAD").strip())
    assert failed == [f"FAILED  {line}", "release: nothing was built or tagged"]
    assert (git("rev-parse", "HEAD"), git("tag"), git("status", "--porcelain")) == before
    assert not source.DIST.exists()


def test_a_build_that_differs_is_not_tagged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path) -> Path:
        (folder / "pylvs.whl").write_text(str(folder))
        return folder / "pylvs.whl"

    monkeypatch.setattr(wheel, "build", build)
    printed = run(status=1)
    assert "FAILED  wheel: two builds of pylvs.whl differ\n" in printed
    assert "Debian package" not in printed
    assert git("tag") == ""


def test_a_key_that_does_not_sign_is_one_line(run: Run) -> None:
    git("config", "user.signingkey", "nobody@example.org")
    git("config", "gpg.program", "false")
    printed = run(status=1)
    assert printed.count("FAILED  tag: git tag: ") == 1
    assert git("tag") == ""
