"""TLS settings of a client: its certificate, the CAs that it trusts, and whether it verifies servers."""

from __future__ import annotations

import ssl

from pylvs.model.checks import TlsClient
from pylvs.model.errors import Unsupported

_LEGACY_SERVER_CONNECT = 0x4  # SSL_OP_LEGACY_SERVER_CONNECT, in Python since 3.12

_LONGEST = 1 << 20  # bytes of a file


def make(client: TlsClient, verify: bool) -> ssl.SSLContext:
    """Return the settings. Raises Unsupported naming the keyword whose file cannot be used.

    Without `verify` every server is accepted, because a check proves function, not identity. All versions that this
    host's OpenSSL supports are allowed, keys of any length, and servers without secure renegotiation.
    """
    if verify:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.options |= _LEGACY_SERVER_CONNECT
    if client.ca:
        if verify:  # these CAs only, not this machine's
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(client.ca)
        except (OSError, ValueError) as error:
            raise Unsupported(f"ca {client.ca}: {_reason(error)}") from None
    if client.certificate:
        try:  # a password, even an empty one, keeps OpenSSL from asking on the terminal
            context.load_cert_chain(client.certificate, client.key or None, client.password)
        except (OSError, ValueError) as error:
            raise Unsupported(_which(client, error)) from None
    return context


def _which(client: TlsClient, error: Exception) -> str:
    """Return the keyword, its file, and why it cannot be used."""
    key = client.key or client.certificate
    for keyword, path, mark, what in (
        ("certificate", client.certificate, b"CERTIFICATE-----", "certificate"),
        ("key", key, b"PRIVATE KEY-----", "private key"),
    ):
        try:
            with open(path, "rb") as file:
                content = file.read(_LONGEST)
        except OSError as unread:
            return f"{keyword} {path}: {unread.strerror}"
        if mark not in content:
            return f"{keyword} {path}: has no {what} in PEM format"
    reason = _reason(error)
    if reason == "key values mismatch":
        return f"key {key}: is not the key of the certificate {client.certificate}"
    if b"ENCRYPTED" in content:
        return f"key {key}: cannot be decrypted; its password in the SSL block is wrong or missing"
    return f"key {key}: {reason}"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


class TlsSettings:
    """The settings for all checks with the same files, which are read at the first use."""

    def __init__(self, client: TlsClient, verify: bool) -> None:
        self._client, self._verify = client, verify
        self._made: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings. Raises Unsupported."""
        if self._made is None:
            self._made = make(self._client, self._verify)
        return self._made


_SHARED: dict[tuple[TlsClient, bool], TlsSettings] = {}


def settings(client: TlsClient, verify: bool) -> TlsSettings:
    """Return the settings that all checks with the same files share: making them takes milliseconds."""
    return _SHARED.setdefault((client, verify), TlsSettings(client, verify))
