"""Variables, conditions and sequences: the text that they produce, and findings."""

from __future__ import annotations

import pytest

from pylvs.config.language.parser import read, read_text
from pylvs.config.language.tree import Location
from tests.unit.calls import calls_of
from tests.unit.config.trees import findings_of, outline, parsed_outline


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A=1\na $A ${A}b x$A,$A)", ["a|1|1b|x1,1)"]),
        ("$A=1\na $A.b $A/ $A: pa$A$A", ["a|$A.b|$A/|$A:|pa$A1"]),  # without braces a blank, a comma or ) must follow
        ("  $A=  b c  # comment\nx $A y", ["x|b|c|y"]),
        ("$A=\nx $A y${A}z", ["x|yz"]),
        ("$A=b {\n$A\nc }", ["b {", "  c", "}"]),
        ('$A=v\na "$A" "x${A}"', ["a|$A|xv"]),
        ("$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.1\n$SUB=10\n${BASE}.1", ["10.2.0.1", "10.2.10.1"]),
        ("$A=$B=5\n$A\nx $B", ["x|5"]),
        ('a ${_HASH}b ${_BANG} "${_HASH}"', ["a|#b|!|#"]),
        ("a ${_RANDOM 7 7}", ["a|7"]),
    ],
)
def test_a_variable_is_replaced_where_it_is_used(text: str, expected: list[str]) -> None:
    assert outline(read_text(text)[0]) == expected


def test_a_definition_may_have_several_lines() -> None:
    text = (
        "$I= \\\nvs ${N} { \\\n  weight ${N} \\\n  # a comment \\\n  @x only \\\n  @y never \\\n}\n"
        "$N=1\n$I\n$N=2\na { $I\n}"
    )
    assert parsed_outline(text, "x") == [
        *("vs|1 {", "  weight|1", "  only", "}"),
        *("a {", "  vs|2 {", "    weight|2", "    only", "  }", "}"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "$V= \\  # all\n10.0.0.1/24 \\  # first\n10.0.0.2/24 \\ ! second\n10.0.0.3/24 # third\nvips { $V\n}",
        "$V= # all \\\n10.0.0.1/24 # first \\\n10.0.0.2/24 \\\n# none \\\n10.0.0.3/24\nvips { $V\n}",
    ],
)
def test_a_comment_in_a_definition_does_not_end_it(text: str) -> None:
    document, findings = read_text(text)
    assert findings == ()
    assert outline(document) == ["vips {", "  10.0.0.1/24", "  10.0.0.2/24", "  10.0.0.3/24", "}"]


def test_an_escaped_hash_behind_a_backslash_ends_a_definition() -> None:
    assert parsed_outline("$V= \\\na \\#b\nc\n$V", "x") == ["c", "a|#b"]


def test_definitions_of_several_lines_hold_each_other() -> None:
    text = "$RS= \\\nrs ${N} { \\\n}\n$VS= \\\nvs { \\\n  $N=1 \\\n  $RS \\\n  $N=2 \\\n  $RS # both\n}\n$VS\n}"
    assert outline(read_text(text)[0])[:6] == ["vs {", "  rs|1 {", "  }", "  rs|2 {", "  }", "}"]


def test_a_words_location_is_where_it_or_its_variable_is_written() -> None:
    document, _ = read_text("$A=long value\n$L= \\\n  weight ${A} \\\n  b\nvs x${A}y\n$L\n")
    assert [(word.text, word.location) for node in document.nodes for word in node.words] == [
        ("vs", Location("-", 5, 1, 2)),
        ("xlong", Location("-", 5, 4, 5)),
        ("valuey", Location("-", 5, 5, 5)),
        ("weight", Location("-", 3, 3, 6)),
        ("long", Location("-", 3, 10, 4)),
        ("value", Location("-", 3, 10, 4)),
        ("b", Location("-", 4, 3, 1)),
    ]


def test_what_keepalived_defines(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLVS_TEST", "from outside")
    document, findings = read_text('a ${_PWD}\nb ${_INSTANCE}\nc "${_ENV PYLVS_TEST}"', "/nowhere/x.conf", ids=["me"])
    assert not findings
    assert outline(document) == ["a|/nowhere", "b|me", "c|from outside"]
    assert read_text("random_seed 5\na ${_RANDOM}")[0].nodes == read_text("random_seed 5\na ${_RANDOM}")[0].nodes
    assert 3 <= int(read_text("a ${_RANDOM 3 5}")[0].nodes[0].arguments[0].text) <= 5


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            "$PRIORITY=3\na ${PRIORTY}",
            "-:2:3: error: no variable 'PRIORTY' is defined before this line; did you mean 'PRIORITY'?",
        ),
        ("a ${X}b", "-:1:3: error: no variable 'X' is defined before this line; define it: $X=..."),
        ("$A=1\na $X", "-:2:3: error: no variable 'X' is defined before this line; define it: $X=..."),
        (
            "$A= \\\nb\nc $A d",
            "-:3:3: error: 'A' has several lines and can only end a line; write what follows on the next line",
        ),
        (
            "$A= \\\nb \\\n\nc",
            "-:3:1: warning: the definition of 'A' ends at this blank line; remove it, or the '\\' before",
        ),
        ("$A=x${A}\na $A", "-:2:3: error: '$A' stands for itself, over 64 values deep; define it without itself"),
        ("$A= \\\nb \\\n$B\n$B= \\\n$A\n$A", "-:5:1: error: the lines of 'A' hold 'A'; define it without itself"),
        (
            "~SEQ(A,1,-1,5) a",
            "-:1:1: error: no steps of -1 lead from 1 to 5; the line needs ~SEQ(...)",
        ),
        ("~SEQ(A,1,x) a", "-:1:1: error: 'x' is no whole number; the line needs ~SEQ(...)"),
        ("~SEQ(A,1,2 a", "-:1:1: error: ~SEQ needs a variable and one to three numbers; the line needs ~SEQ(...)"),
        (
            "~LST({A,B},{1,2},{3,4,5}) a",
            "-:1:1: error: ~LST has 2 variables, but the value {3,4,5}; the line needs ~LST(...)",
        ),
        (
            "a { @no b }\n}",
            "-:1:11: warning: @no, which does not hold, excludes this brace too; write it on a line of its own",
        ),
    ],
)
def test_what_makes_no_text_is_named(text: str, finding: str) -> None:
    assert findings_of(text) == [finding]


def test_a_dollar_sign_in_a_password_is_one() -> None:
    assert parsed_outline("auth_pass $ecret") == ["auth_pass|$ecret"]


@pytest.mark.parametrize(
    ("ids", "expected"), [(["a"], ["x", "z|1"]), (["b"], ["y {", "  q", "}", "z|2"]), (["c"], ["y {", "  q", "}"])]
)
def test_conditions(ids: list[str], expected: list[str]) -> None:
    text = "@a x\n@^a y { q }\n@a $N=1\n@b $N=2\n@c $M= \\\nnot \\\nthis\n$IF=@^c\n$IF z $N\n"
    assert outline(read_text(text, ids=ids)[0]) == expected


def test_a_condition_excludes_the_rest_of_its_line_with_all_braces() -> None:
    text = "vs {\n@a rs 1 {\n@a   weight 3\n@a }\nrs 2 { @a w\n@^a v }\n@a }\n@a q 1 }\n@^a q 2 }\nend\n"
    assert parsed_outline(text, "b") == ["vs {", "  rs|2 {", "    v", "  }", "  q|2", "}", "end"]
    assert parsed_outline(text, "a")[:6] == ["vs {", "  rs|1 {", "    weight|3", "  }", "  rs|2 {", "    w"]


def test_a_condition_may_open_and_close_blocks_on_lines_of_other_conditions() -> None:
    text = "vs {\n@a rs 1 {\n@b rs 2 {\n  weight 1\n@b   # none\n@^c }\n}\n"
    assert parsed_outline(text, "a") == ["vs {", "  rs|1 {", "    weight|1", "  }", "}"]
    assert parsed_outline(text, "b") == ["vs {", "  rs|2 {", "    weight|1", "  }", "}"]


def test_one_line_has_one_condition() -> None:
    document, _ = read_text("@a @b x\n@^a @a y\n", ids=["a"])
    assert outline(document) == ["@b|x"]


def test_definitions_of_several_lines_are_left_out_as_a_whole() -> None:
    document, findings = read_text("@a $M= \\\nnot { \\\nthis\nb", ids=["x"])
    assert outline(document) == ["b"]
    assert [str(finding) for finding in findings] == [
        (
            "-:1:4: warning: keepalived leaves out only the first line of this definition when @a does not hold; "
            "begin each of its lines with @a"
        )
    ]
    assert parsed_outline("@a $M= \\\n@a not { \\\n@a this\nb", "x") == ["b"]


def test_a_sequence_in_a_variable_repeats_all_lines_of_the_next_variable() -> None:
    text = "$RS= \\\nrs $N { \\\n  weight 3 \\\n}\n$A=~SEQ(N,11,12)\n$L=~LST(N,a)\nvs {\n$A $RS\n  $L $RS\n}\n"
    block = ["    weight|3", "  }"]
    assert parsed_outline(text) == ["vs {", "  rs|11 {", *block, "  rs|12 {", *block, "  rs|a {", *block, "}"]


def test_a_comment_without_a_backslash_in_a_definition_is_a_warning() -> None:
    """keepalived's first process continues the definition; those for checks and virtual routers end it."""
    document, findings = read_text("$A= \\\nx \\\n# c\ny\n$A\n")
    assert outline(document) == ["x", "y"]
    assert [str(finding) for finding in findings] == [
        (
            "-:3:1: warning: in keepalived the definition of 'A' ends at this comment; write a '\\' at its end, "
            "or remove it"
        )
    ]
    assert parsed_outline("$A= \\\nx \\\n# c \\\ny\n$A\n") == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~SEQ(N,0,3) 10.0.${N}.1", ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"]),
        ("~SEQ(N,3,1) $N", ["3", "2", "1"]),
        ("~SEQ(N,2) $N", ["1", "2"]),
        ("~SEQ(N,-2) $N", ["-1", "-2"]),
        ("~SEQ(N, 1, 2, 6) $N", ["1", "3", "5"]),
        ("~SEQx(N, 0x90, 020, 0xb0) $N", ["90", "a0", "b0"]),
        ("~SEQ(N,1,2) ~SEQ(M,3,4) $N,$M", ["1,3", "1,4", "2,3", "2,4"]),
        ("~LST(N,a, b) $N", ["a", "b"]),
        ("~LST({N, M}, {1,2},{3,4}) ~SEQ(O,5,6) ${N}.${M}.$O", ["1.2.5", "1.2.6", "3.4.5", "3.4.6"]),
        ("~LST({A,B},{1},{2,3},4) a${A} b${B}", ["a1|b", "a2|b3", "a4|b"]),
        ("$A=2\n~SEQ(N,1,$A) rs $N { weight 1 }", ["rs|1 {", "  weight|1", "}", "rs|2 {", "  weight|1", "}"]),
        ("$L= \\\nrs $N { \\\n}\n~SEQ(N,1,2) $L", ["rs|1 {", "}", "rs|2 {", "}"]),
        ("@no ~SEQ(N,1,2) $N\n~SEQ(N,1,2) @no $N\n~SEQ(N,1,2) @yes $N", ["1", "2"]),
    ],
)
def test_sequences(text: str, expected: list[str]) -> None:
    assert parsed_outline(text, "yes") == expected


def test_a_sequence_repeats_the_rest_of_its_line_with_all_braces() -> None:
    document, findings = read_text("a { b { ~SEQ(N,1,2) 10.0.0.$N }")
    assert outline(document) == ["a {", "  b {", "    10.0.0.1", "  }", "  10.0.0.2", "}"]
    assert [str(finding) for finding in findings] == [
        "-:1:31: warning: ~SEQ repeats this brace too; write it on a line of its own"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "$A=${A}${A}\n$A",
        "$A0=lol\n" + "".join(f"$A{n + 1}=${{A{n}}}${{A{n}}}\n" for n in range(40)) + "${A40}",
        "$A0= \\\nlol\n" + "".join(f"$A{n + 1}= \\\n$A{n} \\\n$A{n}\n" for n in range(40)) + "$A40",
        "~SEQ(A,1,2000000000) x$A",
        "~SEQ(A,1,1000)~SEQ(B,1,1000)~SEQ(C,1,1000) x",
        "$A=x\n" + "$A " * 100_000,
    ],
)
def test_growth_without_end_ends_with_a_finding(text: str) -> None:
    _, findings = read_text(text, max_text=50_000)
    assert any(finding.fatal and "multiply each other" in finding.advice for finding in findings)


@pytest.mark.parametrize(
    "piece",
    [
        "{}",
        "a{",
        "}",
        "$A ",
        "${",
        "\\ ",
        "script \\ ",
        "'\"",
        '"',
        "~LST(A,",
        "@no ",
        "{ @no } ",
        "\0",
        "\x1b ",
    ],
)
def test_long_lines_are_read_in_time_that_grows_with_their_length(piece: str) -> None:
    few = calls_of(lambda: read_text(f"{piece * 1_000}\n" * 3))
    many = calls_of(lambda: read_text(f"{piece * 4_000}\n" * 3))
    assert few > 0
    assert many < 6 * few  # by a square it would be sixteen times as many


def test_the_file_of_a_text_need_not_be_there() -> None:
    assert read("/nowhere/at/all.conf")[1][0].fatal
