"""Certificates for trying out: a CA of the servers, a CA of the clients, and what they sign. Not for production.

Two CAs: the servers trust each other by the first one, and a client must not be able to join them as a server.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keydist.errors import ConfigError

_DAYS: Final = 3650
_LEFT_DAYS: Final = 7
_BEFORE: Final = dt.timedelta(hours=1)  # for clocks that are behind this one


class Pair(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "Pair(...)"


def authority(name: str, *, key: bytes | None, certificate: bytes | None, now: int) -> Pair:
    """Return a CA: what is there where it fits and still holds, else a new one. `now` in unix seconds."""
    held = _key(key, name)
    pem = _pem(held)
    if certificate is not None and _holds(certificate, held, issuer=held, sans=None, now=now):
        return Pair(certificate, pem)
    subject = _name(name)
    builder = (
        _begun(subject, subject, held, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Pair(builder.sign(held, SHA256()).public_bytes(Encoding.PEM), pem)


def issue(
    by: Pair, name: str, *, hosts: tuple[str, ...], key: bytes | None, certificate: bytes | None, now: int
) -> Pair:
    """Return a certificate that a CA signed: for a server with these names and addresses, without any for a client.

    What is there is kept where it fits and still holds. A server's serves as a client's too, towards other servers.
    """
    held, issuer = _key(key, name), _key(by.key, "the CA")
    sans = [_san(host) for host in hosts]
    if certificate is not None and _holds(certificate, held, issuer=issuer, sans=sans, now=now):
        return Pair(certificate, _pem(held))
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    builder = (
        _begun(_name(name), x509.load_pem_x509_certificate(by.certificate).subject, held, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return Pair(builder.sign(issuer, SHA256()).public_bytes(Encoding.PEM), _pem(held))


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: int) -> x509.CertificateBuilder:
    start = dt.datetime.fromtimestamp(now, dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BEFORE)
        .not_valid_after(start + dt.timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _holds(
    pem: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: ec.EllipticCurvePrivateKey,
    sans: list[x509.GeneralName] | None,
    now: int,
) -> bool:
    """Tell whether a certificate is one of this key, by this issuer, for these names, for some days more."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        issuer.public_key().verify(found.signature, found.tbs_certificate_bytes, ec.ECDSA(SHA256()))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if sans else ()
    except (ValueError, InvalidSignature, x509.InvalidVersion, x509.ExtensionNotFound):
        return False
    left = found.not_valid_after_utc - dt.datetime.fromtimestamp(now, dt.UTC)
    return _public(found.public_key()) == _public(key.public_key()) and (  # type: ignore[arg-type] # any key has bytes
        list(names) == (sans or []) and left > dt.timedelta(days=_LEFT_DAYS)
    )


def _public(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key(pem: bytes | None, name: str) -> ec.EllipticCurvePrivateKey:
    if pem is None:
        return ec.generate_private_key(ec.SECP256R1())
    try:
        found = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"the private key of {name} cannot be used",
            expected="an EC key as this command writes it",
            found="something else",
            fix="remove the directory, and let it be written anew",
        )
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
