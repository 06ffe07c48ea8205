"""The envelope: one JWE in compact form (RFC 7516; `dir`, `A256GCM`) that seals a whole keyset.

`parse_envelope` is acceptance steps 1 to 4, `open_envelope` is steps 7 and 8; `seal` is their inverse. The
parser is stricter than any JOSE library: exact members, one spelling a value, everything bounded first.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from keydist.core import crypto
from keydist.core.compact import compact_jwe, parse_compact_jwe
from keydist.core.keyset import DIGEST_BYTES
from keydist.core.strict import (
    ascii_text,
    b64url_encode,
    exact_members,
    fixed,
    integer,
    is_hex,
    parse_object,
    serialise,
)
from keydist.core.token import BootstrapToken
from keydist.errors import CommitmentError, MalformedError, UnsupportedError

KEYSET_TYPE: Final = "keydist-keyset+jwe"
VERSION: Final = 1
MAX_ENVELOPE: Final = 48 * 1024
MAX_HEADER: Final = 1024
"""The largest protected header, in characters of base64url."""
MAX_CLUSTER: Final = 64
MAX_LOCATION: Final = 256
RND_BYTES: Final = 32

_MEMBERS: Final = frozenset({"alg", "enc", "typ", "v", "kid", "cid", "loc", "lin", "ep", "iat", "rnd", "kc"})
_KINDS: Final[tuple[tuple[str, str | int], ...]] = (
    ("v", VERSION),
    ("typ", KEYSET_TYPE),
    ("alg", "dir"),
    ("enc", "A256GCM"),
)
_LINEAGE_HEX: Final = 32
_ID_HEX: Final = 10


class Header(NamedTuple):
    """The protected header; `issued` in unix seconds, `rnd` and `commitment` 32 bytes each."""

    token_id: str
    cluster: str
    location: str
    lineage: str
    epoch: int
    issued: int
    rnd: bytes
    commitment: bytes

    def serialise(self, typ: str) -> bytes:
        """Return the header's JSON."""
        return serialise(
            {
                "alg": "dir",
                "enc": "A256GCM",
                "typ": typ,
                "v": VERSION,
                "kid": self.token_id,
                "cid": self.cluster,
                "loc": self.location,
                "lin": self.lineage,
                "ep": self.epoch,
                "iat": self.issued,
                "rnd": b64url_encode(self.rnd),
                "kc": b64url_encode(self.commitment),
            }
        )


class Envelope(NamedTuple):
    """A well-formed envelope, not yet authenticated."""

    header: Header
    aad: bytes
    iv: bytes
    sealed: bytes


def digest(envelope: bytes) -> bytes:
    """Return the first 16 bytes of an envelope's SHA-256: how ancestry and records name it."""
    return hashlib.sha256(envelope).digest()[:DIGEST_BYTES]


def parse_envelope(raw: bytes, *, typ: str = KEYSET_TYPE) -> Envelope:
    """Parse an envelope without opening it. Raises `MalformedError`, or `UnsupportedError` for another version."""
    if not 0 < len(raw) <= MAX_ENVELOPE:
        raise MalformedError(
            "the envelope has the wrong size", expected=f"1 to {MAX_ENVELOPE} bytes", found=str(len(raw))
        )
    parts = parse_compact_jwe(raw, "the envelope", max_header=MAX_HEADER)
    return Envelope(header=_parse_header(parts.header, typ), aad=parts.aad, iv=parts.iv, sealed=parts.sealed)


def _parse_header(raw: bytes, typ: str) -> Header:
    value = parse_object(raw, "the envelope's header")
    # Another version or type may have other members: what it is comes before what it holds (ADR 2).
    for name, known in _KINDS:
        _check_kind(value, name, typ if name == "typ" else known)
    exact_members(value, _MEMBERS, frozenset(), "the envelope's header")
    if not is_hex(value["kid"], _ID_HEX) or not is_hex(value["lin"], _LINEAGE_HEX):
        raise MalformedError("the envelope's kid or lin is not well formed", expected="10 and 32 lower-case hex digits")
    return Header(
        token_id=value["kid"],
        cluster=ascii_text(value["cid"], "cid", most=MAX_CLUSTER),
        location=ascii_text(value["loc"], "loc", most=MAX_LOCATION),
        lineage=value["lin"],
        epoch=integer(value["ep"], "ep", least=1),
        issued=integer(value["iat"], "iat"),
        rnd=fixed(value["rnd"], RND_BYTES, "rnd"),
        commitment=fixed(value["kc"], crypto.KEY_BYTES, "kc"),
    )


def _check_kind(header: dict[str, object], name: str, known: str | int) -> None:
    found = header.get(name, known)
    if type(found) is not type(known):
        raise MalformedError(f"the envelope's {name} has the wrong type", expected=f"{name} {known}")
    if found != known:
        raise UnsupportedError(
            f"the envelope's {name} is not one that this release knows",
            expected=f"{name} {known}",
            found=f"{name} {str(found)[:64]!a}",
            fix="run the release of keydist that wrote it, or a newer one, on this node",
        )


def open_envelope(envelope: Envelope, token: BootstrapToken) -> bytes:
    """Return the plaintext, after checking the commitment in constant time.

    The place is taken from the header: compare it with local configuration first. Raises `CommitmentError`,
    `TamperedError`.
    """
    header = envelope.header
    keys = crypto.derive(
        secret=token.secret,
        cluster=header.cluster,
        location=header.location,
        token_id=header.token_id,
        rnd=header.rnd,
    )
    if not crypto.same(keys.commitment, header.commitment):
        raise CommitmentError(
            "the envelope does not commit to this token's key",
            expected=f"the secret of token {header.token_id}",
            found="another secret under the same id, or an altered header",
            fix="compare the token file with another node's: keydist token inspect",
        )
    return crypto.decrypt(keys.content, envelope.iv, envelope.sealed, envelope.aad)


class Place(NamedTuple):
    """Where an envelope belongs: the cluster's name and `KV/<bucket>/<entry>`."""

    cluster: str
    location: str


def seal(
    plaintext: bytes,
    *,
    token: BootstrapToken,
    place: Place,
    lineage: str,
    epoch: int,
    issued: int,
    rnd: bytes,
    iv: bytes,
    typ: str = KEYSET_TYPE,
) -> bytes:
    """Return a new envelope; `rnd` (32 bytes) and `iv` (12 bytes) must be fresh random bytes for every seal.

    Raises `MalformedError` where the envelope would be larger than any node accepts: it must not reach the store.
    """
    keys = crypto.derive(
        secret=token.secret, cluster=place.cluster, location=place.location, token_id=token.token_id, rnd=rnd
    )
    header = Header(
        token_id=token.token_id,
        cluster=place.cluster,
        location=place.location,
        lineage=lineage,
        epoch=epoch,
        issued=issued,
        rnd=rnd,
        commitment=keys.commitment,
    )
    aad = b64url_encode(header.serialise(typ)).encode("ascii")
    return _compact(aad, iv, crypto.encrypt(keys.content, iv, plaintext, aad))


def _compact(aad: bytes, iv: bytes, sealed: bytes) -> bytes:
    """Return the five segments as one. Raises `MalformedError`, see `seal`."""
    envelope = compact_jwe(aad, iv, sealed)
    if len(envelope) > MAX_ENVELOPE:
        raise MalformedError(
            "the keyset is too large to be sealed",
            expected=f"an envelope of at most {MAX_ENVELOPE} bytes",
            found=str(len(envelope)),
            fix="wait until retired keys and revocations leave the keyset, or use smaller keys",
        )
    return envelope
