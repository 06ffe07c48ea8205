"""Who a NATS server is, and who this node is to it: greetings, addresses, creds files and certificates."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fuzz.target import Target, as_file, each
from keydist.adapters.config_schema import _parse_servers
from keydist.adapters.nats import credentials, expiry, greeting, monitoring, probe
from keydist.core.strict import b64url_encode
from keydist.errors import KeydistError
from tests.material import NOW, noise


def _greeting(raw: bytes) -> None:
    assert isinstance(greeting._members(raw), dict)
    seconds = monitoring._told("http://127.0.0.1:8222", raw).seconds
    assert seconds is None or seconds >= 0


def _user_jwt(claims: bytes) -> None:
    """Read a creds file whose JWT has any claims."""
    _creds(_CREDS.replace(_CLAIMS.encode(), b64url_encode(claims).encode()))


def _creds(raw: bytes) -> None:
    path = as_file(raw)
    credentials.user_of(creds_file=path, nkey_file=None)
    credentials.user_of(creds_file=None, nkey_file=path)
    for made in ({"creds_file": path, "nkey_file": None}, {"creds_file": None, "nkey_file": path}):
        with suppress(KeydistError):
            credentials.credential_options(**made)
    expiry.term_of_creds(path)


def _certificate(raw: bytes) -> None:
    """Read the times of a certificate as a server shows it, and of the same in a file."""
    text = base64.encodebytes(raw).decode()
    path = as_file(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode())
    seen = expiry.term_of_der(raw)
    with suppress(KeydistError):
        assert expiry.term_of_chain(path, "nats.tls.cert_file") == seen
        expiry.term_of_authorities(path, "nats.tls.ca_file")


def address(text: str) -> None:
    """Take addresses apart that a configuration may have, and those of monitoring endpoints."""
    with suppress(KeydistError):
        monitoring.check_url(text)
    for url in _parse_servers(text.split("\n")):
        host, port = greeting.address_of(url)
        assert host
        assert 0 < port < 65_536
        greeting.is_local(url)
        probe._numeric(url)


_SEED: Final = credentials.new_seed(lambda size: noise("user", size))
_TOLD: Final = json.dumps({"sub": "U", "iat": NOW, "nbf": NOW, "exp": NOW + 1}).encode()
_CLAIMS: Final = b64url_encode(_TOLD)
_CREDS: Final = f"""\
-----BEGIN NATS USER JWT-----
e30.{_CLAIMS}.c2ln
------END NATS USER JWT------
-----BEGIN USER NKEY SEED-----
{_SEED}
------END USER NKEY SEED------
""".encode()


def _certificate_until(year: int) -> bytes:
    """Return a certificate as DER, the same in every run."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "servers")])
    key = ed25519.Ed25519PrivateKey.from_private_bytes(noise("certificate", 32))
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(
        datetime(year, 1, 1, tzinfo=UTC)
    )
    return builder.sign(key, None).public_bytes(Encoding.DER)


_CERTIFICATES: Final = tuple(map(_certificate_until, (2036, 2119)))
"""Years are written in two digits up to 2049, then in four."""

TARGETS: Final[dict[str, Target]] = {
    "greeting": Target(
        _greeting,
        (
            b'INFO {"server_id":"x","tls_required":true,"tls_available":true}\r\n',
            b'{"jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}',
        ),
    ),
    "creds": Target(each(_creds, _user_jwt), (_CREDS, _TOLD), refused=(_SEED.encode(),)),
    "certificate": Target(_certificate, _CERTIFICATES),
}
