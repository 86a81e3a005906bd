"""The tree uses the words of the glossary, and the checker finds what breaks a rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.language.__main__ import main
from tests.language.reading import files, pieces
from tests.language.rules import (
    EXCEPTIONS,
    GLOSSARY,
    HEADING,
    PHRASES,
    UNCOUNTED,
    Finding,
    Rules,
    count_words,
    find,
    parse_bans,
    project_rules,
    sentences,
)

NUMBERS = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
LONG = f"{NUMBERS} eighteen nineteen twenty a b c d e f."


def findings(path: str, text: str, *, uncounted: bool = False) -> list[str]:
    """Return line, column, rule and start of what the project's rules find in a file."""
    rules = project_rules()
    found = [finding for piece in pieces(Path(path), text) for finding in rules.check(piece)]
    found = [finding for finding in found if (finding.rule in UNCOUNTED) == uncounted]
    return [f"{each.line}:{each.column}: {each.rule}: {each.text.partition(';')[0]}" for each in found]


def test_the_tree_follows_the_rules() -> None:
    wrong = list(map(str, find()))
    assert not wrong, "\n".join(wrong)


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["whoever", "somebody", "nobody", "meanwhile", "told", "said", "heard", "goes", "aide"]
)
def test_a_docstring_with_a_word_of_the_table_is_found(word: str) -> None:
    assert findings("src/pylvs/a.py", f'def f():\n    """Add what {word} counts."""\n') == [f"2:17: words: {word!r}"]


def test_words_are_found_in_comments_messages_and_pages() -> None:
    assert findings("src/pylvs/a.py", "a = 1  # whoever reads\n") == ["1:10: words: 'whoever'"]
    assert findings("src/pylvs/a.py", 'log("nobody has it")\n') == ["1:5: words: 'nobody'"]
    assert findings("src/pylvs/a.py", 'log(f"nobody has {it}")\n') == ["1:5: words: 'nobody'"]
    assert findings("bpf/a.h", "int a;\n/* The trouble\n * of whoever\n */\n") == [
        "2:8: words: 'trouble'",
        "3:7: words: 'whoever'",
    ]
    assert findings("bpf/a.h", "int a; // an ear\n") == ["1:14: words: 'ear'"]
    assert findings("docs/a.md", "# Page\n\nIt is\ntold all.\n") == ["4:1: words: 'told'"]
    assert findings("man/a.8", ".SH NAME\nIt is\n.B told\ntold all.\n") == ["4:1: words: 'told'"]
    assert findings("dev", "echo # nobody\n") == ["1:8: words: 'nobody'"]


def test_a_phrase_is_found_across_lines() -> None:
    assert findings("docs/a.md", "It goes\non with it.\n") == ["1:4: words: 'goes on with'"]


def test_names_are_split_into_words() -> None:
    for name in "ClaimEars", "claim_ears", "EARS", "_ears", "myEars":
        assert findings("src/pylvs/a.py", f"{name} = 1\n") == [f"1:1: words: {name!r}: ears"]
    assert findings("src/pylvs/a.py", "years = hears_ = 1\n") == ["1:9: words: 'hears_': hears"]


def test_names_are_checked_where_they_are_defined() -> None:
    text = "def f(aide):\n    self.desk = aide.desk\n    class Mouth: ...\nimport a as news\nfor place in a: place()\n"
    assert [each.rpartition(": ")[2] for each in findings("src/pylvs/a.py", text)] == [
        "aide",
        "desk",
        "mouth",
        "news",
        "place",
    ]


def test_a_name_is_found_once_in_a_file() -> None:
    assert len(findings("src/pylvs/a.py", "aide = 1\naide = 2\n")) == 1
    assert len(findings("bpf/a.h", "int aide; f(aide);\n")) == 1


def test_names_of_the_kernel_are_not_checked() -> None:
    assert findings("bpf/a.h", "int a = bpf_skb_adjust_room(BPF_ADJ_ROOM_MAC, room);\n") == [
        "1:47: words: 'room': room"
    ]


def test_packages_of_node_are_not_read(tmp_path: Path) -> None:
    for name in "web/node_modules/one/README.md", "web/README.md":
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    assert [path.relative_to(tmp_path) for path in files([str(tmp_path)])] == [Path("web/README.md")]


def test_exceptions_have_reasons_and_exist() -> None:
    for path, _, reason in EXCEPTIONS:
        assert reason
        assert any(True for _ in GLOSSARY.parents[1].glob(path)), path


def test_the_name_of_a_file_is_checked() -> None:
    assert findings("src/pylvs/in_turn.py", "") == ["1:1: words: 'in_turn': in turn"]
    assert findings("bpf/odd.h", "") == ["1:1: words: 'odd': odd"]
    assert findings("src/pylvs/a.py", "in_turn = 1\n") == []


def test_the_name_of_a_test_is_prose() -> None:
    assert findings("tests/a.py", "def test_it_goes(): ...\n") == ["1:1: words: 'test_it_goes': goes"]
    assert findings("tests/a.py", "def test_on_going(): ...\n") == []


def test_a_row_may_hold_in_some_folders_alone() -> None:
    assert findings("bpf/a.h", "int target;\n") == ["1:5: words: 'target': target"]
    assert findings("src/pylvs/a.py", "target = 1\n") == []


def test_what_is_neither_prose_nor_a_name_is_not_read() -> None:
    assert findings("docs/a.md", "[it](told.md) <!-- told `aide` -->\n") == []
    assert findings("docs/a.md", f"```\n{LONG}\n```\n`{LONG}`\n") == []  # code has no sentences
    assert findings("src/pylvs/a.py", "a = '# nobody'\nb = '''\n# nobody\n'''\n") == []
    assert findings("tests/unit/test_language.py", "a = 'that is what nobody knows'\n") == []  # an example
    assert findings("bpf/a.h", '#include "odd.h"\nchar *a = "/* told */";\n') == []


def test_a_string_of_one_identifier_is_a_name() -> None:
    """Fields of replies, names and fields of events, states."""
    assert findings("src/pylvs/a.py", 'a = {"trouble": b["aide_lost"]}\n') == [
        "1:6: words: 'trouble': trouble",
        "1:19: words: 'aide_lost': aide",
    ]
    assert findings("src/pylvs/a.py", "a = f\"it is {'well' if up else 'ill'}\"\n") == [
        "1:14: words: 'well': well",
        "1:32: words: 'ill': ill",
    ]
    assert findings("src/pylvs/a.py", 'publish("vrrp-trouble", "well-known")\n') == [
        "1:9: words: 'vrrp-trouble': trouble"
    ]
    assert findings("tests/a.py", 'a = {"trouble": "told"}\n') == [
        "1:6: words: 'trouble': trouble",
        "1:17: words: 'told': told",
    ]


def test_strings_of_tests_are_read() -> None:
    assert findings("tests/a.py", "assert a, 'that is what nobody knows'\n") == ["1:24: words: 'nobody'"]
    assert findings("tests/a.py", 'fail("1 services")\n') == []  # data of tests may have a plural


def test_the_name_of_an_argument_is_checked() -> None:
    """It is a field of an event or of a log line."""
    assert findings("src/pylvs/daemon/a.py", "publish(b, words=text, **more)\n") == ["1:12: words: 'words': words"]


def test_code_in_prose_is_read() -> None:
    assert findings("docs/a.md", "See `aide`,\nand `0 heard`. No `well-known` word, `a.told`.\n") == [
        "1:6: words: 'aide': aide",
        "2:8: words: 'heard'",
        "2:41: words: 'told'",
    ]
    assert findings("docs/a.md", "a\n```\nvrrp: told it\n```\n") == ["3:7: words: 'told'"]
    assert findings("src/pylvs/a.py", '"""Read `aide`\nand ``is told``."""\n') == [
        "1:10: words: 'aide': aide",
        "2:10: words: 'told'",
    ]
    assert findings("src/pylvs/a.py", "a = 1  # until `told`\n") == ["1:17: words: 'told': told"]
    for cites in ("CHANGELOG.md", "changes/helper.changed.md"):
        assert findings(cites, "`aide` is `helper` now, not `is told`.\n") == []


def test_labels_of_diagrams_are_read() -> None:
    text = 'flowchart TD\n    d -- "no, 0 heard" --> t{"a desk<br/>is told"}\n'
    assert findings("docs/a.md", f"```mermaid\n{text}```\n") == [
        "3:17: words: 'heard'",
        "3:33: words: 'desk'",
        "3:45: words: 'told'",
    ]


def test_a_code_span_ends_at_its_own_number_of_ticks() -> None:
    assert findings("docs/a.md", "``invalid flag `x'`` is whoever, `a` and `b`\n") == ["1:25: words: 'whoever'"]
    assert findings("docs/a.md", "The sign ` alone.\n\nIt is whoever, and ` again.\n") == ["3:7: words: 'whoever'"]


@pytest.mark.parametrize(
    "text",
    ["It is well.", "All of them are well again.", "It was well\nbefore.", "The script is ill.", "A well or ill one."],
)
def test_the_adjectives_of_health_are_found(text: str) -> None:
    assert len(findings("docs/a.md", f"{text}\n")) == 1
    assert len(findings("src/pylvs/a.py", f'log("{text}")\n'.replace("\n", " ", 1))) == 1


@pytest.mark.parametrize(
    "text", ["As well as that.", "It is well known.", "Are well-formed.", "It works well.", "Illegal."]
)
def test_the_adverb_is_not_found(text: str) -> None:
    assert findings("docs/a.md", f"{text}\n") == []


def test_phrases_with_a_word_of_speech_are_found() -> None:
    assert findings("src/pylvs/a.py", 'YIELD = "the operator\'s word"\n') == ['1:13: words: "operator\'s word"']
    assert findings("bpf/a.h", "/* A connection's word. */\n") == []  # 64 bits
    assert findings("docs/a.md", "In one go.\n") == ["1:1: words: 'in one go'"]


def test_a_message_may_have_two_words() -> None:
    assert findings("src/pylvs/a.py", 'log(f"{count} heard")\n') == ["1:8: words: 'heard'"]
    assert findings("src/pylvs/a.py", 'log(f"{keyword} said: {line}")\n') == ["1:8: words: 'said'"]


def test_phrases_in_which_a_word_is_right() -> None:
    assert findings("docs/a.md", "An odd number of packets.\n") == []
    assert findings("docs/a.md", "An odd packet.\n") == ["1:4: words: 'odd'"]
    assert all(reason for _, reason in PHRASES)


# --- sentences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "position"),
    [
        ("src/pylvs/a.py", f'"""Short.\n\n{LONG}\n"""\n', "3:1"),
        ("src/pylvs/a.py", f"# {LONG}\n".replace("ten ", "ten\n# "), "1:3"),
        ("bpf/a.h", f"/* {LONG} */\n", "1:4"),
        ("docs/a.md", f"Short. {LONG}\n", "1:8"),
        ("docs/a.md", f"| a | {LONG} |\n", "1:7"),
        ("man/a.8", f".SH NAME\n{LONG}\n", "2:1"),
    ],
)
def test_a_long_sentence_is_found(path: str, text: str, position: str) -> None:
    (found,) = findings(path, text)
    assert found.startswith(f"{position}: length: 26 words: {LONG[:50]!r}"[:-1])


def test_sentences_end_at_full_stops_and_paragraphs() -> None:
    text = LONG.replace(" m", " m")
    for end in ". ", "? ", "! ", "\n\n", "\n- ", "\n1. ", "\n| ":
        assert findings("docs/a.md", text.replace("ten ", "ten" + end)) == [], end
    assert findings("docs/a.md", text.replace("ten ", "e.g. ")) != []
    assert [each for _, each in sentences("One, e.g. this. Two (it is.) Three")] == [
        "One, e.g. this.",
        "Two (it is.)",
        "Three",
    ]


def test_a_list_of_code_is_one_word() -> None:
    assert findings("docs/a.md", "It takes " + ", ".join(["`code`"] * 40) + " and `code`.\n") == []
    assert count_words("a b, c-d e/f 1.5 -- g") == 6


# --- docstrings and messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Both.", "The end.", "No more.", "See the protocol.", "Close.", "Close it.", "Closes the file."]
)
def test_a_docstring_that_adds_nothing_is_found(text: str) -> None:
    assert findings("src/pylvs/a.py", f'class File:\n    def close(self):\n        """{text}"""\n') == [
        f"3:12: docstring: {text!r} adds nothing to the name"
    ]


@pytest.mark.parametrize("text", ["Close the socket.", "Raise OSError.", "Close `it`."])
def test_a_docstring_that_adds_something_is_not_found(text: str) -> None:
    assert findings("src/pylvs/a.py", f'class File:\n    def close(self):\n        """{text}"""\n') == []


@pytest.mark.parametrize(
    "text", ["What it does.", "whether it holds", "Of the table.", "As before.", "\n    How many."]
)
def test_a_docstring_without_a_verb_or_noun_at_its_start_is_found(text: str) -> None:
    assert len(findings("src/pylvs/a.py", f'def f():\n    """{text}"""\n', uncounted=True)) == 1
    assert findings("src/pylvs/a.py", f'def f():\n    """{text}"""\n') == []
    assert findings("tests/a.py", f'def test_f():\n    """{text}"""\n', uncounted=True) == []
    assert findings("src/pylvs/a.py", 'def f():\n    """Return what it does. What else."""\n', uncounted=True) == []


def test_a_plural_of_one_is_found() -> None:
    assert findings("src/pylvs/a.py", 'log(f"there are {len(a)} services")\n') == [
        "1:15: plural: '{} services' is wrong for one"
    ]
    assert findings("src/pylvs/a.py", 'log("found %d servers here")\n') == [
        "1:11: plural: '%d servers' is wrong for one"
    ]
    assert findings("src/pylvs/a.py", 'log("table with 1 services")\n') == [
        "1:16: plural: '1 services' is wrong for one"
    ]
    assert findings("src/pylvs/a.py", 'log(f"{count} times master")\n') == ["1:5: plural: '{} times' is wrong for one"]
    assert findings("src/pylvs/a.py", 'log(f"there may be 1 to {a} services")\n') == []
    assert findings("src/pylvs/a.py", 'log(f"number of services: {len(a)}")\n') == []
    assert findings("src/pylvs/a.py", 'log(f"after all {a:,} services")\n') == []  # thousands


# --- loops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "for each in a:\n    b(each)\n    c(each)",
        "for at, (each, _) in a:\n    if each:\n        b(each)",
        "async def f():\n    async for each in a:\n        b(\n            each\n        )",
        "def f(a, each): ...",
        "async def f(*, each=1): ...",
        "each = 1",
        "a, each = b",
        "each: int = 1",
    ],
)
def test_each_is_no_name_for_longer_than_a_line(text: str) -> None:
    for path in "src/pylvs/a.py", "tests/a.py", "bench/a.py", "tools/a.py":
        (found,) = findings(path, text + "\n")
        assert found.split(" ", 1)[1].startswith("each: write what the thing is")


@pytest.mark.parametrize(
    "text",
    [
        "for each in a:\n    b(each)",
        "[each for each in a]",
        "[\n    each\n    for each in a\n    if each\n]",
        "sorted(a, key=lambda each: each.b)",
        "[each for b in a if (each := c(b))]",
        "for each in a:\n    b[each] = 1",
        "for server in a:\n    each.b = 1\n    f(each=server)",
    ],
)
def test_each_is_a_name_within_a_line_or_an_expression(text: str) -> None:
    assert findings("src/pylvs/a.py", text + "\n") == []


# --- the table of words --------------------------------------------------------------------------------------------


def test_the_table_of_words_is_read() -> None:
    row, next_section = "| a, b c | names and text in `bpf/` | d |", "## Next\n| e | names | f |"
    page = f"{HEADING}\n| not | where | instead |\n|---|---|---|\n{row}\n\n{next_section}\n"
    bans = parse_bans(page)
    assert [(ban.word, ban.below, ban.instead) for ban in bans] == [("a", ("bpf/",), "d"), ("b c", ("bpf/",), "d")]
    assert bans[0].kinds == {"file", "name", "test", "docstring", "comment", "message", "page", "code"}
    assert list(Rules(bans).check(next(pieces(Path("bpf/a.h"), ""))))
    for wrong in "", page.replace("names", "nouns"):
        with pytest.raises(ValueError, match=GLOSSARY.name):
            parse_bans(wrong)


def test_folders_that_rows_name_are_there() -> None:
    for ban in parse_bans(GLOSSARY.read_text()):
        assert all((GLOSSARY.parents[1] / folder).is_dir() for folder in ban.below), ban


# --- the command ---------------------------------------------------------------------------------------------------


def test_recordings_and_hidden_folders_are_not_read() -> None:
    paths = [str(path.relative_to(GLOSSARY.parents[1])) for path in files()]
    assert {
        "dev",
        "README.md",
        "docs/glossary.md",
        "bpf/director.bpf.c",
        "man/pylvs.8",
        "tests/unit/test_language.py",
    } <= set(paths)
    assert not [path for path in paths if path.startswith((".", "tests/oracle/", "tests/golden/"))]


def test_the_command_prints_findings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["tests/language"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("tests.language.__main__.find", lambda paths, rule: [Finding("a.py", 1, 2, "words", "'ear'")])
    assert main(["a.py"]) == 1
    assert capsys.readouterr().out == "a.py:1:2: words: 'ear'\n"
