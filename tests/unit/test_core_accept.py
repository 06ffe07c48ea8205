"""Accepting an envelope, step by step: what each refuses, and that the earlier step answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from keydist.core.accept import Accepted, Demands, Held, Unchanged, accept, check_place, open_held
from keydist.core.envelope import Place, digest, parse_envelope
from keydist.core.keyset import Key, Keyset, Revocation, State
from keydist.core.strict import b64url_encode
from keydist.errors import (
    CommitmentError,
    ForeignClusterError,
    ForkError,
    KeydistError,
    MalformedError,
    RollbackError,
    TamperedError,
    UnsupportedError,
    WrongTokenError,
)
from tests.material import (
    IMPOSTOR,
    LINEAGE,
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    chain,
    demands,
    enc_key,
    extend,
    first,
    floor_of,
    history,
    hold,
    make_keyset,
    noise,
    seal_plaintext,
    sig_key,
)

EPOCH: Final = chain(5)
GENESIS: Final = EPOCH[0]


def accepted(raw: bytes, what: Demands) -> Accepted:
    answer = accept(raw, what)
    assert isinstance(answer, Accepted)
    return answer


def refused(raw: bytes, what: Demands) -> KeydistError:
    with pytest.raises(KeydistError) as caught:
        accept(raw, what)
    return caught.value


def test_a_node_without_state_accepts_what_it_can_open() -> None:
    for held in EPOCH:
        answer = accepted(held.envelope, demands())
        assert answer == Accepted(held=held, ancestry_unproven=False)
        assert answer.held.digest == digest(held.envelope)


# --- step 0: the accepted bytes, or an ancestor -------------------------------------------------


def test_the_accepted_bytes_are_nothing_to_do_even_without_a_token() -> None:
    assert accept(EPOCH[2].envelope, demands(EPOCH[2], tokens=())) == Unchanged()


def test_the_accepted_bytes_are_nothing_to_do_whatever_is_demanded() -> None:
    demanding = demands(EPOCH[2], place=Place(cluster="x", location="y"), min_epoch=9, lineage=OTHER_LINEAGE)
    assert accept(EPOCH[2].envelope, demanding) == Unchanged()


@pytest.mark.parametrize("back", [1, 2, 4])
def test_an_ancestor_is_a_rollback_even_without_a_token(back: int) -> None:
    error = refused(EPOCH[4 - back].envelope, demands(EPOCH[4], tokens=()))
    assert type(error) is RollbackError
    assert (error.expected, error.found) == ("epoch 5 or later", "an ancestor of it")


def test_only_known_bytes_are_recognised_without_a_token() -> None:
    assert type(refused(EPOCH[4].envelope, demands(EPOCH[3], tokens=()))) is WrongTokenError
    assert type(refused(altered(EPOCH[2].envelope, -1), demands(EPOCH[3], tokens=()))) is not RollbackError


def test_an_ancestor_beyond_the_64th_is_a_fork() -> None:
    # Its digest is no longer in my ancestry: nothing tells it from another history.
    mine = demands(chain(70)[69])
    assert type(refused(chain(70)[5].envelope, mine)) is RollbackError
    assert type(refused(chain(70)[4].envelope, mine)) is ForkError


# --- steps 1 to 4 -------------------------------------------------------------------------------


def test_what_is_no_envelope_is_malformed() -> None:
    assert type(refused(b"", demands(GENESIS))) is MalformedError
    assert type(refused(b'{"v":2}', demands())) is MalformedError


def test_another_version_is_unsupported_before_anything_else_is_asked() -> None:
    header = '{"v":2,"kid":"none of mine","cid":"elsewhere"}'
    raw = b".".join((json_segment(header), b"", *GENESIS.envelope.split(b".")[2:]))
    assert type(refused(raw, demands(GENESIS, tokens=()))) is UnsupportedError


def json_segment(text: str) -> bytes:
    return b64url_encode(text.encode()).encode()


# --- step 5: cluster and place ------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        Place(cluster="prod-eu2", location=PLACE.location),
        Place(cluster="PROD-EU1", location=PLACE.location),
        Place(cluster=PLACE.cluster, location="KV/keydist/other-key"),
    ],
    ids=["cluster", "case of the cluster", "location"],
)
def test_another_cluster_or_place_is_foreign(place: Place) -> None:
    elsewhere = hold(GENESIS.keyset, place=place)
    error = refused(elsewhere.envelope, demands())
    assert type(error) is ForeignClusterError
    assert error.expected == f"{PLACE.cluster} at {PLACE.location}"
    assert error.found == f"{place.cluster} at {place.location}"
    assert type(refused(GENESIS.envelope, demands(place=place))) is ForeignClusterError
    assert accepted(elsewhere.envelope, demands(place=place)).held == elsewhere
    with pytest.raises(ForeignClusterError):
        check_place(parse_envelope(elsewhere.envelope), PLACE)


# --- step 6: the token --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "have"),
    [((), "no token"), ((OTHER_TOKEN,), OTHER_TOKEN.token_id)],
    ids=["none", "another"],
)
def test_a_token_that_is_not_held_is_named(tokens: tuple[Any, ...], have: str) -> None:
    error = refused(GENESIS.envelope, demands(tokens=tokens))
    assert isinstance(error, WrongTokenError)
    assert (error.need, error.have) == (TOKEN.token_id, tuple(token.token_id for token in tokens))
    assert (error.expected, error.found) == (f"token {TOKEN.token_id}", have)


@pytest.mark.parametrize("tokens", [(TOKEN, OTHER_TOKEN), (OTHER_TOKEN, TOKEN)])
def test_with_two_tokens_the_named_one_opens(tokens: tuple[Any, ...]) -> None:
    for token in tokens:
        held = first(token=token)
        assert accepted(held.envelope, demands(tokens=tokens)).held.token_id == token.token_id


def test_a_superseded_token_is_refused_although_it_is_held() -> None:
    resealed = extend(GENESIS, Change.RESEAL, token=OTHER_TOKEN)
    floor = floor_of(resealed, superseded=frozenset({TOKEN.token_id}))
    both = (TOKEN, OTHER_TOKEN)
    back = extend(resealed, Change.ROTATE, token=TOKEN)
    for held in (resealed, None):
        error = refused(back.envelope, demands(held, floor=floor, tokens=both))
        assert isinstance(error, WrongTokenError)
        assert error.message == "the envelope is sealed under a token that this node has seen replaced"
        assert (error.need, error.have) == (TOKEN.token_id, (TOKEN.token_id, OTHER_TOKEN.token_id))
    onward = extend(resealed, Change.ROTATE, token=OTHER_TOKEN)
    assert accepted(onward.envelope, demands(resealed, floor=floor, tokens=both)).held == onward


def test_a_token_change_is_an_epoch_like_any_other() -> None:
    resealed = extend(GENESIS, Change.RESEAL, token=OTHER_TOKEN)
    assert accepted(resealed.envelope, demands(GENESIS, tokens=(TOKEN, OTHER_TOKEN))).held == resealed
    assert type(refused(resealed.envelope, demands(GENESIS))) is WrongTokenError


# --- steps 7 and 8 ------------------------------------------------------------------------------


def test_another_secret_under_the_id_fails_the_commitment() -> None:
    assert type(refused(GENESIS.envelope, demands(tokens=(IMPOSTOR,)))) is CommitmentError


def test_altered_bytes_are_tampered_with() -> None:
    raw = GENESIS.envelope
    assert type(refused(altered(raw, raw.rindex(b".") + 1), demands())) is TamperedError


# --- step 9: invariants -------------------------------------------------------------------------


def spoil_ancestry(value: dict[str, Any]) -> None:
    value["anc"] = value["anc"][:-1]


def spoil_kid(value: dict[str, Any]) -> None:
    value["keys"][0]["kid"] = value["keys"][1]["kid"]


def spoil_active(value: dict[str, Any]) -> None:
    value["keys"] = [key for key in value["keys"] if key["state"] != "active"]


def spoil_revoked(value: dict[str, Any]) -> None:
    value["revoked"] = [{"kid": value["keys"][0]["kid"], "at": NOW, "reason": ""}]


def spoil_policy(value: dict[str, Any]) -> None:
    value["policy"]["propagation"] = 1


@pytest.mark.parametrize("spoil", [spoil_ancestry, spoil_kid, spoil_active, spoil_revoked, spoil_policy])
def test_a_sealed_keyset_that_breaks_an_invariant_is_malformed(spoil: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(EPOCH[1].plaintext)
    spoil(value)
    raw = seal_plaintext(json.dumps(value).encode(), epoch=2)
    for held in (None, GENESIS):
        assert type(refused(raw, demands(held))) is MalformedError


# --- step 10: lineage ---------------------------------------------------------------------------

FOREIGN: Final = first(lineage=OTHER_LINEAGE)
PINS: Final = {
    "configured": demands(lineage=LINEAGE),
    "of the floor": demands(floor=floor_of(GENESIS)),
    "of the keyset": demands(GENESIS),
    "of the keyset, the floor's forgotten": demands(GENESIS, floor=None, lineage=LINEAGE),
    "of the floor, against the configured one": demands(floor=floor_of(GENESIS), lineage=OTHER_LINEAGE),
    "of the keyset, against the configured one": demands(GENESIS, lineage=OTHER_LINEAGE),
}


@pytest.mark.parametrize("what", PINS.values(), ids=PINS)
def test_another_lineage_is_a_fork(what: Demands) -> None:
    error = refused(extend(FOREIGN, Change.ROTATE).envelope, what)
    assert type(error) is ForkError
    assert error.message == "the envelope is of another lineage"
    assert (error.expected, error.found) == (f"lineage {LINEAGE}", f"lineage {OTHER_LINEAGE}")


def test_the_pinned_lineage_is_taken() -> None:
    assert accepted(GENESIS.envelope, demands(lineage=LINEAGE)).held == GENESIS


# --- step 11: epoch and ancestry ----------------------------------------------------------------


def test_an_epoch_below_the_demanded_one_is_a_rollback() -> None:
    assert accepted(EPOCH[2].envelope, demands(min_epoch=3)).held == EPOCH[2]
    for held in (None, GENESIS):
        error = refused(EPOCH[2].envelope, demands(held, min_epoch=4))
        assert type(error) is RollbackError
        assert (error.message, error.found) == ("the envelope is older than demanded", "epoch 3")


SIBLING: Final = history([Change.ROTATE, Change.ROTATE, Change.ROTATE], start=EPOCH[0], name="sibling ")
"""Another history from the same genesis: epochs 1 to 4."""


@pytest.mark.parametrize("theirs", [2, 3, 4])
@pytest.mark.parametrize("mine", [2, 3, 4])
def test_another_history_is_a_fork_at_every_distance(mine: int, theirs: int) -> None:
    raw = SIBLING[theirs - 1].envelope
    for what in (demands(EPOCH[mine - 1]), demands(EPOCH[mine - 1], floor=floor_of(EPOCH[mine - 1]))):
        error = refused(raw, what)
        assert type(error) is ForkError
        assert error.message == "the envelope is of another history than the keyset on this node"
        assert error.expected.startswith(f"a descendant of epoch {mine} ")
        assert error.found.startswith(f"epoch {theirs} ")


def test_the_same_keyset_sealed_again_at_the_same_epoch_is_a_fork() -> None:
    again = hold(replace(EPOCH[2].keyset, issued=EPOCH[2].keyset.issued + 1))
    assert type(refused(again.envelope, demands(EPOCH[2]))) is ForkError


def test_another_genesis_of_the_same_lineage_is_a_fork() -> None:
    for what in (demands(GENESIS), demands(floor=floor_of(GENESIS)), demands(EPOCH[1])):
        assert type(refused(first("another ").envelope, what)) is ForkError


def test_a_descendant_is_accepted_at_every_distance() -> None:
    for mine in EPOCH:
        for later in EPOCH[mine.keyset.epoch :]:
            answer = accepted(later.envelope, demands(mine, floor=floor_of(mine)))
            assert answer == Accepted(held=later, ancestry_unproven=False)


@pytest.mark.parametrize(("ahead", "unproven"), [(1, False), (63, False), (64, False), (65, True), (66, True)])
def test_ancestry_reaches_back_64_epochs(ahead: int, *, unproven: bool) -> None:
    mine, later = chain(70)[1], chain(70)[1 + ahead]
    for what in (demands(mine), demands(floor=floor_of(mine)), demands(mine, floor=floor_of(mine))):
        assert accepted(later.envelope, what).ancestry_unproven is unproven


@pytest.mark.parametrize(("ahead", "fork"), [(63, True), (64, True), (65, False)])
def test_another_history_is_recognised_for_64_epochs(ahead: int, *, fork: bool) -> None:
    mine, later = SIBLING[1], chain(70)[1 + ahead]
    for what in (demands(mine), demands(floor=floor_of(mine))):
        if fork:
            assert type(refused(later.envelope, what)) is ForkError
        else:
            assert accepted(later.envelope, what).ancestry_unproven is True


@pytest.mark.parametrize("position", range(4))
def test_my_digest_stands_at_my_epoch_and_nowhere_else(position: int) -> None:
    mine = EPOCH[2]  # epoch 3: in epoch 5 its digest stands second
    ancestors = [noise(f"{number}", 16) for number in range(4)]
    ancestors[position] = mine.digest
    later = hold(replace(EPOCH[4].keyset, ancestors=tuple(ancestors)))
    if position == 1:
        assert accepted(later.envelope, demands(mine)).held == later
    else:
        assert type(refused(later.envelope, demands(mine))) is ForkError


def test_a_floor_without_a_keyset_is_not_undercut() -> None:
    floor = floor_of(EPOCH[2])
    for epoch in (1, 2):
        error = refused(EPOCH[epoch - 1].envelope, demands(floor=floor))
        assert type(error) is RollbackError
        assert (error.expected, error.found) == ("epoch 3 or later", f"epoch {epoch}")
    assert accepted(EPOCH[2].envelope, demands(floor=floor)) == Accepted(held=EPOCH[2])
    assert accepted(EPOCH[4].envelope, demands(floor=floor)) == Accepted(held=EPOCH[4])
    assert type(refused(SIBLING[2].envelope, demands(floor=floor))) is ForkError
    assert type(refused(SIBLING[3].envelope, demands(floor=floor))) is ForkError


# --- step 12: keys only advance, revocations stick ----------------------------------------------


def following(
    mine: Held, *, keys: tuple[Key, ...] | None = None, revoked: tuple[Revocation, ...] | None = None
) -> Held:
    """Return an epoch after `mine` that proves its descent but has other keys or revocations."""
    keyset = extend(mine, Change.RESEAL).keyset
    return hold(
        replace(
            keyset,
            keys=keyset.keys if keys is None else keys,
            revoked=keyset.revoked if revoked is None else revoked,
        )
    )


def test_a_key_does_not_go_back() -> None:
    mine = EPOCH[1]
    keys = tuple(
        replace(sig_key("2 next", State.ACTIVE), created=mine.keyset.issued)
        if key.use == "sig" and key.state is State.NEXT
        else sig_key("B", State.NEXT)
        if key.use == "sig" and key.state is State.ACTIVE
        else key
        for key in mine.keyset.keys
    )
    error = refused(following(mine, keys=keys).envelope, demands(mine))
    assert type(error) is MalformedError
    assert error.message == f"key {mine.keyset.active.kid} goes from active to next"


def test_a_key_is_not_exchanged_under_its_kid() -> None:
    keys = tuple(
        replace(key, material=noise("another", 32)) if key.use == "enc" else key for key in GENESIS.keyset.keys
    )
    error = refused(following(GENESIS, keys=keys).envelope, demands(GENESIS))
    assert type(error) is MalformedError
    assert error.message.endswith("is not the key that this node holds")


def test_verify_until_is_not_lowered() -> None:
    def until(held: Held, moment: int) -> Keyset:
        return replace(held.keyset, keys=tuple(replace(key, verify_until=moment) for key in held.keyset.keys))

    mine = hold(until(GENESIS, NOW))
    for moment, fine in ((NOW - 1, False), (NOW, True), (NOW + 1, True)):
        raw = hold(until(extend(mine, Change.RESEAL), moment)).envelope
        if fine:
            assert accepted(raw, demands(mine)).held.envelope == raw
        else:
            assert type(refused(raw, demands(mine))) is MalformedError


REVOKED: Final = history([Change.ROTATE, Change.REVOKE_RETIRED, Change.FORGET, Change.FORGET])
"""Epoch 3 revokes A of each use; epochs 4 and 5 have forgotten one and then both."""


def relisting(mine: Held, name: str = "A") -> Held:
    """Return an epoch after `mine` that lists a key again that was revoked."""
    key = replace(sig_key(name, State.ACTIVE), created=NOW)
    active = mine.keyset.active
    others = tuple(
        replace(one, state=State.RETIRED, retired=NOW, material=one.public.spki) if one is active else one
        for one in mine.keyset.keys
    )
    return following(mine, keys=(*others, key), revoked=())


def test_a_revoked_key_does_not_come_back_while_the_keyset_remembers() -> None:
    mine = REVOKED[2]
    error = refused(relisting(mine).envelope, demands(mine))
    assert type(error) is MalformedError
    assert error.message == f"key {sig_key('A').kid} goes from revoked to active"


def test_a_revoked_key_does_not_come_back_while_the_floor_remembers() -> None:
    mine = REVOKED[4]
    assert not mine.keyset.revoked
    floor = floor_of(mine, revoked=frozenset({sig_key("A").kid}))
    back = relisting(mine)
    for what in (demands(mine, floor=floor), demands(floor=floor)):
        error = refused(back.envelope, what)
        assert type(error) is MalformedError
        assert error.message == f"key {sig_key('A').kid} is listed again after it was revoked"
        assert error.found == "active"
    # Only the floor knows: this is why it keeps revocations for ever.
    assert accepted(back.envelope, demands(mine)).held == back


def test_a_revocation_in_the_floor_stops_no_other_key_and_no_list() -> None:
    floor = floor_of(REVOKED[1], revoked=frozenset({sig_key("A").kid, enc_key("A").kid, "another"}))
    assert accepted(REVOKED[2].envelope, demands(floor=floor)).held == REVOKED[2]


def test_a_key_that_this_node_never_saw_is_revoked_over_several_epochs_only() -> None:
    entry = Revocation(kid=sig_key("never seen").kid, at=NOW, reason="")
    revoked = following(GENESIS, revoked=(entry,))
    assert type(refused(revoked.envelope, demands(GENESIS))) is MalformedError
    later = extend(revoked, Change.RESEAL)
    assert accepted(later.envelope, demands(GENESIS)).held == later


# --- the order of the last steps, and what stays ------------------------------------------------


def test_invariants_come_before_lineage() -> None:
    value = json.loads(EPOCH[1].plaintext)
    spoil_active(value)
    raw = seal_plaintext(json.dumps(value).encode(), epoch=2, lineage=OTHER_LINEAGE)
    assert type(refused(raw, demands(GENESIS))) is MalformedError


def test_lineage_comes_before_epoch() -> None:
    error = refused(FOREIGN.envelope, demands(EPOCH[3], min_epoch=3))
    assert error.message == "the envelope is of another lineage"


def test_the_demanded_epoch_comes_before_ancestry() -> None:
    assert type(refused(SIBLING[2].envelope, demands(EPOCH[3], min_epoch=4))) is RollbackError


def test_ancestry_comes_before_the_states_of_keys() -> None:
    # Its keys are other keys, too: the fork is the answer.
    stranger = hold(make_keyset(3, keys=(sig_key("x"), enc_key("x"))))
    assert type(refused(stranger.envelope, demands(EPOCH[1]))) is ForkError


def test_opening_asks_for_no_history() -> None:
    assert open_held(SIBLING[1].envelope, demands(EPOCH[3])) == SIBLING[1]
    with pytest.raises(ForeignClusterError):
        open_held(SIBLING[1].envelope, demands(place=Place(cluster="x", location="y")))
