"""The next keyset: what each operation does to every key, written out; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from keydist.core.accept import Accepted, Held, accept
from keydist.core.genesis import FreshKeys
from keydist.core.keyset import MAX_RETIRED, Key, Keyset, Revocation, State, check_advance
from keydist.core.policy import Policy
from keydist.core.successor import extended, republished_next, resealed, revoked, rotated, with_policy, without
from keydist.errors import MalformedError, UsageError
from tests.material import (
    DAY,
    NOW,
    OTHER_TOKEN,
    Change,
    chain,
    demands,
    enc_key,
    extend,
    first,
    fresh_keys,
    hold,
    make_keyset,
    moved,
    noise,
    sig_key,
    standing_keys,
)

ACTIVE, NEXT, RETIRED = State.ACTIVE, State.NEXT, State.RETIRED
LATER = NOW + DAY
FRESH = fresh_keys("new")
PAIR = (fresh_keys("following"), fresh_keys("emergency"))
HELD = hold(
    make_keyset(
        3,
        keys=(
            *standing_keys(),
            moved(sig_key("old"), RETIRED, now=NOW - 2 * DAY),
            moved(enc_key("old"), RETIRED, now=NOW - 2 * DAY),
            moved(sig_key("older"), RETIRED, now=NOW - 3 * DAY),
        ),
        revoked=(Revocation(kid=sig_key("bad").kid, at=NOW, reason="lost"),),
    )
)


def kid(name: str, use: str = "sig") -> str:
    return (sig_key if use == "sig" else enc_key)(name).kid


def names(keyset: Keyset) -> list[str]:
    """Return the keys in their order, as use, state and name."""
    known = ("A", "B", "old", "older", "new", "following", "emergency")
    of_kid = {kid(name, use): name for name in known for use in ("sig", "enc")}
    return [f"{key.use} {key.state} {of_kid[key.kid]}" for key in keyset.keys]


def revoke(*kids: str, held: Held = HELD, reason: str = "test", fresh: tuple[FreshKeys, FreshKeys] = PAIR) -> Keyset:
    return revoked(held, now=LATER, kids=kids, reason=reason, alg="EdDSA", fresh=fresh)


def taken(after: Keyset, before: Held = HELD) -> Keyset:
    """Return a successor after a node that holds its parent accepted it."""
    check_advance(before.keyset, after)
    answer = accept(hold(after).envelope, demands(before))
    assert isinstance(answer, Accepted)
    assert answer.held.keyset == after
    return after


# --- every successor ----------------------------------------------------------------------------


def every_kind() -> dict[str, Keyset]:
    return {
        "resealed": resealed(HELD, now=LATER),
        "rotated": rotated(HELD, now=LATER, alg="EdDSA", fresh=FRESH, drop=[kid("older")]),
        "republished": republished_next(HELD, now=LATER, alg="ES256", fresh=fresh_keys("es256", "ES256")),
        "without": without(HELD, now=LATER, drop=[kid("old"), kid("bad")]),
        "revoked": revoke(kid("A")),
        "extended": extended(HELD, now=LATER, kid=kid("old"), until=LATER),
        "with policy": with_policy(HELD, now=LATER, policy=Policy(max_lifetime=2 * DAY)),
    }


@pytest.mark.parametrize("after", every_kind().values(), ids=every_kind())
def test_a_successor_is_the_next_epoch_of_the_same_line(after: Keyset) -> None:
    before = HELD.keyset
    assert (after.lineage, after.epoch, after.issued) == (before.lineage, before.epoch + 1, LATER)
    assert after.ancestors == (HELD.digest, *before.ancestors)
    taken(after)


@pytest.mark.parametrize(("epoch", "count"), [(1, 1), (63, 63), (64, 64), (65, 64), (66, 64)])
def test_ancestors_are_bounded_at_64(epoch: int, count: int) -> None:
    held = chain(epoch)[-1]
    after = resealed(held, now=LATER)
    assert after.ancestors == tuple(earlier.digest for earlier in reversed(chain(epoch)))[:count]


def test_a_reseal_changes_no_key_and_can_go_under_another_token() -> None:
    after = resealed(HELD, now=LATER)
    assert (after.keys, after.revoked, after.policy) == (HELD.keyset.keys, HELD.keyset.revoked, HELD.keyset.policy)
    raw = hold(after, token=OTHER_TOKEN).envelope
    answer = accept(raw, demands(HELD, tokens=(OTHER_TOKEN,)))
    assert isinstance(answer, Accepted)
    assert answer.held.token_id == OTHER_TOKEN.token_id


# --- rotation -----------------------------------------------------------------------------------


def test_a_rotation_moves_every_key_one_step() -> None:
    after = taken(rotated(HELD, now=LATER, alg="EdDSA", fresh=FRESH))
    assert names(after) == [
        "sig active B",
        "sig next new",
        "sig retired A",
        "sig retired old",
        "sig retired older",
        "enc active B",
        "enc next new",
        "enc retired A",
        "enc retired old",
    ]
    assert after.revoked == HELD.keyset.revoked


def by_kid(keyset: Keyset) -> dict[str, Key]:
    return {key.kid: key for key in keyset.keys}


def test_a_rotation_notes_the_times_and_gives_up_the_private_key() -> None:
    keys = by_kid(rotated(HELD, now=LATER, alg="EdDSA", fresh=FRESH))
    active, following, past = keys[kid("B")], keys[kid("new")], keys[kid("A")]
    assert (active.published, active.activated, active.retired) == (NOW, LATER, None)
    assert (following.created, following.published, following.activated) == (LATER, LATER, None)
    assert (past.published, past.activated, past.retired) == (NOW, NOW, LATER)
    assert past.material == past.public.spki
    assert keys[kid("old")] == by_kid(HELD.keyset)[kid("old")]
    secret = keys[kid("A", "enc")]
    assert (secret.retired, secret.material) == (LATER, noise("secret A", 32))


def test_a_rotation_lets_go_what_it_is_told() -> None:
    after = taken(
        rotated(HELD, now=LATER, alg="EdDSA", fresh=FRESH, drop=[kid("older"), kid("old", "enc"), kid("bad")])
    )
    assert names(after)[2:5] == ["sig retired A", "sig retired old", "enc active B"]
    assert "enc retired old" not in names(after)
    assert after.revoked == ()


def test_only_the_fresh_key_has_the_algorithm() -> None:
    after = taken(rotated(HELD, now=LATER, alg="ES256", fresh=fresh_keys("new", "ES256")))
    assert [key.alg for key in after.signing_keys()] == ["EdDSA", "ES256", "EdDSA", "EdDSA", "EdDSA"]


def full(count: int) -> Held:
    old = [moved(make(f"r{number}"), RETIRED, now=NOW) for number in range(count) for make in (sig_key, enc_key)]
    return hold(make_keyset(keys=(*standing_keys(), *old)))


def test_a_seventeenth_retired_key_is_refused() -> None:
    rotated(full(15), now=LATER, alg="EdDSA", fresh=FRESH)
    with pytest.raises(MalformedError, match="wrong number of sig keys"):
        rotated(full(16), now=LATER, alg="EdDSA", fresh=FRESH)
    drop = [kid("r0"), kid("r3", "enc")]
    taken(rotated(full(16), now=LATER, alg="EdDSA", fresh=FRESH, drop=drop), full(16))


def test_without_a_next_key_there_is_no_rotation() -> None:
    bare = hold(make_keyset(keys=(sig_key("A"), enc_key("A"))))
    with pytest.raises(MalformedError, match="wrong number of sig keys"):
        rotated(bare, now=LATER, alg="EdDSA", fresh=FRESH)


def test_retired_keys_stand_newest_first_whatever_the_order_was() -> None:
    before = replace(HELD.keyset, keys=tuple(reversed(HELD.keyset.keys)))
    after = rotated(hold(before), now=LATER, alg="EdDSA", fresh=FRESH)
    assert names(after) == names(rotated(HELD, now=LATER, alg="EdDSA", fresh=FRESH))


# --- next ---------------------------------------------------------------------------------------


def test_next_is_replaced_for_the_use_named_and_no_other() -> None:
    after = taken(republished_next(HELD, now=LATER, alg="ES256", fresh=fresh_keys("es256", "ES256")))
    nexts = {key.use: key for key in after.keys if key.state is NEXT}
    assert (nexts["sig"].alg, nexts["sig"].published) == ("ES256", LATER)
    assert nexts["enc"].kid == kid("B", "enc")
    assert kid("B") not in by_kid(after)
    both = taken(republished_next(HELD, now=LATER, alg="EdDSA", fresh=FRESH, uses=("sig", "enc")))
    assert [name for name in names(both) if " next " in name] == ["sig next new", "enc next new"]
    kept = [name for name in names(without(HELD, now=LATER, drop=())) if " next " not in name]
    assert [name for name in names(both) if " next " not in name] == kept


def test_a_gap_is_filled() -> None:
    bare = hold(make_keyset(keys=(sig_key("A"), enc_key("A"), enc_key("B", NEXT))))
    after = taken(republished_next(bare, now=LATER, alg="EdDSA", fresh=FRESH), bare)
    assert names(after) == ["sig active A", "sig next new", "enc active A", "enc next B"]


# --- dropping -----------------------------------------------------------------------------------


def test_what_is_dropped_is_gone_and_the_rest_stays() -> None:
    after = taken(without(HELD, now=LATER, drop=[kid("old"), kid("bad")]))
    assert names(after) == [
        "sig active A",
        "sig next B",
        "sig retired older",
        "enc active A",
        "enc next B",
        "enc retired old",
    ]
    assert after.revoked == ()


def test_an_active_key_is_never_dropped() -> None:
    with pytest.raises(MalformedError, match="wrong number of sig keys"):
        without(HELD, now=LATER, drop=[kid("A")])


# --- revoking -----------------------------------------------------------------------------------

KEPT = ["sig retired old", "sig retired older"]
REVOKE_CASES = {
    "active": (
        [kid("A")],
        ["sig active B", "sig next following", *KEPT, "enc active A", "enc next B", "enc retired old"],
    ),
    "next": (
        [kid("B")],
        ["sig active A", "sig next following", *KEPT, "enc active A", "enc next B", "enc retired old"],
    ),
    "retired": (
        [kid("old")],
        ["sig active A", "sig next B", "sig retired older", "enc active A", "enc next B", "enc retired old"],
    ),
    "active and next": (
        [kid("A"), kid("B")],
        ["sig active emergency", "sig next following", *KEPT, "enc active A", "enc next B", "enc retired old"],
    ),
    "enc active": (
        [kid("A", "enc")],
        ["sig active A", "sig next B", *KEPT, "enc active B", "enc next following", "enc retired old"],
    ),
    "enc next and retired": (
        [kid("B", "enc"), kid("old", "enc")],
        ["sig active A", "sig next B", *KEPT, "enc active A", "enc next following"],
    ),
    "all": (
        [key.kid for key in HELD.keyset.keys],
        ["sig active emergency", "sig next following", "enc active emergency", "enc next following"],
    ),
}


@pytest.mark.parametrize(("kids", "left"), REVOKE_CASES.values(), ids=REVOKE_CASES)
def test_revoking(kids: list[str], left: list[str]) -> None:
    after = taken(revoke(*kids))
    assert names(after) == left
    assert after.revoked[0] == HELD.keyset.revoked[0]
    assert {entry.kid for entry in after.revoked[1:]} == set(kids)
    assert {(entry.at, entry.reason) for entry in after.revoked[1:]} == {(LATER, "test")}
    for active in (key for key in after.keys if key.state is ACTIVE):
        assert active.activated == (NOW if f"{active.use} active A" in left else LATER)


def test_revocations_stick() -> None:
    held = hold(revoke(kid("A")))
    for after in (
        resealed(held, now=LATER),
        rotated(held, now=LATER, alg="EdDSA", fresh=FRESH),
        republished_next(held, now=LATER, alg="EdDSA", fresh=FRESH),
        without(held, now=LATER, drop=[kid("old")]),
        revoke(kid("old"), held=held, fresh=(fresh_keys("one"), fresh_keys("two"))),
    ):
        assert {kid("bad"), kid("A")} <= {entry.kid for entry in after.revoked}
    with pytest.raises(MalformedError, match="twice"):  # the same material again
        republished_next(held, now=LATER, alg="EdDSA", fresh=fresh_keys("A"))


@pytest.mark.parametrize("name", ["bad", "nobody"])
def test_what_is_not_listed_cannot_be_revoked(name: str) -> None:
    with pytest.raises(UsageError, match=r"has no key .* to revoke"):
        revoke(kid("A"), kid(name))


@pytest.mark.parametrize(
    ("reason", "good"),
    [("", True), ("x" * 64, True), ("lost laptop, 7 pm", True), ("x" * 65, False), ("größer", False), ("a\nb", False)],
)
def test_a_reason_fits_the_format(reason: str, *, good: bool) -> None:
    if good:
        assert taken(revoke(kid("A"), reason=reason)).revoked[-1].reason == reason
        return
    with pytest.raises(UsageError, match="reason of a revocation is out of range"):
        revoke(kid("A"), reason=reason)


def crowded(count: int, *, reason: str = "", alg: str = "EdDSA") -> Held:
    """Return a keyset with all the retired keys and `count` of the revocations that there may be, oldest first."""
    old = [f"old {number}" for number in range(MAX_RETIRED)]
    keys = [moved(make(name), RETIRED, now=NOW) for name in old for make in (partial(sig_key, alg=alg), enc_key)]
    entries = tuple(
        Revocation(kid=enc_key(f"revoked {number}").kid, at=NOW + number, reason=reason) for number in range(count)
    )
    return hold(make_keyset(keys=(*standing_keys(), *keys), revoked=entries))


CROWDS = {
    # what is held, whether all keys are revoked, and how many of the earlier revocations may stay
    "one, a list with room": (crowded(255), False, 255),
    "one, a full list": (crowded(256), False, 255),
    "one, a large envelope": (crowded(205, reason="x" * 64), False, 204),
    "all, a full list": (crowded(256), True, 256 - 36),
    "all, a large envelope": (
        crowded(209, reason="x" * 64),
        True,
        209,
    ),  # what goes takes more room than its revocations
}


@pytest.mark.parametrize(("held", "every", "most"), CROWDS.values(), ids=CROWDS)
def test_a_revocation_finds_room_whatever_the_keyset_holds(held: Held, most: int, *, every: bool) -> None:
    going = [key.kid for key in held.keyset.keys] if every else [kid("A")]
    after = taken(revoke(*going, held=held, reason="y" * 64), held)
    assert {entry.kid for entry in after.revoked[-len(going) :]} == set(going), "each of what is revoked now"
    older = after.revoked[: -len(going)]
    assert older == held.keyset.revoked[len(held.keyset.revoked) - len(older) :], "the oldest leave first"
    assert len(older) <= most
    gone = {entry.kid for entry in held.keyset.revoked[: len(held.keyset.revoked) - len(older)]}
    assert not gone & {key.kid for key in after.keys}, "what left its list is accepted nowhere"


def brimful() -> Held:
    """Return a keyset with room for one more retired key, whose envelope is as large as it may be."""
    for count in range(256, 0, -1):
        with suppress(MalformedError):
            held = crowded(count, reason="x" * 64)
            return hold(without(held, now=NOW, drop={sig_key("old 0").kid, enc_key("old 0").kid}))
    raise AssertionError


@pytest.mark.parametrize(
    "change",
    [
        partial(resealed, now=LATER),
        partial(rotated, now=LATER, alg="EdDSA", fresh=FRESH),
        partial(republished_next, now=LATER, alg="EdDSA", fresh=FRESH),
        partial(extended, now=LATER, kid=kid("A"), until=LATER),
        partial(with_policy, now=LATER, policy=Policy(rotate_every=1)),
    ],
    ids=lambda change: change.func.__name__,
)
def test_every_other_change_finds_room_too(change: Callable[[Held], Keyset]) -> None:
    held = brimful()
    after = taken(change(held), held)
    assert after.revoked == held.keyset.revoked[len(held.keyset.revoked) - len(after.revoked) :]
    if change.func is rotated:  # type: ignore[attr-defined]
        assert len(after.revoked) < len(held.keyset.revoked)


def test_no_revocation_leaves_before_its_time_where_there_is_room() -> None:
    held = crowded(20)
    assert taken(revoke(kid("A"), held=held), held).revoked[:20] == held.keyset.revoked


# --- verify_until and the policy ----------------------------------------------------------------


def test_verify_until_is_raised_on_one_key() -> None:
    after = taken(extended(HELD, now=LATER, kid=kid("A"), until=LATER))
    assert {key.kid: key.verify_until for key in after.keys if key.verify_until} == {kid("A"): LATER}
    held = hold(after)
    assert by_kid(taken(extended(held, now=LATER, kid=kid("A"), until=LATER), held))[kid("A")].verify_until == LATER
    with pytest.raises(UsageError, match="never lowered") as caught:
        extended(held, now=LATER, kid=kid("A"), until=LATER - 1)
    assert (caught.value.expected, caught.value.found) == (f"unix time {LATER} or later", str(LATER - 1))


def test_verify_until_stays_with_a_key_that_retires() -> None:
    held = hold(extended(HELD, now=LATER, kid=kid("A"), until=LATER + 5))
    after = taken(rotated(held, now=LATER, alg="EdDSA", fresh=FRESH), held)
    assert by_kid(after)[kid("A")].verify_until == LATER + 5


@pytest.mark.parametrize("until", [-1, 2**53])
def test_verify_until_fits_the_format(until: int) -> None:
    with pytest.raises(UsageError, match="out of range"):
        extended(HELD, now=LATER, kid=kid("A"), until=until)


@pytest.mark.parametrize("name", ["bad", "nobody"])
def test_only_a_listed_key_is_extended(name: str) -> None:
    with pytest.raises(UsageError, match="has no key"):
        extended(HELD, now=LATER, kid=kid(name), until=LATER)


def test_an_unknown_kid_is_shown_short_and_as_text() -> None:
    strange = "\x1b" * 500
    with pytest.raises(UsageError) as unrevoked:
        revoke(strange)
    with pytest.raises(UsageError) as unextended:
        extended(HELD, now=LATER, kid=strange, until=LATER)
    for caught in (unrevoked, unextended):
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_policy_is_exchanged_whole() -> None:
    policy = Policy(max_lifetime=2 * DAY)
    after = taken(with_policy(HELD, now=LATER, policy=policy))
    assert (after.policy, after.keys) == (policy, HELD.keyset.keys)


def test_a_genesis_has_successors() -> None:
    held = first()
    for after in (resealed(held, now=NOW), rotated(held, now=NOW, alg="EdDSA", fresh=FRESH)):
        taken(after, held)
    assert taken(resealed(extend(held, Change.RESEAL), now=NOW), extend(held, Change.RESEAL)).epoch == 3
