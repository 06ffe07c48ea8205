"""Until when the credentials and certificates of a node are valid; of what is in the files, only that."""

from __future__ import annotations

import base64
import json
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from keydist.adapters.nats.credentials import jwt_in, read_file
from keydist.core.doctor.times import Term
from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

_UNREADABLE: Final = (ValueError, x509.InvalidVersion)
"""What comes of bytes that are no certificate, of a date that no calendar has, of a version that no standard has."""


def term_of_creds(path: str) -> Term:
    """Return the validity of the JWT in a creds file. Raises `ConfigError` where it has none that can be read."""
    try:
        payload = jwt_in(path).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Term(_time(claims, "nbf"), _time(claims, "exp"))
    except (ValueError, IndexError, AttributeError, RecursionError):
        raise ConfigError(
            f"the NATS credentials in {path} hold no JWT that can be read",
            expected="a creds file as nsc wrote it",
            fix="copy the file again as nsc wrote it",
        ) from None


def _time(claims: dict[str, object], name: str) -> int | None:
    value = claims.get(name)
    return value if type(value) is int and value > 0 else None


def term_of_chain(path: str, setting: str) -> Term:
    """Return when all certificates of a PEM file are valid. Raises `ConfigError`."""
    terms = _terms(path, setting)
    return Term(max(one.start or 0 for one in terms), min(one.end or 0 for one in terms))


def term_of_authorities(path: str, setting: str) -> Term:
    """Return until when some certificate of a PEM file is valid: others may be old. Raises `ConfigError`."""
    terms = _terms(path, setting)
    return Term(min(one.start or 0 for one in terms), max(one.end or 0 for one in terms))


def _terms(path: str, setting: str) -> list[Term]:
    try:
        with _in_silence():
            found = [_term(one) for one in x509.load_pem_x509_certificates(read_file(path, setting).encode("ascii"))]
    except _UNREADABLE:
        found = []
    if not found:
        raise ConfigError(
            f"{setting}: {path} holds no certificate that can be read",
            expected="PEM",
            fix=f"put the file there, or correct {setting}",
        )
    return found


def term_of_der(der: bytes) -> Term | None:
    """Return the validity of a certificate that a server showed; None where it cannot be read."""
    try:
        with _in_silence():
            return _term(x509.load_der_x509_certificate(der))
    except _UNREADABLE:
        return None


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep back what cryptography would print about a certificate that is only looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def _term(certificate: x509.Certificate) -> Term:
    return Term(_unix(certificate.not_valid_before_utc), _unix(certificate.not_valid_after_utc))


def _unix(at: datetime) -> int:
    return int(at.timestamp())
