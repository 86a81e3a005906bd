"""No finding and no listing shows the value of a secret keyword, however it is written."""

from __future__ import annotations

import json

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.lexer import SECRET_KEYWORDS
from pylvs.config.language.parser import read_text
from pylvs.config.schema.global_defs import ROOT
from pylvs.config.schema.grammar import Keyword
from pylvs.config.show import Report, as_json, shown

SECRET = "S3cr3t"
AROUND = {
    "authentication": (
        "vrrp_instance V {{\ninterface eth0\nvirtual_router_id 7\n"
        "authentication {{\nauth_type PASS\n{}\n}}\nvirtual_ipaddress {{\n10.0.0.9\n}}\n}}\n"
    ),
    "SSL": "SSL {{\n{}\n}}\n",
}
WRITTEN = [
    f"{{keyword}} {SECRET}",
    f"{{keyword}} {SECRET}A {SECRET}B",
    f'{{keyword}} "{SECRET}A {SECRET}B',
    f"{{keyword}} '{SECRET}A {SECRET}B'",
    f'{{keyword}} "{SECRET}A" {SECRET}B {SECRET}C',
    f"{{keyword}} {SECRET}A#{SECRET}B",
    f"{{keyword}} {SECRET}A\\ {SECRET}B \\",
    f"{{keyword}} a${{{{{SECRET}}}}}b",
    f"{{keyword}} ${SECRET}",
    f"{{keyword}} {{{{ {SECRET} }}}}",
    f"{{keyword}} {SECRET} {{{{\n{SECRET}\n}}}}",
    f"{{keyword}}\n{SECRET}",
    f"{{keyword}} = {SECRET}",
    f"{{keyword}}: {SECRET}",
    f"{{typo}} {SECRET}A {SECRET}B",
    f"{{keyword}} {SECRET * 20}",
    f"{{keyword}} {SECRET}\u200b{SECRET} \u201c{SECRET}\u201d",
    f"$V={SECRET}A {SECRET}B\n{{keyword}} $V",
    f"$V={SECRET}A {SECRET}B\n{{keyword}} x${{{{V}}}} ${{{{W}}}}",
    f"{{keyword}} {SECRET}A\n{{keyword}} {SECRET}B",
]
KEYWORDS = [
    (block.name, entry.name)
    for block in ROOT.blocks()
    for entry in block.entries
    if isinstance(entry, Keyword) and entry.is_secret
]


def test_each_secret_keyword_is_in_the_schema() -> None:
    assert {name for _, name in KEYWORDS} == SECRET_KEYWORDS


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize(("block", "keyword"), KEYWORDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_a_secret_is_in_no_finding_and_no_listing(written: str, block: str, keyword: str, pictures: bool) -> None:
    text = AROUND[block].format(written.format(keyword=keyword, typo=keyword[:-1]))
    assert SECRET in text
    document, unread = read_text(text, "x")
    compiled = compile_document(document)
    findings = Report(document, pictures=pictures).text((*unread, *compiled.findings))
    encoded = json.dumps([each.encoded() for each in (*unread, *compiled.findings)])
    for page in (findings, encoded, shown(compiled.effective), json.dumps(as_json(compiled.effective))):
        assert SECRET not in page
