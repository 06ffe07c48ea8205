"""JWTs beside joserfc and PyJWT: what keydist takes, both take and read alike; what was altered, it never takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Any, Final, Self

import joserfc.jwt
import jwt as pyjwt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from keydist.core import crypto
from keydist.core.jwk import jwk_set
from keydist.core.jws import REGISTERED, compose_claims, mint_compact
from keydist.core.keyset import Key
from keydist.core.local import Confirmation
from keydist.core.strict import MAX_INT
from keydist.errors import InvalidJwtError
from keydist.signing import Claims, Verifier
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import NOW, private_key
from tests.properties.strategies import MANY, damaged, mangled
from tests.vectors.jwt_material import AUDIENCE, EC, ED, HELD, ISSUER, LEEWAY, NAMES, PS, RS

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by RFC 9864, which gives it a new name

KEYS: Final = (ED, EC, RS, PS)
JWKS: Final[Any] = jwk_set(HELD.keyset)
ALGS: Final = sorted(crypto.SIGNING_ALGS)
JOSERFC_KEYS: Final = KeySet.import_key_set(JWKS)
PYJWT_KEYS: Final = {key.key_id: key for key in pyjwt.PyJWKSet.from_dict(JWKS).keys}

texts = st.text(max_size=12)
integers = st.integers(min_value=0, max_value=MAX_INT - 1)
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
claims = st.dictionaries(texts.filter(lambda name: name not in REGISTERED | {"nbf", "jti"}), values, max_size=4)
audiences = st.just(AUDIENCE) | st.lists(texts.filter(bool), max_size=3).map(lambda others: [*others, AUDIENCE])
keys = st.sampled_from(KEYS)
moments = st.integers(min_value=NOW - 2 * LEEWAY, max_value=NOW + 2 * LEEWAY) | integers


class Frozen(datetime):
    """The clock that PyJWT reads, at the moment at which keydist's stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW, tz)


@pytest.fixture(autouse=True, scope="module")
def _one_moment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jwt.api_jwt.datetime", Frozen)
        yield


def _verifier() -> Verifier:
    disk = MemoryKeysetDisk()
    disk.install(HELD, based_on=disk.load(()), now=NOW)
    disk.confirm(Confirmation(epoch=HELD.keyset.epoch, digest=HELD.digest, at=NOW))
    return Verifier(disk, VirtualClock(NOW))


VERIFIER: Final = _verifier()


def minted(key: Key, own: dict[str, Any], audience: Any = AUDIENCE, **changed: Any) -> str:  # noqa: ANN401
    composed = compose_claims(own, issuer=ISSUER, subject="someone", audience=audience, issued=NOW, expires=NOW + 900)
    return mint_compact(key, private_key(NAMES[key.kid], key.alg), composed | changed, "JWT")


def with_keydist(jwt: str) -> Claims | None:
    try:
        return VERIFIER.verify(jwt, audience=AUDIENCE, issuer=ISSUER)
    except InvalidJwtError:
        return None


def with_pyjwt(jwt: str) -> dict[str, Any]:
    """Return what PyJWT reads, with every check that it has."""
    key = PYJWT_KEYS[pyjwt.get_unverified_header(jwt)["kid"]]
    required = sorted(REGISTERED)
    read: dict[str, Any] = pyjwt.decode(
        jwt,
        key,
        algorithms=[key.algorithm_name],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=LEEWAY,
        options={"require": required},
    )
    return read


def with_joserfc(jwt: str) -> dict[str, Any]:
    """Return what joserfc reads, with every check that it has."""
    token = joserfc.jwt.decode(jwt, JOSERFC_KEYS, registry=JWSRegistry(algorithms=ALGS))
    joserfc.jwt.JWTClaimsRegistry(
        now=NOW,
        leeway=LEEWAY,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    ).validate(token.claims)
    return token.claims


@MANY
@given(keys, claims, audiences)
def test_what_is_minted_all_three_read_alike(key: Key, own: dict[str, Any], audience: Any) -> None:  # noqa: ANN401
    jwt = minted(key, own, audience)
    read = with_keydist(jwt)
    assert read is not None
    assert read.kid == key.kid
    assert dict(read.all) == with_pyjwt(jwt) == with_joserfc(jwt)
    assert own.items() <= read.all.items()


@MANY
@given(keys, claims, st.fixed_dictionaries({}, optional=dict.fromkeys(("exp", "iat", "nbf"), moments)))
def test_what_keydist_takes_at_any_time_the_others_take(key: Key, own: dict[str, Any], times: dict[str, Any]) -> None:
    jwt = minted(key, own, **times)
    read = with_keydist(jwt)
    event("taken" if read else "refused")
    if read is not None:
        assert dict(read.all) == with_pyjwt(jwt) == with_joserfc(jwt)


@MANY
@given(keys, st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti"]), values | audiences | moments)
def test_a_registered_claim_that_keydist_takes_the_others_take(key: Key, name: str, value: Any) -> None:  # noqa: ANN401
    jwt = minted(key, {}, **{name: value})
    read = with_keydist(jwt)
    event("taken" if read else "refused")
    if read is not None:
        assert dict(read.all) == with_pyjwt(jwt) == with_joserfc(jwt)


POOL: Final = tuple(minted(key, {"n": number}) for key in KEYS for number in range(2))


@MANY
@given(st.sampled_from(POOL).flatmap(lambda jwt: damaged(jwt.encode(), b"ABCDxyz019-_.=+/ \n\0")))
def test_one_letter_changed_is_not_taken(altered: bytes) -> None:
    assert with_keydist(altered.decode()) is None


@MANY
@given(st.sampled_from(POOL).flatmap(lambda jwt: mangled(jwt.encode())))
def test_pieces_of_anything_are_not_taken(altered: bytes) -> None:
    text = altered.decode("latin-1")
    assert (with_keydist(text) is not None) == (text in POOL)


@MANY
@given(st.lists(st.sampled_from([segment for jwt in POOL for segment in jwt.split(".")]), min_size=1, max_size=5))
def test_segments_put_together_anew_are_not_taken(segments: list[str]) -> None:
    text = ".".join(segments)
    assert (with_keydist(text) is not None) == (text in POOL)


@pytest.mark.parametrize("at", range(3), ids=["header", "claims", "signature"])
def test_one_segment_of_another_jwt_is_not_taken(at: int) -> None:
    for one in POOL:
        for other in POOL:
            segments = one.split(".")
            segments[at] = other.split(".")[at]
            text = ".".join(segments)
            assert (with_keydist(text) is not None) == (text in POOL)
