"""What tests of the configuration's meaning share: a text in, the configuration and the findings' texts out."""

from __future__ import annotations

from textwrap import dedent

from pylvs.config.compile.document import CompiledDocument, compile_document
from pylvs.config.language.parser import read_text
from pylvs.model.wanted import WantedService

SERVICE = """\
virtual_server 192.0.2.1 80 {{
    protocol TCP
    lvs_sched wlc
    lvs_method NAT
    {service}
    real_server 10.0.0.2 80 {{
        {server}
    }}
}}
"""

# As hundreds of tutorials write it, with a word that does nothing.
TUTORIAL = """\
virtual_server 192.0.2.100 80 {
    delay_loop 10
    lb_algo wlc
    lb_kind DR
    persistence_timeout 60
    protocol TCP
    real_server 192.0.2.129 80 {
        weight 100
        TCP_CHECK {
            connect_timeout 10
            nb_get_retry 3
            delay_before_retry 3
            connect_port 80
        }
    }
    real_server 192.0.2.130 80 {
        weight 100
        TCP_CHECK {
            connect_timeout 10
            nb_get_retry 3
            delay_before_retry 3
            connect_port 80
        }
    }
}
"""


def meaning(text: str) -> CompiledDocument:
    """What a text means; it must be well-formed."""
    document, findings = read_text(dedent(text), "test.conf")
    assert findings == ()
    return compile_document(document)


def said(understanding: CompiledDocument) -> list[str]:
    """The findings as "LINE: severity: text; advice"."""
    return [
        f"{each.location.line}: {each.severity.value}: {each.text}; {each.advice}".rstrip("; ")
        for each in understanding.findings
    ]


def only(understanding: CompiledDocument) -> WantedService:
    """The one service."""
    (service,) = understanding.configuration.services
    return service


def one(service: str = "", server: str = "") -> CompiledDocument:
    """The meaning of one service with these lines in it (from line 5 on) and in its real server."""
    return meaning(SERVICE.format(service=service, server=server))


def checked(checker: str) -> CompiledDocument:
    """The meaning of a service whose real server has this checker, from line 7 on."""
    return one(server=checker)
