"""The genesis: one key that signs at once and one that stands next, of each use."""

from __future__ import annotations

import pytest

from keydist.core.accept import Accepted, accept
from keydist.core.genesis import FreshKeys, encryption_key, first_keyset
from keydist.core.jwk import thumbprint
from keydist.core.keyset import State
from keydist.core.policy import Policy
from tests.material import LINEAGE, NOW, demands, first, hold, noise, pkcs8


@pytest.mark.parametrize(
    ("alg", "names"), [("RS256", ("rsa-a", "rsa-b")), ("PS256", ("rsa-a", "rsa-b")), ("ES256", "AB"), ("EdDSA", "AB")]
)
def test_a_genesis_is_epoch_one_and_can_be_accepted(alg: str, names: tuple[str, str]) -> None:
    active, following = (
        FreshKeys(pkcs8=pkcs8(name, alg), secret=noise(f"secret {name}", 32), secret_kid=noise(f"kid {name}", 16))
        for name in names
    )
    policy = Policy(propagation=1000)
    keyset = first_keyset(lineage=LINEAGE, now=NOW, policy=policy, alg=alg, active=active, following=following)
    assert (keyset.epoch, keyset.lineage, keyset.issued, keyset.policy) == (1, LINEAGE, NOW, policy)
    assert (keyset.ancestors, keyset.revoked) == ((), ())
    assert [(key.use, key.alg, key.state) for key in keyset.keys] == [
        ("sig", alg, State.ACTIVE),
        ("enc", "A256GCM", State.ACTIVE),
        ("sig", alg, State.NEXT),
        ("enc", "A256GCM", State.NEXT),
    ]
    assert all(key.created == key.published == NOW for key in keyset.keys)
    assert [key.activated for key in keyset.keys] == [NOW, NOW, None, None]
    assert all(key.kid == thumbprint(key.public.members) for key in keyset.signing_keys())
    answer = accept(hold(keyset).envelope, demands())
    assert isinstance(answer, Accepted)
    assert answer.held.keyset == keyset


def test_the_kid_of_an_encryption_key_has_16_bytes() -> None:
    for size in (15, 17, 32):
        with pytest.raises(ValueError, match="16 bytes"):
            encryption_key(bytes(32), bytes(size), state=State.NEXT, now=NOW, activated=None)


def test_two_geneses_have_no_key_in_common() -> None:
    one, two = ({key.kid for key in first(name).keyset.keys} for name in ("", "other "))
    assert not one & two
