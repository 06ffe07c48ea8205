"""PEM: what programs take that do not read JWK, checked by reading it back."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from keydist.core.keyset import State
from keydist.core.pem import private_pem, public_pem
from keydist.errors import MalformedError, UsageError
from tests.material import enc_key, private_key, sig_key

NAMED = [("rsa-a", "RS256"), ("rsa-a", "PS256"), ("A", "ES256"), ("A", "EdDSA")]


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_pem_is_what_cryptography_writes(name: str, alg: str) -> None:
    key, original = sig_key(name, alg=alg), private_key(name, alg)
    assert private_pem(key) == original.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert public_pem(key) == original.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("state", [State.NEXT, State.ACTIVE, State.RETIRED])
def test_the_public_part_is_there_in_every_state(state: State) -> None:
    loaded = load_pem_public_key(public_pem(sig_key("A", state)))
    assert loaded == private_key("A").public_key()


def test_a_retired_key_has_no_private_part() -> None:
    with pytest.raises(UsageError, match="is not kept"):
        private_pem(sig_key("A", State.RETIRED))


@pytest.mark.parametrize("state", [State.NEXT, State.ACTIVE, State.RETIRED])
def test_a_symmetric_key_has_no_pem(state: State) -> None:
    with pytest.raises(MalformedError, match="a symmetric key has no PEM"):
        private_pem(enc_key("A", state))
    with pytest.raises(MalformedError, match="no public part"):
        public_pem(enc_key("A", state))
