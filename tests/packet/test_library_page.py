"""The examples of docs/reference/python.md, run in their order on one director."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pylvs
from tests.packet.host import Host

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_do_what_it_shows(director_host: Host) -> None:
    parser, names, shown = doctest.DocTestParser(), dict[str, object](), list[str]()
    runner = doctest.DocTestRunner(verbose=False)
    text = PAGE.read_text()
    for block in BLOCK.finditer(text):
        test = parser.get_doctest(block[1], names, PAGE.name, str(PAGE), text.count("\n", 0, block.start()) + 1)
        test.globs = names  # one namespace for all blocks
        runner.run(test, out=shown.append, clear_globs=False)
    assert not runner.failures, "".join(shown)
    assert runner.tries > 20


def test_every_public_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    hidden = {"Connection", "Counters", "Rates", "TableUse", "DeviceProblem", "Timeouts", "Protocol", "TunnelKind"}
    results = {"Statistics", "ServiceStatistics", "ServerStatistics", "ServiceDifference", "Watcher", "Forwarding"}
    for name in set(pylvs.__all__) - hidden - results:
        assert re.search(rf"\b{name}\b", text), name
    assert set(pylvs.__all__) >= hidden | results
    assert all(hasattr(pylvs, name) for name in pylvs.__all__)
    assert set(dir(pylvs)) >= set(pylvs.__all__)
