"""The key of a pair of directors: one PEM file with a certificate and its private key, the same on both.

Each director accepts exactly this certificate. So a host that has the file is the other director, and no other host
is. Names and dates in the certificate do not matter: a director without a clock must find the other one, too.
"""

from __future__ import annotations

import os
import ssl
import stat

from pylvs.model.errors import Unsupported
from pylvs.peer import MAKE

_LONGEST = 1 << 16  # characters of the file
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h)


def contexts(path: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return TLS settings for the connection to the other director, and for that from it.

    Raises Unsupported with the reason if the file cannot be used, also if others than root may read it.
    """
    make = f"make it on one director by: {MAKE.format(path=path)}, and copy it to the other"
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise Unsupported(f"peer_key_file {path}: does not exist; {make}") from None
    except OSError as error:
        raise Unsupported(f"peer_key_file {path}: {error.strerror}") from None
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Unsupported(f"peer_key_file {path}: others may read it; run chmod 600 {path}")
    made = []
    for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        if side is ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # no session is resumed
        try:
            context.load_cert_chain(path)
            context.load_verify_locations(path)
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
            text = (reason or "no certificate with its key").replace("_", " ").lower()
            raise Unsupported(f"peer_key_file {path}: {text}; {make}") from None
        made.append(context)
    return made[0], made[1]


def certificate(path: str) -> bytes:
    """Return the certificate of the file, in DER. Raises Unsupported."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(_LONGEST)
        return ssl.PEM_cert_to_DER_cert(begin + text.partition(begin)[2].partition(end)[0] + end + "\n")
    except (OSError, ValueError) as error:
        raise Unsupported(f"peer_key_file {path}: {error}") from None
