"""Audit records: one spelling, links, signatures; and for each way to break a chain the link that is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.audit import Event, Link, Mint, Place, What, change, jwt_hash, mint_json, mint_of
from keydist.core.audit_chain import Verifying, check_next, describe_head
from keydist.core.audit_record import MAX_RECORD, compose, parse_entry, parse_mint, told
from keydist.core.jwk import parse_public_jwk, public_jwk
from keydist.core.strict import b64url_encode, serialise
from keydist.errors import BrokenTrailError, MalformedError
from tests.material import (
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    Change,
    extend,
    first,
    history,
    make_keyset,
    noise,
    private_key,
    sig_key,
)
from tests.unit.audit_material import CHAIN, NODE, THREE, WHO, chained, event_of, key_of, mint

ONE, TWO, _ = THREE
RECORDS = chained()


def check(records: list[bytes], *, is_whole: bool = True, keys: Callable[[str], Verifying | None] = key_of) -> Link:
    """Return the last link of a chain."""
    link: Link | None = None
    for raw in records:
        link = check_next(raw, link, place=NODE, key_of=keys, is_whole=is_whole).entry.link
    assert link is not None
    return link


# --- one record ---------------------------------------------------------------------------------


def test_a_record_says_what_happened_and_who_did_it() -> None:
    entry = parse_entry(RECORDS[1])
    assert (entry.place, entry.chain, entry.seq, entry.at) == (NODE, CHAIN, 2, NOW + 1)
    assert (entry.what, entry.how, entry.epoch, entry.digest) == ("epoch", "written", 2, TWO.digest)
    assert entry.facts == {"active": TWO.keyset.active.kid, "token": TWO.token_id}
    assert entry.who == WHO
    assert entry.prev == parse_entry(RECORDS[0]).link.hash
    assert json.loads(RECORDS[1])["sig"] == b64url_encode(entry.signature)


@pytest.mark.parametrize("alg", sorted(crypto.SIGNING_ALGS))
def test_every_algorithm_signs_and_is_checked_by_the_public_key_that_is_kept(alg: str) -> None:
    key = sig_key("rsa-a" if alg in crypto.RSA_ALGS else "x", alg=alg)
    keys = (key, *(other for other in ONE.keyset.keys if other.state != "active" or other.use == "enc"))
    held = replace(ONE, keyset=make_keyset(keys=keys))
    kept_alg, part = parse_public_jwk(serialise(public_jwk(key)), key.kid)
    public = Verifying(crypto.load_public(part.spki), kept_alg)
    raw = compose(event_of(held), NODE, Link(chain=CHAIN), at=NOW, who=WHO)
    assert check_next(raw, None, place=NODE, key_of={key.kid: public}.get).is_proven
    with pytest.raises(BrokenTrailError, match="signature"):
        check_next(raw, None, place=NODE, key_of=lambda _: public._replace(key=private_key("y").public_key()))
    with pytest.raises(BrokenTrailError, match="signature"):
        check_next(raw, None, place=NODE, key_of=lambda _: public._replace(alg="none"))


def test_the_signed_text_is_no_jwts() -> None:
    assert b"\0" in parse_entry(RECORDS[0]).signed


def altered(**members: object) -> bytes:
    return serialise(json.loads(RECORDS[0]) | members)


MALFORMED = {
    "not JSON": b"{",
    "too long": b" " * (MAX_RECORD + 1),
    "another spelling": json.dumps(json.loads(RECORDS[0])).encode(),
    "another order": serialise(dict(sorted(json.loads(RECORDS[0]).items()))),
    "a member more": altered(more=1),
    "another version": altered(v=2),
    "a true version": altered(v=True),
    "no signature": altered(sig=1),
    "a long signature": altered(sig="A" * 1025),
    "a signature in another alphabet": altered(sig="+"),
    "a node with a dot at a strange place": altered(node="a b"),
    "no cluster": altered(cluster=""),
    "a short chain": altered(chain="00"),
    "record 0": altered(seq=0),
    "a short link": altered(prev="AA"),
    "no time": altered(at="now"),
    "a strange what": altered(what="Epoch!"),
    "a long how": altered(how="x" * 257),
    "no lineage": altered(lineage="00"),
    "epoch 0": altered(epoch=0),
    "no digest": altered(digest=""),
    "facts that are none": altered(facts=[]),
    "too many facts": altered(facts={chr(97 + n): 1 for n in range(17)}),
    "a fact of a strange name": altered(facts={"A": 1}),
    "a fact of a strange kind": altered(facts={"a": {}}),
    "a fact of strange items": altered(facts={"a": [1]}),
    "minted that is none": altered(minted={}),
    "a minted that is none": altered(minted=[1]),
    "a minted without members": altered(minted=[{}]),
    "a kid that is none": altered(kid="x"),
    "an algorithm that is none": altered(alg=1),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_in_the_one_spelling_is_no_record(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_entry(raw)


def test_what_no_reader_would_take_is_not_written() -> None:
    with pytest.raises(MalformedError):
        compose(event_of(ONE)._replace(how="x" * 300), NODE, Link(chain=CHAIN), at=NOW, who=WHO)


# --- what a keyset changes ----------------------------------------------------------------------


def changed(before: Held, step: Change) -> Any:  # noqa: ANN401
    return change(before, extend(before, step))


def test_the_facts_of_an_epoch_say_what_it_changes() -> None:
    held = history([Change.ROTATE, Change.ROTATE])[-1]
    assert changed(held, Change.ROTATE)["change"] == ("rotated", "published")
    dropped = changed(held, Change.DROP)
    assert dropped["change"] == ("dropped",)
    assert len(dropped["dropped"]) == 2
    revoked = changed(held, Change.REVOKE_ACTIVE)
    assert revoked["change"] == ("rotated", "revoked", "published")
    assert held.keyset.active.kid in revoked["revoked"]
    assert revoked["reason"]
    assert "revoked" not in changed(extend(held, Change.REVOKE_ACTIVE), Change.ROTATE)
    assert "change" not in changed(held, Change.FORGET)


def test_the_facts_of_an_epoch_tell_of_token_policy_and_extended_keys() -> None:
    key = replace(ONE.keyset.keys[0], verify_until=NOW)
    policy = replace(ONE.keyset.policy, rotate_every=1)
    keyset = replace(ONE.keyset, keys=(key, *ONE.keyset.keys[1:]), policy=policy)
    facts = change(ONE, replace(ONE, keyset=keyset, token_id=OTHER_TOKEN.token_id))
    assert facts["change"] == ("token-replaced", "policy", "extended")
    assert (facts["extended"], facts["token"], facts["was"]) == ((key.kid,), OTHER_TOKEN.token_id, 1)


# --- what was minted ----------------------------------------------------------------------------


def test_of_a_jwt_its_hash_and_a_few_claims_are_kept() -> None:
    claims = {"sub": "alice", "aud": "api", "exp": NOW, "jti": "7", "secret": "no"}
    made = mint_of("a.b.c", claims, "kid")
    assert made == Mint(sha256=jwt_hash("a.b.c"), kid="kid", jti="7", sub="alice", aud=("api",), exp=NOW)
    long = mint_of("a.b.c", {"sub": "s" * 300, "aud": ["x", "y" * 300], "exp": NOW, "jti": 7}, "kid")
    assert (long.jti, long.aud[0], len(long.sub), long.aud[1][:7]) == ("", "x", 50, "sha256:")


def test_no_audience_hides_behind_others() -> None:
    def kept(audiences: list[str]) -> tuple[str, ...]:
        return mint_of("a.b.c", {"sub": "s", "aud": audiences, "exp": NOW}, "kid").aud

    many = [f"api-{number}" for number in range(66)]
    assert kept(many[:64]) == tuple(many[:64])
    for count in (65, 66):
        spelled = ",".join(f'"{item}"' for item in many[:count])
        digest = hashlib.sha256(b'{"aud":[%s]}' % spelled.encode()).digest()
        assert kept(many[:count]) == (*many[:63], f"sha256:{b64url_encode(digest)}")


def test_a_record_holds_what_was_minted() -> None:
    event = Event(what=What.MINTED, held=ONE, minted=(mint(1), mint(2)), facts={"left_out": 3})
    (raw,) = chained([event])
    assert parse_entry(raw).minted == event.minted
    assert parse_mint(serialise(mint_json(mint(1)))) == mint(1)


@pytest.mark.parametrize("uid", [None, 0, 2**32 - 2])
def test_a_record_tells_who_had_a_jwt_minted_and_those_of_before_do_not(uid: int | None) -> None:
    minted = mint(1)._replace(uid=uid)
    assert ("uid" in mint_json(minted)) == (uid is not None)
    event = Event(what=What.MINTED, held=ONE, minted=(minted,))
    (raw,) = chained([event])
    assert parse_entry(raw).minted == (minted,)
    assert check([raw]).seq == 1


@pytest.mark.parametrize("uid", [-1, 2**32 - 1, True, None, "0", 1.0, [0]])
def test_a_user_id_that_is_none_is_refused(uid: object) -> None:
    with pytest.raises(MalformedError):
        parse_mint(json.dumps(mint_json(mint(1)) | {"uid": uid}).encode())


# --- chains -------------------------------------------------------------------------------------


def test_a_chain_from_the_first_record_on_is_whole() -> None:
    link = check(RECORDS)
    assert (link.seq, link.digest) == (3, THREE[2].digest)
    assert describe_head(link) == f"chain {CHAIN}, record 3, {b64url_encode(link.hash)}"


def test_of_a_journal_whose_beginning_is_gone_the_rest_is_checked() -> None:
    assert check(RECORDS[1:], is_whole=False).seq == 3
    with pytest.raises(BrokenTrailError):
        check([RECORDS[0], RECORDS[2]], is_whole=False)


def test_a_record_by_a_key_that_is_not_at_hand_is_linked_but_not_proven() -> None:
    assert not check_next(RECORDS[0], None, place=NODE, key_of=lambda _: None).is_proven


FORGED = compose(event_of(TWO), NODE, Link(chain=CHAIN, seq=1, hash=noise("x", 32)), at=NOW, who=WHO)
OTHER = compose(event_of(TWO), NODE, parse_entry(RECORDS[0]).link, at=NOW + 9, who=WHO)
FOREIGN = chained([event_of(first("other ", lineage=OTHER_LINEAGE))], link=parse_entry(RECORDS[0]).link)[0]
ANOTHERS = chained(place=Place(cluster=NODE.cluster, node="node-b"))
CLUSTERS = chained(place=Place(cluster="prod-us1", node=NODE.node))


def rewritten(raw: bytes, **members: object) -> bytes:
    """Return a record with other members under the signature that it had: what who has no key can do."""
    return serialise(json.loads(raw) | members)


BROKEN: dict[str, tuple[list[bytes], int, str]] = {
    "the first is missing": (RECORDS[1:], 1, "gap"),
    "one is missing": ([RECORDS[0], RECORDS[2]], 2, "gap"),
    "several are missing": ([*RECORDS[:1], *chained([event_of(TWO)] * 9)[7:]], 2, "gap"),
    "linked to another": ([RECORDS[0], FORGED], 2, "wrong-prev"),
    "the first is linked to something": ([rewritten(RECORDS[0], prev=b64url_encode(noise("x", 32)))], 1, "wrong-prev"),
    "twice": ([*RECORDS[:2], RECORDS[1]], 2, "repeated"),
    "an earlier one again": ([*RECORDS, RECORDS[0]], 1, "reordered"),
    "two histories": ([*RECORDS[:2], OTHER], 2, "two-histories"),
    "one changed place": ([RECORDS[0], RECORDS[2], RECORDS[1]], 2, "gap"),
    "one was replaced": ([RECORDS[0], OTHER, RECORDS[2]], 3, "wrong-prev"),
    "who is another": ([rewritten(RECORDS[0], who={"uid": 0})], 1, "altered"),
    "what is another": ([RECORDS[0], rewritten(RECORDS[1], what="restored")], 2, "altered"),
    "the time is another": ([RECORDS[0], rewritten(RECORDS[1], at=NOW)], 2, "altered"),
    "signed by another key": ([rewritten(RECORDS[0], kid=TWO.keyset.active.kid)], 1, "altered"),
    "of another algorithm": ([rewritten(RECORDS[0], alg="ES256")], 1, "altered"),
    "no record": ([RECORDS[0], b"junk"], 2, "altered"),
    "junk at first": ([b""], 1, "altered"),
    "another node's": ([ANOTHERS[0]], 1, "other-node"),
    "another node's later": ([RECORDS[0], ANOTHERS[1]], 2, "other-node"),
    "another cluster's": ([CLUSTERS[0]], 1, "other-node"),
    "of another lineage": ([RECORDS[0], FOREIGN], 2, "other-lineage"),
}


@pytest.mark.parametrize(("records", "seq", "wrong"), BROKEN.values(), ids=BROKEN)
def test_the_first_broken_link_is_named(records: list[bytes], seq: int, wrong: str) -> None:
    with pytest.raises(BrokenTrailError) as caught:
        check(records)
    error = caught.value
    assert (error.node, error.seq, error.wrong) == ("node-a", seq, wrong)
    assert f"node node-a is broken at record {seq}" in error.message
    assert error.as_json()["wrong"] == wrong
    assert error.fix


@pytest.mark.parametrize("what", [What.RESOLVED, What.RESTORED, What.FOUND, What.GENESIS])
def test_a_record_that_says_how_may_tell_of_another_lineage(what: What) -> None:
    other = first("other ", lineage=OTHER_LINEAGE)
    records = [RECORDS[0], *chained([event_of(other, what)], link=parse_entry(RECORDS[0]).link)]
    assert check(records, keys=lambda _: None).lineage == OTHER_LINEAGE


def test_who_has_not_seen_yet_that_a_person_took_another_lineage_may_tell_of_the_old_one() -> None:
    """An agent with JWTs to record, beside `store resolve` or `store restore`."""
    other = first("other ", lineage=OTHER_LINEAGE)
    events = [event_of(ONE), event_of(other, What.RESOLVED), event_of(ONE, What.MINTED), event_of(other, What.MINTED)]
    link: Link | None = None
    known: set[str] = set()
    for raw in chained(events):
        link = check_next(raw, link, place=NODE, key_of=lambda _: None, lineages=known).entry.link
        known.add(link.lineage)
    third = first("third ", lineage="33" * 16)
    with pytest.raises(BrokenTrailError, match="another lineage"):
        check_next(chained([event_of(third)], link=link)[0], link, place=NODE, key_of=lambda _: None, lineages=known)


def test_of_a_chain_the_last_record_that_tells_of_more_than_jwts() -> None:
    records = dict(enumerate(chained([event_of(ONE), event_of(TWO), *[event_of(TWO, What.MINTED)] * 70]), 1))
    links = {seq: parse_entry(raw).link for seq, raw in records.items()}

    def epoch(seq: int, found: dict[int, bytes] = records) -> int | None:
        entry = told(links[seq], lambda _, number: found.get(number))
        return None if entry is None else entry.epoch

    assert told(None, lambda *_: None) is None
    assert [epoch(seq) for seq in (1, 2, 3, 65, 66, 72)] == [1, 2, 2, 2, None, None]
    assert epoch(4, {4: records[4]}) is None
    assert epoch(4, {4: b"junk"}) is None
    assert told(links[3]._replace(seq=1), lambda *_: records[5]) is None
