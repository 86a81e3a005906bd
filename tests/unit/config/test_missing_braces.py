"""A missing closing brace is named, with the place where it is missing."""

from __future__ import annotations

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text

TEXT = """\
global_defs {
  router_id a
  notification_email {
    a@b
  }
}
vrrp_script chk {
  script "/bin/true"
}
vrrp_sync_group G {
  group {
    V
  }
}
vrrp_instance V {
  interface eth0
  virtual_router_id 9
  authentication {
    auth_type PASS
    auth_pass x
  }
  track_script {
    chk
  }
  virtual_ipaddress {
    10.0.0.9
  }
}
virtual_server_group W {
  10.0.0.9 80
}
virtual_server group W {
  protocol TCP
  real_server 10.0.0.5 80 {
    weight 1
    HTTP_GET {
      url {
        path /
      }
      connect_timeout 3
    }
    inhibit_on_failure
  }
  real_server 10.0.0.6 80 {
    TCP_CHECK {
    }
  }
  quorum 1
}
vrrp_instance W {
}
"""
LINES = TEXT.splitlines()
LAST = len(LINES)
BRACES = [number for number, line in enumerate(LINES, 1) if line.strip() == "}" and number != LAST]


def opened_by(number: int) -> int:
    """Return the number of the line whose block this closing brace ends."""
    column = LINES[number - 1].index("}")
    return max(at for at in range(1, number) if LINES[at - 1][column : column + 1].strip() and LINES[at - 1][-1] == "{")


def findings_without(number: int, indented: bool) -> list[str]:
    lines = [line if indented else line.strip() for line in LINES]
    document, unread = read_text("\n".join(lines[: number - 1] + lines[number:]), "x")
    return [str(each) for each in (*unread, *compile_document(document).findings)]


@pytest.mark.parametrize("number", BRACES)
def test_indentation_shows_where_a_brace_is_missing(number: int) -> None:
    start = opened_by(number)
    (never,) = [each for each in findings_without(number, indented=True) if "never closed" in each]
    named = never.startswith(f"x:{start}:") or f"'{LINES[start - 1].split()[0]}' at line {start} lacks one" in never
    assert named, never
    assert never.endswith(f"before line {number}"), never


# Without indentation, a brace before another one could be that one.
@pytest.mark.parametrize("number", [number for number in BRACES if LINES[number].strip() != "}"])
def test_keywords_show_where_a_brace_is_missing(number: int) -> None:
    start, behind = opened_by(number), LINES[number].split()[0]
    keyword = LINES[start - 1].split()[0]
    expected = f"x:{number}:1: error: {behind} does not belong in {keyword}: the '}}' of {keyword} (line {start}) is "
    found = [each for each in findings_without(number, indented=False) if "does not belong in" in each]
    assert [each.startswith(expected) for each in found] == [True], found


def test_several_braces_may_be_missing_before_one_keyword() -> None:
    lines = ("virtual_server 10.0.0.9 80 {", "real_server 10.0.0.5 80 {", "TCP_CHECK {", "real_server 10.0.0.6 80 {")
    document, _ = read_text("\n".join((*lines, "}", "}", "vrrp_instance V {", "}")), "x")
    found = [str(each) for each in compile_document(document).findings]
    inner = (
        "x:4:1: error: real_server does not belong in TCP_CHECK: the '}' of TCP_CHECK (line 3) and real_server "
        "(line 2) is missing before it; write } } before this line"
    )
    assert inner in found
    assert not [each for each in found if "is not known" in each]


def test_another_indentation_of_a_closed_block_is_no_hint() -> None:
    text = "a {\n  b {\n    c\n  d\n  }\n}\ne {\n  f {\n    g\n}\n"
    _, findings = read_text(text, "x")
    assert [str(each) for each in findings] == [
        (
            "x:7:3: error: the block of 'e' is never closed; write its '}'; by indentation, the block of 'f' at line 8 "
            "lacks one before line 10"
        )
    ]
