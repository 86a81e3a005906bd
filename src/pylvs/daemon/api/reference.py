"""The reference of the API's data, from the types of replies, events and log lines.

`python -m pylvs.daemon.api.reference > docs/reference/api.md` writes it; with `--json` the OpenAPI document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pylvs.daemon.api.application import document
from pylvs.daemon.api.schema import EVENT, VERSION, Schema, documented

INTRODUCTION = f"""# The API's data

Look up the fields of replies, events and log lines, for programs that read them. `GET /v1/openapi.json` serves the same
as JSON Schemas: [the requests](verbs.md#the-api). This page is made of the same types as the replies.

The version of the schemas is **{VERSION}**, and `pylvs status --json` has it as `schema`. A new field or event is a new
minor version, so ignore what you do not know. A removed field, or one that changes its meaning, is a new major version
and a new path instead of `/v1`. A field without "optional" is always there.
"""


def reference() -> str:
    """Return the page docs/reference/api.md."""
    found = document()
    parts = [INTRODUCTION, "## Requests\\n| request | reply |\\n|---|---|".replace("\\n", "\n")]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            ((kind, content),) = operation["responses"]["200"]["content"].items()
            schema = content.get("schema")
            reply = documented(schema) if schema else kind.partition(";")[0]
            parts.append(f"| `{method.upper()} {path}` | {reply} |")
    for title, is_part in (("Replies and log lines", False), ("Events", True)):
        parts.append(f"\n## {title}")
        for name, schema in found["components"]["schemas"].items():
            is_event = name.endswith(EVENT) and name != EVENT
            if is_event is is_part:
                parts += _section(name, schema)
    return "\n".join(parts) + "\n"


def _section(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}"
    yield schema.get("description", "")
    if "properties" in schema:
        yield ""
        yield "| field | type | |\n|---|---|---|"
        for field, value in schema["properties"].items():
            optional = "" if field in schema["required"] else "optional"
            text = "; ".join(filter(None, (optional, value.get("description", ""))))
            yield f"| `{field}` | {documented(value)} | {text} |".replace(" |  |", " | |")
    yield ""


def main() -> None:
    """Print the page, or with `--json` the document."""
    if "--json" in sys.argv[1:]:
        print(json.dumps(document(), indent=1))
    else:
        print(reference(), end="")


if __name__ == "__main__":
    main()
