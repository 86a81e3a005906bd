"""JSON as one line: what the API replies, and what files of events have."""

from __future__ import annotations

import json
from typing import Any


def json_line(content: Any) -> bytes:
    """Encode as one line of UTF-8; a byte of an argument or file that is not UTF-8 becomes a JSON escape."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
