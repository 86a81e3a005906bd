"""The key of a pair of directors: which files are accepted, and what the error says."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from pylvs.model.errors import Unsupported
from pylvs.peer import MAKE, key


def made(path: Path) -> Path:
    """Make a key as the documentation says."""
    assert shutil.which("openssl")
    subprocess.run(MAKE.format(path=path).split(), check=True, capture_output=True)
    path.chmod(0o600)
    return path


def refused(path: Path) -> str:
    with pytest.raises(Unsupported) as error:
        key.contexts(str(path))
    return str(error.value)


def test_a_key_gives_settings_that_verify_the_other_end(tmp_path: Path) -> None:
    path = made(tmp_path / "key")
    for context in key.contexts(str(path)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert key.certificate(str(path))[:1] == b"\x30"


def test_a_missing_file_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    assert re.match(rf"peer_key_file {path}: does not exist; make it on one director by: openssl req ", refused(path))


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "key")
    path.chmod(0o640)
    assert refused(path) == f"peer_key_file {path}: others may read it; run chmod 600 {path}"


@pytest.mark.parametrize("content", ["", "nothing\n", "certificate", "private"])
def test_a_file_without_certificate_or_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    text = made(path).read_text()
    kind = {"certificate": "CERTIFICATE", "private": "PRIVATE KEY"}.get(content)
    found = re.search(f"-----BEGIN {kind}-----.*-----END {kind}-----\n", text, re.DOTALL) if kind else None
    path.write_text(found.group() if found else content)
    assert refused(path).startswith(f"peer_key_file {path}: ")
