"""Helpers for tests of compiled services: a text, its configuration, and the texts of its findings."""

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

# A common tutorial, with a keyword that has no effect.
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


def compiled(text: str) -> CompiledDocument:
    """Compile a well-formed text."""
    document, findings = read_text(dedent(text), "test.conf")
    assert findings == ()
    return compile_document(document)


def messages(document: CompiledDocument) -> list[str]:
    """Return the findings as "LINE: severity: text; advice"."""
    return [
        f"{each.location.line}: {each.severity.value}: {each.text}; {each.advice}".rstrip("; ")
        for each in document.findings
    ]


def single(document: CompiledDocument) -> WantedService:
    """Return the single service."""
    (service,) = document.configuration.services
    return service


def with_service(service: str = "", server: str = "") -> CompiledDocument:
    """Compile one service with these lines in it (from line 5 on) and in its real server."""
    return compiled(SERVICE.format(service=service, server=server))


def with_checker(checker: str) -> CompiledDocument:
    """Compile a service with this checker in its real server, from line 7 on."""
    return with_service(server=checker)
