"""Names of routing tables, scopes and protocols."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylvs.netlink.iproute2 import Names, named, numbers


def test_the_kernel_s_own_names_need_no_file(tmp_path: Path) -> None:
    assert numbers(Names.TABLES, (tmp_path,)) == {"unspec": 0, "default": 253, "main": 254, "local": 255}


def test_an_operator_s_file_is_read_after_the_package_s(tmp_path: Path) -> None:
    package, operator = tmp_path / "share", tmp_path / "etc"
    for folder in (package, operator):
        (folder / "rt_tables.d").mkdir(parents=True)
    (package / "rt_tables").write_text("# a comment\n100 uplink\n0x65 hex # and why\nbroken\n7 too many\nx letters\n")
    (operator / "rt_tables").write_text("200 uplink\n")
    (operator / "rt_tables.d" / "mine.conf").write_text("201 mine\n")
    (operator / "rt_tables.d" / "README").write_text("202 readme\n")
    found = numbers(Names.TABLES, (package, operator))
    assert {name: found.get(name) for name in ("uplink", "hex", "mine", "main")} == {
        "uplink": 200,
        "hex": 101,
        "mine": 201,
        "main": 254,
    }
    assert {"broken", "too", "letters", "readme"} & set(found) == set()


@pytest.mark.parametrize(
    ("text", "number"), [("main", 254), ("7", 7), ("0x10", 16), ("256", None), ("-1", None), ("nowhere", None)]
)
def test_a_number_counts_as_it_is_up_to_a_limit(text: str, number: int | None) -> None:
    assert named(Names.TABLES, text, 255) == number
