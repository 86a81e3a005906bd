"""What a run leaves behind: JSON that gives the same tables again, a picture, and the figures in the documents."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import document, picture, record, report
from bench.record import NoRecord, Record
from bench.rows import FLOOR, FLOOR_TC, ROWS, SCHEDULER_FLOOR, Measured

SIZES: dict[str, float] = {
    "flows": 1024,
    "part": 512,
    "services": 10,
    "destinations": 100,
    "connections": 1000,
    "checked": 50,
    "every": 0.5,
    "minutes": 1,
}
MACHINE = {"kernel": "6.1", "processor": "A & B", "processors": 2, "python": "3.11", "load_average": 0.5}


def run() -> Record:
    """Of a machine whose floor is 20 ns."""
    results = {
        FLOOR: Measured([26.0, 25.0, 24.0], 5.0),
        "one_dr": Measured([65.0, 66.0, 64.0], 5.0),
        "no_service": Measured([33.0], 5.0),
        "many_dr": Measured([3010.0], 10.0),
        FLOOR_TC: Measured([30.0]),
        "tc_one_dr": Measured([90.0]),
        "cores_new": Measured([1.7], beside=[1.9]),
        "restore": Measured([4.0], processor=[3.0]),
        SCHEDULER_FLOOR: Measured([12.0], 2.0),
        "rr_64": Measured([84.0], 4.0),
        "katran_one": Measured([170.0], 10.0),
    }
    return Record(results, SIZES, MACHINE, {"bench_same": 5.0})


def test_the_json_holds_every_sample(tmp_path: Path) -> None:
    record.write(tmp_path / "bench.json", run())
    content = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    further = ["katran_one", SCHEDULER_FLOOR, "rr_64", "one_dr/katran_one"]
    assert list(rows) == [*(row.name for row in ROWS), *further]
    assert rows["one_dr"]["samples"] == [65.0, 66.0, 64.0]
    assert rows["one_dr"]["measured"] == pytest.approx(3.0)
    assert rows["tc_one_dr"]["measured"] == pytest.approx(3.0)
    assert rows["rr_64"]["measured"] == pytest.approx(8.0)
    assert rows["list"]["measured"] is None
    budget = rows["one_dr/katran_one"]
    assert (budget["result"], budget["floor"]) == ("one_dr", "katran_one")
    assert (budget["must"], budget["then"], budget["measured"]) == (0.25, 0.22, pytest.approx(0.375))
    assert budget["samples"] == rows["one_dr"]["samples"]


def test_the_json_read_again_gives_the_same_tables(tmp_path: Path) -> None:
    record.write(tmp_path / "bench.json", run())
    again = record.read(tmp_path / "bench.json")
    assert report.lines(again.results, again.sizes) == report.lines(run().results, SIZES)
    assert report.budget_lines(again.results, SIZES) == report.budget_lines(run().results, SIZES) != []
    assert report.scheduler_lines(again.results) == report.scheduler_lines(run().results)
    assert document.block(again) == document.block(run())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{}]}'])
def test_what_no_bench_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(NoRecord, match="this is no bench"):
        record.read(tmp_path / "bench.json")


def test_the_picture_has_a_bar_for_each_measured_ratio() -> None:
    root = ElementTree.fromstring(picture.draw(run()))
    name = "{http://www.w3.org/2000/svg}"
    bars: dict[str, list[float]] = {"floor": [], "katran": [], "pylvs": []}
    for bar in root.iter(f"{name}rect"):
        kind = bar.get("class", "")
        if kind in bars and bar.get("width") != "12":  # not the legend's
            bars[kind].append(float(bar.get("width", "0")))
    assert [len(bars[kind]) for kind in ("floor", "katran", "pylvs")] == [3, 2, 4]
    assert bars["pylvs"][1] == pytest.approx(3 * bars["floor"][0], rel=0.01)  # one_dr, on its group's scale
    words = [each.text or "" for each in root.iter(f"{name}text")]
    assert "established TCP, 1,024 random flows, DR" in words
    assert "150" in words
    assert picture.draw(Record({}, SIZES, MACHINE, {})) == ""


def test_the_documents_take_a_run(tmp_path: Path) -> None:
    text = f"before\n{document.BEGIN}\nold figures\n{document.END}\nbehind\n"
    (tmp_path / document.DOCUMENT).write_text(text)
    for _ in range(2):
        document.write(tmp_path, run())
        written = (tmp_path / document.DOCUMENT).read_text()
        assert written == text.replace("old figures", document.block(run()))
    assert "| established TCP, one flow, DR | – | 2.7 | 2.3 | 3.0 | 65.0 ns less 5.0 |" in written
    assert "| established, one flow, DR | Katran | 0.25 | 0.22 | 0.38 | 60.0 of 160.0 ns |" in written
    assert (tmp_path / document.PICTURE).read_text() == picture.draw(run())


def test_documents_without_marks_do_not_change(tmp_path: Path) -> None:
    with pytest.raises(document.NoMarks):
        document.write(tmp_path, run())
    (tmp_path / document.DOCUMENT).write_text("no marks\n")
    with pytest.raises(document.NoMarks):
        document.write(tmp_path, run())
    assert (tmp_path / document.DOCUMENT).read_text() == "no marks\n"
