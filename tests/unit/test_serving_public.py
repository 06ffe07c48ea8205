"""HTTP: the documents that verifiers fetch, how long they may be kept, and what is told to whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.requests import Request

from keydist.adapters.metrics import render_metrics
from keydist.adapters.page import PAGE_POLICY, render_page
from keydist.core.jwk import jwk_set, public_jwk
from keydist.core.local import Confirmation
from keydist.core.policy import Policy
from keydist.serving.public import _check_host
from tests.material import Change, extend, first, history, hold
from tests.reports import LEADER
from tests.unit.serving_node import ISSUER, ServingNode

JWKS = "/.well-known/jwks.json"
ACTIVE = first().keyset.active


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    with ServingNode(tmp_path) as node:
        yield node


def max_age(cache_control: str) -> int:
    found = cache_control.removeprefix("public, max-age=")
    assert found.isdigit(), cache_control
    return int(found)


def test_the_jwk_set_is_the_keysets(node: ServingNode) -> None:
    found = node.get(JWKS)
    assert (found.status, found.json) == (200, jwk_set(first().keyset))
    assert found.headers["content-type"] == "application/jwk-set+json"
    assert found.headers["access-control-allow-origin"] == "*"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "keydist-unconfirmed" not in found.headers


def test_it_may_be_kept_for_the_policys_max_age_at_most_and_not_by_all_for_the_same_time(node: ServingNode) -> None:
    ages = [max_age(node.get(JWKS).headers["cache-control"]) for _ in range(20)]
    most = Policy().jwks_max_age
    assert all(0.8 * most <= age <= most for age in ages)
    assert len(set(ages)) > 5


def test_what_did_not_change_is_not_sent_again(node: ServingNode) -> None:
    before = node.get(JWKS)
    tag = before.headers["etag"]
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = node.get(JWKS, **{"If-None-Match": asked})
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
        assert max_age(same.headers["cache-control"])
    assert node.get(JWKS, **{"If-None-Match": '"other"'}).status == 200
    node.install(extend(first(), Change.ROTATE))
    changed = node.get(JWKS, **{"If-None-Match": tag})
    assert changed.status == 200
    assert changed.json == jwk_set(extend(first(), Change.ROTATE).keyset)


@pytest.mark.parametrize("path", [JWKS, "/.well-known/openid-configuration", f"/keys/{ACTIVE.kid}.jwk"])
def test_from_a_node_that_did_not_confirm_its_epoch_nothing_may_be_kept(node: ServingNode, path: str) -> None:
    node.clock.advance(Policy().freshness)
    assert max_age(node.get(path).headers["cache-control"])
    node.clock.advance(1)
    late = node.get(path)
    assert late.status == 200
    assert late.headers["cache-control"] == "no-cache"
    assert late.headers["keydist-unconfirmed"]


@pytest.mark.parametrize("allowed", [0, 1])
def test_what_the_policy_lets_nobody_keep_is_confirmed_all_the_same(tmp_path: Path, allowed: int) -> None:
    held = hold(replace(first().keyset, policy=Policy(jwks_max_age=allowed)))
    with ServingNode(tmp_path, held) as node:
        for path in (JWKS, f"/keys/{ACTIVE.kid}.jwk"):
            found = node.get(path)
            assert (found.status, found.headers["cache-control"]) == (200, "no-cache")
            assert "keydist-unconfirmed" not in found.headers
        node.clock.advance(Policy().freshness + 1)
        assert node.get(JWKS).headers["keydist-unconfirmed"]


def test_a_confirmation_lets_the_same_document_be_kept_again(node: ServingNode) -> None:
    before = node.get(JWKS)
    node.clock.advance(Policy().freshness + 1)
    assert node.get(JWKS).headers["cache-control"] == "no-cache"
    held = first()
    node.disk.confirm(Confirmation(epoch=1, digest=held.digest, at=node.clock.now()))
    after = node.get(JWKS)
    assert max_age(after.headers["cache-control"])
    assert after.headers["etag"] == before.headers["etag"]


def test_head_tells_the_same_without_the_document(node: ServingNode) -> None:
    whole, head = node.get(JWKS), node.get(JWKS, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    same = ("etag", "content-length", "content-type")
    assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed_by_http(node: ServingNode, method: str) -> None:
    refused = node.get(JWKS, method=method)
    assert refused.error == (405, "usage")
    assert refused.headers["allow"] in {"GET, HEAD", "HEAD, GET"}


@pytest.mark.parametrize(("path", "method"), [(JWKS, "GET"), (JWKS, "POST"), ("/nowhere", "GET"), ("/healthz", "GET")])
def test_every_answer_says_that_it_is_what_it_is_and_loads_nothing(node: ServingNode, path: str, method: str) -> None:
    headers = node.get(path, method=method).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'"


def test_the_issuers_metadata_lead_to_the_jwk_set(node: ServingNode) -> None:
    found = node.get("/.well-known/openid-configuration").json
    assert found["issuer"] == ISSUER
    assert found["jwks_uri"] == "https://issuer.example/keys/.well-known/jwks.json"
    assert found["id_token_signing_alg_values_supported"] == ["EdDSA"]


def test_without_an_issuer_there_are_none(tmp_path: Path) -> None:
    with ServingNode(tmp_path, issuer=None) as node:
        assert node.get("/.well-known/openid-configuration").error == (404, "usage")


# --- one key ------------------------------------------------------------------------------------


def test_each_key_is_there_as_jwk_and_as_pem(node: ServingNode) -> None:
    for key in first().keyset.signing_keys():
        assert node.get(f"/keys/{key.kid}.jwk").json == public_jwk(key)
        pem = node.get(f"/keys/{key.kid}.pem")
        assert pem.headers["content-type"] == "application/x-pem-file"
        load_pem_public_key(pem.body)
        assert node.get(f"/keys/{key.kid}.pem", **{"If-None-Match": pem.headers["etag"]}).status == 304


def test_a_key_that_left_the_keyset_is_there_for_ever_and_a_revoked_one_is_gone(node: ServingNode) -> None:
    epochs = history([Change.ROTATE, Change.DROP, Change.REVOKE_ACTIVE])
    for held in epochs[1:]:
        node.install(held)
    revoked = epochs[2].keyset.active.kid
    assert node.get(f"/keys/{ACTIVE.kid}.jwk").json == public_jwk(ACTIVE)
    refused = node.get(f"/keys/{revoked}.pem")
    assert refused.error == (410, "invalid-jwt")
    assert refused.json["error"]["reason"] == "kid-revoked"
    assert revoked not in {jwk["kid"] for jwk in node.get(JWKS).json["keys"]}
    node.disk.folder.marks |= {ACTIVE.kid}  # copied from a node that knows more
    assert node.get(f"/keys/{ACTIVE.kid}.jwk").error == (410, "invalid-jwt")


@pytest.mark.parametrize(
    "name",
    [
        "x.jwk",
        f"{ACTIVE.kid}",
        f"{ACTIVE.kid}.jwks",
        f"{ACTIVE.kid}=.jwk",
        f"{ACTIVE.kid[:-1]}B.jwk",
        f"{'A' * 43}.pem",
        "..%2f..%2fkeyset.jwk",
        f"..%2fpublic%2f{ACTIVE.kid}.jwk",
        f"{ACTIVE.kid}%00.jwk",
        f"{first().keyset.keys[-1].kid}.jwk",
    ],
)
def test_what_is_no_kid_of_a_signing_key_is_not_found(node: ServingNode, name: str) -> None:
    assert node.get(f"/keys/{name}").error == (404, "usage")


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="no key"),
        pytest.param(json.dumps(public_jwk(first("other").keyset.active)).encode(), id="another key"),
        pytest.param(
            json.dumps(public_jwk(first("other").keyset.active) | {"kid": ACTIVE.kid}).encode(),
            id="another key under this kid",
        ),
        pytest.param(json.dumps(public_jwk(ACTIVE) | {"alg": "ES256"}).encode(), id="another algorithm"),
        pytest.param(json.dumps(public_jwk(ACTIVE) | {"d": "x"}).encode(), id="a member more"),
    ],
)
def test_a_kept_key_that_was_altered_is_not_given_out(node: ServingNode, kept: bytes) -> None:
    node.disk.folder.public[ACTIVE.kid] = kept
    assert node.get(f"/keys/{ACTIVE.kid}.jwk").error == (500, "corrupt")
    assert node.get(f"/keys/{ACTIVE.kid}.pem").error == (500, "corrupt")


@pytest.mark.parametrize("form", ["jwk", "pem"])
def test_a_key_of_the_jwk_set_whose_copy_was_lost_is_missing_and_not_unknown(node: ServingNode, form: str) -> None:
    node.install(extend(first(), Change.ROTATE))
    for jwk in node.get(JWKS).json["keys"]:
        del node.disk.folder.public[jwk["kid"]]
        refused = node.get(f"/keys/{jwk['kid']}.{form}")
        assert refused.error == (500, "corrupt")
        assert "is missing" in refused.json["error"]["message"]


# --- health, metrics, page ----------------------------------------------------------------------


def test_a_node_with_a_keyset_is_ready_and_one_without_is_only_alive(tmp_path: Path, node: ServingNode) -> None:
    assert (node.get("/healthz").body, node.get("/readyz").body) == (b"ok\n", b"ready\n")
    (tmp_path / "empty").mkdir()
    with ServingNode(tmp_path / "empty", is_empty=True) as empty:
        assert empty.get("/healthz").status == 200
        assert empty.get("/readyz")[0] == 503
        assert empty.get(JWKS).error == (503, "not-yet")
        assert empty.get(f"/keys/{ACTIVE.kid}.jwk").error == (503, "not-yet")


def test_the_page_and_the_metrics_are_what_the_report_says(node: ServingNode) -> None:
    metrics = node.get("/metrics", Accept="application/openmetrics-text")
    body, kind = render_metrics(LEADER, "application/openmetrics-text")
    assert (metrics.body, metrics.headers["content-type"]) == (body, kind)
    page = node.get("/")
    assert page.body == render_page(LEADER).encode()
    assert page.headers["content-security-policy"] == PAGE_POLICY
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "access-control-allow-origin" not in page.headers | metrics.headers


@pytest.mark.parametrize("path", ["/", "/metrics"])
@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:7447", 200), ("127.0.0.1", 200), ("[::1]:1", 200), ("evil.example", 421), ("127.0.0.1.evil", 421)],
)
def test_a_name_that_was_made_to_point_here_reads_nothing_of_this_node(
    node: ServingNode, path: str, host: str, status: int
) -> None:
    assert node.get(path, Host=host).status == status
    assert node.get(JWKS, Host=host).status == 200


async def test_beyond_loopback_any_name_is_right() -> None:
    request = Request({"type": "http", "server": ("192.0.2.1", 443), "headers": [(b"host", b"node-a.example")]})
    _check_host(request)


def test_where_there_is_no_report_there_is_no_page(tmp_path: Path) -> None:
    with ServingNode(tmp_path, report=None) as node:
        assert node.get("/").error == node.get("/metrics").error == (503, "not-yet")


def test_metrics_with_a_place_of_their_own_are_nowhere_else(tmp_path: Path) -> None:
    with ServingNode(tmp_path, metrics_apart=True) as node:
        assert node.get("/metrics").status == 404
        assert node.get("/metrics", at="metrics").status == 200
        assert node.get(JWKS, at="metrics").status == 404
