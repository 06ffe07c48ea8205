"""joserfc as the other implementation: given the derived key, both open and make the same envelopes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from keydist.core.accept import Accepted, accept
from keydist.core.envelope import KEYSET_TYPE, Place, parse_envelope
from keydist.core.keyset import Keyset
from keydist.core.token import BootstrapToken
from keydist.errors import KeydistError
from tests.material import PLACE, TOKEN, altered, chain, demands, first, hold
from tests.properties.strategies import MODEST, keysets, places, tokens

# The header's own members are no registered ones; joserfc is told not to mind, keydist checks them all.
REGISTRY = jwe.JWERegistry(algorithms=["dir", "A256GCM"], strict_check_header=False)


def lp(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("ascii")
    return len(raw).to_bytes(2, "big") + raw


def derived(label: str, token: BootstrapToken, place: Place, rnd: bytes) -> bytes:
    """Derive a key of one seal, written out from the format's description and not from keydist's code."""
    salt = hashlib.sha256(b"keydist/v1/extract\0" + lp(place.cluster)).digest()
    prk = hmac.digest(salt, token.secret, "sha256")
    info = f"keydist/v1/{label}\0".encode() + lp(place.cluster) + lp(place.location) + lp(token.token_id) + lp(rnd)
    return hmac.digest(prk, info + b"\x01", "sha256")


def opened(raw: bytes, token: BootstrapToken, place: Place) -> tuple[bytes, dict[str, object]]:
    """Open an envelope with joserfc; the key depends on the header's `rnd`, which keydist reads here."""
    key = OctKey.import_key(derived("aead", token, place, parse_envelope(raw).header.rnd))
    found = jwe.decrypt_compact(raw, key, registry=REGISTRY)
    assert found.plaintext is not None
    return found.plaintext, dict(found.headers())


@MODEST
@given(keysets(), tokens, places)
def test_joserfc_opens_what_keydist_seals(keyset: Keyset, token: BootstrapToken, place: Place) -> None:
    held = hold(keyset, token=token, place=place)
    answer = accept(held.envelope, demands(tokens=(token,), place=place))
    assert answer == Accepted(held=held)
    plaintext, header = opened(held.envelope, token, place)
    assert plaintext == held.plaintext
    assert (header["alg"], header["enc"], header["typ"], header["v"]) == ("dir", "A256GCM", KEYSET_TYPE, 1)
    assert (header["kid"], header["cid"], header["loc"]) == (token.token_id, place.cluster, place.location)
    assert (header["lin"], header["ep"], header["iat"]) == (keyset.lineage, keyset.epoch, keyset.issued)


@MODEST
@given(keysets(), tokens, places, st.binary(min_size=32, max_size=32))
def test_keydist_accepts_what_joserfc_seals(keyset: Keyset, token: BootstrapToken, place: Place, rnd: bytes) -> None:
    plaintext = hold(keyset).plaintext
    header = {
        "alg": "dir",
        "enc": "A256GCM",
        "typ": KEYSET_TYPE,
        "v": 1,
        "kid": token.token_id,
        "cid": place.cluster,
        "loc": place.location,
        "lin": keyset.lineage,
        "ep": keyset.epoch,
        "iat": keyset.issued,
        "rnd": text(rnd),
        "kc": text(derived("commit", token, place, rnd)),
    }
    key = OctKey.import_key(derived("aead", token, place, rnd))
    raw = jwe.encrypt_compact(header, plaintext, key, registry=REGISTRY).encode()
    answer = accept(raw, demands(tokens=(token,), place=place))
    assert isinstance(answer, Accepted)
    assert answer.held.keyset == keyset
    assert answer.held.plaintext == plaintext


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_both_open_every_epoch_of_a_history() -> None:
    for held in chain(10):
        assert opened(held.envelope, TOKEN, PLACE)[0] == held.plaintext


@pytest.mark.parametrize(
    "alter",
    [
        lambda raw: altered(raw, raw.rindex(b".") + 1),
        lambda raw: altered(raw, raw.rindex(b".") - 5),
        lambda raw: altered(raw, raw.index(b"..") + 3),
    ],
    ids=["tag", "ciphertext", "IV"],
)
def test_both_refuse_what_is_altered(alter: Callable[[bytes], bytes]) -> None:
    raw = alter(first().envelope)
    with pytest.raises(KeydistError):
        accept(raw, demands())
    with pytest.raises(JoseError):
        opened(raw, TOKEN, PLACE)
