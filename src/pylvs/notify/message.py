"""An alert as a message (RFC 5322)."""

from __future__ import annotations

from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import formatdate

from pylvs.model.wanted import Mail
from pylvs.system.logs import one_line


def message(at: float, subject: str, body: str, mail: Mail) -> bytes:
    """Return the message of this Unix time, before the doubling of dots."""
    try:
        return _written(at, subject, body, mail, EmailPolicy())
    except Exception:  # of malformed addresses: IndexError and others. As with keepalived, the mail server decides
        return _written(at, subject, body, mail, _unparsed())


def _unparsed() -> EmailPolicy[EmailMessage]:
    """Return a policy that takes addresses as any text."""
    registry = HeaderRegistry()
    for name in "from", "to":
        del registry.registry[name]  # leaves the class of headers without a syntax
    return EmailPolicy(header_factory=registry)


def _written(at: float, subject: str, body: str, mail: Mail, policy: EmailPolicy[EmailMessage]) -> bytes:
    made = EmailMessage(policy)
    made["Date"] = formatdate(at, localtime=True)
    made["From"] = one_line(mail.sender)
    made["Subject"] = one_line(subject)
    made["X-Mailer"] = "pylvs"
    made["To"] = ", ".join(map(one_line, mail.recipients))
    made.set_content(f"=> {one_line(body)} <=\n")
    return made.as_bytes(policy=policy.clone(linesep="\r\n", max_line_length=998))
