"""The documents that verifiers outside fetch: made once a keyset, with what may be said about them for now.

A JWK Set may be kept for `jwks_max_age` at most, and only where this node confirmed its epoch within the freshness:
else a key that already signs may be missing in it. What is kept is shortened at random, so that a fleet of verifiers
does not come back at once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.jwk import jwk_set
from keydist.core.strict import serialise
from keydist.services.pace import uniform
from keydist.signing.following import Following

if TYPE_CHECKING:
    from keydist.core.accept import Demands, Held
    from keydist.core.lease import Lease
    from keydist.ports import Clock, Entropy, KeysetDisk
    from keydist.signing.following import Tokens

WELL_KNOWN_JWKS: Final = "/.well-known/jwks.json"
_SPREAD: Final = 0.2
"""The part of the max-age by which it is shortened at most."""


class Document(NamedTuple):
    """A document, its entity tag, and for how many seconds it may be kept; None where its epoch is unconfirmed."""

    body: bytes
    etag: str
    max_age: int | None


class _View(NamedTuple):
    held: Held
    lease: Lease | None
    jwks: tuple[dict[str, str], ...]


class Published:
    """What this node publishes; it follows the disk by itself."""

    def __init__(
        self,
        disk: KeysetDisk,
        clock: Clock,
        tokens: Tokens,
        demands: Demands,
        *,
        entropy: Entropy,
        issuer: str | None,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._issuer = issuer
        self._following = Following(disk, clock, tokens, demands, _view)
        self._made: tuple[object, frozenset[str], Document] | None = None

    def is_ready(self) -> bool:
        """Tell whether there is a verified keyset. Raises the `KeydistError` that says why there is none."""
        self._following.current()
        return True

    def revoked(self) -> frozenset[str]:
        """Return the kids that are never to be used again. Raises the `KeydistError` that says why nothing is known."""
        snapshot = self._following.current()
        return snapshot.revoked | {entry.kid for entry in snapshot.view.held.keyset.revoked}

    def lists(self, kid: str) -> bool:
        """Tell whether the keyset has such a signing key. Raises the `KeydistError` that says why there is none."""
        return any(jwk["kid"] == kid for jwk in self._following.current().view.jwks)

    def jwks(self) -> Document:
        """Return the JWK Set of the disk at this moment. Raises the `KeydistError` that says why there is none."""
        self._following.look()
        snapshot = self._following.current()
        view, revoked = snapshot.view, snapshot.revoked
        if self._made is None or self._made[0] is not view.jwks or self._made[1] != revoked:
            document = _document({"keys": [jwk for jwk in view.jwks if jwk["kid"] not in revoked]})
            self._made = (view.jwks, revoked, document)
        return self._made[2]._replace(max_age=self._max_age(view))

    def discovery(self) -> Document | None:
        """Return the OpenID Provider metadata that leads to the JWK Set; None without a configured issuer."""
        if self._issuer is None:
            return None
        view = self._following.current().view
        document = _document(
            {
                "issuer": self._issuer,
                "jwks_uri": self._issuer.rstrip("/") + WELL_KNOWN_JWKS,
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": sorted({jwk["alg"] for jwk in view.jwks}),
            }
        )
        return document._replace(max_age=self._max_age(view))

    def kept(self, body: bytes, name: str) -> Document:
        """Return the document of one public key, by its file's name: it never changes, but may be gone (revoked)."""
        return Document(body, f'"{name}"', self._max_age(self._following.current().view))

    def _max_age(self, view: _View) -> int | None:
        if view.lease is None or not view.lease.is_fresh(self._clock.now()):
            return None
        return int(view.held.keyset.policy.jwks_max_age * (1 - _SPREAD * uniform(self._entropy)))


def _view(held: Held, lease: Lease | None, before: _View | None) -> _View:
    if before is not None and before.held.digest == held.digest:
        return before._replace(lease=lease)
    return _View(held, lease, tuple(jwk_set(held.keyset)["keys"]))


def _document(value: dict[str, object]) -> Document:
    body = serialise(value)
    return Document(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', None)
