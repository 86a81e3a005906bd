"""keepalived's own samples, and short texts that show how the real `keepalived -t` reads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from random import Random

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read, read_text
from tests.interop.conditional_texts import Texts
from tests.interop.keepalived import PROGRAM, why_not
from tests.unit.config.trees import printed, shapes

SAMPLES = sorted(Path("/usr/share/doc/keepalived/samples").glob("keepalived.conf*"))

# Unknown words at the top level of a file. keepalived reports each that it reads. Comments, quotes, conditions,
# variables and sequences hide words.
TEXTS = {
    "comments": "a1 x\na2#b\n#a3\na4!a5\n!a6\n a7 # a8\n",
    "variables": "$A=a1\n$A\nb$A c\n${A}c\n$A=\n$A a2\nd${A}e\n$1A=f\n$A$A a3\n",
    "terminators": "$A=1\na$A.\na$A,\na$A)\na$A/\na$A:\nb$A$A\nb$A@\n",
    "recursion": "$B=x${S}\n$S=1\n${B}y\n$S=2\n${B}y\n$D=$E=5\n$D\nk$E z\n",
    "lines": "$D= \\\na1 x \\\n# no \\\na2 # no\na3\n$D\nz$D\n@me $E=\\\na4 \\\na5\n$E\n",
    "commented lines": "$D= \\  # all\na1 \\ # x\na2 x \\! y\na3\n$D\n$E= # \\\na4 # \\\na5 # z\n$E\n",
    "nesting": "$R= \\\nr${N} \\\ns${N}\n$V= \\\n$N=1 \\\n$R \\\n$N=2 \\\n$R\n$V\n",
    "conditions": "@me a1\n@no a2\n@^me a3\n@^no a4\n@\tme a5\n@^ a8\n",
    "sequences": "~SEQ(N,0,3) a${N}\n~SEQ(M,3,1) b$M\n~SEQ(K,-2) c$K\n~SEQ(I,1,2,6) d$I\n~SEQx(H,0x90,0x10,0xb0) e$H\n",
    "sequences of sequences": "~SEQ(N,1,2) ~SEQ(M,3,4) a${N}_$M x\n~SEQ(L,1,2) @me l$L\n@no ~SEQ(J,1,2) k$J\n",
    "missing values": "~LST({P,Q},{1},{2,3},4) a${P} b${Q} c\n~LST({P,Q},{},{5}) d${P}_${Q}\n",
    "lists": "~LST(N,1,b,c) a${N}\n~LST({P,Q},{1,2},{3,4}) b${P}_${Q}\n~LST(Z, x , y) ~SEQ(Y,1,2) c${Z}${Y}\n",
    "predefined": "a${_INSTANCE}\nb${_RANDOM 7 7}\nc$_INSTANCE\n",
}

needs_keepalived = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.mark.skipif(not SAMPLES, reason="keepalived's samples are not installed")
def test_every_sample_is_read_and_its_print_is_the_same() -> None:
    assert len(SAMPLES) >= 25
    for path in SAMPLES:
        document, findings = read(str(path))
        assert [str(finding) for finding in findings] == []
        assert document.nodes
        again, findings = read_text(printed(document))
        assert not findings
        assert shapes(again) == shapes(document)
        assert printed(again) == printed(document)


def printed_by_keepalived(path: Path) -> str:
    """Return what `keepalived -t` prints about a file, on the machine "me"; "" if a fault of its own ends it."""
    done = subprocess.run(
        [PROGRAM, "-t", "-l", "-n", "-i", "me", "-f", str(path)],
        capture_output=True,
        text=True,
        start_new_session=True,  # it may send signals to its parent
        timeout=120,
    )
    return "" if done.returncode < 0 else done.stdout + done.stderr


def unknown_words(text: str, path: Path) -> list[str]:
    """Return the words that the real keepalived reports as unknown, in their order."""
    path.write_text(text)
    return re.findall(r"^\(Line \d+\) Unknown keyword '(.*)'$", printed_by_keepalived(path), re.MULTILINE)


@needs_keepalived
@pytest.mark.parametrize("kind", TEXTS)
def test_keepalived_reads_the_same_words(kind: str, tmp_path: Path) -> None:
    expected = unknown_words(TEXTS[kind], tmp_path / "keepalived.conf")
    document, _ = read_text(TEXTS[kind], str(tmp_path / "keepalived.conf"), ids=["me"])
    assert [node.keyword for node in document.nodes] == expected
    assert expected


BRACES = re.compile(r"missing '}'s|Extra '}' found|Unknown keyword '}'|never closed|closes nothing|without a keyword")
UNKNOWN = re.compile(r"Unknown keyword '([^'}]+)'|error: (\S+) is not known|warning: (\S+) is not known")


def read_alike(text: str, path: Path) -> bool:
    """Return whether keepalived can read a text; assert that pylvs finds the same unknown words and wrong braces."""
    path.write_text(text, newline="")
    theirs = printed_by_keepalived(path)
    if not theirs or "Unexpected '{'" in theirs:  # pylvs skips an unknown block, keepalived reads into it
        return False
    document, unread = read(str(path), ["me"])
    ours = "\n".join(map(str, (*unread, *compile_document(document).findings)))
    assert bool(BRACES.search(ours)) == bool(BRACES.search(theirs)), f"{text}\n{ours}\n{theirs}"
    # keepalived splits some sequences that are no sequences
    unknown = [
        {word for found in UNKNOWN.findall(each) for word in found if "(" not in word} for each in (ours, theirs)
    ]
    if not BRACES.search(theirs):
        assert {word for word in unknown[0] if ")" not in word} == {word for word in unknown[1] if ")" not in word}, (
            text
        )
    return True


@needs_keepalived
def test_keepalived_reads_random_conditions_variables_and_sequences_alike(tmp_path: Path) -> None:
    texts = Texts(Random(1))
    read_by_both = [read_alike(texts.text(), tmp_path / "keepalived.conf") for _ in range(120)]
    assert sum(read_by_both) > 60
