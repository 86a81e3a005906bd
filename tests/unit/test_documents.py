"""The documents are right: links, files and commands exist, and the references are complete."""

from __future__ import annotations

import fnmatch
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import click
import pytest

from pylvs.bpf.abi import shipped
from pylvs.bpf.reasons import reasons
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.cli.group import pylvs
from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.daemon.api import families
from pylvs.model.service import Destination, DestinationKey
from pylvs.model.settings import PERIOD, PREFIX, SETTINGS
from pylvs.reference.schedulers import SCHEDULERS as REFERENCE
from pylvs.reference.schedulers import Flow
from pylvs.reference.server import Server
from pylvs.vrrp.protocol.adverts import AdvertError
from pylvs.vrrp.protocol.machine import TransitionReason
from tests.lab.pages import MACHINE, WITHOUT_A_LAB, Step, agree, read
from tests.sources import source_of
from tools import manual, tables
from tools.dev.__main__ import COMMANDS
from tools.dev.__main__ import ROOT as ROOT_ONLY

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:bpf|docs|man|src|tests)/[\w./-]*)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\s*\w*[$#] (.*)$")
# How many blocks of a page are not run, each with its reason above it. tests/lab/test_pages.py runs the others in labs.
NOT_RUN = {
    "README.md": 2,
    "docs/how-to/boot.md": 4,
    "docs/how-to/director-as-server.md": 1,
    "docs/how-to/migrate-from-keepalived.md": 1,
    "docs/how-to/move-from-ipvs.md": 5,
    "docs/how-to/next.md": 2,
    "docs/how-to/release.md": 1,
    "docs/how-to/replace-ipvsadm.md": 2,
    "docs/how-to/top.md": 1,
    "docs/how-to/trace.md": 1,
    "docs/how-to/two-directors.md": 1,
    "docs/how-to/upgrade.md": 1,
    "docs/how-to/web-page.md": 1,
}


def name_of(path: Path) -> str:
    """Return a document's name for a test."""
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in `sh` and `console` blocks of a document."""
    for language, block in FENCE.findall(text):
        if language not in ("sh", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if language == "console":
                found = PROMPT.match(line)
                if not found:
                    continue
                line = found[1]
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            for between, part in itertools.groupby(lexer, key=lambda word: set(word) <= {";", "&", "|"}):
                words = [] if between else list(part)
                while words and words[0] in ("sudo", "do", "then", "time"):
                    words.pop(0)
                if words:
                    yield words


def check_pylvs(words: list[str]) -> None:
    """Raise click.UsageError for an invalid subcommand, option or argument of `pylvs`."""
    command: click.Command = pylvs
    while True:
        # The parser alone: it knows the options, and runs nothing.
        context = click.Context(command, info_name=command.name)
        _, words, _ = command.make_parser(context).parse_args(list(words))
        if not isinstance(command, click.Group) or not words:
            break
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    if words:
        raise click.UsageError(f"too many arguments: {' '.join(words)}")


def commands_of_dev() -> set[str]:
    """Return the commands of ./dev, except its help."""
    return {name for command in COMMANDS for name in command.names}


def test_the_help_of_dev_is_its_table() -> None:
    """The shell reads the lines of the table, because a bare machine has no Python."""
    done = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == len(COMMANDS)
    for line, command in zip(lines, COMMANDS, strict=True):
        assert line.startswith(f"  {command.usage} ")
        assert command.purpose in line
        assert line.endswith("  (root)") == (command.who == ROOT_ONLY)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_files_exist(document: Path) -> None:
    text = document.read_text()
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path_text, _, anchor = target.partition("#")
        path = (document.parent / path_text).resolve() if path_text else document
        assert path.exists(), f"{name_of(document)}: {target} leads nowhere"
        assert not anchor or anchor in anchors(path), f"{name_of(document)}: {target} names no heading"
    for path_text in PATH.findall(text):
        assert (ROOT / path_text).exists(), f"{name_of(document)}: {path_text} is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_are_commands(document: Path) -> None:
    for words in commands(document.read_text()):
        if words[0] == "pylvs":
            check_pylvs(words[1:])
        elif words[0] == "./dev":
            assert words[1] in commands_of_dev(), words
        assert words[0] != "make", "a bare Debian has no make: write ./dev"


def test_make_has_the_commands_of_dev() -> None:
    """Except those that need arguments, which docs/developing.md names."""
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    of_make = set(phony.split())
    defined = {name for names in re.findall(r"^([a-z-][a-z -]*):$", makefile, re.MULTILINE) for name in names.split()}
    assert of_make == defined
    without = re.search(r"`make` has all but `(\w+)` and `(\w+)`", (ROOT / "docs" / "developing.md").read_text())
    assert without
    assert of_make - {"bench-baseline"} == commands_of_dev() - set(without.groups())


@pytest.mark.parametrize("document", [*sorted(set(DOCUMENTS) - {ROOT / "CHANGELOG.md"}), ROOT / "dev"], ids=name_of)
def test_the_releases_that_are_supported_are_the_same_everywhere(document: Path) -> None:
    for sentence in re.split(r"[.:] |\n\n|\|", document.read_text()):
        if "Debian 12" in sentence and "Ubuntu 24.04" in sentence:
            assert re.search(r"Debian 12(?:,| or| and) (?:Debian )?13\b", sentence), sentence


def test_the_manual_has_every_variable_of_the_environment() -> None:
    """Those that pylvs reads, except those that systemd, ./dev and terminals set for it."""
    internal = {"TERM", "MAINPID", "SERVICE_RESULT", "PYLVS_COMMAND", "PYLVS_REMOVAL", "PYLVS_LOG_LEVEL"}
    texts = [path.read_text() for path in (ROOT / "src" / "pylvs").rglob("*.py")]
    constants = {
        found[1]: found[2]
        for text in texts
        for found in re.finditer(r'^(_?[A-Z_]+)(?:, \w+)* = "(_?[A-Z_]+)"', text, re.MULTILINE)
    }
    read = {word for text in texts for word in re.findall(r"os\.environ(?:\.get\(|\[)([\"\w]+)[,\])]", text)}
    names = {word.strip('"') if word.startswith('"') else constants.get(word, "") for word in read} - {""}
    assert {"DBUS_SYSTEM_BUS_ADDRESS", "PYLVS_HINT", "TMPDIR"} <= names
    page = manual.overview().partition(".SH ENVIRONMENT\n")[2].partition("\n.SH ")[0]
    on_page = set(re.findall(r"^\.B (\w+)$", page, re.MULTILINE))
    assert names - internal <= on_page


def test_the_commands_of_readme_and_the_how_tos_are_run() -> None:
    how_tos = sorted(path for path in (ROOT / "docs" / "how-to").glob("*.md") if path.name not in WITHOUT_A_LAB)
    found = [read(path) for path in (ROOT / "README.md", *how_tos)]
    assert {page.name: len(page.not_run) for page in found if page.not_run} == NOT_RUN
    for page in found:
        assert page.steps or page.not_run, f"{page.name} has no command"
        assert not re.search(r"^[ \t]+```(?:sh|console)$", page.path.read_text(), re.MULTILINE), (
            f"{page.name}: indented"
        )
        for step in page.steps:
            # Commands on the machine itself must not change it.
            harmless = step.host != MACHINE or re.match(r"(?:pylvs lab|for \w+ in [\d ]+; do pylvs lab) ", step.command)
            assert harmless, f"{page.name}: {step.command}: its prompt names no host"
            assert page.lab or step.host == MACHINE, f"{page.name}: {step.command}: the page names no lab"
            folder = Path(step.file).parent
            made = any(each.command == f"mkdir -p {folder}" and each.host == step.host for each in page.steps)
            assert made or not step.file, f"{page.name}: {folder} may not exist"


def test_outputs_on_pages_are_compared() -> None:
    page = read(Path("a.md"), "```console\n# a b\nc\n  d\nrs1# e\n```\n<!-- exits: 7 -->\n```console\nrs1# f\n```\n")
    assert page.steps == [Step("", "a b", ["c", "  d"]), Step("rs1", "e", []), Step("rs1", "f", [], 7)]
    assert read(Path("a.md"), "<!-- not run: why -->\n```sh\nx\n```\n").not_run == ["why"]
    assert agree(["a", "b"], ["a ", "b"])
    assert agree(["a", "..."], ["a", "b", "c"])
    assert agree(["...", "c"], ["a", "b", "c"])
    assert agree(["a", "...", "c"], ["a", "c"])
    assert agree(["a … d"], ["a   b c d"])
    assert agree(["VI_1  MASTER since 9 s, priority 100"], ["VI_1  MASTER since 2 min, priority 100"])
    assert not agree(["VI_1  MASTER since 9 s, priority 100"], ["VI_1  MASTER since 9 s, priority 90"])
    assert not agree(["a"], ["a", "b"])
    assert not agree(["b", "..."], ["a", "b"])
    assert not agree(["a … d"], ["a b c"])


def test_a_wrong_command_is_found() -> None:
    text = "```console\n# pylvs show\n# pylvs sohw --all && ./dev test\noutput\n```\n"
    assert list(commands(text)) == [["pylvs", "show"], ["pylvs", "sohw", "--all"], ["./dev", "test"]]
    check_pylvs(["--version"])
    for wrong in ["sohw"], ["--verbose"], ["lab", "up", "--no-such-option"]:
        with pytest.raises(click.UsageError):
            check_pylvs(wrong)


def contexts_of(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of every command that does something."""
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from contexts_of(click.Context(found, info_name=name, parent=context))


def has_option(text: str, option: click.Parameter) -> bool:
    """Return whether a text has a spelling of an option as a word."""
    return any(re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", text) for each in option.opts)


CONTEXTS = list(contexts_of(click.Context(pylvs, info_name="pylvs")))


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda each: each.command_path)
def test_every_command_and_option_is_in_the_reference(context: click.Context) -> None:
    """The options are on a page that has the command; in the synopsis of pylvs(8), and on the command's manual page."""
    words = context.command_path
    pages = [path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")]
    reference = "".join(page for page in pages if re.search(rf"`{words}\b", page))
    assert reference, f"docs/reference has no {words}"
    synopsis = manual.overview().partition(".SH SYNOPSIS\n")[2].partition("\n.SH ")[0].replace("\\", "")
    usage = re.search(rf"^\.B {words}\n((?:[^.].*\n)*)", synopsis, re.MULTILINE)
    assert usage, f"the synopsis of pylvs(8) has no {words}"
    own = dict(manual.pages())[f"{words.replace(' ', '-')}.8"].replace("\\", "")
    for option in context.command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert has_option(reference, option), f"docs/reference has no {option.opts} with {words}"
            assert has_option(usage[1], option) or "[OPTIONS]" in usage[1], f"the synopsis of {words}: {option.opts}"
            assert has_option(own, option), f"the page of {words} has no {option.opts}"


def test_every_command_with_json_is_on_the_page_of_json() -> None:
    """tests/unit/cli/test_json.py compares the fields."""
    with_json = [
        each.command_path for each in CONTEXTS if any("--json" in option.opts for option in each.command.params)
    ]
    on_page = re.findall(
        r"^\| `(pylvs [a-z -]+)` \| ", (ROOT / "docs" / "reference" / "json.md").read_text(), re.MULTILINE
    )
    assert sorted(on_page) == sorted(with_json)


def test_the_manual_has_no_option_that_does_not_exist() -> None:
    every = {each for context in CONTEXTS for option in context.command.params for each in option.opts}
    named = set(re.findall(r"(?<![\w-])--\w[\w-]*", manual.overview().replace("\\-", "-")))
    assert named <= every


def test_every_setting_is_in_the_reference_with_its_default() -> None:
    reference = (ROOT / "docs" / "reference" / "sysctl.md").read_text()
    for setting in (each for each in SETTINGS.values() if each.name != PERIOD):  # it is in the row of sync_threshold
        row = re.search(rf"^\| `{PREFIX}{setting.name}` \| (\S+)[ \d]* \|", reference, re.MULTILINE)
        assert row, f"docs/reference/sysctl.md has no row for {setting.name}"
        assert row[1] == str(setting.default) or setting.default == 0, f"{setting.name}: {row[1]}"


def test_every_flaw_and_every_reason_of_virtual_routers_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "vrrp.md").read_text()
    for word in [*(flaw.value for flaw in AdvertError), *(why.value for why in TransitionReason)]:
        assert f"\n| `{word}` |" in page, f"docs/reference/vrrp.md has no row for: {word}"


def test_tables_repeat_what_the_source_declares() -> None:
    old = [name_of(page) for page in tables.pages() if page.read_text() != tables.updated(page)]
    assert not old, "run: python -m tools.tables"
    names = shipped().enum("reason").keys() - {"REASON_NONE", "REASONS"}
    assert {f"REASON_{each.label.upper()}" for each in reasons().values()} == names
    on_pages = [found[2] for page in tables.pages() for found in tables.TABLE.finditer(page.read_text())]
    assert sorted(on_pages) == sorted(tables.TABLES)


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    """A name on the page may have `*`. The labels "as above" are those of node_exporter's metrics."""
    section = (ROOT / "docs" / "reference" / "verbs.md").read_text().partition("\n## Metrics\n")[2]
    introduction, table = section.split("\n\n", 1)
    documented: dict[str, str] = dict.fromkeys(re.findall(r"`((?:pylvs|node_ipvs)_\w+)`", introduction), "as above")
    for names, labels in re.findall(r"^\| (`(?:pylvs|node_ipvs)_.*?`) \| (.*?) ?\|", table, re.MULTILINE):
        documented |= dict.fromkeys(re.findall(r"`(.*?)`", names), labels)
    described = {pattern: fnmatch.filter(families.FAMILIES, pattern) for pattern in documented}
    assert [pattern for pattern, names in described.items() if not names] == []
    assert {name for names in described.values() for name in names} == {*families.FAMILIES}
    for pattern, names in described.items():
        for name in names:
            labels, _ = families.FAMILIES[name]
            assert documented[pattern] in ("as above", ", ".join(f"`{each}`" for each in labels)), name


def test_the_readme_lists_schedulers_that_there_are() -> None:
    listed = re.search(r"^\| \[schedulers\].*: (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert listed
    assert set(listed[1].split(", ")) <= set(SCHEDULERS)


EXAMPLE = re.compile(r"^((?:\d+:\d+ ?)+) -> ([\d -]+)$", re.MULTILINE)


def _picks(scheduler: str, weights: str, count: int) -> str:
    """Return the first choices of the reference; each is a connection that stays active."""
    servers: list[Server] = []
    chooses = REFERENCE[scheduler](servers)
    for number, weight in (map(int, each.split(":")) for each in weights.split()):
        key = DestinationKey(ip_address(f"10.0.0.{number}"), 80)
        servers.insert(0, Server(Destination(key, weight=weight)))
        chooses.changed()
    picks = []
    for _ in range(count):
        chosen = chooses.choose(Flow(b"\x0a\x01\0\x01", 4000, b"\x0a\x01\0\x64"), 0)
        picks.append(str(chosen.address[3]) if chosen else "-")
        if chosen:
            chosen.active += 1
    return " ".join(picks)


def test_every_scheduler_has_its_section_and_its_examples_hold() -> None:
    page = (ROOT / "docs" / "reference" / "schedulers.md").read_text()
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    assert set(SCHEDULERS) <= set(sections)
    examples = [(name, *found) for name in SCHEDULERS for found in EXAMPLE.findall(sections[name])]
    hashing = {name for name, each in REFERENCE.items() if each.__module__.endswith(".hashing")}
    assert {name for name, *_ in examples} == set(SCHEDULERS) - hashing
    for name, weights, picks in examples:
        assert _picks(name, weights, len(picks.split())) == picks, name


CONFIGURATIONS = [
    (path, text)
    for path in DOCUMENTS
    for _, text in FENCE.findall(path.read_text())
    if re.search(r"^\s*(virtual_server|vrrp_instance|global_defs)\b.*\{", text, re.MULTILINE)
]


@pytest.mark.parametrize(
    ("path", "text"), CONFIGURATIONS, ids=lambda value: name_of(value) if value in DOCUMENTS else ""
)
def test_the_configurations_that_are_shown_have_no_findings(path: Path, text: str) -> None:
    """Except findings that the page shows."""
    document, findings = read_text(text, name_of(path))
    page = path.read_text()
    found = [str(finding) for finding in (*findings, *build(document)[1])]
    assert [each for each in found if each.removeprefix(name_of(path)) not in page] == []


def test_configurations_are_found() -> None:
    assert {name_of(path) for path, _ in CONFIGURATIONS} >= {"docs/how-to/weights-by-load.md"}


FAILURES = [
    [cell.strip() for cell in line.strip("|").split(" |")]
    for line in (ROOT / "docs" / "reference" / "failures.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| what happens"))
]
RUN_BY = {  # how tests run a command of the page, or read what it prints
    "pylvs status": r'"status"|/v1/status|views\.status|\bproblems\(\)',
    "pylvs vrrp status": r'"vrrp", "status"|/v1/vrrp|commands\.status|ask\("status"\)|service_status|\.status\(\)',
    "pylvs vrrp why": r'"vrrp", "why"',
    "pylvs show": r"pylvs show|attach\.attached|\bshow\b",
    "pylvs stop": r'"stop"|daemon\.stop|running\.stop',
}


def is_promise_tested(term: str, source: str) -> bool:
    """Return whether a term of the page occurs in the source of tests; words in capitals stand for any names."""
    if term in RUN_BY:
        return re.search(RUN_BY[term], source) is not None
    if term.partition(" ")[0] in ("pylvs", "ip"):
        words = [word for word in term.split()[1:] if not word.isupper()]
        return all(re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", source) for word in words)
    parts = re.split(r"\b[A-Z]{2,}\b|\.\.\.", term)
    return all(re.search(rf"(?<!\w){re.escape(part.strip())}(?!\w)", source) for part in parts if part.strip())


def test_every_failure_has_tests_that_show_what_its_row_promises() -> None:
    """The last cell of each row names tests. Each term of the cell before occurs in one of them, or in its helpers."""
    assert len(FAILURES) > 50
    untested, former = [], ""
    for cells in FAILURES:
        shown, tests = cells[-2:]
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert tests == ", ".join(f"`{path}::{name}`" for path, name in named) != "", cells
        sources = [source_of(ROOT / path, name) for path, name in named]
        assert all(sources), f"no such test: {tests}"
        promised = f"{shown} {former}" if shown.startswith("the same") else shown
        former = promised
        terms = re.findall(r"`([^`]+)`", promised)
        untested += [(cells[0], term) for term in terms if not is_promise_tested(term, "\n".join(sources))]
    assert untested == []


def test_what_leaves_the_gate_is_listed_with_a_reason() -> None:
    page = (ROOT / "docs" / "developing.md").read_text()
    section = page.partition("### Tests outside the gate\n")[2].partition("\n## ")[0]
    marked = re.compile(r"(?:^@|= )pytest\.mark\.nightly\(|marks=.*pytest\.mark\.nightly\(", re.MULTILINE)
    nightly = [path for path in (ROOT / "tests").rglob("test_*.py") if marked.search(path.read_text())]
    assert nightly
    for path in nightly:
        name = str(path.relative_to(ROOT))
        assert f"`{name}`" in section or f"`{Path(name).parent}/`" in section, name
