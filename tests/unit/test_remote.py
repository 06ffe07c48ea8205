"""Signer and Verifier at an agent's socket: the same answers and the same failures as beside the state directory."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from keydist.core.jws import parse_compact
from keydist.core.policy import Policy
from keydist.errors import (
    BusyError,
    InternalError,
    InvalidJwtError,
    KeydistError,
    LeaseExpiredError,
    NotAllowedError,
    TransientError,
    TrustError,
    UnavailableError,
    UnreachableError,
    UsageError,
)
from keydist.signing import MintsJwts, Signer, Verifier, VerifiesJwts
from keydist.signing.remote import Agent, RemoteSigner, RemoteVerifier, _failure
from tests.material import first
from tests.unit.agent_host import pause
from tests.unit.serving_node import ISSUER, ServingNode

WANTED: dict[str, Any] = {"audience": "api", "issuer": ISSUER}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    with ServingNode(tmp_path) as node:
        yield node


@pytest.fixture
def signer(node: ServingNode) -> Iterator[RemoteSigner]:
    with Signer.connect(node.path) as signer:
        yield signer


@pytest.fixture
def verifier(node: ServingNode) -> Iterator[RemoteVerifier]:
    with Verifier.connect(node.path) as verifier:
        yield verifier


def test_what_is_minted_and_verified_there_is_what_it_is_here(
    node: ServingNode, signer: RemoteSigner, verifier: RemoteVerifier
) -> None:
    given: dict[str, Any] = {
        "subject": "s",
        "audience": ("api", "web"),
        "issuer": ISSUER,
        "lifetime": 60,
        "typ": "at+jwt",
    }
    mints: MintsJwts = signer
    jwt = mints.mint({"role": "reader"}, **given)
    assert jwt == node.local.signer.mint({"role": "reader"}, **given)
    remote = verifier.verify(jwt, **WANTED, leeway=0, typ="at+jwt")
    here = node.local.verifier.verify(jwt, **WANTED, leeway=0, typ="at+jwt")
    assert remote == here
    assert verifier.jwks() == signer.jwks() == node.local.verifier.jwks()
    single = verifier.verify(signer.mint({}, subject="s", audience="api"), **WANTED)
    assert single.audience == ("api",)
    with pytest.raises(TypeError):
        single.all["sub"] = "me"  # type: ignore[index]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        pytest.param({"lifetime": 0}, UsageError, id="no lifetime"),
        pytest.param({"subject": ""}, UsageError, id="no subject"),
        pytest.param({"audience": []}, UsageError, id="no audience"),
        pytest.param({"claims": {"iss": "me"}}, UsageError, id="a registered claim"),
        pytest.param({"claims": {"x": 1.5}}, UsageError, id="a fraction"),
        pytest.param({"claims": {"x": {1}}}, UsageError, id="no JSON"),
        pytest.param({"claims": {"x": float("nan")}}, UsageError, id="no number"),
        pytest.param({"claims": {"x": "y" * 20_000}}, UsageError, id="too large"),
        pytest.param({"claims": {"x": "y" * 2_000_000}}, UsageError, id="more than a connection takes"),
        pytest.param({"claims": {1: "x"}}, UsageError, id="a name that is no text"),
    ],
)
def test_what_is_refused_here_is_refused_there(signer: RemoteSigner, asked: dict[str, Any], kind: type) -> None:
    given: dict[str, Any] = {"claims": {}, "subject": "s", "audience": "api"} | asked
    claims = given.pop("claims")
    with pytest.raises(kind):
        signer.mint(claims, **given)


def test_why_a_jwt_is_refused_is_told(node: ServingNode, signer: RemoteSigner, verifier: RemoteVerifier) -> None:
    jwt = signer.mint({}, subject="s", audience="api", lifetime=1)
    with pytest.raises(InvalidJwtError) as caught:
        verifier.verify(jwt, audience="web", issuer=ISSUER)
    assert (caught.value.reason, caught.value.expected) == ("audience", "web")
    node.clock.advance(Policy().mint_lease + 1)
    with pytest.raises(LeaseExpiredError):
        signer.mint({}, subject="s", audience="api")


@pytest.mark.parametrize(
    "jwt",
    [
        pytest.param("", id="nothing"),
        pytest.param("a.b", id="two segments"),
        pytest.param("\ud800.b.c", id="no text"),
        pytest.param("a" * 20_000, id="more than a request takes"),
        pytest.param("a" * 1_000_000, id="more than a connection takes"),
    ],
)
def test_what_is_no_jwt_is_invalid_whatever_its_size(node: ServingNode, verifier: RemoteVerifier, jwt: str) -> None:
    told = []
    for asked in (verifier, node.local.verifier):
        with pytest.raises(InvalidJwtError) as caught:
            asked.verify(jwt, **WANTED)
        told.append((caught.value.reason, caught.value.message))
    assert told[0] == told[1]


async def test_an_event_loop_goes_on_while_the_agent_is_asked(
    node: ServingNode, signer: RemoteSigner, verifier: RemoteVerifier
) -> None:
    asked: VerifiesJwts = verifier
    jwt = signer.mint({}, subject="s", audience="api")
    many = await asyncio.gather(*(asked.verify_async(jwt, **WANTED) for _ in range(4)))
    assert many == [node.local.verifier.verify(jwt, **WANTED)] * 4
    with pytest.raises(InvalidJwtError):
        await asked.verify_async(jwt, audience="web", issuer=ISSUER)


async def test_an_event_loop_goes_on_while_the_agent_mints(
    node: ServingNode, signer: RemoteSigner, verifier: RemoteVerifier
) -> None:
    given: dict[str, Any] = {"subject": "s", "audience": ["api"], "issuer": ISSUER, "lifetime": 60, "typ": "at+jwt"}
    many = await asyncio.gather(*(signer.mint_async({"role": "reader"}, **given) for _ in range(4)))
    assert many == [node.local.signer.mint({"role": "reader"}, **given)] * 4
    plain = await signer.mint_async({}, subject="s", audience="api")
    assert (await verifier.verify_async(plain, **WANTED)).subject == "s"
    with pytest.raises(UsageError):
        await signer.mint_async({"iss": "me"}, subject="s", audience="api")
    node.clock.advance(Policy().mint_lease + 1)
    with pytest.raises(LeaseExpiredError):
        await signer.mint_async({}, subject="s", audience="api")


async def test_minting_in_an_event_loop_lets_it_turn_and_waits_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keydist.signing.remote.SECONDS", 0.1)
    path = str(tmp_path / "silent.sock")
    turned: list[str] = []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        asyncio.get_running_loop().call_later(0.05, turned.append, "once")
        with pytest.raises(UnreachableError, match=r"nothing within 0\.1 s"):
            await RemoteSigner(Agent(path, seconds=0.4)).mint_async({}, subject="s", audience="a")
        assert turned


async def test_an_event_loop_waits_no_longer_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keydist.signing.remote.SECONDS", 0.1)
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(UnavailableError, match="does not answer in time"):
            await RemoteVerifier(Agent(path, seconds=0.4)).verify_async("a.b.c", **WANTED)


def test_a_user_that_no_rule_names_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ServingNode(tmp_path, own_uid=4242) as node, Signer.connect(node.path) as signer:
        monkeypatch.setattr(node.local.policy, "_trusted", frozenset({4242}))
        with pytest.raises(NotAllowedError, match="may not mint here"):
            signer.mint({}, subject="s", audience="api")


def test_without_an_agent_nothing_is_told_of_a_jwt(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")
    with pytest.raises(UnavailableError, match=r"does not answer at its socket .*no such file"):
        Verifier.connect(path).verify("a.b.c", **WANTED)
    with pytest.raises(UnreachableError, match="does not answer at its socket"):
        Signer.connect(path).mint({}, subject="s", audience="a")


def test_connections_are_kept_and_made_again_where_the_agent_restarted(tmp_path: Path) -> None:
    with ServingNode(tmp_path) as node:
        signer = Signer.connect(node.path)
        signer.mint({}, subject="s", audience="a")
        [kept] = signer._agent._idle
        signer.mint({}, subject="s", audience="a")
        assert signer._agent._idle == [kept]
    with ServingNode(tmp_path):
        assert parse_compact(signer.mint({}, subject="s", audience="a")).header.kid == first().keyset.active.kid
    signer.close()


def test_threads_share_one(signer: RemoteSigner, verifier: RemoteVerifier) -> None:
    def turn(number: int) -> str:
        return verifier.verify(signer.mint({}, subject=f"s{number}", audience="api"), **WANTED).subject

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(turn, range(100))) == [f"s{number}" for number in range(100)]


def test_a_forked_child_takes_no_connection_of_its_parents(node: ServingNode) -> None:
    agent = Agent(node.path)
    agent.ask("GET", "/v1/jwks")
    kept = agent._idle[0]
    agent._pid = os.getpid() + 1  # as a child finds it
    agent.ask("GET", "/v1/jwks")
    assert agent._idle[0] is not kept
    kept.close()
    agent.close()


# --- what is no agent ---------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Return what makes a socket that answers each connection with the same bytes."""
    listening = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "stranger.sock")
    said = [b""]

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                connection.recv(65_536)
                connection.sendall(said[0])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):  # a body comes behind its head
                    pass

    listening.bind(path)
    listening.listen()
    thread = threading.Thread(target=answer, daemon=True)
    thread.start()

    def say(what: bytes) -> str:
        said[0] = what
        return path

    yield say
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]",
        b"HTTP/1.1 200 OK\r\n\r\n{",
        b"HTTP/1.1 ",
    ],
)
def test_what_is_no_agent_is_not_believed(stranger: Callable[[bytes], str], said: bytes) -> None:
    agent = Agent(stranger(said))
    with pytest.raises(UnreachableError, match="does not answer at its socket"):
        agent.ask("GET", "/v1/jwks")
    agent.close()


@pytest.mark.parametrize(
    "told",
    [
        b"{}",
        b'{"jwt":1,"keys":{},"claims":[],"kid":"x"}',
        b'{"jwt":null,"keys":null,"claims":{},"kid":null}',
        b'{"claims":{},"kid":"x"}',
        b'{"claims":{"iss":"i","sub":"s","aud":[1],"exp":1,"iat":1},"kid":"x"}',
        b'{"claims":{"iss":"i","sub":"s","aud":"a","exp":true,"iat":1},"kid":"x"}',
    ],
)
def test_an_answer_to_something_else_is_none(stranger: Callable[[bytes], str], told: bytes) -> None:
    path = stranger(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
    with Signer.connect(path) as signer, Verifier.connect(path) as verifier:
        for ask in (lambda: signer.mint({}, subject="s", audience="a"), signer.jwks, verifier.jwks):
            with pytest.raises(UnreachableError, match="an answer to something else"):
                ask()
        with pytest.raises(UnavailableError, match="an answer to something else"):
            verifier.verify(".".join(["eyJ9"] * 3), **WANTED)


def test_a_full_queue_is_waited_for(node: ServingNode, tmp_path: Path) -> None:
    path = str(tmp_path / "busy.sock")
    with socket.socket(socket.AF_UNIX) as busy, ExitStack() as closing:
        busy.bind(path)
        busy.listen(0)
        first = closing.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(path)
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(Agent(path, seconds=30).ask, "GET", "/v1/jwks")
            pause(0.2)
            assert not asking.done()
            busy.accept()[0].close()
            taken = closing.enter_context(busy.accept()[0])
            taken.recv(1000)
            taken.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            assert asking.result(10) == {}
        closing.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with pytest.raises(UnreachableError, match="temporarily unavailable"):
            Agent(path, seconds=0.2).ask("GET", "/v1/jwks")


def test_an_agent_that_does_not_answer_in_time_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(UnreachableError, match=r"timed out|TimeoutError"):
            Agent(path, seconds=0.1).ask("GET", "/v1/jwks")


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        pytest.param({"code": "busy", "family": "transient"}, BusyError, id="a code that is known"),
        pytest.param({"code": "brand-new", "family": "trust"}, TrustError, id="a code of a later release"),
        pytest.param({"code": "brand-new", "family": "transient"}, TransientError, id="a transient one"),
        pytest.param({"code": "wrong-token", "family": "permission"}, KeydistError, id="one that is made otherwise"),
        pytest.param({"code": 1, "family": None}, InternalError, id="nonsense"),
        pytest.param("no object", InternalError, id="no object"),
    ],
)
def test_a_failure_comes_back_as_its_class(told: object, kind: type) -> None:
    found = _failure({"error": told})
    assert isinstance(found, kind)
    assert found.message


def test_a_verifier_on_disk_asks_the_agent_where_a_kid_is_unknown(
    tmp_path: Path, node: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "keydist.yaml"
    config.write_text(f"cluster: c\nstate_dir: s\nruntime_dir: r\nsocket: {{path: {node.path}}}\n")
    verifier = Verifier.open(str(config))
    assert verifier._refresh is not None
    verifier._refresh()
    assert node.looks == 1
    monkeypatch.setattr("keydist.signing.opening._REFRESH_SECONDS", 0.1)
    Path(node.path).unlink()
    with pytest.raises(UnreachableError):
        verifier._refresh()
