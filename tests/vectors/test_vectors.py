"""keydist against its own vectors, and the vectors against what makes them."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import pytest

from keydist.core import crypto
from keydist.core.accept import Accepted, Demands, Floor, accept, open_held
from keydist.core.envelope import Place, digest
from keydist.core.record import Record, open_record
from keydist.core.strict import b64url_decode, b64url_encode
from keydist.core.token import format_token, parse_token, parse_token_file
from keydist.errors import KeydistError, TokenError
from tests.vectors.generate import FOLDER, files

Json = dict[str, Any]


def load(name: str) -> Json:
    value: Json = json.loads((FOLDER / name).read_text("ascii"))
    return value


DERIVATION: Final = load("derivation.json")
TOKENS: Final = load("tokens.json")
ENVELOPES: Final = load("envelopes.json")
ACCEPTANCE: Final = load("acceptance.json")
RECORDS: Final = load("records.json")


def named(cases: list[Json]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def test_the_files_are_what_the_generator_makes() -> None:
    stale = [name for name, text in files().items() if text != (FOLDER / name).read_text("ascii")]
    assert not stale, "run: python -m tests.vectors.generate"


@pytest.mark.parametrize("case", named(DERIVATION["cases"]))
def test_derivation(case: Json) -> None:
    keys = crypto.derive(
        secret=bytes.fromhex(case["secret_hex"]),
        cluster=case["cluster"],
        location=case["location"],
        token_id=case["token_id"],
        rnd=bytes.fromhex(case["rnd_hex"]),
    )
    assert keys.content.hex() == case["content_key_hex"]
    assert keys.commitment.hex() == case["commitment_hex"]


@pytest.mark.parametrize("case", named(TOKENS["valid"]))
def test_valid_tokens(case: Json) -> None:
    token = parse_token(case["text"])
    assert (token.token_id, token.secret.hex()) == (case["id"], case["secret_hex"])
    assert format_token(token) == case["text"]


@pytest.mark.parametrize("case", named(TOKENS["invalid"]))
def test_invalid_tokens(case: Json) -> None:
    with pytest.raises(TokenError):
        parse_token(case["text"])


@pytest.mark.parametrize("case", named(TOKENS["valid_files"]))
def test_valid_token_files(case: Json) -> None:
    assert [token.token_id for token in parse_token_file(case["text"].encode())] == case["ids"]


@pytest.mark.parametrize("case", named(TOKENS["invalid_files"]))
def test_invalid_token_files(case: Json) -> None:
    with pytest.raises(TokenError):
        parse_token_file(case["text"].encode())


def stateless(case: Json) -> Demands:
    where = ENVELOPES | case
    return Demands(
        place=Place(cluster=where["cluster"], location=where["location"]), tokens=(parse_token(where["token"]),)
    )


@pytest.mark.parametrize("case", named(ENVELOPES["valid"]))
def test_valid_envelopes(case: Json) -> None:
    raw = case["envelope"].encode()
    answer = accept(raw, stateless(case))
    assert isinstance(answer, Accepted)
    held, keyset, expect = answer.held, answer.held.keyset, case["expect"]
    assert (keyset.lineage, keyset.epoch, keyset.issued) == (expect["lineage"], expect["epoch"], expect["issued"])
    assert (held.token_id, keyset.active.kid) == (expect["token_id"], expect["active_kid"])
    assert b64url_encode(digest(raw)) == expect["digest"]
    assert hashlib.sha256(held.plaintext).hexdigest() == expect["plaintext_sha256_hex"]
    assert keyset.policy.as_json() == expect["policy"]
    assert [b64url_encode(ancestor) for ancestor in keyset.ancestors] == expect["ancestors"]
    keys = [{"kid": key.kid, "use": key.use, "alg": key.alg, "state": key.state.value} for key in keyset.keys]
    assert keys == expect["keys"]
    assert [entry.kid for entry in keyset.revoked] == expect["revoked"]


@pytest.mark.parametrize("case", named(ENVELOPES["invalid"]))
def test_invalid_envelopes(case: Json) -> None:
    with pytest.raises(KeydistError) as caught:
        accept(case["envelope"].encode(), stateless(case))
    assert caught.value.code == case["error"]


def test_every_step_of_a_stateless_node_is_covered() -> None:
    assert {case["step"] for case in ENVELOPES["invalid"]} == set(range(1, 10))
    assert {case["step"] for case in ACCEPTANCE["cases"]} == {0, 6, 10, 11, 12, 13}


def described(case: Json) -> str:
    return f"{case['candidate']} for a node with {case['holds'] or 'no keyset'}" + (", floor" if case["floor"] else "")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{number} {described(case)}") for number, case in enumerate(ACCEPTANCE["cases"])]
)
def test_acceptance(case: Json) -> None:
    place = Place(cluster=ACCEPTANCE["cluster"], location=ACCEPTANCE["location"])
    every = tuple(parse_token(text) for text in ACCEPTANCE["tokens"].values())
    raw = {name: text.encode() for name, text in ACCEPTANCE["envelopes"].items()}
    floor = None
    if case["floor"] is not None:
        known = case["floor"] | {
            "digest": b64url_decode(case["floor"]["digest"], "digest"),
            "superseded": frozenset(case["floor"]["superseded"]),
            "revoked": frozenset(case["floor"]["revoked"]),
        }
        floor = Floor(**known)
    demands = Demands(
        place=place,
        tokens=tuple(parse_token(ACCEPTANCE["tokens"][name]) for name in case["tokens"]),
        lineage=case["lineage"],
        min_epoch=case["min_epoch"],
        held=open_held(raw[case["holds"]], Demands(place=place, tokens=every)) if case["holds"] else None,
        floor=floor,
    )
    if "error" in case:
        with pytest.raises(KeydistError) as caught:
            accept(raw[case["candidate"]], demands)
        assert caught.value.code == case["error"]
        return
    answer = accept(raw[case["candidate"]], demands)
    said = "unchanged"
    if isinstance(answer, Accepted):
        said = "accepted, ancestry unproven" if answer.ancestry_unproven else "accepted"
    assert said == case["expect"]


def opened(case: Json) -> Record:
    tokens = tuple(parse_token(text) for text in RECORDS["tokens"].values())
    place = Place(cluster=RECORDS["cluster"], location=RECORDS["keyset_location"])
    return open_record(case["record"].encode(), node=RECORDS["node"], place=place, tokens=tokens)


@pytest.mark.parametrize("case", named(RECORDS["valid"]))
def test_valid_records(case: Json) -> None:
    record, expect = opened(case), case["expect"]
    assert {name: getattr(record, name) for name in expect} == expect | {
        "digest": b64url_decode(expect["digest"], "digest"),
        "tokens": tuple(expect["tokens"]),
        "minted": {kid: tuple(minted) for kid, minted in expect["minted"].items()},
        "alarms": tuple(expect["alarms"]),
    }


@pytest.mark.parametrize("case", named(RECORDS["invalid"]))
def test_invalid_records(case: Json) -> None:
    with pytest.raises(KeydistError) as caught:
        opened(case)
    assert caught.value.code == case["error"]
