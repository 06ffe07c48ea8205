"""The agent's socket: what each request answers, how each mistake is answered, and that nothing else is done."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request

from keydist.adapters.http.guard import Peer
from keydist.core.audit import jwt_hash
from keydist.core.policy import Policy
from keydist.errors import DiskError
from keydist.serving.answers import guarded
from keydist.serving.signer import PeerSigner
from tests.fakes.journal import RecordingJournal
from tests.material import NOW, Change, extend, first, history
from tests.unit.serving_node import ISSUER, ServingNode

DAY = 86_400


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    with ServingNode(tmp_path) as node:
        yield node


def test_what_is_minted_there_is_verified_there(node: ServingNode) -> None:
    minted = node.mint(lifetime=60)
    assert minted.status == 200
    kid = first().keyset.active.kid
    assert {name: value for name, value in minted.json.items() if name != "jwt"} == {"kid": kid, "exp": NOW + 60}
    assert node.minted.expiries == [NOW + 60]
    verified = node.verify(minted.json["jwt"])
    assert verified.json == {
        "claims": {
            "iss": ISSUER,
            "sub": "someone",
            "aud": "api",
            "exp": NOW + 60,
            "iat": NOW,
            "role": "reader",
        },
        "kid": kid,
    }
    assert verified.headers["cache-control"] == "no-store"


async def test_the_audit_trail_hears_who_asked(tmp_path: Path) -> None:
    node = ServingNode(tmp_path, own_uid=4242)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"subject":"s","audience":"a"}'}

    scope = {"type": "http", "headers": [], "state": {"peer": Peer(1, 4242, frozenset())}}
    answer = json.loads(bytes((await node.local.mint(Request(scope, receive))).body))
    assert [(mint.sha256, mint.uid) for mint in node.trail.mints] == [(jwt_hash(answer["jwt"]), 4242)]


def test_the_user_id_is_the_kernels_word(node: ServingNode) -> None:
    assert node.mint().status == 200
    assert [mint.uid for mint in node.trail.mints] == [os.getuid()]


@pytest.mark.parametrize(
    ("asked", "claims"),
    [
        pytest.param({"audience": ["api", "web"]}, {"aud": ["api", "web"]}, id="audiences"),
        pytest.param({"issuer": "https://other"}, {"iss": "https://other"}, id="an issuer"),
        pytest.param({"claims": {}}, {"exp": NOW + 900}, id="the default lifetime"),
    ],
)
def test_what_is_asked_for_stands_in_the_jwt(
    node: ServingNode, asked: dict[str, Any], claims: dict[str, object]
) -> None:
    minted = node.mint(**asked)
    found = node.verify(minted.json["jwt"], issuer=asked.get("issuer", ISSUER)).json["claims"]
    assert claims.items() <= found.items()


def test_a_type_and_a_leeway_are_honoured(node: ServingNode) -> None:
    jwt = node.mint(typ="at+jwt", lifetime=1).json["jwt"]
    assert node.verify(jwt).error == (422, "invalid-jwt")
    node.clock.advance(30)
    assert node.verify(jwt, typ="at+jwt").status == 200
    refused = node.verify(jwt, typ="at+jwt", leeway=0)
    assert refused.error == (422, "invalid-jwt")
    assert refused.json["error"]["reason"] == "expired"


MINT = {"subject": "s", "audience": "a"}
VERIFY = {"jwt": "a.b.c", "audience": "a", "issuer": "i"}


@pytest.mark.parametrize(
    ("path", "asked", "status", "code"),
    [
        pytest.param("/v1/mint", b"", 400, "usage", id="nothing"),
        pytest.param("/v1/mint", b"[]", 400, "usage", id="no object"),
        pytest.param("/v1/mint", b'{"subject":"s","subject":"t","audience":"a"}', 400, "usage", id="twice"),
        pytest.param("/v1/mint", b"\xff", 400, "usage", id="no text"),
        pytest.param("/v1/mint", b"[" * 16_000, 400, "usage", id="deep"),
        pytest.param("/v1/mint", b" " * 16_385, 413, "usage", id="too large"),
        pytest.param("/v1/mint", {"subject": "s"}, 400, "usage", id="a member is missing"),
        pytest.param("/v1/mint", MINT | {"sub": "s"}, 400, "usage", id="an unknown member"),
        pytest.param("/v1/mint", MINT | {"subject": ""}, 400, "usage", id="an empty subject"),
        pytest.param("/v1/mint", MINT | {"subject": 1}, 400, "usage", id="a subject that is no text"),
        pytest.param("/v1/mint", MINT | {"audience": []}, 400, "usage", id="no audience"),
        pytest.param("/v1/mint", MINT | {"audience": [1]}, 400, "usage", id="an audience that is no text"),
        pytest.param("/v1/mint", MINT | {"audience": ""}, 400, "usage", id="an empty audience"),
        pytest.param("/v1/mint", MINT | {"issuer": None}, 400, "usage", id="an issuer that is null"),
        pytest.param("/v1/mint", MINT | {"lifetime": True}, 400, "usage", id="a lifetime that is no number"),
        pytest.param("/v1/mint", MINT | {"lifetime": 0}, 400, "usage", id="no lifetime"),
        pytest.param("/v1/mint", MINT | {"lifetime": DAY + 1}, 400, "usage", id="a lifetime beyond the policy's"),
        pytest.param("/v1/mint", MINT | {"claims": []}, 400, "usage", id="claims that are no object"),
        pytest.param("/v1/mint", MINT | {"claims": {"iss": "me"}}, 400, "usage", id="a registered claim"),
        pytest.param("/v1/mint", MINT | {"claims": {"x": 1.5}}, 400, "usage", id="a fraction"),
        pytest.param("/v1/mint", MINT | {"claims": {"x": "\ud800"}}, 400, "usage", id="half a surrogate pair"),
        pytest.param("/v1/mint", MINT | {"claims": {"x": "y" * 9000}}, 400, "usage", id="a JWT that is too long"),
        pytest.param("/v1/mint", MINT | {"typ": "ü"}, 400, "usage", id="a type that is not ASCII"),
        pytest.param("/v1/verify", VERIFY, 422, "invalid-jwt", id="no JWT"),
        pytest.param("/v1/verify", VERIFY | {"jwt": "x" * 9000}, 422, "invalid-jwt", id="a long JWT"),
        pytest.param("/v1/verify", VERIFY | {"jwt": ""}, 400, "usage", id="an empty JWT"),
        pytest.param("/v1/verify", VERIFY | {"leeway": "1"}, 400, "usage", id="a leeway that is no number"),
        pytest.param("/v1/verify", {"jwt": "a.b.c", "audience": "a"}, 400, "usage", id="no issuer"),
        pytest.param("/v1/refresh", {"now": 1}, 400, "usage", id="an unknown wish"),
        pytest.param("/v1/mint/", MINT, 404, "usage", id="a path that is nearly one"),
        pytest.param("/v2/mint", MINT, 404, "usage", id="another version"),
    ],
)
def test_what_is_not_asked_for_properly_is_refused(
    node: ServingNode, path: str, asked: object, status: int, code: str
) -> None:
    refused = node.post(path, asked)
    assert refused.error == (status, code)
    assert refused.json["error"].keys() >= {"code", "family", "message", "expected", "found", "fix"}
    assert node.minted.expiries == []
    assert node.journal.named("request-failed") == []


@pytest.mark.parametrize(("path", "method"), [("/v1/mint", "GET"), ("/v1/status", "POST"), ("/v1/jwks", "DELETE")])
def test_another_method_is_refused(node: ServingNode, path: str, method: str) -> None:
    assert node.post(path, {}, method=method).error == (405, "usage")


def test_status_and_keys_are_told_to_whoever_connects(node: ServingNode) -> None:
    assert node.post("/v1/status", b"", method="GET").json == {"node": "n"}
    assert node.post("/v1/jwks", b"", method="GET").json == node.local.verifier.jwks()


def test_where_the_lease_is_over_nothing_is_minted_and_verifying_goes_on(node: ServingNode) -> None:
    jwt = node.mint(lifetime=DAY).json["jwt"]
    node.clock.advance(Policy().mint_lease + 1)
    refused = node.mint()
    assert refused.error == (503, "lease-expired")
    assert node.verify(jwt).json["error"]["reason"] == "expired"


def test_a_node_without_a_keyset_says_so(tmp_path: Path) -> None:
    with ServingNode(tmp_path, is_empty=True) as node:
        assert node.mint().error == (503, "not-yet")
        assert node.verify("a.b.c").error == (422, "invalid-jwt")
        assert node.post("/v1/jwks", b"", method="GET").error == (503, "unavailable")
        assert node.post("/v1/refresh", {}).error == (503, "not-yet")


def test_without_an_issuer_one_must_be_given(tmp_path: Path) -> None:
    with ServingNode(tmp_path, issuer=None) as node:
        assert node.mint().error == (400, "usage")
        assert node.mint(issuer="i").status == 200


def test_where_no_look_is_had_in_time_the_first_judgement_stands(
    tmp_path: Path, node: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keydist.services.insight._WAITING", 0)
    (tmp_path / "other").mkdir()
    with ServingNode(tmp_path / "other", first("stranger")) as stranger:
        jwt = stranger.mint().json["jwt"]
    assert node.verify(jwt).error == (422, "invalid-jwt")
    assert node.post("/v1/refresh", {}).error == (503, "not-yet")


async def test_a_defect_behind_the_begin_of_an_answer_is_told() -> None:
    async def broken(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async def nothing(*_: object) -> None:
        pass

    log = RecordingJournal()
    await guarded(broken, log)({"headers": [], "raw_path": b"/", "query_string": b""}, nothing, nothing)
    assert len(log.named("request-failed")) == 1


def test_a_defect_is_answered_and_told_by_its_name(node: ServingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_kid: str, _expires: int) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(node.minted, "minted", broken)
    refused = node.mint()
    assert refused.error == (500, "internal")
    assert b"secret" not in refused.body
    [event] = node.journal.named("request-failed")
    assert "RuntimeError" in str(event["reason"])
    assert node.post("/v1/status", b"", method="GET").status == 200


def test_a_failure_of_this_node_is_no_fault_of_the_client(node: ServingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_kid: str, _expires: int) -> None:
        raise DiskError("the disk is gone")

    monkeypatch.setattr(node.minted, "minted", fails)
    assert node.mint().error == (500, "disk")


# --- looking at the store -----------------------------------------------------------------------


def test_a_refresh_tells_the_epoch_that_it_brought(node: ServingNode) -> None:
    later = extend(first(), Change.ROTATE)
    node.looked = lambda: node.install(later)
    assert node.post("/v1/refresh", {}).json == {"epoch": 2}


def test_looks_are_a_second_apart_whoever_asks(node: ServingNode) -> None:
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: node.post("/v1/refresh", {}).status, range(20)))
    assert answers == [200] * 20
    assert node.looks <= 2


def test_an_unknown_kid_makes_the_agent_look_before_it_answers(tmp_path: Path, node: ServingNode) -> None:
    _, second, third = history([Change.ROTATE, Change.ROTATE])
    (tmp_path / "other").mkdir()
    with ServingNode(tmp_path / "other", third) as ahead:
        jwt = ahead.mint().json["jwt"]

    def catch_up() -> None:
        node.install(second)
        node.install(third)

    node.looked = catch_up
    assert node.verify(jwt).status == 200
    assert node.looks == 1


@pytest.mark.parametrize(
    ("age", "status", "code"), [(0, 422, "invalid-jwt"), (Policy().freshness + 1, 503, "unavailable")]
)
def test_what_stays_unknown_is_invalid_only_where_the_epoch_was_just_confirmed(
    tmp_path: Path, node: ServingNode, age: int, status: int, code: str
) -> None:
    (tmp_path / "other").mkdir()
    with ServingNode(tmp_path / "other", first("stranger")) as stranger:
        jwt = stranger.mint().json["jwt"]
    node.clock.advance(age)
    assert node.verify(jwt).error == (status, code)
    assert node.looks == 1


async def test_between_two_signatures_everything_else_has_its_turn(tmp_path: Path) -> None:
    node = ServingNode(tmp_path)
    turns: list[str] = []

    class Signing:
        def mint_for(self, _uid: int, _claims: object, **_: object) -> str:
            turns.append("signed")
            return jwt

    async def tick() -> None:
        while turns.count("signed") < 5:
            turns.append("turn")
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"subject":"s","audience":"a"}'}

    jwt = node.local.signer.mint({}, subject="s", audience="a")
    local = replace(node.local, signer=cast("PeerSigner", Signing()))
    scope = {"type": "http", "headers": [], "state": {"peer": Peer(1, 0, frozenset())}}
    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(local.mint(Request(dict(scope), receive)))
        tasks.create_task(tick())
    signed = [place for place, what in enumerate(turns) if what == "signed"]
    assert all(later - sooner > 1 for sooner, later in pairwise(signed)), turns
