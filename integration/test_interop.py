"""JWTs minted by keydist verify elsewhere: in PyJWT, joserfc and node's jose, from the HTTP JWK Set, while keys rotate.

Every verifier keeps the JWK Set for its max-age, and asks no sooner for a kid that is not in it: what the leader mints
must verify with what the follower served a moment ago, and the other way round.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

import jwt as pyjwt
import pytest
from joserfc import jwt as jose
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from integration.cluster import Cluster
from integration.fleet import Fleet
from integration.npm import install
from integration.server_process import ReservedPort
from integration.traffic import AUDIENCE, ISSUER
from keydist import Signer

ROTATIONS: Final = 2
ALG: Final = "RS256"
MAX_AGE, LIFETIME, LEEWAY = 2, 5, 1
# D is 2 s more than V + R + A: each of these whole seconds may nearly be one longer or shorter than it says.
SETTINGS: Final[dict[str, object]] = {
    "issuer": ISSUER,
    "key": {"alg": ALG, "bits": 2048},
    "heartbeat": "1s",
    "resync": "1s",
    "rotation": {"every": "1s"},
    "policy": {
        "propagation": "6s",
        "freshness": "2s",
        "stale_read": "0s",
        "jwks_max_age": f"{MAX_AGE}s",
        "max_lifetime": f"{LIFETIME}s",
        "mint_lease": "40s",
        "leeway": f"{LEEWAY}s",
        "skew": "0s",
    },
}
_PATIENCE_SECONDS: Final = 30.0
pytestmark = pytest.mark.timeout(120)


class Fetched(NamedTuple):
    """One answer over HTTP; `max_age` is 0 where it must not be kept: the node has not confirmed its epoch lately."""

    body: bytes
    kind: str
    max_age: int


def fetch(url: str) -> Fetched:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of this test's own
        found = re.search(r"\bmax-age=(\d+)", answer.headers["Cache-Control"])
        return Fetched(answer.read(), answer.headers.get_content_type(), int(found[1]) if found else 0)


class Verifies(Protocol):
    """Somebody with nothing but a JWK Set."""

    def verdict(self, jwt: str) -> str:
        """Return "ok <kid>", or why not."""
        ...


class PyJwt:
    """PyJWT, as its documentation has it, but for a client that would fetch anew for each unknown kid."""

    def __init__(self, url: str) -> None:
        self._client = pyjwt.PyJWKClient(url, lifespan=MAX_AGE, timeout=5)

    def verdict(self, jwt: str) -> str:
        kid = pyjwt.get_unverified_header(jwt)["kid"]
        key = self._client.match_kid(self._client.get_signing_keys(), kid)
        if key is None:
            return "no such kid"
        try:
            pyjwt.decode(
                jwt, key, algorithms=[ALG], audience=AUDIENCE, issuer=ISSUER, options={"require": ["exp", "iat", "sub"]}
            )
        except pyjwt.PyJWTError as exc:
            return repr(exc)
        return f"ok {kid}"


class Joserfc:
    """joserfc, with a cache that does what the header of each answer says."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys = KeySet([])
        self._until = 0.0
        self._registry = jose.JWTClaimsRegistry(
            iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": AUDIENCE}
        )

    def verdict(self, jwt: str) -> str:
        asked = time.monotonic()
        if asked >= self._until:
            answer = fetch(self._url)
            self._keys, self._until = KeySet.import_key_set(json.loads(answer.body)), asked + answer.max_age
        try:
            token = jose.decode(jwt, self._keys, algorithms=[ALG])
            self._registry.validate(token.claims)
        except (JoseError, ValueError) as exc:  # an unknown kid is a ValueError
            return repr(exc)
        return f"ok {token.header['kid']}"


class NodeJose:
    """node's jose, in a process of its own."""

    def __init__(self, url: str, project: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "verify.mjs", url, ISSUER, AUDIENCE, str(MAX_AGE)],
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def verdict(self, jwt: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{jwt}\n")
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("npm") / "node")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A leader and a follower, each of which serves its JWK Set."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("interop")
        cluster = stack.enter_context(Cluster(directory, leaders=["lead-1"], followers=["f-1"], servers=1))
        asyncio.run(cluster.make_buckets())
        made = stack.enter_context(Fleet(cluster, settings=SETTINGS))
        for member in made.members.values():
            port = ReservedPort()
            stack.callback(port.release)
            http = {"listen": f"127.0.0.1:{port.number}"}
            member.node = replace(member.node, more={**member.node.more, "http": http})
        made.start(["lead-1"])
        made.start()
        for url in urls(made).values():
            made.until(lambda url=url: answers(url), f"{url} to answer")  # type: ignore[misc]  # a bound default
        yield made


def urls(fleet: Fleet) -> Mapping[str, str]:
    """Return where each node serves its JWK Set."""
    https: dict[str, Any] = {name: member.node.more["http"] for name, member in fleet.members.items()}
    return {name: f"http://{http['listen']}/.well-known/jwks.json" for name, http in https.items()}


def answers(url: str) -> bool:
    try:
        return bool(json.loads(fetch(url).body)["keys"])
    except OSError:
        return False


def test_jwts_verify_elsewhere_through_rotations_with_caches_that_obey_max_age(fleet: Fleet, project: Path) -> None:
    with ExitStack() as stack:
        verifiers: dict[str, Verifies] = {}
        for name, url in urls(fleet).items():
            node = stack.enter_context(NodeJose(url, project))
            verifiers |= {f"PyJWT, {name}": PyJwt(url), f"joserfc, {name}": Joserfc(url), f"jose, {name}": node}
        signers = [stack.enter_context(Signer.open(str(member.node.config))) for member in fleet.members.values()]
        later: deque[tuple[float, str, str]] = deque()
        kids: set[str] = set()
        failed, verified = [], 0
        end = time.monotonic() + _PATIENCE_SECONDS
        while len(kids) <= ROTATIONS or later:
            assert time.monotonic() < end, f"{len(kids) - 1} rotations: {fleet.shown()}"
            fleet.check_alive()
            due = [later.popleft() for _ in range(len(later)) if later[0][0] <= time.monotonic()]
            if len(kids) <= ROTATIONS:
                for signer in signers:
                    jwt = signer.mint({"n": verified}, subject="s", audience=AUDIENCE, lifetime=LIFETIME)
                    kid = pyjwt.get_unverified_header(jwt)["kid"]
                    kids.add(kid)
                    due.append((0.0, kid, jwt))
                    later.append((time.monotonic() + LIFETIME - 1.5, kid, jwt))  # again, not long before it expires
            for _, kid, jwt in due:
                found = {name: verifier.verdict(jwt) for name, verifier in verifiers.items()}
                failed += [(name, verdict) for name, verdict in found.items() if verdict != f"ok {kid}"]
                verified += len(found)
            time.sleep(0.02)
    print(f"{verified} verdicts, {len(failed)} failures, {len(kids) - 1} rotations")
    assert not failed, failed[:10]
    assert verified > 500, "too few to say anything"


def test_a_jwt_under_the_signature_of_another_fails_with_each_of_them(fleet: Fleet, project: Path) -> None:
    with Signer.open(str(fleet.members["lead-1"].node.config)) as signer:
        jwt, other = (signer.mint({"n": n}, subject="s", audience=AUDIENCE, lifetime=LIFETIME) for n in range(2))
    altered = ".".join([*jwt.split(".")[:2], other.split(".")[2]])
    url = urls(fleet)["f-1"]
    with NodeJose(url, project) as node:
        for verifier in (PyJwt(url), Joserfc(url), node):
            assert verifier.verdict(jwt).startswith("ok ")
            assert not verifier.verdict(altered).startswith("ok ")


def test_the_jwk_set_may_be_kept_for_as_long_as_the_policy_says_and_no_longer(fleet: Fleet) -> None:
    for url in urls(fleet).values():
        fleet.until(lambda url=url: fetch(url).max_age > 0, "an epoch that was confirmed lately")  # type: ignore[misc]
        for _ in range(20):
            answer = fetch(url)
            assert (answer.kind, answer.max_age <= MAX_AGE) == ("application/jwk-set+json", True)
