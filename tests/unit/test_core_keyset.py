"""The keyset: what holds in every epoch, and the one table of what an epoch may do."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

import pytest

from keydist.core.keyset import LISTED, REACHABLE, STEPS, Key, Keyset, Revocation, State, check_advance
from keydist.errors import MalformedError
from tests.material import NOW, enc_key, make_keyset, moved, noise, sig_key, standing_keys

ABSENT, NEXT, ACTIVE, RETIRED, REVOKED, GONE = State
# The whole of what one epoch, and what several, may do; written out, not computed.
ONE_EPOCH: Final = {
    (ABSENT, ABSENT),
    (ABSENT, NEXT),
    (ABSENT, ACTIVE),
    (NEXT, NEXT),
    (NEXT, ACTIVE),
    (NEXT, REVOKED),
    (NEXT, GONE),
    (ACTIVE, ACTIVE),
    (ACTIVE, RETIRED),
    (ACTIVE, REVOKED),
    (RETIRED, RETIRED),
    (RETIRED, REVOKED),
    (RETIRED, GONE),
    (REVOKED, REVOKED),
    (GONE, GONE),
}
SEVERAL_EPOCHS: Final = ONE_EPOCH | {
    (ABSENT, RETIRED),
    (ABSENT, REVOKED),
    (ABSENT, GONE),
    (NEXT, RETIRED),
    (ACTIVE, GONE),
}


def test_the_tables_are_the_documented_ones() -> None:
    assert {(before, after) for before in State for after in STEPS[before]} == ONE_EPOCH
    assert {(before, after) for before in State for after in REACHABLE[before]} == SEVERAL_EPOCHS


# --- invariants ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "count"), [(1, 0), (2, 1), (64, 63), (65, 64), (66, 64), (2**53 - 1, 64)])
def test_the_ancestry_reaches_back_to_the_genesis_or_64_epochs(epoch: int, count: int) -> None:
    ancestors = tuple(noise(f"{number}", 16) for number in range(65))
    assert make_keyset(epoch, ancestors=ancestors[:count]).epoch == epoch
    for other in {count - 1, count + 1} - {-1}:
        with pytest.raises(MalformedError, match="ancestry does not fit") as caught:
            make_keyset(epoch, ancestors=ancestors[:other])
        assert (caught.value.expected, caught.value.found) == (f"{count} digests", f"{other}")


def retired(make: Callable[..., Key], count: int) -> list[Key]:
    return [make(f"old {number}", RETIRED) for number in range(count)]


SIG, ENC = sig_key("A"), enc_key("A")
SIG_NEXT, ENC_NEXT = sig_key("B", NEXT), enc_key("B", NEXT)


@pytest.mark.parametrize(
    "keys",
    [
        [SIG, ENC],
        [SIG, ENC, SIG_NEXT, ENC_NEXT],
        [SIG, ENC, SIG_NEXT],
        [ENC_NEXT, SIG, ENC],
        [SIG, ENC, SIG_NEXT, ENC_NEXT, *retired(sig_key, 16), *retired(enc_key, 16)],
    ],
    ids=["active only", "with next", "next of one use", "another order", "full"],
)
def test_lawful_sets_of_keys(keys: list[Key]) -> None:
    keyset = make_keyset(keys=tuple(keys))
    assert keyset.active is SIG
    assert list(keyset.signing_keys()) == [key for key in keys if key.use == "sig"]


@pytest.mark.parametrize(
    ("keys", "use", "found"),
    [
        ([], "sig", "0 active, 0 next, 0 retired"),
        ([ENC], "sig", "0 active, 0 next, 0 retired"),
        ([SIG], "enc", "0 active, 0 next, 0 retired"),
        ([SIG_NEXT, ENC], "sig", "0 active, 1 next, 0 retired"),
        ([SIG, sig_key("C"), ENC], "sig", "2 active, 0 next, 0 retired"),
        ([SIG, ENC, enc_key("C")], "enc", "2 active, 0 next, 0 retired"),
        ([SIG, ENC, SIG_NEXT, sig_key("C", NEXT)], "sig", "1 active, 2 next, 0 retired"),
        ([SIG, ENC, ENC_NEXT, enc_key("C", NEXT)], "enc", "1 active, 2 next, 0 retired"),
        ([SIG, ENC, *retired(sig_key, 17)], "sig", "1 active, 0 next, 17 retired"),
        ([SIG, ENC, *retired(enc_key, 17)], "enc", "1 active, 0 next, 17 retired"),
    ],
    ids=[
        "nothing",
        "no sig",
        "no enc",
        "no active sig",
        "two active sig",
        "two active enc",
        "two next sig",
        "two next enc",
        "17 retired sig",
        "17 retired enc",
    ],
)
def test_unlawful_sets_of_keys(keys: list[Key], use: str, found: str) -> None:
    with pytest.raises(MalformedError, match=f"wrong number of {use} keys") as caught:
        make_keyset(keys=tuple(keys))
    assert caught.value.found == found


@pytest.mark.parametrize(
    ("extra", "revoked"),
    [
        ([moved(SIG, RETIRED, now=NOW)], []),
        ([], [SIG.kid]),
        ([], [ENC_NEXT.kid]),
        ([], ["gone", "gone"]),
    ],
    ids=["listed twice", "listed and revoked", "listed and revoked, the other use", "revoked twice"],
)
def test_a_kid_stands_once(extra: list[Key], revoked: list[str]) -> None:
    entries = tuple(Revocation(kid=kid, at=NOW, reason="") for kid in revoked)
    with pytest.raises(MalformedError, match="a kid stands twice"):
        make_keyset(keys=(*standing_keys(), *extra), revoked=entries)


def test_a_keyset_does_not_change() -> None:
    keyset = make_keyset()
    for value, name in ((keyset, "epoch"), (keyset.active, "state"), (keyset.policy, "leeway")):
        with pytest.raises(AttributeError):
            setattr(value, name, 0)
    assert isinstance(keyset.keys, tuple)


def test_the_state_of_a_kid() -> None:
    keys = (SIG, ENC, SIG_NEXT, sig_key("C", RETIRED))
    keyset = make_keyset(keys=keys, revoked=(Revocation(kid="lost", at=NOW, reason="lost"),))
    assert [keyset.state_of(key.kid) for key in keys] == [ACTIVE, ACTIVE, NEXT, RETIRED]
    assert keyset.state_of("lost") is REVOKED
    assert keyset.state_of("never seen") is ABSENT


# --- transitions --------------------------------------------------------------------------------


SEEN: Final = [ABSENT, NEXT, ACTIVE, RETIRED, REVOKED]
"""What a keyset can say of a kid; a key that is gone is absent to it."""


def lawful(before: State, after: State, epochs: int) -> bool:
    if after is ABSENT and before is REVOKED:
        return True  # the list forgets a revocation in time; the floor of each node does not
    if after is ABSENT and before is not ABSENT:
        after = GONE
    return (before, after) in (ONE_EPOCH if epochs == 1 else SEVERAL_EPOCHS)


def around(use: str, epochs: int, before: State, after: State) -> tuple[Keyset, Keyset, str]:
    """Return two keysets between which key X of a use changes state, and every other key lawfully; and X's kid."""
    make, other = (sig_key, enc_key("E")) if use == "sig" else (enc_key, sig_key("E"))
    states = (before, after)
    beside = {  # an active key there always is; where X is not, the stand-in is
        (False, False): (ACTIVE, ACTIVE),
        (False, True): (ACTIVE, RETIRED),
        (True, False): (ABSENT, ACTIVE),
        (True, True): (ABSENT, ABSENT),
    }[before is ACTIVE, after is ACTIVE]
    keysets = []
    for epoch, state, stand_in in zip((5, 5 + epochs), states, beside, strict=True):
        keys = [make(name, one) for name, one in (("stand-in", stand_in), ("X", state)) if one in LISTED]
        revoked = [Revocation(kid=make("X").kid, at=NOW, reason="")] if state is REVOKED else []
        keysets.append(make_keyset(epoch, keys=(other, *keys), revoked=tuple(revoked)))
    return keysets[0], keysets[1], make("X").kid


@pytest.mark.parametrize("use", ["sig", "enc"])
@pytest.mark.parametrize("epochs", [1, 2, 1000])
@pytest.mark.parametrize("after", SEEN)
@pytest.mark.parametrize("before", SEEN)
def test_every_step_of_a_key(before: State, after: State, epochs: int, use: str) -> None:
    old, new, kid = around(use, epochs, before, after)
    assert (old.state_of(kid), new.state_of(kid)) == (before, after)
    snapshot = deepcopy((old, new))
    if lawful(before, after, epochs):
        check_advance(old, new)
    else:
        with pytest.raises(MalformedError) as caught:
            check_advance(old, new)
        found = "gone" if after is ABSENT else after.value
        assert caught.value.message == f"key {kid} goes from {before.value} to {found}"
        assert found not in caught.value.expected.split(" or ")
    # Lawful or refused, judging a step changes nothing.
    assert (old, new) == snapshot


@pytest.mark.parametrize(
    "change",
    [
        {"use": "sig"},
        {"alg": "A128GCM"},
        {"created": NOW + 1},
        {"created": NOW - 1},
        {"material": noise("another", 32)},
    ],
    ids=["use", "algorithm", "created later", "created earlier", "material"],
)
def test_what_a_key_is_does_not_change(change: dict[str, Any]) -> None:
    old, new, kid = around("enc", 1, NEXT, NEXT)
    check_advance(old, new)
    other = replace(new, keys=tuple(replace(key, **change) if key.kid == kid else key for key in new.keys))
    with pytest.raises(MalformedError, match=f"key {kid} is not the key that this node holds"):
        check_advance(old, other)


def test_a_signing_key_changes_only_from_private_to_public() -> None:
    old, new, kid = around("sig", 1, ACTIVE, RETIRED)
    check_advance(old, new)
    assert next(key for key in old.keys if key.kid == kid).material != new.keys[-1].material


@pytest.mark.parametrize(
    ("before", "after", "lawful"),
    [
        (None, None, True),
        (None, NOW, True),
        (NOW, NOW, True),
        (NOW, NOW + 1, True),
        (NOW, NOW - 1, False),
        (NOW, None, False),
        (0, None, False),
    ],
)
def test_verify_until_is_never_lowered(before: int | None, after: int | None, *, lawful: bool) -> None:
    old, new, _ = around("sig", 1, RETIRED, RETIRED)
    old = replace(old, keys=(*old.keys[:-1], replace(old.keys[-1], verify_until=before)))
    new = replace(new, keys=(*new.keys[:-1], replace(new.keys[-1], verify_until=after)))
    if lawful:
        check_advance(old, new)
    else:
        with pytest.raises(MalformedError, match="verify_until lowered"):
            check_advance(old, new)


def test_a_revoked_key_is_not_listed_again_while_the_list_remembers() -> None:
    old, new, kid = around("sig", 1, REVOKED, RETIRED)
    with pytest.raises(MalformedError, match=f"key {kid} goes from revoked to retired"):
        check_advance(old, new)
